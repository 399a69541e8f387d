#!/usr/bin/env python3
"""Closed-loop load on etcd or Redis, shaped like the phases load, a and c of `dyn bench`.

    load.py etcd  --ports 2379,2479,2579 --pids 10,11,12 --keys 100000 --seconds 10
    load.py redis --ports 6379 --pids 20,21,22 --keys 100000 --seconds 10 --wait 1

Nothing but Python's standard library. One thread and hand-made requests, so that the generator costs little:
etcd's gRPC as bare HTTP/2 frames, Redis' protocol as bytes. Prints one JSON object, named as in docs/bench.schema.json.
"""

import argparse
import json
import os
import random
import selectors
import socket
import struct
import time


class Zipf:
    """Ranks from 0 by Zipf's law, as in YCSB (Gray et al., SIGMOD 1994)."""

    def __init__(self, count, rng, theta=0.99):
        self.count, self.rng, self.theta = count, rng, theta
        self.zeta = sum(rank**-theta for rank in range(1, count + 1))
        self.alpha = 1 / (1 - theta)
        self.half = 1 + 0.5**theta
        self.eta = (1 - (2 / count) ** (1 - theta)) / (1 - self.half / self.zeta)

    def draw(self):
        u = self.rng.random()
        if u * self.zeta < 1:
            return 0
        if u * self.zeta < self.half:
            return 1
        return min(int(self.count * (self.eta * u - self.eta + 1) ** self.alpha), self.count - 1)


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number, data):
    """A length-delimited field of Protocol Buffers."""
    return varint(number << 3 | 2) + varint(len(data)) + data


class Etcd:
    """One HTTP/2 connection with many streams (RFC 9113), each a unary gRPC call."""

    DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
    WIDE = 2**31 - 1

    def __init__(self, port, in_flight):
        self.places = in_flight
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.out, self.received = bytearray(), bytearray()
        self.next_stream, self.calls = 1, {}
        # What the server lets us send; calls wait when it is used up.
        self.window, self.waiting, self.consumed = 65535, [], 0
        authority = b"127.0.0.1:%d" % port
        self.headers = {
            kind: b"".join(
                b"\x00" + varint(len(name)) + name + varint(len(value)) + value
                for name, value in [
                    (b":method", b"POST"),
                    (b":scheme", b"http"),
                    (b":path", b"/etcdserverpb.KV/" + path),
                    (b":authority", authority),
                    (b"content-type", b"application/grpc"),
                    (b"te", b"trailers"),
                ]
            )
            for kind, path in [("get", b"Range"), ("put", b"Put")]
        }
        self.out += b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        self.out += self.frame(self.SETTINGS, 0, 0, struct.pack(">HI", 4, self.WIDE))
        self.out += self.frame(self.WINDOW, 0, 0, struct.pack(">I", self.WIDE - 65535))

    @staticmethod
    def frame(kind, flags, stream, payload):
        return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload

    def send(self, kind, key, value, call):
        message = field(1, key) + (field(2, value) if kind == "put" else b"")
        self.waiting.append((kind, b"\x00" + struct.pack(">I", len(message)) + message, call))
        self.send_waiting()

    def send_waiting(self):
        while self.waiting and len(self.waiting[0][1]) <= self.window:
            kind, body, call = self.waiting.pop(0)
            self.window -= len(body)
            stream, self.next_stream = self.next_stream, self.next_stream + 2
            self.calls[stream] = [call, False]
            self.out += self.frame(self.HEADERS, 4, stream, self.headers[kind])
            self.out += self.frame(self.DATA, 1, stream, body)

    def answers(self, data):
        """The calls that ended, and whether well: a failed one has headers only."""
        received = self.received
        received += data
        begin = 0
        while len(received) - begin >= 9:
            length = int.from_bytes(received[begin : begin + 3], "big")
            if len(received) - begin < 9 + length:
                break
            kind, flags, stream = struct.unpack(">BBI", received[begin + 3 : begin + 9])
            payload = bytes(received[begin + 9 : begin + 9 + length])
            begin += 9 + length
            if kind == self.DATA and length:
                self.calls[stream][1] = True
                self.consumed += length
                if self.consumed > 2**24:
                    self.out += self.frame(self.WINDOW, 0, 0, struct.pack(">I", self.consumed))
                    self.consumed = 0
            elif kind == self.SETTINGS and not flags & 1:
                self.out += self.frame(self.SETTINGS, 1, 0, b"")
            elif kind == self.PING and not flags & 1:
                self.out += self.frame(self.PING, 1, 0, payload)
            elif kind == self.WINDOW and stream == 0:
                self.window += int.from_bytes(payload, "big")
                self.send_waiting()
            elif kind == self.GOAWAY:
                raise ConnectionError(f"etcd closed the connection: {payload[8:]!r}")
            ended = kind in (self.DATA, self.HEADERS) and flags & 1 or kind == self.RST
            if ended and stream in self.calls:
                call, good = self.calls.pop(stream)
                yield call, good and kind != self.RST
        del received[:begin]


class Redis:
    """One connection with one request at a time: WAIT holds up a connection."""

    def __init__(self, port, wait):
        self.places, self.wait = 1, wait
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.out, self.received, self.call, self.kind = bytearray(), bytearray(), None, None

    @staticmethod
    def command(*words):
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)

    def send(self, kind, key, value, call):
        self.call, self.kind = call, kind
        if kind == "get":
            self.out += self.command(b"GET", key)
        else:
            self.out += self.command(b"SET", key, value)
            if self.wait:
                self.out += self.command(b"WAIT", b"%d" % self.wait, b"5000")

    def answers(self, data):
        received = self.received
        received += data
        if self.kind == "get":
            end = received.find(b"\r\n")
            if end < 0:
                return
            length = int(received[1:end]) if received[:1] == b"$" else -1
            if length >= 0 and len(received) < end + 2 + length + 2:
                return
            good = length >= 0
        else:
            lines = received.split(b"\r\n")
            if len(lines) < (3 if self.wait else 2):
                return
            good = lines[0] == b"+OK" and (not self.wait or int(lines[1][1:]) >= self.wait)
        received.clear()
        call, self.call = self.call, None
        yield call, good


def cpu_seconds(pids):
    ticks = os.sysconf("SC_CLK_TCK")
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as file:
            total += sum(int(part) for part in file.read().rsplit(")", 1)[1].split()[11:13])
    return total / ticks


def rss_bytes(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/status") as file:
            total += next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS:"))
    return total


def run(name, connections, pids, next_operation, seconds):
    """Keeps every place of every connection busy until there are no more operations or the time is up."""
    selector = selectors.DefaultSelector()
    latencies, errors, under_way = {"get": [], "put": []}, 0, 0
    servers, client, begun = cpu_seconds(pids), time.process_time(), time.monotonic()
    deadline = begun + seconds

    def start(connection):
        nonlocal under_way
        now = time.monotonic()
        operation = next_operation() if now < deadline else None
        if operation:
            kind, key, value = operation
            under_way += 1
            connection.send(kind, key, value, (kind, now))

    for connection in connections:
        connection.socket.setblocking(False)
        for _ in range(connection.places):
            start(connection)
        selector.register(connection.socket, selectors.EVENT_READ, connection)

    def flush(connection):
        if connection.out:
            try:
                sent = connection.socket.send(connection.out)
                del connection.out[:sent]
            except BlockingIOError:
                pass
        interest = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.out else 0)
        if selector.get_key(connection.socket).events != interest:
            selector.modify(connection.socket, interest, connection)

    for connection in connections:
        flush(connection)
    while under_way:
        ready = selector.select(10)
        if not ready:
            raise TimeoutError(f"{name}: no answer for 10 s")
        for key, events in ready:
            connection = key.data
            if events & selectors.EVENT_READ:
                data = connection.socket.recv(1 << 18)
                if not data:
                    raise ConnectionError(f"{name}: the server closed a connection")
                for (kind, sent), good in connection.answers(data):
                    under_way -= 1
                    if good:
                        latencies[kind].append(time.monotonic() - sent)
                    else:
                        errors += 1
                    start(connection)
            flush(connection)
    elapsed = time.monotonic() - begun
    servers, client = cpu_seconds(pids) - servers, time.process_time() - client
    selector.close()

    done = sum(map(len, latencies.values()))
    quantiles = {}
    for kind, values in latencies.items():
        if values:
            values.sort()
            at = lambda share: round(values[min(int(share * len(values)), len(values) - 1)] * 1e6, 1)
            quantiles[kind] = {"count": len(values), "p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "max": at(1)}
    return {
        "name": name,
        "seconds": elapsed,
        "ops": done,
        "ops_per_s": round(done / elapsed, 1),
        "latency_us": quantiles,
        "cpu_us_per_op": {
            "client": round(client / max(done, 1) * 1e6, 2),
            "nodes": round(servers / max(done, 1) * 1e6, 2),
        },
        "rss_bytes": rss_bytes(pids),
        "errors": errors,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", choices=["etcd", "redis"])
    numbers = lambda text: [int(part) for part in text.split(",")]
    parser.add_argument("--ports", type=numbers, required=True, help="of the servers to talk to")
    parser.add_argument("--pids", type=numbers, required=True, help="of all servers")
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--value-bytes", type=int, default=1024)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--load-seconds-max", type=float, default=120, help="a load that takes longer is broken off")
    parser.add_argument("--wait", type=int, default=1, help="Redis: replicas that must have the write")
    options = parser.parse_args()

    if options.store == "etcd":
        count = len(options.ports)
        share = [options.in_flight // count + (index < options.in_flight % count) for index in range(count)]
        connections = [Etcd(port, places) for port, places in zip(options.ports, share)]
    else:
        connections = [Redis(options.ports[0], options.wait) for _ in range(options.in_flight)]

    rng = random.Random(1)
    pool = rng.randbytes(4 << 20)
    size = options.value_bytes
    key_of = lambda number: b"user%012d" % number

    def value():
        begin = rng.randrange(len(pool) - size)
        return pool[begin : begin + size]

    numbers = iter(range(options.keys))

    def load():
        number = next(numbers, None)
        return None if number is None else ("put", key_of(number), value())

    zipf = Zipf(options.keys, rng)
    # Popular keys scattered over all; any odd multiplier does.
    popular = lambda: key_of(zipf.draw() * 0x9E3779B97F4A7C15 % 2**64 % loaded)

    def mixed():
        return ("get", popular(), None) if rng.random() < 0.5 else ("put", popular(), value())

    phases = [run("load", connections, options.pids, load, options.load_seconds_max)]
    loaded = max(phases[0]["ops"], 1)
    phases.append(run("a", connections, options.pids, mixed, options.seconds))
    phases.append(run("c", connections, options.pids, lambda: ("get", popular(), None), options.seconds))
    print(json.dumps({"store": options.store, "phases": phases}))


if __name__ == "__main__":
    main()
