#!/usr/bin/env bash
# Real deliveries of a real `ringback dev`, verified by the libraries that receivers use: `standardwebhooks`, `svix`,
# `stripe` and `cloudevents` for Python and Node, `@octokit/webhooks` for Node, and the code of docs/signatures.md.
#
#   make interop
#   RINGBACK_BIN=path/to/ringback tests/interop/run.sh
#
# The libraries come from PyPI and the npm registry, in the versions and with the hashes of requirements.txt and
# package-lock.json, into target/interop. The node listens on a free port of 127.0.0.1 with a store in a temporary
# directory that is removed at the end. Exit code 0: every library agrees.
#
#   RINGBACK_BIN   binary to test; built with cargo when unset
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

die() { echo "interop: $*" >&2; exit 2; }
command -v python3 >/dev/null || die "python3 is needed"
command -v npm >/dev/null || die "node and npm are needed"

target=${CARGO_TARGET_DIR:-}
if [ -z "$target" ]; then
    target=$(cd "$root" && cargo metadata --no-deps --format-version 1 2>/dev/null |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p') || true
    target=${target:-$root/target}
fi

tools=$target/interop
mkdir -p "$tools"
if ! cmp -s "$here/requirements.txt" "$tools/requirements.txt"; then
    python3 -m venv --clear "$tools/venv" || die "python3 cannot make a virtualenv (Debian: apt-get install python3-venv)"
    "$tools/venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$tools/requirements.txt"
fi
if ! cmp -s "$here/package-lock.json" "$tools/installed.json"; then
    cp "$here/package.json" "$here/package-lock.json" "$tools/"
    (cd "$tools" && npm ci --ignore-scripts --no-audit --no-fund --loglevel error)
    cp "$here/package-lock.json" "$tools/installed.json"
fi

bin=${RINGBACK_BIN:-}
if [ -z "$bin" ]; then
    (cd "$root" && cargo build --locked --bin ringback)
    bin=$target/debug/ringback
fi
[ -x "$bin" ] || die "$bin is no program"
bin=$(realpath "$bin")

dir=$(mktemp -d "${TMPDIR:-/tmp}/ringback-interop.XXXXXX")
trap 'rm -rf "$dir"' EXIT
# Node looks for packages beside the script.
cp "$here/verify.mjs" "$tools/verify.mjs"
cd "$tools"
"$tools/venv/bin/python" "$here/interop.py" "$bin" "$dir"
