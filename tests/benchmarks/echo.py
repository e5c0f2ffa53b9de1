"""Echo round trips per second: each peer sends one message and awaits its return."""

from __future__ import annotations

import select
import time

from tests.benchmarks.client import PATIENCE, Clock, connect, masked_frame
from tests.benchmarks.measure import Benchmark, Wrong
from tests.benchmarks.room import TEXT_FRAME, numbered
from tests.benchmarks.servers import contender, echo, floor, rivals

WARM_UP = 0.1  # of the measured time
SECONDS = 2.0
QUICK_SECONDS = 0.3
PEERS = (1, 100)


def load(port: int, server: int, peers: int, seconds: float) -> dict[str, float]:
    """Keep one message of each peer in flight for `seconds`; return round trips/s."""
    sockets = {sock.fileno(): sock for sock in (connect(port) for _ in range(peers))}
    texts = {descriptor: numbered(descriptor, 0) for descriptor in sockets}
    sent = {descriptor: masked_frame(text) for descriptor, text in texts.items()}
    expected = {descriptor: TEXT_FRAME + text for descriptor, text in texts.items()}
    epoll = select.epoll()
    for descriptor, sock in sockets.items():
        epoll.register(descriptor, select.EPOLLIN)
        sock.sendall(sent[descriptor])

    def rounds(end: float) -> int:
        count = 0
        while time.perf_counter() < end:
            ready = [(descriptor, 0) for descriptor in sockets]
            if peers > 1:  # with one peer, recv() blocks until its message arrives
                ready = epoll.poll(PATIENCE, peers)
            for descriptor, _ in ready:
                sock = sockets[descriptor]
                if sock.recv(4096) != expected[descriptor]:
                    raise Wrong("echo: the received message differs from the sent one")
                sock.send(sent[descriptor])
            count += len(ready)
            if not ready:
                raise Wrong(f"echo: no message arrived within {PATIENCE:g} s")
        return count

    rounds(time.perf_counter() + WARM_UP * seconds)
    clock = Clock(server)
    figures = clock.rate(rounds(clock.begin + seconds))
    for descriptor, sock in sockets.items():
        if sock.recv(4096) != expected[descriptor]:
            raise Wrong("echo: the received message differs from the sent one")
    return figures


def benchmarks(*, quick: bool = False) -> list[Benchmark]:
    """Return a benchmark for each number of peers; `quick` ones are shorter."""
    seconds = QUICK_SECONDS if quick else SECONDS
    return [
        Benchmark(
            f"echo, 64 B, {peers} peer{'s' if peers > 1 else ''}",
            "round trips/s",
            [
                contender(program, "echo", peers=peers, seconds=seconds)
                for program in (echo(), *rivals("echo"), floor("echo"))
            ],
        )
        for peers in PEERS
    ]
