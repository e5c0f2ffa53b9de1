"""Pings of the application: latency, timeouts, and the end of the connection."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.net.workbench import MASK, Workbench, text
from tests.support import Client, serving
from wsproto_min.codes import Opcode
from wsproto_min.connection import Ping
from wsproto_min.frames import encode_frame
from wsproto_min.net.peer import Peer

Call = tuple[Peer, float | None]


@pytest.fixture
def calls() -> list[Call]:
    return []


def record(calls: list[Call]) -> Any:
    return lambda peer, seconds: calls.append((peer, seconds))


def pong(payload: bytes) -> bytes:
    return encode_frame(Opcode.PONG, payload, mask=MASK)


def test_ping_reports_the_seconds_to_its_pong(bench: Workbench, calls: list[Call]) -> None:
    peer, remote = bench.open()
    peer.ping(record(calls))
    bench.iterate(ahead=0.25)
    assert (remote.count_pings(), calls) == (1, [])
    remote.answer_ping()
    remote.answer_ping()
    bench.iterate()
    bench.iterate(ahead=60.0)
    assert calls == [(peer, 0.25)]


def test_pong_answers_the_earlier_pings_too(bench: Workbench, calls: list[Call]) -> None:
    peer, remote = bench.open()
    peer.ping(record(calls))
    bench.iterate(ahead=1.0)
    peer.ping(record(calls))
    bench.iterate()
    assert remote.count_pings() == 2
    first, second = [event.payload for event in remote.events if isinstance(event, Ping)]
    bench.iterate(ahead=2.0)
    remote.sock.sendall(pong(second) + pong(first) + pong(b"another"))
    bench.iterate()
    assert calls == [(peer, 3.0), (peer, 2.0)]


def test_pong_to_the_earlier_ping_leaves_the_later_one(bench: Workbench, calls: list[Call]) -> None:
    peer, remote = bench.open()
    peer.ping(record(calls))
    bench.iterate(ahead=1.0)
    peer.ping(record(calls))
    bench.iterate()
    assert remote.count_pings() == 2
    first, second = [event.payload for event in remote.events if isinstance(event, Ping)]
    remote.sock.sendall(pong(first))
    bench.iterate()
    assert calls == [(peer, 1.0)]
    remote.sock.sendall(pong(second))
    bench.iterate()
    assert calls == [(peer, 1.0), (peer, 0.0)]


def test_pong_to_a_ping_of_the_server_answers_earlier_ones(
    pinging: Workbench, calls: list[Call]
) -> None:
    peer, remote = pinging.open()
    pinging.iterate(ahead=19.0)
    peer.ping(record(calls))
    pinging.iterate(ahead=1.0)
    pinging.iterate()
    assert remote.count_pings() == 2
    remote.answer_ping()  # the server's Ping, which came later
    pinging.iterate(ahead=0.5)
    assert calls == [(peer, 1.5)]
    assert peer.latency == 0.5


def test_ping_timeout_reports_none_once(bench: Workbench, calls: list[Call]) -> None:
    peer, remote = bench.open()
    peer.ping(record(calls), timeout=5.0)
    bench.iterate()
    assert remote.count_pings() == 1
    bench.iterate(ahead=4.9)
    assert calls == []
    bench.iterate(ahead=0.3)
    remote.answer_ping()
    bench.iterate()
    assert calls == [(peer, None)]
    assert peer.is_open


def test_ping_of_a_peer_not_open_reports_none_at_once(bench: Workbench, calls: list[Call]) -> None:
    connecting, _ = bench.accept()
    closing, _ = bench.open()
    closing.close()
    closed, _ = bench.open()
    closed.abort()
    for peer in (connecting, closing, closed):
        peer.ping(record(calls))
        assert calls.pop() == (peer, None)


def test_ping_reports_none_when_the_peer_leaves(calls: list[Call]) -> None:
    events: list[object] = []

    def on_message(peer: Peer, message: str | bytes) -> None:
        peer.ping(lambda peer, seconds: events.append(seconds))
        peer.ping(lambda peer, seconds: events.append(seconds))

    with serving(on_message, on_close=lambda peer: events.append("closed")) as running:
        with Client(running.address) as client:
            client.send("ping me")
            client.sock.recv(1)
        running.wait_for_peers(0)
        running.ask(lambda: None)
    assert events == [None, None, "closed"]


def test_callback_may_close_the_peer_of_further_pings(bench: Workbench, calls: list[Call]) -> None:
    peer, remote = bench.open()

    def close(peer: Peer, seconds: float | None) -> None:
        calls.append((peer, seconds))
        peer.abort()
        bench.context.pings.close(peer)

    peer.ping(close)
    peer.ping(close)
    bench.iterate()
    assert remote.count_pings() == 2
    remote.answer_ping()
    bench.iterate()
    assert calls == [(peer, 0.0), (peer, None)]


def test_on_pong_that_raises_fails_the_connection(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    def on_pong(peer: Peer, seconds: float | None) -> None:
        raise RuntimeError("on purpose")

    peer, remote = bench.open()
    peer.ping(on_pong)
    bench.iterate()
    assert remote.count_pings() == 1
    remote.answer_ping()
    bench.iterate()
    assert peer.close_code == 1011
    assert "on_pong: raised an exception for 192.0.2.1:1; fix the callback" in caplog.text


@pytest.mark.parametrize("timeout", [-1.0, math.inf, math.nan])
def test_ping_timeout_invalid_is_value_error(bench: Workbench, timeout: float) -> None:
    peer, _ = bench.open()
    with pytest.raises(ValueError, match="timeout: must be a finite number"):
        peer.ping(lambda peer, seconds: None, timeout)


def test_answered_pongs_are_not_limited_in_their_rate(bench: Workbench, calls: list[Call]) -> None:
    bench.context.control_rate_limit = 1.0
    peer, remote = bench.open()
    for _ in range(20):
        peer.ping(record(calls))
    bench.iterate()
    remote.read()
    pings = [event.payload for event in remote.events if isinstance(event, Ping)]
    remote.sock.sendall(b"".join(map(pong, pings)) + text("not paused"))
    bench.iterate()
    assert len(calls) == 20
    assert bench.messages == [(peer, "not paused")]
