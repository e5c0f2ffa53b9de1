"""Deliveries per second in a chat room: each message goes to all other peers.

Messages have 64 bytes of text; the connections are on loopback. A fixed number of
messages, the window, is in flight: a sender sends the next message when all deliveries
of an earlier one have arrived. One write carries all the messages that a sender sends
between two waits. Each figure comes with the CPU use of server and client. If the
client's is near 100% and the server's is not, the figure measures the client.

With a window of 1, each loop iteration of the server delivers one message. Its CPU time
per delivery then shows the cost of the peers and rooms that are idle.
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
    """Keep the window full for `seconds`; return deliveries/s.

    With `per_delivery`, return the server's CPU seconds per million deliveries.
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
            raise Wrong("fan-out: more messages were delivered than sent")
        share, extra = divmod(free, senders)
        for step in range(senders if share else extra):
            sender = (first + step) % senders
            room.send(sender, texts[sender], share + (step < extra))
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
                # The floor shows the kernel's part of the growth.
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
