"""Memory of an idle connection.

The figure is the growth of the server's resident memory while the peers connect. A few
peers connect before, so that one-time allocations do not count. Kernel memory is not included.
"""

from __future__ import annotations

from tests.benchmarks.client import resident_bytes
from tests.benchmarks.measure import Benchmark
from tests.benchmarks.room import Room
from tests.benchmarks.servers import chatd, contender, probe, rivals

PEERS = 5_000
QUICK_PEERS = 500
FIRST = 20


def load(port: int, server: int, peers: int, chat: bool = False) -> dict[str, float]:
    """Connect `peers`; return the server's growth in KiB per peer."""
    few = Room(port, FIRST, 1, chat=chat)
    before = resident_bytes(server)
    many = Room(port, peers, 1, chat=chat, first=FIRST)
    grown = resident_bytes(server) - before
    few.close()
    many.close()
    return {"value": grown / peers / 1024}


def benchmarks(*, quick: bool = False) -> list[Benchmark]:
    """Return the benchmark; a `quick` one has fewer peers."""
    peers = QUICK_PEERS if quick else PEERS
    return [
        Benchmark(
            f"memory of an idle peer, {peers:,} connected",
            "KiB",
            [
                contender(chatd(), "memory", peers=peers),
                contender(chatd(), "memory", "chatd, joined in chat mode", peers=peers, chat=True),
                *(contender(program, "memory", peers=peers) for program in rivals("chat")),
                contender(probe(), "memory", peers=peers),
            ],
        )
    ]
