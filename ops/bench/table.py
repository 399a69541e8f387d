#!/usr/bin/env python3
"""Prints the results of compare.sh as Markdown: table.py FOLDER KEYS VERSIONS."""

import json
import os
import pathlib
import sys

STORES = [
    ("dynkv", "dynkv, default (w 2, dw 1, r 2)", "2 of 3 nodes, 1 of them fsynced", "2 of 3 nodes; concurrent writes are kept as siblings"),
    ("dynkv-dw2", "dynkv, dw 2", "2 of 3 nodes, both fsynced", "the same"),
    ("etcd", "etcd, 3 nodes", "majority, fsynced (Raft)", "linearizable (leader asks a majority)"),
    ("redis", "Redis, WAIT 1, fsync every second", "2 of 3 nodes, in memory", "primary alone; may read what a failover loses"),
    ("redis-always", "Redis, WAIT 1, fsync always", "2 of 3 nodes, fsynced on the primary", "the same"),
]
PHASES = [("load", "load (puts)"), ("a", "half gets, half puts"), ("c", "gets")]


def main():
    folder, keys, versions = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    results = {}
    for store, *_ in STORES:
        phases = json.loads((folder / f"{store}.json").read_text())["phases"]
        results[store] = {phase["name"]: phase for phase in phases}

    print(f"{keys} keys of 16 bytes, 1 KiB values, 64 requests in flight, {os.cpu_count()} cores for servers and load alike.")
    print(f"{versions}.\n")
    print("| | a put is acknowledged by | a get is answered by |\n|---|---|---|")
    for _, name, put, get in STORES:
        print(f"| {name} | {put} | {get} |")
    print()
    for phase, title in PHASES:
        kinds = sorted(results["dynkv"][phase]["latency_us"])
        columns = "".join(f" {kind} p50 | {kind} p99 |" for kind in kinds)
        print(f"| {title} | ops/s | ratio | servers' CPU/op | load's CPU/op |{columns} memory | errors |")
        print("|---|" + "---:|" * (6 + 2 * len(kinds)))
        base = results["dynkv"][phase]["ops_per_s"]
        for store, name, *_ in STORES:
            result = results[store][phase]
            cpu = result["cpu_us_per_op"]
            times = "".join(
                f" {result['latency_us'][kind][share] / 1000:.2f} ms |" for kind in kinds for share in ("p50", "p99")
            )
            print(
                f"| {name} | {result['ops_per_s']:,.0f} | {result['ops_per_s'] / base:.2f} | {cpu['nodes']:.0f} us "
                f"| {cpu['client']:.0f} us |{times} {result['rss_bytes'] / 2**20:.0f} MiB | {result['errors']} |"
            )
        print()
    print("Ratio: to dynkv's default, greater is faster. The load on dynkv comes from `dyn bench`, on the others from load.py;")
    print("what it costs it takes from the servers, which share the cores. Memory is of all three nodes together.")
    print("Neither etcd's nor Redis' traffic is encrypted here; dynkv's always is.")


if __name__ == "__main__":
    main()
