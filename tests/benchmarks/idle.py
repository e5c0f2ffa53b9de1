"""The CPU cost of many silent peers: the server sends Pings to all of them."""

from __future__ import annotations

import select
import time

from tests.benchmarks.client import SETTLE, Clock, connect, masked_frame
from tests.benchmarks.measure import Benchmark, Wrong
from tests.benchmarks.servers import chatd, contender
from wsproto_min.codes import Opcode

PEERS = 10_000
QUICK_PEERS = 200
SECONDS = 44.0
QUICK_SECONDS = 3.0


def load(port: int, server: int, peers: int, seconds: float) -> dict[str, float]:
    """Connect `peers`, answer their Pings; return the server's CPU use in %."""
    sockets = {}
    epoll = select.epoll()
    for _ in range(peers):
        sock = connect(port)
        sockets[sock.fileno()] = sock
        epoll.register(sock, select.EPOLLIN)
    time.sleep(SETTLE)
    clock = Clock(server)
    end = clock.begin + seconds
    pings = 0
    while (wait := end - time.perf_counter()) > 0:
        for descriptor, _ in epoll.poll(wait, 100):
            ping = sockets[descriptor].recv(1024)
            if ping[:1] != b"\x89" or len(ping) != 2 + ping[1]:
                raise Wrong(f"idle: expected one Ping, received {ping.hex(' ')}")
            sockets[descriptor].sendall(masked_frame(ping[2:], Opcode.PONG))
            pings += 1
    elapsed, server_cpu, _ = clock.read()
    return {"value": server_cpu / elapsed * 100, "pings/s": pings / elapsed}


def benchmarks(*, quick: bool = False) -> list[Benchmark]:
    """Return the benchmark; a `quick` one ends before the first Ping."""
    peers, seconds = (QUICK_PEERS, QUICK_SECONDS) if quick else (PEERS, SECONDS)
    return [
        Benchmark(
            f"idle, {peers:,} peers, Pings answered",
            "% of a core",
            [contender(chatd(), "idle", peers=peers, seconds=seconds)],
        )
    ]
