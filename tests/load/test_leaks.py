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
# Connections that fill the bounded log queue and the caches of SQLite. The daemon's memory
# is constant from then on. The log queue fills because the test does not read the log.
WARM_UP = 32_000


def test_short_connections_leave_no_sockets_or_memory(tmp_path: Path) -> None:
    with chatd(tmp_path) as running:
        process = running.process.pid
        before = count_sockets(process)
        numbers = count()
        for _ in range(WARM_UP // BATCH):
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
