#!/usr/bin/env bash
# How replicas become equal again by themselves, on three processes:
#
#   ops/bench/rebuild.sh
#
# 1. n3 is stopped, its data directory is removed, it is started again: how long until it has every key, what moved beyond the
#    data, and what clients' 99th percentile did meanwhile.
# 2. n3's disk is restored from a copy that lacks CHANGED overwrites: what moved.
#
# Environment: KEYS (1000000, 1 KiB each), RATE of operations a second (1000: half gets, half get-then-put), CHANGED (10),
# WINDOWS before and after (8), DYN, TMPDIR.
set -euo pipefail
. "$(dirname "$0")/cluster.sh"

keys=${KEYS:-1000000}
rate=${RATE:-1000}
changed=${CHANGED:-10}
count=${WINDOWS:-8}

# records NODE: how many the store of a node has, about; 0 when it does not answer.
records() { ("$DYN" status --json 2>/dev/null || true) | python3 -c '
import json, sys
try:
    nodes = json.load(sys.stdin)["nodes"]
    print(next((node.get("records") or 0 for node in nodes if node["node"] == sys.argv[1]), 0))
except (ValueError, KeyError):
    print(0)' "n$1"; }

# still: waits until no states have moved for ten seconds.
still() {
    local before after quiet=0
    before=$(moved)
    while [ "$quiet" -lt 10 ]; do
        sleep 1
        after=$(moved)
        if [ "$after" = "$before" ]; then quiet=$((quiet + 1)); else quiet=0; fi
        before=$after
    done
}
moved() { echo $(($(total states_pulled_total) + $(total states_pushed_total))); }

found_cluster 3
note "loading $keys keys"
"$DYN" bench --phases load --keys "$keys" >"$dir/load.log" 2>&1
still
windows before "$count"
medians before

stop_node 3 TERM
rm -rf "$dir/d3"
states_before=$(moved)
bytes_before=$(total tree_bytes_total)
messages_before=$(total tree_messages_total)
start_node 3
begun=$(now_ms)
# Between the windows: a command that starts, and its handshakes, take longer than what is measured.
until [ "$(records 3)" -ge "$keys" ]; do
    [ $(($(now_ms) - begun)) -lt 3600000 ] || fail "not complete within an hour: $(records 3) of $keys"
    windows meanwhile 1
done
took=$(($(now_ms) - begun))
bytes=$(($(total tree_bytes_total) - bytes_before))
echo "complete $took ms, or a window less, after the process was started, $(records 3) records"
echo "moved: $(($(moved) - states_before)) states, $(($(total tree_messages_total) - messages_before)) messages, $bytes bytes;" \
    "beyond the values: $((bytes - keys * 1024)) bytes"
medians meanwhile
still
windows after "$count"
medians after

# A copy of the disk, some overwrites, the copy in its place.
still
stop_node 3 TERM
cp -r "$dir/d3" "$dir/copy"
start_node 3
until [ "$(records 3)" -ge "$keys" ]; do sleep 1; done
still
for number in $(seq 1 "$changed"); do echo "changed $number" | "$DYN" put "bench-old/key$number" - >/dev/null; done
still
stop_node 3 TERM
rm -rf "$dir/d3"
mv "$dir/copy" "$dir/d3"
states_before=$(moved)
bytes_before=$(total tree_bytes_total)
messages_before=$(total tree_messages_total)
comparisons_before=$(total comparisons_total)
start_node 3
until [ "$(records 3)" -ge "$keys" ]; do sleep 1; done
sleep 2
still
echo "an old disk that lacks $changed keys: $(($(moved) - states_before)) states moved," \
    "$(($(total comparisons_total) - comparisons_before)) comparisons, those that find nothing among them," \
    "$(($(total tree_messages_total) - messages_before)) messages, $(($(total tree_bytes_total) - bytes_before)) bytes"
