#!/usr/bin/env bash
# Writes .cargo/release.profdata, by which release builds are optimised: builds the program so that it counts how often it goes
# where, has it do what services do, on both engines, and merges the counts.
#
# A profile belongs to one compiler and to the versions in Cargo.lock: with others a build goes on without it.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${RINGBACK_TEST_POSTGRES:?a PostgreSQL to make databases in; tests/with-postgres starts one}"

# The counts are in the manner of rustc's LLVM, and every llvm-profdata since that of LLVM 19 reads them.
merge=
for tool in "$(rustc --print sysroot)"/lib/rustlib/*/bin/llvm-profdata llvm-profdata llvm-profdata-{19..29}; do
    version=$("$tool" merge --version 2>/dev/null | sed -n 's/.*LLVM version \([0-9]*\).*/\1/p') || continue
    if [ "${version:-0}" -ge 19 ]; then merge=$tool; break; fi
done
[ -n "$merge" ] || { echo "profile: llvm-profdata 19 or newer is needed (rustup component add llvm-tools, or Debian's llvm-19)" >&2; exit 2; }

counts=$(mktemp -d)
trap 'rm -rf "$counts"' EXIT
target=${CARGO_TARGET_DIR:-target}/counting
RINGBACK_COUNTS=$counts CARGO_TARGET_DIR=$target cargo build --release --locked

# The directory that was built in is that of an earlier run, if nothing had to be built anew.
export LLVM_PROFILE_FILE=$counts/%m_%p.profraw
bench() { echo "ringback bench $*"; "$target/release/ringback" bench "$@" >/dev/null; }
for store in "" "--store=$RINGBACK_TEST_POSTGRES"; do
    bench lifecycle --jobs 15000 --limit-jobs 5000 ${store:+"$store"}
    bench lifecycle --jobs 2000 --rate 200 --limit-jobs 0 ${store:+"$store"}
    bench endpoints --endpoints 5000 --rounds 2 ${store:+"$store"}
done
bench isolation --rounds 1 --seconds 4
bench streams --streams 500 --changes 200 --rest-seconds 1
"$merge" merge -o "$counts/merged" "$counts"
cp "$counts/merged" .cargo/release.profdata
