"""Real deliveries of a real `ringback dev`, verified by the libraries that receivers use. See run.sh.

Every delivery must be taken by each library with each live secret, and refused by it with another secret and with one
byte changed: a library that takes everything would show nothing.
"""

import base64
import json
import pathlib
import queue
import re
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import standardwebhooks
import stripe
import svix.webhooks
from cloudevents.core.bindings.http import HTTPMessage, from_http_event

WAIT = 30
KEY = "rbk_interop0123456789abcdefghijABCDEFGHIJ"
OWN = "whsec_t9Iu17CQUB91WZZiPLt2TUScuZ21l6aI5BIkx/iyoWg="
OTHER = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw3x3qXwQbDsY="


class Receiver:
    """Keeps what is POSTed to it."""

    def __init__(self):
        self.requests = queue.Queue()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.send_response(204)
                self.end_headers()
                outer.requests.put((self.path, headers, body))

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, path):
        return f"http://127.0.0.1:{self.server.server_port}{path}"


class Node:
    """A `ringback dev` with a store of its own."""

    def __init__(self, binary, folder):
        command = [binary, "dev", "--listen", "127.0.0.1:0", "--store", f"sqlite://{folder}/interop.db", "--api-key", KEY]
        log = open(f"{folder}/node.log", "w")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder)
        for line in self.process.stdout:
            if line.startswith("webhook secret: "):
                self.secret = line.split(": ")[1].strip()
            if line.startswith("listening on "):
                self.base = line.split()[-1]
                return
        raise SystemExit("interop: the node is not ready:\n" + pathlib.Path(log.name).read_text())

    def ask(self, path, body=None):
        """POSTs `body`, or reads."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        request = urllib.request.Request(self.base + path, data, headers)
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            return json.loads(answer.read() or b"{}")


def deliver(node, receiver, name, secrets, **callback):
    """One job's callback, as it came in."""
    event = {"events": ["job.queued"], "context": {"greeting": "Zoë 🚀", "n": 1.0}, **callback}
    node.ask("/v1/jobs", {"type": "interop", "input": {"name": name}, "callback": {"url": receiver.url("/" + name), **event}})
    path, headers, body = receiver.requests.get(timeout=WAIT)
    assert path == "/" + name, path
    return {"name": name, "headers": headers, "body": body, "secrets": secrets, "cloud": "ce-id" in headers}


def refused(check, what):
    try:
        check()
    except Exception:
        return
    raise SystemExit(f"interop: {what} was taken")


def held_against(library, deliveries, verify):
    """`verify(secret, headers, body)` raises for what it refuses."""
    for d in deliveries:
        for secret in d["secrets"]:
            verify(secret, d["headers"], d["body"])
            refused(lambda: verify(secret, d["headers"], d["body"] + b" "), f"{library}, {d['name']}: a changed body")
        refused(lambda: verify(OTHER, d["headers"], d["body"]), f"{library}, {d['name']}: a foreign secret")
    say(library, len(deliveries))


def say(library, count):
    print(f"interop: {count} deliveries held against {library}", flush=True)


def cloud_events(node, deliveries):
    """The CloudEvents SDK reads what the headers say."""
    clouds = [d for d in deliveries if d["cloud"]]
    for d in clouds:
        event = from_http_event(HTTPMessage(d["headers"], d["body"]))
        data = json.loads(d["body"])
        assert (event.get_type(), event.get_source(), event.get_specversion()) == ("job.queued", node.base, "1.0"), event
        assert event.get_id().startswith("evt_") and event.get_subject() == data["jobId"], event
        assert event.get_datacontenttype() == "application/json" and event.get_data() == data, event
        assert event.get_time().utcoffset().total_seconds() == 0, event
    assert clouds
    say("cloudevents (Python)", len(clouds))


def forged(headers):
    """The headers as someone sends them who cannot sign: without one of them, or with something else in it."""
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"]:
        yield {key: value for key, value in headers.items() if key != name}
        for value in ["", "abc", "-1", "1e999", "9" * 5000, "v1", "v1,", "v1,é", "v1a,é"]:
            yield {**headers, name: value}


def page_snippets(page, deliveries):
    """The Python code of docs/signatures.md, as a reader would paste it."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    standard = [d for d in deliveries if not d["cloud"]]
    found = {}
    for block in blocks:
        exec(block, found)
    assert {"verify", "receive"} <= found.keys(), found.keys()

    def by_hand(secret, headers, body):
        assert found["verify"](secret, headers, body)

    held_against("the page's Python, by hand", deliveries, by_hand)
    # What is forged is refused, not stumbled over.
    for d in deliveries:
        for headers in forged(d["headers"]):
            assert found["verify"](d["secrets"][0], headers, d["body"]) is False, headers

    def by_library(secret, headers, body):
        found["webhook"] = standardwebhooks.Webhook(secret)
        assert found["receive"](headers, body) == 204

    held_against("the page's Python, with a library", standard, by_library)


def endpoint_deliveries(node, receiver):
    """What a standing endpoint with every scheme gets, before and during a rotation."""
    wish = {"url": receiver.url("/endpoint"), "events": ["job.queued"], "schemes": ["v1a", "github", "stripe"]}
    made = node.ask("/v1/endpoints", wish)
    path = f"/v1/endpoints/{made['endpointId']}"

    def told(name, secrets):
        node.ask("/v1/jobs", {"type": "interop"})
        _, headers, body = receiver.requests.get(timeout=WAIT)
        keys = node.ask(path)["publicKeys"]
        assert len(keys) == len(secrets), keys
        return {"name": name, "headers": headers, "body": body, "secrets": secrets, "cloud": False, "keys": keys}

    before = told("endpoint-before", [made["secret"]])
    rotated = node.ask(path + "/rotate-secret", {"overlapSeconds": 3600})["secret"]
    return [before, told("endpoint-during", [rotated, made["secret"]])]


def by_stripe(secret, headers, body):
    stripe.WebhookSignature.verify_header(body.decode(), headers["stripe-signature"], secret, 300)


def node_libraries(folder, here, deliveries):
    rows = [{**d, "body": base64.b64encode(d["body"]).decode()} for d in deliveries]
    path = pathlib.Path(folder) / "deliveries.json"
    path.write_text(json.dumps({"foreign": OTHER, "deliveries": rows}))
    subprocess.run(["node", "verify.mjs", str(path), str(here.parents[1] / "docs/signatures.md")], check=True)


def main(binary, folder):
    here = pathlib.Path(__file__).resolve().parent
    receiver = Receiver()
    node = Node(binary, folder)
    try:
        before = [node.secret]
        formats = [("standard", {}), ("cloudevents", {"format": "cloudevents"})]
        deliveries = [deliver(node, receiver, f"{name}-before", before, **more) for name, more in formats]
        deliveries += [deliver(node, receiver, f"{name}-own", [OWN], secret=OWN, **more) for name, more in formats]
        rotated = node.ask("/v1/tenants/self/rotate-secret", {"overlapSeconds": 3600})["secret"]
        during = [rotated, node.secret]
        deliveries += [deliver(node, receiver, f"{name}-during", during, **more) for name, more in formats]

        endpoints = endpoint_deliveries(node, receiver)
        deliveries += endpoints

        def standard(secret, headers, body):
            standardwebhooks.Webhook(secret).verify(body, headers)

        def by_svix(secret, headers, body):
            svix.webhooks.Webhook(secret).verify(body, headers)

        held_against("standardwebhooks (Python)", deliveries, standard)
        held_against("svix (Python)", deliveries, by_svix)
        cloud_events(node, deliveries)
        held_against("stripe (Python)", endpoints, by_stripe)
        page_snippets(here.parents[1] / "docs/signatures.md", deliveries)
        node_libraries(folder, here, deliveries)
    finally:
        node.process.terminate()
        node.process.wait(WAIT)
    print("interop: every library agrees")


if __name__ == "__main__":
    main(*sys.argv[1:])
