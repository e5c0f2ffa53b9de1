"""Sessions: opening handshake, events and callbacks, pauses, closing, deadlines, memory."""

from __future__ import annotations

import gc
import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.net.workbench import MASK, PING, UNMASKED, Remote, Workbench, close, text
from tests.support import exchange, handshake, new_key, read_to_end, serving
from wsproto_min.client_handshake import upgrade_request
from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.connection import Close, Event, Pong, State
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import HandshakeError
from wsproto_min.frames import encode_frame
from wsproto_min.http import Request, Response
from wsproto_min.net import session as session_module
from wsproto_min.net.broadcast import Group
from wsproto_min.net.message_budget import MessageBudget
from wsproto_min.net.peer import Peer
from wsproto_min.net.session import Session
from wsproto_min.net.transport import Transport
from wsproto_min.server_handshake import accept

# The opening handshake.


def raising(error: Exception) -> Callable[[Peer, Request], Response]:
    def on_request(peer: Peer, request: Request) -> Response:
        raise error

    return on_request


def accept_with(*headers: tuple[str, str]) -> Callable[[Peer, Request], Any]:
    return lambda peer, request: accept(request, headers=headers)


@pytest.mark.parametrize(
    "on_request",
    [
        pytest.param(raising(RuntimeError("on purpose")), id="raises"),
        pytest.param(lambda peer, request: None, id="returns None"),
        pytest.param(lambda peer, request: Response(299), id="unknown status"),
        pytest.param(lambda peer, request: Response(200, [("Price", "1 €")]), id="bad header"),
        pytest.param(raising(HandshakeError(0, "status 0")), id="raises an unknown status"),
        pytest.param(accept_with(("Price", "1 €")), id="bad header in an acceptance"),
        pytest.param(lambda peer, request: Response(101), id="101 without an acceptance"),
        pytest.param(
            lambda peer, request: accept(request).response, id="response of an acceptance"
        ),
    ],
)
def test_on_request_error_is_answered_with_500_and_logged(
    bench: Workbench, caplog: pytest.LogCaptureFixture, on_request: Callable[..., Response]
) -> None:
    opened: list[Peer] = []
    bench.context.on_request = on_request
    bench.context.on_open = opened.append
    peer, theirs = bench.accept()
    theirs.sendall(handshake())
    bench.iterate()
    response = read_to_end(theirs).decode()
    assert response.startswith("HTTP/1.1 500 "), response
    assert response.endswith("\r\n\r\ninternal server error\n")
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert opened == []
    assert peer.refusal is not None
    assert peer.refusal.status == 500


def test_on_request_error_for_head_is_answered_without_body(bench: Workbench) -> None:
    bench.context.on_request = raising(RuntimeError("on purpose"))
    _, theirs = bench.accept()
    theirs.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
    bench.iterate()
    response = read_to_end(theirs)
    assert response.startswith(b"HTTP/1.1 500 ")
    assert response.endswith(b"\r\n\r\n")


def test_request_behind_an_answered_request_is_discarded(bench: Workbench) -> None:
    bench.context.on_request = lambda peer, request: Response(200, body=b"once")
    _, theirs = bench.accept()
    theirs.sendall(b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody" + handshake())
    bench.iterate()
    theirs.sendall(handshake())
    bench.iterate()
    theirs.shutdown(socket.SHUT_WR)
    bench.iterate()
    assert read_to_end(theirs).count(b"HTTP/1.1") == 1


def test_on_request_that_aborts_never_opens(bench: Workbench) -> None:
    def on_request(peer: Peer, request: Request) -> Any:
        peer.abort()
        return accept(request)

    opened: list[Peer] = []
    bench.context.on_request = on_request
    bench.context.on_open = opened.append
    _, theirs = bench.accept()
    theirs.sendall(handshake())
    bench.iterate()
    assert read_to_end(theirs) == b""
    assert (opened, bench.context.closed, bench.context.peers) == ([], [], set())


def test_on_request_that_aborts_and_raises_is_logged(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    def on_request(peer: Peer, request: Request) -> Any:
        peer.abort()
        raise RuntimeError("on purpose")

    bench.context.on_request = on_request
    _, theirs = bench.accept()
    theirs.sendall(handshake())
    bench.iterate()
    assert read_to_end(theirs) == b""
    assert "192.0.2.1:1" in caplog.text


@pytest.mark.parametrize(
    ("on_open", "expected"),
    [
        pytest.param(lambda peer: peer.send("hi"), ["hi"], id="sends"),
        pytest.param(lambda peer: peer.close(4000), [Close(4000)], id="closes"),
        pytest.param(lambda peer: peer.fail(4001), [Close(4001)], id="fails"),
        pytest.param(lambda peer: 1 / 0, [Close(1011, "internal server error")], id="raises"),
    ],
)
def test_on_open_acts_before_frames_of_the_same_segment(
    bench: Workbench,
    caplog: pytest.LogCaptureFixture,
    on_open: Callable[[Peer], None],
    expected: list[Event],
) -> None:
    bench.context.on_open = on_open
    _, theirs = bench.accept()
    theirs.sendall(handshake() + text("early"))
    bench.iterate()
    remote = Remote(theirs)
    remote.read()
    assert remote.head.startswith(b"HTTP/1.1 101 ")
    assert remote.events == expected
    received = [message for _, message in bench.messages]
    assert received == (["early"] if expected == ["hi"] else [])
    assert len(caplog.records) == (1 if "error" in str(expected) else 0)


@pytest.mark.parametrize("raises", [False, True])
def test_on_open_that_aborts_closes_at_once(bench: Workbench, raises: bool) -> None:
    def on_open(peer: Peer) -> None:
        peer.send("lost")
        peer.abort()
        if raises:
            raise RuntimeError("on purpose")

    bench.context.on_open = on_open
    _, theirs = bench.accept()
    theirs.sendall(handshake() + text("early"))
    bench.iterate()
    assert read_to_end(theirs) == b""
    assert bench.messages == []
    assert not bench.context.peers


# Events and callbacks.


def test_pong_precedes_messages_that_are_sent_later(bench: Workbench) -> None:
    group = Group(bench.context.write_coalescer)
    bench.context.on_message = lambda peer, message: group.send(message)
    peer, remote = bench.open()
    group.add(peer)
    remote.sock.sendall(PING + text("after the Ping") + PING)
    bench.iterate()
    remote.read()
    assert remote.events == [Pong(b"still there?"), "after the Ping", Pong(b"still there?")]


def test_unsolicited_pong_without_keepalive_is_ignored(bench: Workbench) -> None:
    peer, remote = bench.open()
    remote.sock.sendall(encode_frame(Opcode.PONG, b"", mask=MASK) + text("after the Pong"))
    bench.iterate()
    assert bench.messages == [(peer, "after the Pong")]
    assert peer.latency is None


def test_exception_in_on_message_is_logged_with_the_address(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.context.on_message = lambda peer, message: peer.user_data.missing
    _, remote = bench.open()
    with caplog.at_level(logging.ERROR):
        remote.sock.sendall(text("provoke"))
        bench.iterate()
    remote.read()
    assert remote.events == [Close(1011, "internal server error")]
    assert "192.0.2.1:1" in caplog.text
    assert "AttributeError" in caplog.text


# Closing.


def test_close_frame_is_answered_and_the_socket_closed_at_once(bench: Workbench) -> None:
    peer, remote = bench.open()
    remote.sock.sendall(text("last message") + close(1001))
    bench.iterate()
    remote.read()
    assert bench.messages == [(peer, "last message")]
    assert remote.events == [Close(1001)]
    assert remote.ended, "the server closes the TCP connection first (RFC 6455, 7.1.1)"
    assert not bench.context.peers


def test_close_follows_sent_messages_and_waits_for_the_answer(bench: Workbench) -> None:
    peer, remote = bench.open()
    peer.send("first")
    peer.close(4000, "enough")
    peer.close(4001, "twice")
    peer.send("too late")
    assert not peer.is_open
    bench.iterate()
    remote.read()
    assert remote.events == ["first", Close(4000, "enough")]
    assert not remote.ended, "closed without waiting for the answer"
    remote.sock.sendall(text("after our Close") + PING + close(4000))
    bench.iterate()
    remote.read()
    assert bench.messages == [], "on_message was called after close()"
    assert remote.ended
    assert not bench.context.peers


def test_fail_twice_sends_the_first_reason_only(bench: Workbench) -> None:
    peer, remote = bench.open()
    peer.fail(4001, "first")
    peer.fail(4002, "second")
    bench.iterate()
    remote.read()
    assert remote.events == [Close(4001, "first")]
    assert remote.ended


def test_fail_after_close_sends_no_second_close_frame(bench: Workbench) -> None:
    peer, remote = bench.open()
    peer.close(4000)
    bench.iterate()
    peer.fail(4001)
    bench.iterate()
    remote.read()
    assert remote.events == [Close(4000)]
    assert remote.ended


# Deadlines.


def test_open_timeout_holds_for_the_whole_request(bench: Workbench) -> None:
    _, theirs = bench.accept()
    for byte in b"GET / HTTP"[:9]:
        theirs.send(bytes((byte,)))
        bench.iterate(ahead=1.1)
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)  # after 9.9 of 10 seconds
    bench.iterate(ahead=0.2)
    response = theirs.recv(4096).decode()
    assert response.startswith("HTTP/1.1 408 "), response
    assert "within 10 s" in response


def test_open_connection_without_pings_has_no_deadline(bench: Workbench) -> None:
    peer, remote = bench.open()
    for _ in range(5):
        bench.iterate(ahead=1_000_000)
    peer.send("still here")
    bench.iterate()
    remote.read()
    assert remote.events == ["still here"]


@pytest.mark.parametrize("close_timeout", [1.0, 10.0, 100.0])
def test_close_timeout_ends_a_peer_that_does_not_answer(
    bench: Workbench, close_timeout: float
) -> None:
    bench.context.close_timeout = close_timeout
    peer, remote = bench.open()
    bench.iterate(ahead=3)  # before the deadline of the handshake
    peer.close(4000)
    bench.iterate()
    for _ in range(9):
        bench.iterate(ahead=0.109 * close_timeout)
        remote.read()
        assert not remote.ended, "closed before the deadline"
    bench.iterate(ahead=0.02 * close_timeout)
    remote.read()
    assert remote.ended, "not closed at the deadline"
    assert remote.events == [Close(4000)]
    assert not bench.context.peers


def test_close_timeout_ends_a_peer_that_stays_after_a_violation(bench: Workbench) -> None:
    _, remote = bench.open()
    remote.sock.sendall(UNMASKED)
    bench.iterate()
    for _ in range(9):
        remote.sock.sendall(UNMASKED)  # input does not prolong the deadline
        bench.iterate(ahead=1.1)
        assert bench.context.peers, "closed before the deadline"
    bench.iterate(ahead=0.2)
    assert not bench.context.peers


def test_close_timeout_is_one_limit_for_the_whole_closing(bench: Workbench) -> None:
    peer, remote = bench.open()
    peer.close(4000)
    bench.iterate(ahead=9.0)
    assert bench.context.peers, "closed before the deadline"
    remote.sock.sendall(UNMASKED)  # the violation is a second step of the closing
    bench.iterate()
    assert peer.state is State.FLUSHING
    bench.iterate(ahead=1.2)
    assert not bench.context.peers, "the violation prolonged the deadline"


# Pauses.


def pausing(bench: Workbench, seconds: float) -> Callable[[Peer, str | bytes], None]:
    """Return an `on_message` that pauses the peer for the message "pause"."""

    def on_message(peer: Peer, message: str | bytes) -> None:
        bench.messages.append((peer, message))
        if message == "pause":
            peer.pause_reading(seconds)

    return on_message


def received(bench: Workbench) -> list[str | bytes]:
    return [message for _, message in bench.messages]


def test_pause_reading_delays_messages_and_keeps_their_order(
    bench: Workbench, watched: list[int]
) -> None:
    bench.context.on_message = pausing(bench, 5.0)
    peer, remote = bench.open()
    other, remote_other = bench.open()
    remote.sock.sendall(text("one") + text("pause") + text("two") + PING)
    bench.iterate()
    remote.sock.sendall(text("three"))
    remote_other.sock.sendall(text("from another"))
    bench.iterate(ahead=4.9)
    assert received(bench) == ["one", "pause", "from another"]
    assert watched == [0], "watched for reading during the pause"
    assert not remote.has(1), "the Ping was answered"
    bench.iterate(ahead=0.2)
    bench.iterate_until(lambda: len(bench.messages) == 5, "the rest is processed")
    assert received(bench)[3:] == ["two", "three"]
    assert remote.has(1)
    assert remote.events == [Pong(b"still there?")]
    assert watched == [0, 1]
    assert peer.is_open
    assert other.is_open


def test_pause_reading_again_replaces_the_earlier_pause(bench: Workbench) -> None:
    peer, remote = bench.open()
    peer.pause_reading(1.0)
    peer.pause_reading(5.0)
    remote.sock.sendall(text("hi"))
    bench.iterate(ahead=4.9)
    assert received(bench) == []
    bench.iterate(ahead=0.2)
    bench.iterate()
    assert received(bench) == ["hi"]


def test_pause_reading_in_each_message_delivers_one_at_a_time(bench: Workbench) -> None:
    bench.context.on_message = pausing(bench, 5.0)
    _, remote = bench.open()
    remote.sock.sendall(text("pause") * 3)
    for number in range(1, 4):
        bench.iterate()
        assert len(bench.messages) == number
        bench.iterate(ahead=4.9)
        assert len(bench.messages) == number
        bench.iterate(ahead=0.2)
    assert len(bench.messages) == 3


def test_pause_reading_in_each_message_reads_nothing_more(
    bench: Workbench, watched: list[int]
) -> None:
    bench.context.on_message = pausing(bench, 5.0)
    peer, remote = bench.open()
    remote.sock.sendall(text("pause") * 3)
    bench.iterate()
    remote.sock.sendall(text("pause") * 3)
    for _ in range(2):
        bench.iterate(ahead=5.1)
        bench.iterate()
    assert len(bench.messages) == 3
    assert peer.connection is not None
    assert peer.connection.next_event() is None, "the second read waits in the kernel"
    assert watched == [0]


def test_paused_peer_still_receives(bench: Workbench, watched: list[int]) -> None:
    peer, remote = bench.open()
    peer.pause_reading(5.0)
    peer.send("x" * 1_000_000)
    bench.iterate_until(lambda: remote.has(1), "the message arrives")
    bench.iterate()
    assert watched == [0, 2, 0]


def test_paused_peer_may_be_aborted(bench: Workbench) -> None:
    peer, remote = bench.open()
    peer.pause_reading(5.0)
    peer.abort()
    remote.read()
    assert remote.ended
    bench.iterate(ahead=5.1)  # the end of the pause has no effect


def test_paused_peer_processes_its_close_frame_afterwards(bench: Workbench) -> None:
    bench.context.on_message = pausing(bench, 5.0)
    peer, remote = bench.open()
    remote.sock.sendall(text("pause") + close())
    bench.iterate()
    assert peer.is_open, "the Close frame was processed during the pause"
    bench.iterate(ahead=5.1)
    bench.iterate()
    assert remote.has_ended()
    assert remote.events == [Close(1000)]


def test_paused_peer_may_be_failed(bench: Workbench) -> None:
    bench.context.on_message = pausing(bench, 5.0)
    peer, remote = bench.open()
    remote.sock.sendall(text("pause") + text("more") + UNMASKED)
    bench.iterate()
    peer.fail(1008, "enough")
    bench.iterate(ahead=5.1)
    bench.iterate()
    assert remote.has_ended()
    assert remote.events == [Close(1008, "enough")]
    assert received(bench) == ["pause"]


def test_pause_reading_before_the_handshake_delays_the_request(bench: Workbench) -> None:
    bench.context.on_accept = lambda peer: peer.pause_reading(5.0)
    peer, theirs = bench.accept()
    theirs.sendall(handshake())
    bench.iterate(ahead=4.9)
    assert not peer.is_open
    bench.iterate(ahead=0.2)
    bench.iterate()
    assert peer.is_open


def test_pause_reading_in_on_open_delays_early_frames(bench: Workbench) -> None:
    bench.context.on_open = lambda peer: peer.pause_reading(5.0)
    peer, theirs = bench.accept()
    theirs.sendall(handshake() + text("early") + text("birds"))
    bench.iterate()
    bench.iterate(ahead=4.9)
    assert (peer.is_open, received(bench)) == (True, [])
    bench.iterate(ahead=0.2)
    assert received(bench) == ["early", "birds"]


# Limits for all peers.


def fragment(size: int, *, rsv1: bool = False) -> bytes:
    """Return the first fragment of a binary message."""
    return encode_frame(Opcode.BINARY, bytes(size), fin=False, rsv1=rsv1, mask=MASK)


def test_unfinished_messages_over_their_limit_end_the_oldest(bench: Workbench) -> None:
    budget = bench.context.message_budget = MessageBudget(100_000)
    peers = [bench.open() for _ in range(4)]
    for _, remote in peers[:3]:
        remote.sock.sendall(fragment(30_000))
        for _ in range(20):
            bench.iterate()
    assert 90_000 < budget.total < 100_000
    rest = encode_frame(Opcode.CONTINUATION, b"", mask=MASK)
    peers[0][1].sock.sendall(rest)
    bench.iterate()
    assert len(bench.messages) == 1
    for index in (0, 3):
        peers[index][1].sock.sendall(fragment(30_000))
        for _ in range(20):
            bench.iterate()
    bench.iterate_until(lambda: not peers[1][0].is_open, "the oldest message is over the limit")
    assert [peer.is_open for peer, _ in peers] == [True, False, True, True]
    assert peers[1][0].close_code == CloseCode.TRY_AGAIN_LATER
    assert 90_000 < budget.total < 100_000
    peers[2][1].sock.sendall(UNMASKED)
    peers[3][0].abort()
    peers[0][1].sock.sendall(rest)
    bench.iterate()
    assert budget.total == 0


def test_unfinished_compressed_message_counts_its_decompressor(bench: Workbench) -> None:
    budget = bench.context.message_budget
    _, theirs = bench.accept()
    theirs.sendall(
        upgrade_request("a", "/", new_key(), compression=DeflateParameters.DEFAULT)
        + fragment(1, rsv1=True)
    )
    bench.iterate()
    assert 32_768 < budget.total < 50_000


def test_unread_frames_of_a_paused_peer_count_as_unfinished(bench: Workbench) -> None:
    budget = bench.context.message_budget
    bench.context.on_message = lambda peer, message: peer.pause_reading(5.0)
    _, remote = bench.open()
    remote.sock.sendall(encode_frame(Opcode.BINARY, bytes(2000), mask=MASK) * 2)
    bench.iterate()
    assert 2000 < budget.total < 5000
    bench.iterate(ahead=5.1)
    bench.iterate(ahead=5.1)
    assert budget.total == 0


@pytest.mark.parametrize("end", ["abort", "fail", "close"])
def test_peer_ended_in_on_message_has_no_unfinished_message(bench: Workbench, end: str) -> None:
    def finish(peer: Peer, message: str | bytes) -> None:
        if end == "abort":
            peer.abort()
        else:
            (peer.fail if end == "fail" else peer.close)(CloseCode.NORMAL_CLOSURE)

    bench.context.on_message = finish
    peer, remote = bench.open()
    remote.sock.sendall(encode_frame(Opcode.TEXT, b"Hello", mask=MASK) * 2 + fragment(300)[:200])
    bench.iterate_until(lambda: not peer.is_open, "the first message has arrived")
    if end == "close":
        assert bench.context.message_budget.total > 0, "a closing peer may still send"
        peer.abort()
    assert bench.context.message_budget.total == 0


def test_unfinished_message_larger_than_the_limit_ends_its_peer(bench: Workbench) -> None:
    bench.context.message_budget = MessageBudget(1000)
    peer, remote = bench.open()
    remote.sock.sendall(fragment(2000))
    bench.iterate_until(lambda: not peer.is_open, "the message is over the limit")
    bench.iterate_until(lambda: remote.has(1), "the Close frame arrives")
    assert remote.events == [Close(1013, "too many unfinished messages")]
    assert bench.context.message_budget.total == 0


def test_pending_handshakes_over_their_limit_end_the_oldest(clock: list[float]) -> None:
    bench = Workbench(clock, max_pending_handshakes=3)
    opened, _ = bench.open()
    pending = [bench.accept() for _ in range(3)]
    pending[0][1].sendall(handshake())
    bench.iterate()
    more = [bench.accept() for _ in range(2)]
    states = [State.OPEN, State.CLOSED, State.CONNECTING]
    assert [peer.state for peer, _ in pending] == states
    assert [peer.state for peer, _ in more] == [State.CONNECTING] * 2
    assert opened.is_open
    error = pending[1][0].refusal
    assert error is not None
    assert (error.status, error.reason) == (503, "too many pending handshakes; try again")
    bench.stop()
    assert not bench.context.pending_handshakes


def test_pending_handshakes_limit_may_be_zero() -> None:
    with serving(max_pending_handshakes=0) as running:
        assert exchange(running.address, b"") == b""


# Control frames.


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG])
@pytest.mark.parametrize("closing", [False, True], ids=["open", "closing"])
def test_control_frames_over_their_rate_pause_reading(
    bench: Workbench, opcode: Opcode, closing: bool
) -> None:
    bench.context.control_rate_limit = 100.0
    peer, remote = bench.open()
    if closing:
        peer.close(4000)
        bench.iterate()
    before = bench.context.bytes_received
    frame = encode_frame(opcode, b"", mask=MASK)
    remote.sock.sendall(frame * 201)
    bench.iterate()
    remote.sock.sendall(frame * 1000 + close())
    bench.iterate(ahead=0.9)
    assert bench.context.bytes_received - before == 201 * len(frame), "the server still reads"
    remote.read()
    seconds = 0
    while bench.context.peers:
        seconds += 1
        bench.iterate(ahead=1.0)
        bench.iterate()
        remote.read()
    assert 9 <= seconds <= 10, "1000 frames, or the close_timeout"
    if not closing:
        assert remote.events == [*[Pong(b"")] * (1201 if opcode is Opcode.PING else 0), Close(1000)]


def test_control_frames_at_their_rate_are_never_paused(bench: Workbench) -> None:
    bench.context.control_rate_limit = 100.0
    _, remote = bench.open()
    for number in range(1, 101):
        remote.sock.sendall(PING * 9)
        bench.iterate(ahead=0.1)
        assert remote.has(9 * number)


def test_pongs_to_the_servers_pings_are_not_counted(pinging: Workbench) -> None:
    pinging.context.control_rate_limit = 0.01
    peer, remote = pinging.open()
    session = peer._session
    for number in range(1, 5):
        pinging.iterate(ahead=20.2 if number == 1 else 12.2)
        assert remote.count_pings() == number
        remote.answer_ping()
        pinging.iterate()
        pinging.iterate(ahead=8.2)
    assert isinstance(session, Session)
    assert session._control_frames_due == 0.0, "an idle peer needs more memory"
    assert peer.is_open


def test_close_ends_a_pause(bench: Workbench) -> None:
    peer, remote = bench.open()
    peer.pause_reading(5.0)
    peer.close(1001, "good night")
    remote.sock.sendall(text("ignored") + close(1001))
    bench.iterate_until(lambda: peer not in bench.context.peers, "the Close frame is read")
    assert received(bench) == []


def test_pause_reading_after_close_is_ignored(bench: Workbench) -> None:
    peer, remote = bench.open()
    peer.close(1000, "bye")
    peer.pause_reading(60.0)
    remote.sock.sendall(close(1000))
    bench.iterate_until(lambda: peer not in bench.context.peers, "the Close frame is read")


def test_pause_reading_after_fail_is_ignored(bench: Workbench) -> None:
    peer, remote = bench.open()
    peer.fail(1008, "enough")
    peer.pause_reading(60.0)
    bench.iterate()
    remote.sock.close()
    bench.iterate_until(lambda: peer not in bench.context.peers, "the end of the stream is read")


# Memory.


def _refuse(bench: Workbench, theirs: socket.socket) -> None:
    def refuse(peer: Peer, request: Request) -> Response:
        try:
            raise KeyError
        except KeyError:
            raise HandshakeError(401, "authenticate first") from None

    bench.context.on_request = refuse
    theirs.sendall(handshake())
    bench.iterate()
    assert theirs.recv(12) == b"HTTP/1.1 401"
    theirs.close()


def _raise_in_on_request(bench: Workbench, theirs: socket.socket) -> None:
    def on_request(peer: Peer, request: Request) -> Response:
        raise RuntimeError("on purpose")

    bench.context.on_request = on_request
    theirs.sendall(handshake())
    bench.iterate()
    theirs.close()


def _close_in_the_handshake(bench: Workbench, theirs: socket.socket) -> None:
    theirs.sendall(handshake()[:20])
    bench.iterate()
    theirs.close()


def _close_while_open(bench: Workbench, theirs: socket.socket) -> None:
    theirs.sendall(handshake() + text("pause") + close())
    bench.iterate()


def _abort_in_a_pause(bench: Workbench, theirs: socket.socket) -> None:
    theirs.sendall(handshake())
    bench.iterate()
    (peer,) = bench.context.peers
    peer.pause_reading(5.0)
    peer.abort()


def _miss_the_open_timeout(bench: Workbench, theirs: socket.socket) -> None:
    bench.iterate(ahead=10.2)
    theirs.close()


def _miss_the_close_timeout(bench: Workbench, theirs: socket.socket) -> None:
    theirs.sendall(handshake() + UNMASKED)
    bench.iterate()
    bench.iterate(ahead=10.2)


def _be_lost(bench: Workbench, theirs: socket.socket) -> None:
    theirs.sendall(handshake())
    bench.iterate()
    bench.iterate(ahead=20.1)
    bench.iterate(ahead=8.1)


@pytest.mark.parametrize(
    "end",
    [
        _refuse,
        _raise_in_on_request,
        _close_in_the_handshake,
        _close_while_open,
        _abort_in_a_pause,
        _miss_the_open_timeout,
        _miss_the_close_timeout,
        _be_lost,
    ],
    ids=lambda end: end.__name__.strip("_"),
)
def test_closed_peer_is_freed_at_once(
    pinging: Workbench,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[Workbench, socket.socket], None],
) -> None:
    def count_objects() -> int:
        return sum(isinstance(each, Peer | Session | Transport) for each in gc.get_objects())

    # pytest would keep the logged traceback, and with it the session.
    monkeypatch.setattr(session_module.logger, "disabled", True)
    pinging.context.on_message = lambda peer, message: None
    gc.collect()
    gc.disable()
    before = count_objects()
    try:
        theirs = pinging.accept()[1]
        assert count_objects() == before + 3
        end(pinging, theirs)
        pinging.iterate_until(lambda: not pinging.context.peers, "the socket is closed")
        pinging.context.disconnected.clear()
        pinging.context.closed.clear()
        assert count_objects() == before, "a reference cycle waits for the garbage collector"
    finally:
        gc.enable()
