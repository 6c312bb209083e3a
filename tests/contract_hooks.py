"""Hooks of `tests/contract.sh`: long waits that a request asks for are cut to one second.

Everything else is sent as schemathesis made it, so that the limits themselves are still tried.
"""

import re

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body
    if isinstance(body, dict) and type(body.get("waitSeconds")) is int and 1 < body["waitSeconds"] <= 30:
        body["waitSeconds"] = 1
    for name in list(case.headers or {}):
        if name.lower() == "prefer" and isinstance(case.headers[name], str):
            case.headers[name] = re.sub(r"(?i)(wait\s*=\s*\"?)\d+", r"\g<1>1", case.headers[name])
