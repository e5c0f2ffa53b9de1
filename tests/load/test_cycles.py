"""Those who come, say something and go, 24,000 times: nothing of them stays."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path

from tests.benchmarks.client import resident_bytes
from tests.load.support import MIB, VISITORS, chatd, come_speak_and_go, figure, sockets
from tests.support import poll

CYCLES = 24_000
# So long the loop keeps a deadline for a handshake, a small object, after the peer has
# gone; the daemon is warm when it has kept as many as it ever will.
OPEN_TIMEOUT = 10.0


def test_24000_who_come_speak_and_go_leave_nothing_behind(tmp_path: Path) -> None:
    with chatd(tmp_path) as running:
        process = running.process.pid
        before = sockets(process)
        numbers = count()
        warming = time.perf_counter()
        while time.perf_counter() - warming < OPEN_TIMEOUT + 1:
            come_speak_and_go(running.address, next(numbers))
        warm = resident_bytes(process)
        begin = time.perf_counter()
        for _ in range(CYCLES // VISITORS):
            come_speak_and_go(running.address, next(numbers))
        seconds = time.perf_counter() - begin
        poll(lambda: sockets(process) == before, "every socket is closed")
        after = resident_bytes(process)
    figure(f"{CYCLES:,} came, spoke and went", f"in {seconds:.1f} s")
    figure("sockets before and after", f"{before} and {before}")
    figure("memory before and after", f"{warm / MIB:.1f} and {after / MIB:.1f} MiB")
    assert after < warm + 4 * MIB
