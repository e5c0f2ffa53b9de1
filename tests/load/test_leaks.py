"""24,000 short connections leave nothing behind."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path

from tests.benchmarks.client import resident_bytes
from tests.load.support import (
    BATCH,
    MIB,
    chatd,
    connect_talk_and_close,
    count_sockets,
    print_figure,
)
from tests.support import poll

CONNECTIONS = 24_000
# Seconds for which the loop keeps a timer of a closed peer. After this time under load
# the number of timers is constant, so the daemon's memory is as well.
OPEN_TIMEOUT = 10.0


def test_short_connections_leave_no_sockets_or_memory(tmp_path: Path) -> None:
    with chatd(tmp_path) as running:
        process = running.process.pid
        before = count_sockets(process)
        numbers = count()
        warm_up_start = time.perf_counter()
        while time.perf_counter() - warm_up_start < OPEN_TIMEOUT + 1:
            connect_talk_and_close(running.address, next(numbers))
        memory_before = resident_bytes(process)
        start = time.perf_counter()
        for _ in range(CONNECTIONS // BATCH):
            connect_talk_and_close(running.address, next(numbers))
        seconds = time.perf_counter() - start
        poll(lambda: count_sockets(process) == before, "every socket is closed")
        memory_after = resident_bytes(process)
    print_figure(f"{CONNECTIONS:,} short connections", f"in {seconds:.1f} s")
    print_figure("sockets before and after", f"{before} and {before}")
    figures = f"{memory_before / MIB:.1f} and {memory_after / MIB:.1f} MiB"
    print_figure("memory before and after", figures)
    assert memory_after < memory_before + 4 * MIB
