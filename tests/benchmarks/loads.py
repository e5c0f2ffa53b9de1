"""Benchmarks of servers under the load client: rooms, echo and CPU time.

In a fan-out each message goes to all other peers of a room. Messages have 64 bytes of
text; the connections are on loopback. A fixed number of messages, the window, is in
flight: a sender sends the next message when all deliveries of an earlier one have arrived.
One write carries all the messages that a sender sends between two waits. Each figure comes
with the CPU use of server and client. If the client's is near 1 and the server's is not,
the figure measures the client.

With a window of 1, each loop iteration of the server delivers one message. Its CPU time
per delivery then shows the cost of the peers and rooms that are idle.

Latency is the time from a send to the end of the read in another peer. The load of its own
benchmark sends at random moments, the same for all contenders, and waits for nothing.

The memory of an idle peer is the growth of the server's resident memory while the peers
connect. A few peers connect before, so that one-time allocations do not count. Kernel
memory is not included.
"""

from __future__ import annotations

import time

from tests.benchmarks.client import connect
from tests.benchmarks.measure import TO_THE_FIRST, Benchmark, Contender, Sample, Variant
from tests.benchmarks.servers import (
    Program,
    chatd,
    chatd_chat,
    chatd_without_log,
    contender,
    echo,
    floor,
    hubs,
    nats,
    rivals,
    serving,
)

SECONDS = 1.0
LATENCY_SECONDS = 3.0
IDLE_SECONDS = 24.0  # longer than the interval of Pings
QUICK_SECONDS = 0.2

FAN_OUTS = {
    "10 peers, 1 in flight": "--peers 10 --window 1",
    "100 peers, 1 in flight": "--peers 100 --window 1",
    "100 peers, 64 in flight": "--peers 100 --senders 10 --window 64",
    "1,000 peers, 128 in flight": "--peers 1000 --senders 50 --window 128",
}
LATENCY = "latency at 600 messages/s to 200 peers"
COST_BY_PEERS = (100, 1_000, 10_000)
COST_BY_ROOMS = (1, 100, 1_000)
PEERS_IN_ROOM = 10


def fan_out(name: str, programs: list[Program], seconds: float) -> Benchmark:
    """Return a benchmark of deliveries/s, one of `FAN_OUTS`."""
    senders = {"sender_p50": "p50 of its senders (ms)", "sender_p99": "p99 of its senders (ms)"}
    details = ("server_core", "client_core", "p50", "p99", *senders)
    options = f"{FAN_OUTS[name]} --seconds {seconds}"
    return Benchmark(
        f"fan-out to {name}",
        "deliveries/s",
        [contender(program, options, "per_second", *details) for program in programs],
        TO_THE_FIRST,
        senders if "1,000" in name else {},
    )


def latency(name: str, options: str, programs: list[Program]) -> Benchmark:
    """Return a benchmark of latency."""
    return Benchmark(
        name,
        "p99, ms",
        [contender(each, options, "p99", "p50", "max", "server_core") for each in programs],
        TO_THE_FIRST,
        {"p50": "p50 (ms)"},
    )


def rooms(*, quick: bool = False) -> list[Benchmark]:
    """Return the benchmarks of a room; `quick` ones are shorter."""
    seconds = QUICK_SECONDS if quick else SECONDS
    bare, ours, others = floor("chat"), chatd(), [*rivals("chat"), nats()]
    every = [bare, ours, chatd_without_log(), chatd_chat(), *others, *hubs()]
    at_rate = (
        f"--peers 200 --senders 200 --rate 600 --seconds {seconds if quick else LATENCY_SECONDS}"
    )
    idle = f"--idle --peers {500 if quick else 5000} --seconds 0"
    return [
        *(fan_out(name, every, seconds) for name in FAN_OUTS),
        latency(LATENCY, at_rate, every),
        Benchmark(
            "handshakes, one after the other",
            "handshakes/s",
            [
                contender(
                    each,
                    f"--handshakes --seconds {seconds}",
                    "per_second",
                    "server_core",
                    "client_core",
                )
                for each in (bare, ours, *others)
            ],
            TO_THE_FIRST,
        ),
        Benchmark(
            "memory of an idle peer",
            "KiB",
            [contender(each, idle, "memory") for each in (ours, chatd_chat(), *others)],
        ),
        Benchmark("start to first response", "s", [_start(each) for each in (ours, *others)]),
    ]


def _start(program: Program) -> Contender:
    def run() -> Sample:
        begin = time.perf_counter()
        with serving(program) as (_, port), connect(port):
            return Sample(time.perf_counter() - begin)

    def vary(variant: Variant) -> Contender:
        return _start(program.under(variant))

    return Contender(program.name, run, vary if program.is_ours else None)


def echoes(*, quick: bool = False) -> list[Benchmark]:
    """Return the benchmarks of echo servers; `quick` ones are shorter."""
    seconds = QUICK_SECONDS if quick else SECONDS
    return [
        Benchmark(
            f"echo, 64 B, {peers} peer{'s' if peers > 1 else ''}",
            "round trips/s",
            [
                contender(
                    each,
                    f"--echo --peers {peers} --seconds {seconds}",
                    "per_second",
                    "server_core",
                    "client_core",
                )
                for each in (floor("echo"), echo(), *rivals("echo"))
            ],
            TO_THE_FIRST,
        )
        for peers in (1, 100)
    ]


def costs(*, quick: bool = False) -> list[Benchmark]:
    """Return the benchmarks of CPU time; `quick` ones are shorter, with fewer idle peers."""
    seconds = QUICK_SECONDS if quick else SECONDS
    idle_peers = 500 if quick else 10_000
    idle_seconds = QUICK_SECONDS if quick else IDLE_SECONDS
    return [
        *(
            Benchmark(
                f"CPU of a delivery, {peers:,} peers",
                "us",
                [  # the floor shows the kernel's part of the growth
                    contender(each, f"--peers {peers} --window 1 --seconds {seconds}", "cpu_us")
                    for each in (floor("chat"), chatd())
                ],
                TO_THE_FIRST,
            )
            for peers in COST_BY_PEERS
        ),
        *(
            Benchmark(
                f"CPU of a delivery, {number:,} room{'s' if number > 1 else ''} of 10 peers",
                "us",
                [
                    contender(
                        chatd(),
                        f"--peers {PEERS_IN_ROOM * number} --rooms {number} --senders {number}"
                        f" --window 1 --seconds {seconds}",
                        "cpu_us",
                    )
                ],
            )
            for number in COST_BY_ROOMS
        ),
        Benchmark(
            "idle peers, Pings answered",
            "cores",
            [
                contender(
                    chatd(),
                    f"--idle --peers {idle_peers} --seconds {idle_seconds}",
                    "server_core",
                    "pings",
                )
            ],
        ),
    ]
