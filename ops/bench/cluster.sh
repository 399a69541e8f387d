# Sourced by other scripts here: a cluster of processes of this machine, in a temporary folder, on free ports of loopback.
#
# Environment: DYN (the binary; built here when unset), TMPDIR (whose disk is used).

dir=$(mktemp -d "${TMPDIR:-/tmp}/dyn-bench-XXXXXX")
pids=() # Of nodes, by their numbers from 1.
others=()

note() { echo "$*" >&2; }
fail() { note "$0: $*"; exit 1; }

clean_up() {
    for pid in "${pids[@]}" "${others[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}" "${others[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

if [ -z "${DYN:-}" ]; then
    (cd "$(dirname "${BASH_SOURCE[0]}")/../.." && cargo build --release --locked -p dynkv-cli >&2)
    DYN=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && cargo metadata --format-version 1 --no-deps |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/release/dyn
fi

# A free UDP port of loopback; somebody may take it in between, which shows as a node that does not start.
free_port() { python3 -c 'import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

now_ms() { date +%s%3N; }

# start_node NUMBER: starts it, or starts it again.
start_node() {
    "$DYN" node start --data-dir "$dir/d$1" --listen "127.0.0.1:${ports[$1]}" "${seeds[@]}" \
        --ca "$dir/certs/ca.pem" --certificate "$dir/certs/n$1.pem" --key "$dir/certs/n$1.key" >>"$dir/n$1.log" 2>&1 &
    pids[$1]=$!
}

# stop_node NUMBER SIGNAL
stop_node() {
    kill "-$2" "${pids[$1]}"
    wait "${pids[$1]}" 2>/dev/null || true
}

# found_cluster NODES: starts that many nodes and founds a cluster with them. DYN_CLUSTER is set.
found_cluster() {
    local members=() number
    seeds=()
    ports=()
    "$DYN" cert ca --cluster bench --dir "$dir/ca" >/dev/null
    for number in $(seq 1 "$1"); do
        ports[number]=$(free_port)
        seeds+=(--seed "127.0.0.1:${ports[number]}")
        members+=(--member "n$number=127.0.0.1:${ports[number]}")
        "$DYN" cert node --ca "$dir/ca" --out "$dir/certs" "n$number" >/dev/null
    done
    export DYN_CLUSTER="$dir/operator.toml"
    "$DYN" cert client operator --ca "$dir/ca" --out "$DYN_CLUSTER" --role admin "${seeds[@]}" >/dev/null
    for number in $(seq 1 "$1"); do start_node "$number"; done
    local attempt
    for attempt in $(seq 1 50); do
        if "$DYN" cluster create "${members[@]}" >"$dir/create.log" 2>&1; then return; fi
        sleep 0.2
    done
    cat "$dir/create.log" >&2
    fail "the cluster was not founded"
}

# metric NODE NAME: one figure of `dyn metrics`; empty when the node does not answer.
metric() { ("$DYN" metrics "n$1" 2>/dev/null || true) | awk -v name="dynkv_$2" '$1 == name { print $2 }'; }

# total NAME: a figure summed over all nodes that answer.
total() { ("$DYN" metrics 2>/dev/null || true) | awk -v name="dynkv_$1" '$1 == name { sum += $2 } END { print sum + 0 }'; }

# foreground SECONDS: prints p50 and p99 in us of gets and of puts under a load of $rate operations a second on $keys keys.
foreground() {
    "$DYN" bench --phases f --keys "$keys" --popularity uniform --rate "$rate" --seconds "$1" --warm-up 1 --json 2>/dev/null |
        python3 -c '
import json, sys
latency = json.load(sys.stdin)["phases"][0]["latency_us"]
print(" ".join("{}: p50 {:.0f} p99 {:.0f} us;".format(name, of["p50"], of["p99"]) for name, of in latency.items()))'
}

# windows NAME COUNT: that many windows of 20 s; each is printed, and kept for `medians`.
windows() {
    local _
    for _ in $(seq 1 "$2"); do echo "$1: $(foreground 20)" | tee -a "$dir/windows-$1"; done
}

# medians NAME: of what `windows` measured, with the least and the greatest.
medians() { python3 -c '
import re, statistics, sys
figures = {}
for line in open(sys.argv[2]):
    for name, p50, p99 in re.findall(r"([\w-]+): p50 (\d+) p99 (\d+) us", line):
        figures.setdefault(f"{name} p50", []).append(int(p50))
        figures.setdefault(f"{name} p99", []).append(int(p99))
for name, of in figures.items():
    print(f"{sys.argv[1]}, {len(of)} windows: {name} median {statistics.median(of):.0f} ({min(of)} to {max(of)}) us")' "$1" "$dir/windows-$1"; }
