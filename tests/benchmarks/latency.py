"""Latency from a sender to another peer, under a steady load.

Messages leave at random moments (a Poisson process with a fixed mean rate), the same
moments for all contenders. No sender waits for deliveries. Each text holds the time of
its sending; every tenth peer compares this time with the time of reading.
"""

from __future__ import annotations

import random
import re
import statistics
import time
from typing import Any

from tests.benchmarks.client import Clock
from tests.benchmarks.measure import Benchmark
from tests.benchmarks.room import TEXT_SIZE, Room
from tests.benchmarks.servers import chatd, contender, floor, probe, rivals

PEERS = 200
RATE = 600
WARM_UP = 0.1  # of the measured time
SECONDS = 4.0
QUICK_SECONDS = 0.5
SAMPLED = 10  # one in this many peers measures

_TIME = re.compile(rb"@(\d{19})")


def load(
    port: int, server: int, peers: int, rate: float, seconds: float, chat: bool = False
) -> dict[str, float]:
    """Send messages at a rate; return the 99th percentile of the latency in ms."""
    room = Room(port, peers, peers, chat=chat)
    sampled = {sock.fileno() for sock in room.sockets[::SAMPLED]}
    taken: list[int] = []
    view = memoryview(room.buffer)

    def watch(descriptor: int, size: int) -> None:
        if descriptor in sampled:
            now = time.perf_counter_ns()
            taken.extend(now - int(sent) for sent in _TIME.findall(view[:size]))

    moments = random.Random(rate)
    begin = next_at = time.perf_counter()
    warm = begin + WARM_UP * seconds
    end = warm + seconds
    clock: Clock | None = None
    total = number = 0
    while next_at < end:
        now = time.perf_counter()
        if now >= next_at:
            room.send(number % peers, b"@%019d" % time.perf_counter_ns() + b"." * (TEXT_SIZE - 20))
            number += 1
            next_at += moments.expovariate(rate)
        if clock is None and now >= warm:
            clock = Clock(server)
            taken.clear()
        # epoll rounds a timeout to milliseconds, so poll without one.
        total += room.receive(0, idle=True, watch=watch)
    assert clock is not None
    seconds, server_cpu, _ = clock.read()
    room.drain(total)
    room.finish()
    percentiles = statistics.quantiles(taken, n=100)
    return {
        "value": percentiles[98] / 1e6,
        "p50": percentiles[49] / 1e6,
        "server's core": server_cpu / seconds,
    }


def benchmarks(*, quick: bool = False) -> list[Benchmark]:
    """Return the benchmark; a `quick` one is shorter."""
    arguments: dict[str, Any] = {
        "peers": PEERS,
        "rate": RATE,
        "seconds": QUICK_SECONDS if quick else SECONDS,
    }
    return [
        Benchmark(
            f"latency at {RATE} messages/s to {PEERS} peers",
            "ms, p99",
            [
                contender(chatd(), "latency", **arguments),
                contender(chatd(), "latency", "chatd, chat mode", chat=True, **arguments),
                *(
                    contender(program, "latency", **arguments)
                    for program in (*rivals("chat"), floor("chat"), probe())
                ),
            ],
        )
    ]
