#!/usr/bin/env bash
# Counts the instructions of the hot paths and holds them against benches/baseline.txt, 5 % either way.
#
#   benches/check.sh           check
#   benches/check.sh --write   write the baseline anew
#
# Nothing is timed, so a busy machine changes nothing. Counts belong to one compiler: with another one than the
# baseline's this says so and checks nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

baseline=benches/baseline.txt
paths=(decode sign judge encode rows arrays)
compiler=$(rustc -vV | awk '/^release:/ { r = $2 } /^host:/ { h = $2 } END { print r, h }')

if [ "${1:-}" != --write ]; then
    [ -f "$baseline" ] || { echo "bench-check: there is no $baseline; 'make bench-baseline' writes it" >&2; exit 2; }
    wanted=$(sed -n 's/^compiler //p' "$baseline")
    if [ "$wanted" != "$compiler" ]; then
        echo "bench-check: skipped: the baseline is of rustc $wanted, this is $compiler; 'make bench-baseline' writes a new one"
        exit 0
    fi
fi
# Without the profile of release builds, which would count too: it fits until the code is changed.
export RUSTC_WRAPPER= CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/plain
command -v valgrind >/dev/null || { echo "bench-check: valgrind is needed (Debian: apt-get install valgrind)" >&2; exit 2; }

program=$(cargo build --release --locked --bench hot_paths --message-format=json |
    sed -n 's/.*"name":"hot_paths".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
[ -x "$program" ] || { echo "bench-check: no program was built" >&2; exit 2; }

count() { # of all instructions of `hot_paths NAME TIMES`
    local said
    said=$(valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" 2>&1) ||
        { printf '%s\n' "$said" >&2; exit 2; }
    sed -n 's/.*Collected : *\([0-9]*\).*/\1/p' <<<"$said"
}

code=0
out=
for path in "${paths[@]}"; do
    times=100
    case $path in rows | arrays) times=5 ;; esac
    once=$(count "$path" "$times")
    twice=$(count "$path" $((2 * times)))
    each=$(((twice - once) / times))
    out+="$path $each"$'\n'
    [ "${1:-}" != --write ] || { printf '%-16s %10d instructions\n' "$path" "$each"; continue; }
    was=$(awk -v path="$path" '$1 == path { print $2 }' "$baseline")
    [ -n "$was" ] || { echo "$path: not in $baseline" >&2; code=1; continue; }
    word=$(awk -v n="$each" -v was="$was" 'BEGIN {
        change = 100 * (n - was) / was
        print (change > 5 ? "TOO-MANY" : change < -5 ? "fewer:-write-a-new-baseline" : "ok"), sprintf("%+.1f", change) }')
    printf '%-16s %10d instructions, %10d before, %s %%  %s\n' "$path" "$each" "$was" "${word#* }" "${word% *}"
    [ "${word% *}" != TOO-MANY ] || code=1
done
if [ "${1:-}" = --write ]; then
    { echo "# Instructions of one go of each hot path; see benches/check.sh."; echo "compiler $compiler"; printf '%s' "$out"; } >"$baseline"
fi
exit "$code"
