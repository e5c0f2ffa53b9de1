"""Opening handshakes per second of one client, one after the other."""

from __future__ import annotations

import time

from tests.benchmarks.client import Clock, connect
from tests.benchmarks.measure import Benchmark
from tests.benchmarks.servers import chatd, contender, floor, probe, rivals

WARM_UP = 0.1  # of the measured time
SECONDS = 2.0
QUICK_SECONDS = 0.3


def load(port: int, server: int, seconds: float) -> dict[str, float]:
    """Open and drop connections for `seconds`; return handshakes/s."""
    _open_until(port, time.perf_counter() + WARM_UP * seconds)
    clock = Clock(server)
    return clock.rate(_open_until(port, clock.begin + seconds))


def _open_until(port: int, end: float) -> int:
    count = 0
    while time.perf_counter() < end:
        connect(port).close()
        count += 1
    return count


def benchmarks(*, quick: bool = False) -> list[Benchmark]:
    """Return the benchmark; a `quick` one is shorter."""
    seconds = QUICK_SECONDS if quick else SECONDS
    programs = [chatd(), *rivals("chat"), floor("chat"), probe()]
    return [
        Benchmark(
            "handshakes, one after the other",
            "handshakes/s",
            [contender(program, "handshakes", seconds=seconds) for program in programs],
        )
    ]
