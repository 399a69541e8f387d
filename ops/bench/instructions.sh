#!/usr/bin/env bash
# Counts the instructions of puts and gets under callgrind and prints the change against the accepted figures
# in instructions.tsv beside this script. `--accept` writes the new figures there.
# Needs valgrind; installs gungraun-runner with cargo when it is not there.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
accepted="$here/instructions.tsv"

version=$(sed -n 's/^gungraun = "\([0-9.]*\)"$/\1/p' Cargo.toml)
if ! command -v gungraun-runner >/dev/null 2>&1; then
    cargo install gungraun-runner --locked --version "~$version" >&2
fi

# Operations in one run of the benchmark, as in tests/sim/benches/hot_path.rs.
operations=$(sed -n 's/^const OPERATIONS: usize = \([0-9]*\);$/\1/p' tests/sim/benches/hot_path.rs)
output=$(cargo bench --locked -p dynkv-sim --bench hot_path 2>&1) || { printf '%s\n' "$output" >&2; exit 1; }
measured=$(printf '%s\n' "$output" | awk -v operations="$operations" '
    /^hot_path::/ { split($1, part, "::"); name = part[3] }
    /Instructions:/ { split($2, value, "|"); printf "%s\t%d\n", name, value[1] / operations }')
if [ -z "$measured" ]; then
    printf '%s\nno instruction counts in the output above\n' "$output" >&2
    exit 1
fi

if [ "${1:-}" = --accept ]; then
    printf '%s\n' "$measured" >"$accepted"
    printf 'accepted:\n%s\n' "$measured"
    exit
fi
printf '%-8s %14s %14s %8s\n' request 'accepted' 'now' change
while IFS=$'\t' read -r name now; do
    before=$(awk -F'\t' -v name="$name" '$1 == name { print $2 }' "$accepted")
    change=$(awk -v now="$now" -v before="${before:-$now}" 'BEGIN { printf "%+.1f %%", (now / before - 1) * 100 }')
    printf '%-8s %14s %14s %8s\n' "$name" "${before:-none}" "$now" "$change"
done <<<"$measured"
