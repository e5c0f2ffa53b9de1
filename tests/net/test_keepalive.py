"""Keepalive: Pings at their interval, signs of life, latency, and lost peers."""

from __future__ import annotations

import pytest

from tests.net.workbench import MASK, PING, Workbench, text
from wsproto_min.codes import Opcode
from wsproto_min.connection import Close
from wsproto_min.frames import encode_frame


def test_idle_peer_is_pinged_at_each_interval(pinging: Workbench) -> None:
    peer, remote = pinging.open()
    assert peer.latency is None
    pinging.iterate(ahead=8.0)
    for number, way in enumerate((0.25, 3.0, 7.5), 1):
        pinging.iterate(ahead=11.5)
        assert remote.count_pings() == number - 1, "pinged before the interval had passed"
        pinging.iterate(ahead=0.5)
        assert remote.count_pings() == number
        remote.answer_ping()
        pinging.iterate(ahead=way)
        assert peer.latency == way
        pinging.iterate(ahead=8.0 - way)  # the end of the timeout
    assert peer.is_open


def test_silent_peer_is_closed_with_1011_at_its_timeout(pinging: Workbench) -> None:
    peer, remote = pinging.open()
    pinging.iterate(ahead=20.0)
    assert remote.count_pings() == 1
    pinging.iterate(ahead=7.9)
    assert peer.is_open, "closed before the timeout"
    pinging.iterate(ahead=0.2)
    assert peer not in pinging.context.peers
    remote.read()
    assert remote.ended
    assert remote.events[-1] == Close(1011, "no sign of life")


def test_bytes_sent_includes_the_close_frame_to_a_lost_peer(pinging: Workbench) -> None:
    peer, _ = pinging.open()
    pinging.iterate(ahead=20.0)
    before = pinging.context.write_coalescer.bytes_sent
    pinging.iterate(ahead=8.1)
    assert peer.close_code == 1011
    close_frame = 2 + 2 + len(peer.close_reason)
    assert pinging.context.write_coalescer.bytes_sent - before == close_frame


def test_awaiting_pong_ends_with_the_pong(pinging: Workbench) -> None:
    peer, remote = pinging.open()
    keepalive = peer._session.keepalive
    assert keepalive is not None
    pinging.iterate(ahead=20.0)
    assert keepalive.awaiting_pong
    assert remote.count_pings() == 1
    remote.answer_ping()
    pinging.iterate(ahead=1.0)
    assert not keepalive.awaiting_pong
    assert keepalive.timeout_running, "the timeout ends 8 s after the Ping"


@pytest.mark.parametrize("data", [text("hi"), text("hi")[:1], PING], ids=["text", "byte", "Ping"])
def test_any_byte_is_a_sign_of_life(pinging: Workbench, data: bytes) -> None:
    peer, remote = pinging.open()
    pinging.iterate(ahead=20.0)
    assert remote.count_pings() == 1
    remote.sock.sendall(data)
    pinging.iterate(ahead=1.0)
    pinging.iterate(ahead=7.5)
    assert peer.is_open
    # A sign of life before the next Ping does not count after it.
    pinging.iterate(ahead=12.0)
    assert remote.count_pings() == 2
    pinging.iterate(ahead=8.1)
    assert not peer.is_open


def test_reading_buffered_bytes_is_a_sign_of_life(pinging: Workbench) -> None:
    peer, remote = pinging.open()
    peer.send("x" * 2_000_000)
    pinging.iterate()
    pinging.iterate(ahead=20.0)  # the Ping waits behind the message
    remote.sock.recv(100_000)
    pinging.iterate(ahead=1.0)
    pinging.iterate(ahead=7.5)
    assert peer.is_open
    pinging.iterate(ahead=12.0)
    pinging.iterate(ahead=8.1)  # this time the client has read nothing
    assert not peer.is_open


def test_buffered_bytes_without_pings_are_written(bench: Workbench) -> None:
    peer, remote = bench.open()
    peer.send("x" * 2_000_000)
    bench.iterate_until(lambda: remote.has(1), "the message arrives")
    assert peer.latency is None


@pytest.mark.parametrize(
    ("interval", "timeout", "times"),
    [
        (20.0, 8.0, [20, 40, 60]),
        (20.0, 20.0, [20, 40, 60]),
        (5.0, 20.0, [5, 25, 45]),  # one Ping at a time
        (None, 8.0, []),
    ],
)
def test_next_ping_waits_for_the_interval_and_the_timeout(
    clock: list[float], interval: float | None, timeout: float, times: list[int]
) -> None:
    bench = Workbench(clock, ping_interval=interval, ping_timeout=timeout)
    try:
        _, remote = bench.open()
        found = []
        for second in range(1, 65):
            before = remote.count_pings()
            bench.iterate(ahead=1.0)
            if remote.count_pings() > before:
                found.append(second)
                remote.answer_ping()
        assert found == times
    finally:
        bench.stop()


def test_latency_ignores_pongs_without_a_matching_ping(pinging: Workbench) -> None:
    peer, remote = pinging.open()
    remote.sock.sendall(encode_frame(Opcode.PONG, bytes(8), mask=MASK))
    pinging.iterate()
    assert peer.latency is None
    pinging.iterate(ahead=20.0)
    assert remote.count_pings() == 1
    remote.sock.sendall(encode_frame(Opcode.PONG, b"another payload", mask=MASK))
    pinging.iterate()
    assert peer.latency is None
    remote.answer_ping()
    pinging.iterate(ahead=0.5)
    assert peer.latency == 0.5
    remote.answer_ping()  # a second time
    pinging.iterate(ahead=3.0)
    assert peer.latency == 0.5


def test_closing_peer_is_not_pinged(pinging: Workbench) -> None:
    peer, remote = pinging.open()
    peer.close(4000)
    for _ in range(9):
        pinging.iterate(ahead=1.0)
    assert remote.count_pings() == 0
    pinging.iterate(ahead=1.1)
    assert peer not in pinging.context.peers, "the close timeout has passed"
    pinging.iterate(ahead=60.0)


def test_paused_peer_is_not_lost(pinging: Workbench) -> None:
    peer, remote = pinging.open()
    pinging.iterate(ahead=19.0)
    peer.pause_reading(30.0)
    pinging.iterate(ahead=1.0)
    assert remote.count_pings() == 1
    remote.answer_ping()
    pinging.iterate(ahead=8.1)
    assert peer.is_open
    pinging.iterate(ahead=21.0)
    pinging.iterate()
    assert peer.is_open


def test_pause_that_ends_within_the_timeout_counts_as_life(pinging: Workbench) -> None:
    peer, remote = pinging.open()
    pinging.iterate(ahead=19.0)
    peer.pause_reading(5.0)
    pinging.iterate(ahead=1.0)
    assert remote.count_pings() == 1
    pinging.iterate(ahead=4.1)
    pinging.iterate(ahead=4.0)  # the timeout has passed 4 s after the pause
    assert peer.is_open
