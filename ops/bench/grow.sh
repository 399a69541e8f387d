#!/usr/bin/env bash
# What it takes to change the members of a cluster under load, on processes of this machine:
#
#   ops/bench/grow.sh
#
# Three nodes with KEYS keys of 1 KiB grow to six at once, then n2 is killed and replaced by n7, then n4 and n5 leave. Meanwhile clients that check (`--example fresh`)
# look for stale, failed and lost reads, and others measure latency. For each step: how long, bytes moved beside the least possible, p99 meanwhile and afterwards: more
# processes on one machine take longer for everything, so what is to be compared is the same members while nothing moves.
#
# Environment: KEYS (1000000), RATE of operations a second (1000: half gets, half get-then-put), WINDOWS before and after each step (8), STEPS:
# how many of the three, from the first on (3), DYN, FRESH (that example, built), TMPDIR.
set -euo pipefail
. "$(dirname "$0")/cluster.sh"

keys=${KEYS:-1000000}
rate=${RATE:-1000}
count=${WINDOWS:-8}
steps=${STEPS:-3}
root=$(cd "$(dirname "$0")/../.." && pwd)
if [ -z "${FRESH:-}" ]; then
    (cd "$root" && cargo build --release --locked -p dynkv-tests --example fresh >&2)
    FRESH=$(cd "$root" && cargo metadata --format-version 1 --no-deps |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/release/examples/fresh
fi

# join NUMBERS: starts nodes that wait to be members.
join() {
    local number
    for number in "$@"; do
        ports[number]=$(free_port)
        "$DYN" cert node --ca "$dir/ca" --out "$dir/certs" "n$number" >/dev/null
        start_node "$number"
        until grep -q "serves nothing yet" "$dir/n$number.log"; do sleep 0.2; done
    done
}

# received: bytes that each node has received by transfers, as one line of JSON.
received() { ("$DYN" metrics --json 2>/dev/null || true) | python3 -c '
import json, re, sys
try:
    nodes = json.load(sys.stdin)
except ValueError:
    nodes = {}
nodes = nodes.get("nodes", nodes)
texts = nodes.items() if isinstance(nodes, dict) else ((of["node"], of.get("metrics") or of.get("text") or "") for of in nodes)
found = {node: re.search(r"^dynkv_transfer_bytes_received_total (\d+)", str(text), re.M) for node, text in texts}
print(json.dumps({node: int(match[1]) for node, match in found.items() if match}))'; }

# since BEFORE AFTER: what was received in between by nodes that are still there.
since() { python3 -c '
import json, sys
before, after = map(json.loads, sys.argv[1:])
print(sum(bytes - before.get(node, 0) for node, bytes in after.items()))' "$1" "$2"; }

# change ARGUMENTS: plans, applies what was planned, and waits until nothing moves.
change() {
    echo "== $*"
    local plan confirmed=() before begun
    "$DYN" cluster plan "$@" >"$dir/plan.txt"
    grep "replicas move" "$dir/plan.txt" || true
    plan=$(sed -n 's/.*cluster apply --plan \([0-9a-f-]*\).*/\1/p' "$dir/plan.txt")
    grep -q -- --yes-remove "$dir/plan.txt" && confirmed=(--yes-remove "$dead")
    before=$(received)
    begun=$(now_ms)
    "$DYN" cluster apply --plan "$plan" "$@" "${confirmed[@]}" >"$dir/apply.txt" || { cat "$dir/apply.txt"; fail "not applied"; }
    rm -f "$dir/windows-meanwhile"
    # At least one, for the nodes have to hear of it first; and nothing else beside them: a command that starts, and its handshakes, take longer than what is measured.
    windows meanwhile 1
    until "$DYN" transfers 2>/dev/null | grep -q "nothing moves"; do
        [ $(($(now_ms) - begun)) -lt 7200000 ] || { "$DYN" transfers; fail "still moving after two hours"; }
        windows meanwhile 1
    done
    echo "$(($(now_ms) - begun)) ms, or a window less, until nothing moved; $(since "$before" "$(received)") bytes received"
    medians meanwhile
    rm -f "$dir/windows-after"
    windows after "$count"
    medians after
}

found_cluster 3
note "loading $keys keys"
"$DYN" bench --phases load --keys "$keys" >"$dir/load.log" 2>&1
sleep 15
"$FRESH" "$DYN_CLUSTER" "$dir/stop" >"$dir/fresh.json" &
fresh=$!
others+=("$fresh")
windows before "$count"
medians before

join 4 5 6
change --join n4 --join n5 --join n6
"$DYN" ring show 2>/dev/null | head -20

if [ "$steps" -ge 2 ]; then
    stop_node 2 KILL
    dead=n2
    join 7
    change --replace n2=n7
fi

if [ "$steps" -ge 3 ]; then
    change --leave n4 --leave n5
fi

touch "$dir/stop"
wait "$fresh" || true
echo "clients that checked: $(cat "$dir/fresh.json")"
echo "keys listed: $("$DYN" ls "${BUCKET:-bench}" | wc -l) of $keys"
"$DYN" status
