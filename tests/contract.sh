#!/usr/bin/env bash
# Holds a running server against the OpenAPI document that it serves, with schemathesis (from PyPI).
#
#   make contract
#   RINGBACK_BIN=path/to/ringback tests/contract.sh [further options of `schemathesis run`]
#
# Asked of every answer: no 5xx, only documented statuses, content types and bodies.
# The server is a `dev` node on a free port of 127.0.0.1, with a store in a temporary directory that is
# removed at the end; nothing else is touched. The exit code is that of schemathesis.
#
#   RINGBACK_BIN               binary to test; built with cargo when unset
#   RINGBACK_CONTRACT_SECONDS  time for each of the two runs; 240 and 60 when unset
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
version=4.32.5
# Also used by a person who looks at a failure again: the same seed makes the same requests.
seed=4711

die() { echo "contract: $*" >&2; exit 2; }

target=${CARGO_TARGET_DIR:-}
if [ -z "$target" ]; then
    target=$(cd "$root" && cargo metadata --no-deps --format-version 1 2>/dev/null |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p') || true
    target=${target:-$root/target}
fi

venv=$target/contract-venv
schemathesis=$venv/bin/schemathesis
if [ "$("$schemathesis" --version 2>/dev/null)" != "schemathesis, version $version" ]; then
    command -v python3 >/dev/null || die "python3 is needed"
    mkdir -p "$target"
    python3 -m venv --clear "$venv" || die "python3 cannot make a virtualenv (Debian: apt-get install python3-venv)"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version"
fi

bin=${RINGBACK_BIN:-}
if [ -z "$bin" ]; then
    (cd "$root" && cargo build --locked --bin ringback)
    bin=$target/debug/ringback
fi
[ -x "$bin" ] || die "$bin is no program"
bin=$(realpath "$bin")

dir=$(mktemp -d "${TMPDIR:-/tmp}/ringback-contract.XXXXXX")
server=
finish() {
    trap '' HUP INT TERM
    if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
        kill -TERM "$server"
        for _ in $(seq 300); do # a drain takes 20 s at most
            kill -0 "$server" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$server" 2>/dev/null || true
    fi
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' HUP INT TERM

# Variables of the caller's own service must not steer this one.
for name in $(compgen -v RINGBACK_ || true); do
    case $name in RINGBACK_BIN | RINGBACK_CONTRACT_SECONDS) ;; *) unset "$name" ;; esac
done

cd "$dir" # what the tools leave behind goes with the directory
RUST_LOG=${RUST_LOG:-ringback=error} "$bin" dev --listen 127.0.0.1:0 --store "sqlite://$dir/contract.db" \
    >"$dir/out" 2>"$dir/log" &
server=$!

url=
for _ in $(seq 300); do # 30 s
    url=$(sed -n 's/^listening on //p' "$dir/out")
    [ -z "$url" ] || break
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
done
key=$(sed -n 's/^API key: //p' "$dir/out")
[ -n "$url" ] && [ -n "$key" ] || { cat "$dir/log" >&2; die "the server did not get ready"; }

answers() { # the key still opens the door
    "$venv/bin/python" - "$url/v1/jobs" "$key" <<'PY'
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"Authorization": "Bearer " + sys.argv[2]})
sys.exit(urllib.request.urlopen(request, timeout=10).status != 200)
PY
}

run() { # SECONDS OPTION...
    local seconds=$1
    shift
    # The limit only ends a run that hangs; the number of cases bounds one that does not. One worker: in two
    # threads hypothesis now and then trips over a defect of CPython 3.11 (`AST constructor recursion depth`).
    SCHEMATHESIS_HOOKS=contract_hooks PYTHONPATH=$root/tests PYTHONDONTWRITEBYTECODE=1 \
        timeout --kill-after=10 "$seconds" "$schemathesis" run "$url/openapi.json" \
        --header "Authorization: Bearer $key" \
        --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
        --phases examples,coverage,fuzzing --max-examples 50 --seed "$seed" --workers 1 \
        --generation-database none --generation-with-security-parameters false \
        --request-timeout 15 --continue-on-failure --suppress-health-check all --warnings off --no-color "$@"
}

code=0
# `revokeKey` goes by itself: next to a list of keys the tool might revoke the one it uses.
run "${RINGBACK_CONTRACT_SECONDS:-240}" --exclude-operation-id revokeKey "$@" || code=$?
answers || { cat "$dir/log" >&2; echo 'contract: the server does not take the key any more' >&2; [ "$code" -ne 0 ] || code=1; }
run "${RINGBACK_CONTRACT_SECONDS:-60}" --include-operation-id revokeKey || { [ "$code" -ne 0 ] || code=1; }
if [ "$code" -ne 0 ]; then
    echo "--- the end of the server's log" >&2
    tail -n 40 "$dir/log" >&2
fi
[ "$code" -ne 124 ] || echo "contract: the time was up" >&2
exit "$code"
