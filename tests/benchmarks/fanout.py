"""How many deliveries a second a chat room makes: one message, to all other peers.

64 bytes of text a message, over loopback. A message counts as done when the
deliveries of as many messages are in; then the next may be sent, so that a fixed
number, the window, is always under way. What one sender has to send between two
waits goes out in one write. Beside each figure stand the shares of their cores
that server and client used: where the client's is near 100% and the server's is
not, it is the client that was measured.

With one message under way a turn of the server has just that to deliver, so its
CPU for a delivery tells what peers and rooms cost by being there.
"""

from __future__ import annotations

import time
from typing import Any

from tests.benchmarks.client import Clock
from tests.benchmarks.measure import TO_THE_FIRST, Benchmark, Wrong
from tests.benchmarks.room import Room, numbered
from tests.benchmarks.servers import chatd, contender, floor, probe, rivals

WARM_UP = 0.1  # of the measured time
SECONDS = 2.0
QUICK_SECONDS = 0.3
LOADS: dict[str, dict[str, Any]] = {
    "fan-out, 10 peers, 1 in flight": {"peers": 10, "senders": 1, "window": 1},
    "fan-out, 100 peers, 1 in flight": {"peers": 100, "senders": 1, "window": 1},
    "fan-out, 100 peers, 10 senders, 64 in flight": {"peers": 100, "senders": 10, "window": 64},
    "fan-out, 1000 peers, 50 senders, 128 in flight": {"peers": 1000, "senders": 50, "window": 128},
}
PEERS = (100, 10, 1_000, 10_000)
ROOMS = (1, 100, 1_000)
PEERS_IN_ROOM = 10


def load(
    port: int,
    server: int,
    peers: int,
    senders: int,
    window: int,
    seconds: float,
    chat: bool = False,
    rooms: int = 1,
    per_delivery: bool = False,
) -> dict[str, float]:
    """Keep the window full for so long; return deliveries/s.

    Or, `per_delivery`, the server's CPU in seconds for a million deliveries.
    """
    room = Room(port, peers, senders, chat=chat, rooms=rooms)
    cost = room.deliveries * room.mode.unit  # of a message
    texts = [numbered(sender, 0) for sender in range(senders)]
    sent = total = first = counted = 0
    begin = time.perf_counter() + WARM_UP * seconds
    clock: Clock | None = None
    now = 0.0
    while now < begin + seconds:
        free = window - (sent - total // cost)
        if free > window:
            raise Wrong("more was delivered than was sent")
        share, extra = divmod(free, senders)
        for step in range(senders if share else extra):
            sender = (first + step) % senders
            room.say(sender, texts[sender], share + (step < extra))
        first = (first + extra) % senders
        sent += free
        total += room.receive()
        now = time.perf_counter()
        if clock is None and now >= begin:
            clock, counted = Clock(server), total
    assert clock is not None
    deliveries = (total - counted) / room.mode.unit
    figures = clock.rate(deliveries)
    if per_delivery:
        figures["value"] = clock.read()[1] / deliveries * 1e6
    room.drain(total)
    room.finish()
    return figures


def benchmarks(*, quick: bool = False) -> list[Benchmark]:
    """Return a benchmark for each load; `quick` ones measure for a shorter time."""
    seconds = QUICK_SECONDS if quick else SECONDS
    fan_outs = [
        Benchmark(
            name,
            "deliveries/s",
            [
                contender(chatd(), "fanout", seconds=seconds, **arguments),
                contender(
                    chatd(), "fanout", "chatd, chat mode", seconds=seconds, chat=True, **arguments
                ),
                *(
                    contender(program, "fanout", seconds=seconds, **arguments)
                    for program in (*rivals("chat"), floor("chat"), probe())
                ),
            ],
        )
        for name, arguments in LOADS.items()
    ]
    alone = {"senders": 1, "window": 1, "seconds": seconds, "per_delivery": True}
    return [
        *fan_outs,
        Benchmark(
            "CPU for a delivery, by peers",
            "s/million",
            [
                # The floor shows how much of the growth is the kernel's.
                contender(program, "fanout", f"{name}, {peers:,} peers", peers=peers, **alone)
                for program, name, numbers in (
                    (chatd(), "chatd", PEERS),
                    (floor("chat"), "C floor", (PEERS[0], PEERS[-1])),
                )
                for peers in numbers
            ],
            TO_THE_FIRST,
        ),
        Benchmark(
            "CPU for a delivery, by rooms of 10",
            "s/million",
            [
                contender(
                    chatd(),
                    "fanout",
                    f"{rooms:,} room{'s' if rooms > 1 else ''}",
                    peers=PEERS_IN_ROOM * rooms,
                    rooms=rooms,
                    **{**alone, "senders": rooms},
                )
                for rooms in ROOMS
            ],
            TO_THE_FIRST,
        ),
    ]
