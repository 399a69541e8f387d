#!/usr/bin/env bash
# Compares dynkv with etcd and Redis on this machine: the same shape of workload, one after the other, on loopback.
#
#   ops/bench/compare.sh > comparison.md
#
# 1 KiB random values, KEYS keys, 64 requests in flight; load, half gets half puts, gets. Wants Debian or Ubuntu, the
# network for four packages, and about SECONDS x 8 plus the loads. The packages are unpacked into a temporary folder,
# not installed: no service starts and nothing is left behind. What runs on PATH already is used as it is.
#
# Environment: KEYS (100000), SECONDS_EACH (10), DYN (the binary; built here when unset), TMPDIR (whose disk is measured).
set -euo pipefail

keys=${KEYS:-100000}
seconds=${SECONDS_EACH:-10}
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/dyn-compare-XXXXXX")
pids=()

stop_servers() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    pids=()
}
clean_up() {
    stop_servers
    rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

note() { echo "$*" >&2; }
fail() { note "compare.sh: $*"; exit 1; }
join() { local IFS=,; echo "$*"; }

# A free TCP port of loopback; somebody may take it in between, which shows as a server that does not start.
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

wait_for() { # WHAT COMMAND...
    local what=$1
    shift
    for _ in $(seq 150); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    tail -n 3 "$dir"/*.log >&2 || true
    fail "$what did not start within 30 s; its log is above"
}

fetch_packages() {
    command -v apt-get >/dev/null || fail "etcd, etcdctl, redis-server and redis-cli are not on PATH, and there is no apt-get"
    note "fetching etcd and Redis"
    mkdir -p "$dir/packages" "$dir/root"
    local uris
    uris=$(apt-get install --print-uris -qq --no-install-recommends etcd-server etcd-client redis-server redis-tools) ||
        fail "the packages are not known: run apt-get update first"
    # 'URI' FILE_VERSION_ARCH.deb SIZE HASH; what is installed already is not listed.
    (cd "$dir/packages" && awk '{ split($2, part, "_"); print part[1] }' <<<"$uris" | xargs apt-get download -qq 2>/dev/null) ||
        fail "the packages cannot be downloaded: check the network"
    for package in "$dir"/packages/*.deb; do dpkg-deb -x "$package" "$dir/root"; done
    export PATH="$dir/root/usr/bin:$PATH"
    local libraries
    libraries=$(echo "$dir"/root/usr/lib/*-linux-gnu*)
    export LD_LIBRARY_PATH="${libraries// /:}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
}

run_dynkv() { # NAME OPTIONS...
    local name=$1
    shift
    note "measuring $name"
    "$DYN" bench --dev --dir "$dir" --json --keys "$keys" --seconds "$seconds" --phases load,a,c "$@" >"$dir/$name.json"
}

run_etcd() {
    note "measuring etcd"
    local client=() peer=() cluster="" i
    for i in 0 1 2; do
        client[i]=$(free_port)
        peer[i]=$(free_port)
        cluster+="${cluster:+,}e$i=http://127.0.0.1:${peer[i]}"
    done
    for i in 0 1 2; do
        # Elections are made rarer than the default: three nodes and the load share this machine's cores.
        etcd --name "e$i" --data-dir "$dir/etcd$i" --log-level error --heartbeat-interval 300 --election-timeout 3000 \
            --listen-client-urls "http://127.0.0.1:${client[i]}" --advertise-client-urls "http://127.0.0.1:${client[i]}" \
            --listen-peer-urls "http://127.0.0.1:${peer[i]}" --initial-advertise-peer-urls "http://127.0.0.1:${peer[i]}" \
            --initial-cluster "$cluster" >"$dir/etcd$i.log" 2>&1 &
        pids+=($!)
    done
    for i in 0 1 2; do
        wait_for etcd env ETCDCTL_API=3 etcdctl --endpoints "127.0.0.1:${client[i]}" endpoint health
    done
    python3 "$here/load.py" etcd --ports "$(join "${client[@]}")" --pids "$(join "${pids[@]}")" \
        --keys "$keys" --seconds "$seconds" >"$dir/etcd.json"
    stop_servers
}

run_redis() { # NAME APPENDFSYNC
    local name=$1 fsync=$2 port=() i
    note "measuring $name"
    for i in 0 1 2; do
        port[i]=$(free_port)
        mkdir "$dir/$name$i"
        local replica=()
        [ "$i" = 0 ] || replica=(--replicaof 127.0.0.1 "${port[0]}")
        redis-server --port "${port[i]}" --bind 127.0.0.1 --dir "$dir/$name$i" --daemonize no --save "" \
            --appendonly yes --appendfsync "$fsync" --repl-diskless-sync-delay 0 "${replica[@]}" >"$dir/$name$i.log" 2>&1 &
        pids+=($!)
    done
    linked() { redis-cli -p "${port[0]}" info replication | grep -c 'state=online' | grep -qx 2; }
    wait_for Redis linked
    python3 "$here/load.py" redis --ports "${port[0]}" --pids "$(join "${pids[@]}")" \
        --keys "$keys" --seconds "$seconds" --wait 1 >"$dir/$name.json"
    stop_servers
}

for program in python3 awk; do command -v "$program" >/dev/null || fail "$program is needed"; done
if [ -z "${DYN:-}" ]; then
    (cd "$here/../.." && cargo build --release --quiet -p dynkv-cli)
    DYN=${CARGO_TARGET_DIR:-$here/../../target}/release/dyn
fi
for program in etcd etcdctl redis-server redis-cli; do
    command -v "$program" >/dev/null || { fetch_packages; break; }
done

run_dynkv dynkv
run_dynkv dynkv-dw2 --dw 2
run_etcd
run_redis redis everysec
run_redis redis-always always

versions="$("$DYN" --version); $(etcd --version | head -n 1); $(redis-server --version | cut -d ' ' -f 1-3)"
python3 "$here/table.py" "$dir" "$keys" "$versions"
