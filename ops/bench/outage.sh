#!/usr/bin/env bash
# How long hints take to drain after an outage under load: four processes, one of them killed for OUTAGE seconds while
# clients go on, and go on after it is back.
#
#   ops/bench/outage.sh
#
# Environment: OUTAGE (600), RATE (800 operations a second, half of them puts of 1 KiB), KEYS (200000), DYN, TMPDIR.
set -euo pipefail
. "$(dirname "$0")/cluster.sh"

outage=${OUTAGE:-600}
keys=${KEYS:-200000}
found_cluster 4
"$DYN" bench --phases load,a --keys "$keys" --popularity uniform --rate "${RATE:-800}" \
    --seconds $((outage * 2 + 60)) >"$dir/load.log" 2>&1 &
others+=($!)
# Phase a begins when all keys are there.
until [ "$(total versions_minted_total)" -ge "$keys" ]; do sleep 1; done
sleep 10
note "the load runs; n4 is killed for $outage s"
stop_node 4 KILL
sleep "$outage"
kept=$(total hints)
kept_mib=$(($(total hint_bytes) >> 20))
delivered=$(total hints_delivered_total)
start_node 4
begun=$(now_ms)
until [ "$(total hints)" = 0 ] && [ -n "$(metric 4 hints)" ]; do
    [ $(($(now_ms) - begun)) -lt $((outage * 1000)) ] || fail "not drained within the time of the outage: $(total hints) of $kept left"
    sleep 0.2
done
took=$(($(now_ms) - begun))
echo "outage of $outage s: $kept hints, $kept_mib MiB; none left ${took} ms after the process was started again"
echo "delivered since: $(($(total hints_delivered_total) - delivered))"
