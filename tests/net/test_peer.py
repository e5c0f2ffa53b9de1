"""One peer on a socket pair, its loop turned by hand and its clock in our hands."""

from __future__ import annotations

import gc
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from selectors import EVENT_READ, EVENT_WRITE
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults import Faults, FaultySocket, wrap
from tests.support import PATIENCE, handshake, read_to_end
from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.connection import Close, Connection, Event, Ping, Pong, Role
from wsproto_min.errors import HandshakeError
from wsproto_min.frames import encode_close, encode_frame
from wsproto_min.handshake import accept
from wsproto_min.http import Request, Response
from wsproto_min.net import event_loop as loop_module
from wsproto_min.net import session as session_module
from wsproto_min.net import timers as timers_module
from wsproto_min.net.broadcast import Group
from wsproto_min.net.event_loop import EventLoop, Handler
from wsproto_min.net.context import ServerContext
from wsproto_min.net.peer import Peer
from wsproto_min.net.session import Session
from wsproto_min.net.transport import Transport

MASK = bytes.fromhex("37fa213d")


def text(message: str) -> bytes:
    """Return a client's text frame."""
    return encode_frame(Opcode.TEXT, message.encode(), mask=MASK)


def close(code: int = 1000) -> bytes:
    """Return a client's Close frame."""
    return encode_frame(Opcode.CLOSE, encode_close(code), mask=MASK)


PING = encode_frame(Opcode.PING, b"still there?", mask=MASK)
VIOLATION = encode_frame(Opcode.TEXT, b"not masked")


def perfect(sock: socket.socket) -> FaultySocket:
    """Return a faulty socket whose faults are yet to come."""
    return wrap(sock, Faults(0))


class Workbench:
    """A service without a listener, whose turns are taken one by one."""

    def __init__(self, clock: list[float], **options: Any) -> None:
        self.clock = clock
        self.received: list[tuple[Peer, str | bytes]] = []
        defaults: dict[str, Any] = {
            "on_request": lambda peer, request: accept(request),
            "on_open": lambda peer: None,
            "on_message": lambda peer, message: self.received.append((peer, message)),
            "max_message_size": 1 << 24,
            "max_fragments": None,
            "write_buffer_limit": 1 << 30,
            "open_timeout": 10.0,
            "close_timeout": 10.0,
        }
        self.service = ServerContext(**{**defaults, **options})
        self.theirs: list[socket.socket] = []

    def accept(
        self, wrap: Callable[[socket.socket], socket.socket] = lambda sock: sock
    ) -> tuple[Peer, socket.socket]:
        """Return a new peer and the other end of its connection."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        theirs.settimeout(PATIENCE)
        self.theirs.append(theirs)
        return Session(self.service, wrap(ours), "somewhere:1").peer, theirs

    def open(
        self, wrap: Callable[[socket.socket], socket.socket] = lambda sock: sock
    ) -> tuple[Peer, FarEnd]:
        """Return a peer whose handshake is done, and who is at the other end."""
        peer, theirs = self.accept(wrap)
        theirs.sendall(handshake())
        far = FarEnd(theirs)
        while b"\r\n\r\n" not in far.head:
            self.turn()
            far.read()
        assert far.head.startswith(b"HTTP/1.1 101 "), far.head
        return peer, far

    def turn(self, *, ahead: float = 0.0) -> None:
        """Take a turn that does not wait, with the clock moved on."""
        self.clock[0] += ahead
        self.service.loop.call_soon_threadsafe(lambda: None)
        self.service.loop.run_once()
        self.service.write_coalescer.flush()

    def turn_until(self, condition: Callable[[], object], what: str) -> None:
        for _ in range(200_000):
            if condition():
                return
            self.turn()
        raise AssertionError(f"not within 200,000 turns: {what}")

    def end(self) -> None:
        for peer in list(self.service.peers):
            peer.abort()
        self.service.loop.close()
        for sock in self.theirs:
            sock.close()


class FarEnd:
    """The client's end of a socket pair, read without blocking."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.head = b""
        self.events: list[Event] = []
        self.ended = False
        self._last = b""
        self._connection = Connection(Role.CLIENT, max_message_size=1 << 30)

    def read(self) -> None:
        """Take what has arrived."""
        self.sock.setblocking(False)
        try:
            while not self.ended:
                data = self.sock.recv(1 << 16)
                self.ended = not data
                self._last = (self._last + data)[-200:]
                if b"\r\n\r\n" in self.head:
                    self.feed(data)
                else:
                    self.head += data
                    head, end, rest = self.head.partition(b"\r\n\r\n")
                    self.head = head + end
                    self.feed(rest)
        except (BlockingIOError, ConnectionResetError):
            pass
        finally:
            self.sock.settimeout(PATIENCE)
        error = self._connection.error
        assert error is None, f"the server broke a rule: {error}"

    def feed(self, data: bytes) -> None:
        self._connection.receive_data(data)
        self.events += iter(self._connection.next_event, None)

    def answer(self) -> None:
        """Send a Pong for the last Ping, as far as `read` has seen one."""
        *_, ping = [event for event in self.events if isinstance(event, Ping)]
        self.sock.sendall(encode_frame(Opcode.PONG, ping.payload, mask=MASK))

    def has(self, number: int) -> bool:
        """Read; return whether so many events have come."""
        self.read()
        return len(self.events) >= number

    def has_ended(self) -> bool:
        """Read; return whether the stream has ended, as it must right after a Close frame."""
        self.read()
        if self.ended and isinstance(close := self.events[-1], Close):
            last = encode_frame(Opcode.CLOSE, encode_close(close.code, close.reason))
            assert self._last.endswith(last), f"after the Close frame came {self._last!r}"
        return self.ended


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    time = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(loop_module, "time", time)
    monkeypatch.setattr(session_module, "time", time)
    monkeypatch.setattr(timers_module, "time", time)
    return now


@pytest.fixture
def bench(clock: list[float]) -> Iterator[Workbench]:
    bench = Workbench(clock)
    yield bench
    bench.end()


@pytest.fixture
def interest(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What sockets are watched for, change by change."""
    changes: list[int] = []
    modify = EventLoop.modify

    def note(
        self: EventLoop, sock: socket.socket, before: int, events: int, handler: Handler
    ) -> None:
        changes.append(events)
        modify(self, sock, before, events, handler)

    monkeypatch.setattr(EventLoop, "modify", note)
    return changes


# Writing.


def test_what_the_socket_does_not_take_follows_when_it_is_writable_and_only_then_is_it_watched(
    bench: Workbench, interest: list[int]
) -> None:
    peer, far = bench.open()
    peer.send("small")
    bench.turn()
    assert interest == [], "a message that fits was waited for"
    message = "x" * 1_000_000
    peer.send(message)
    bench.turn()
    assert interest == [EVENT_READ | EVENT_WRITE]
    for _ in range(3):
        bench.turn()
    assert interest == [EVENT_READ | EVENT_WRITE], "watched anew though nothing had changed"

    bench.turn_until(lambda: far.has(2), "the message arrives")
    bench.turn()
    assert far.events == ["small", message]
    assert interest == [EVENT_READ | EVENT_WRITE, EVENT_READ], "still watched for writing"


def test_what_is_sent_while_something_is_queued_follows_it(bench: Workbench) -> None:
    peer, far = bench.open()
    group = Group(bench.service.write_coalescer)
    group.add(peer)
    messages = [f"{number} " * 3000 for number in range(40)]
    for message in messages[::2]:
        peer.send(message)
        group.send(messages[messages.index(message) + 1])
        bench.turn()
    far.sock.sendall(PING)

    bench.turn_until(lambda: far.has(41), "all messages and the Pong arrive")
    assert far.events == [*messages, Pong(b"still there?")]


def test_what_waits_for_a_slow_reader_is_known(bench: Workbench) -> None:
    peer, far = bench.open()
    assert peer.write_buffer_size == 0
    peer.send("x" * 1_000_000)
    bench.turn()
    # What the kernel holds is not known.
    assert 500_000 < peer.write_buffer_size < 1_000_000
    bench.turn_until(lambda: far.has(1), "the message arrives")
    assert peer.write_buffer_size == 0


def test_who_is_always_behind_but_never_far_may_stay(bench: Workbench) -> None:
    bench.service.write_buffer_limit = 100_000
    peer, far = bench.open()
    for _ in range(5):
        peer.send("x" * 10_000)
    for _ in range(100):
        peer.send("x" * 10_000)
        read = 0
        while peer.is_open and read < 10_000:
            read += len(_turn_and_read(bench, far.sock))
    assert peer.is_open, "1 MB has passed, but hardly more than 60,000 bytes were ever queued"


def test_the_queue_of_a_slow_reader_is_bounded_and_ends_with_close_1008(bench: Workbench) -> None:
    bench.service.write_buffer_limit = 100_000
    slow, far_slow = bench.open()
    quick, far_quick = bench.open()
    group = Group(bench.service.write_coalescer)
    group.add(slow)
    group.add(quick)
    messages = [f"{number:10}" * 1000 for number in range(100)]
    for number, message in enumerate(messages, start=1):
        group.send(message)
        bench.turn()
        while len(far_quick.events) < number:
            bench.turn()
            far_quick.read()
    assert far_quick.events == messages, "a slow reader disturbed another"
    assert not slow.is_open
    assert list(group) == [quick], "the slow reader still takes part"
    bench.turn_until(far_slow.has_ended, "the slow reader's stream ends")
    *got, last = far_slow.events
    assert got == messages[: len(got)], "the queue was not sent in order"
    assert isinstance(last, Close)
    assert last.code == CloseCode.POLICY_VIOLATION
    assert "slow" in last.reason
    # The limit, one turn's message beyond it, and what the kernel holds.
    assert 100_000 < 10_000 * len(got) < 100_000 + 10_000 + 200_000, f"{len(got)} were queued"


@pytest.mark.parametrize("closing", [False, True], ids=["while open", "after our Close"])
def test_the_pongs_for_one_who_never_reads_are_bounded_too(bench: Workbench, closing: bool) -> None:
    bench.service.write_buffer_limit = 100_000
    peer, far = bench.open()
    if closing:
        peer.close(4000)
    far.sock.settimeout(0)
    sent = 0
    for _ in range(100):
        with suppress(BlockingIOError):
            sent += far.sock.send(PING * 1000)
        bench.turn()
    assert sent > 1_000_000
    received = bytearray()
    while data := _turn_and_read(bench, far.sock):
        received += data
    assert 100_000 < len(received) < 300_000, "the queue had no bound"
    assert (b"too slow" in received) is not closing, "one Close frame, whoever sent it"


def _turn_and_read(bench: Workbench, sock: socket.socket) -> bytes:
    """Take turns until something is there to be read, if only the end."""
    sock.settimeout(0)
    for _ in range(1000):
        bench.turn()
        with suppress(BlockingIOError):
            return sock.recv(1 << 16)
    raise AssertionError("in 1000 turns neither data came nor the stream's end")


def test_a_sender_that_does_not_read_queues_nothing_for_its_own_messages(bench: Workbench) -> None:
    peer, _ = bench.open()
    peer.send("x" * 1_000_000)
    bench.turn()
    group = Group(bench.service.write_coalescer)
    group.add(peer)
    writes: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transport, "write", lambda self, data: writes.append(data))
        for _ in range(10):
            group.send("mine", sender=peer)
            bench.turn()
    assert writes == [], "empty chunks pile up in the queue"


def test_one_turn_writes_an_answer_and_what_on_open_sent_at_once(bench: Workbench) -> None:
    writes: list[bytes] = []
    bench.service.on_open = lambda peer: peer.send("welcome")
    _, theirs = bench.accept()
    theirs.sendall(handshake() + text("hello"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transport, "write", lambda self, data: writes.append(data))
        bench.turn()
    assert [data.partition(b"\r\n\r\n")[2] for data in writes] == [b"\x81\x07welcome"]


def test_a_pong_goes_before_what_the_application_sends_later(bench: Workbench) -> None:
    group = Group(bench.service.write_coalescer)
    bench.service.on_message = lambda peer, message: group.send(message)
    peer, far = bench.open()
    group.add(peer)
    far.sock.sendall(PING + text("after the Ping") + PING)
    bench.turn()
    far.read()
    assert far.events == [Pong(b"still there?"), "after the Ping", Pong(b"still there?")]


# Ending.


def test_the_peers_close_is_answered_and_the_socket_closed_at_once(bench: Workbench) -> None:
    peer, far = bench.open()
    far.sock.sendall(text("last message") + close(1001))
    bench.turn()
    far.read()
    assert bench.received == [(peer, "last message")]
    assert far.events == [Close(1001)]
    assert far.ended, "the server closes the TCP connection first (RFC 6455, 7.1.1)"
    assert not bench.service.peers


def test_our_close_goes_out_after_what_was_sent_and_waits_for_the_answer(bench: Workbench) -> None:
    peer, far = bench.open()
    peer.send("first")
    peer.close(4000, "enough")
    peer.close(4001, "twice")
    peer.send("too late")
    assert not peer.is_open
    bench.turn()
    far.read()
    assert far.events == ["first", Close(4000, "enough")]
    assert not far.ended, "closed without waiting for the peer's Close"
    far.sock.sendall(text("not read any more") + PING + close(4000))
    bench.turn()
    far.read()
    assert bench.received == [], "on_message was called for a peer that the application had closed"
    assert far.ended
    assert not bench.service.peers


def test_a_close_that_must_wait_for_the_queue_still_arrives(bench: Workbench) -> None:
    peer, far = bench.open()
    message = "x" * 500_000
    peer.send(message)
    far.sock.sendall(close())
    bench.turn_until(far.has_ended, "the stream ends")
    assert far.events == [message, Close(1000)]


def test_a_stream_that_ends_without_a_close_frame_ends_the_peer_whatever_is_queued(
    bench: Workbench,
) -> None:
    peer, far = bench.open()
    peer.send("x" * 500_000)
    bench.turn()
    far.sock.shutdown(socket.SHUT_WR)
    bench.turn()
    assert bench.service.closed == [peer]
    assert not bench.service.peers


@pytest.mark.parametrize("write_buffer_size", [0, 500_000])
def test_a_violation_is_answered_and_half_closed_and_later_input_is_discarded(
    bench: Workbench, write_buffer_size: int
) -> None:
    peer, far = bench.open()
    peer.send("x" * write_buffer_size)
    bench.turn()
    far.sock.sendall(text("before") + VIOLATION + text("after"))
    bench.turn_until(far.has_ended, "the stream ends")
    assert far.events == [
        "x" * write_buffer_size,
        Close(1002, "a client's frame is not masked (RFC 6455, 5.1)"),
    ]
    assert bench.received == [(peer, "before")]
    assert peer in bench.service.peers, "closing with input in flight would reset the connection"
    for _ in range(10):
        far.sock.sendall(b"\xff" * 1000)
        bench.turn()
    far.sock.close()
    bench.turn()
    assert not bench.service.peers


def test_failing_twice_says_only_the_first_reason(bench: Workbench) -> None:
    peer, far = bench.open()
    peer.fail(4001, "first")
    peer.fail(4002, "second")
    bench.turn()
    far.read()
    assert far.events == [Close(4001, "first")]
    assert far.ended


def test_failing_after_our_close_ends_without_a_second_close_frame(bench: Workbench) -> None:
    peer, far = bench.open()
    peer.close(4000)
    bench.turn()
    peer.fail(4001)
    bench.turn()
    far.read()
    assert far.events == [Close(4000)]
    assert far.ended


def test_before_and_after_its_connection_a_peer_takes_any_call_in_its_stride(
    bench: Workbench,
) -> None:
    def call_all(peer: Peer) -> None:
        peer.send("nothing")
        peer.close()
        peer.fail(CloseCode.INTERNAL_ERROR)

    peer, theirs = bench.accept()
    call_all(peer)
    bench.turn()
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    peer.abort()
    assert theirs.recv(1) == b""
    call_all(peer)
    peer.abort()
    peer.go_away("nobody is there")
    bench.turn()
    peer, far = bench.open()
    peer.abort()
    call_all(peer)
    peer.go_away("nobody is there")
    bench.turn()
    far.read()
    assert far.events == []


def test_a_close_code_that_must_not_be_sent_is_the_callers_error_and_changes_nothing(
    bench: Workbench,
) -> None:
    peer, far = bench.open()
    for call in (peer.close, peer.fail):
        with pytest.raises(ValueError, match="1006"):
            call(1006)
    peer.send("all is well")
    bench.turn()
    far.read()
    assert far.events == ["all is well"]


def test_a_peer_that_is_lost_earlier_in_the_turn_is_not_called_any_more(bench: Workbench) -> None:
    victims: list[Peer] = []

    def abort_the_other(peer: Peer, message: str | bytes) -> None:
        for victim in victims:
            if victim is not peer:
                victim.abort()

    bench.service.on_message = abort_the_other
    pairs = [bench.open() for _ in range(2)]
    victims += [peer for peer, _ in pairs]
    for peer, _ in pairs:
        peer.send("x" * 1_000_000)  # so that it is watched for writing
    bench.turn()
    for _, far in pairs:
        far.sock.sendall(text("there can be only one"))
        far.read()  # both are ready to be read from and written to, in one turn
    bench.turn()
    assert len(bench.service.peers) == 1, "the second was served before or after its abort"


def test_who_joins_a_group_after_its_close_gets_no_frame_after_the_close(bench: Workbench) -> None:
    group = Group(bench.service.write_coalescer)
    peer, far = bench.open()
    peer.close(4000)
    group.add(peer)
    group.send("after the Close")
    bench.turn()
    far.read()
    assert far.events == [Close(4000)]
    assert len(group) == 0


# Deadlines.


def test_a_handshake_has_one_deadline_however_its_bytes_drip(bench: Workbench) -> None:
    _, theirs = bench.accept()
    for byte in b"GET / HTTP"[:9]:
        theirs.send(bytes((byte,)))
        bench.turn(ahead=1.1)
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)  # 9.9 of 10 seconds
    bench.turn(ahead=0.2)
    answer = theirs.recv(4096).decode()
    assert answer.startswith("HTTP/1.1 408 "), answer
    assert "within 10 s" in answer


def test_an_open_connection_has_no_deadline(bench: Workbench) -> None:
    peer, far = bench.open()
    for _ in range(5):
        bench.turn(ahead=1_000_000)
    peer.send("still here")
    bench.turn()
    far.read()
    assert far.events == ["still here"]


@pytest.mark.parametrize("close_timeout", [1.0, 10.0, 100.0])
def test_whoever_does_not_answer_a_close_is_cut_at_the_deadline(
    bench: Workbench, close_timeout: float
) -> None:
    bench.service.close_timeout = close_timeout
    peer, far = bench.open()
    bench.turn(ahead=3)  # the handshake's own alarm has yet to ring
    peer.close(4000)
    bench.turn()
    for _ in range(9):
        bench.turn(ahead=0.109 * close_timeout)
        far.read()
        assert not far.ended, "cut before the deadline"
    bench.turn(ahead=0.02 * close_timeout)
    far.read()
    assert far.ended, "not cut at the deadline"
    assert far.events == [Close(4000)]
    assert not bench.service.peers


def test_whoever_stays_after_a_violation_is_cut_at_the_deadline(bench: Workbench) -> None:
    _, far = bench.open()
    far.sock.sendall(VIOLATION)
    bench.turn()
    for _ in range(9):
        far.sock.sendall(VIOLATION)  # that it keeps talking does not help it
        bench.turn(ahead=1.1)
        assert bench.service.peers, "cut before the deadline"
    bench.turn(ahead=0.2)
    assert not bench.service.peers


def test_a_slow_reader_of_its_last_words_is_cut_at_the_deadline(bench: Workbench) -> None:
    peer, _ = bench.open()
    peer.send("x" * 1_000_000)
    peer.fail(4000)
    bench.turn(ahead=9.9)
    assert bench.service.peers, "cut before the deadline"
    bench.turn(ahead=0.2)
    assert not bench.service.peers


# The handshake.


@pytest.mark.parametrize("half_closed", [False, True], ids=["open", "half-closed"])
def test_a_long_answer_arrives_whole_even_if_the_client_has_ended_its_own_stream(
    bench: Workbench, interest: list[int], half_closed: bool
) -> None:
    page = b"0123456789" * 100_000
    bench.service.on_request = lambda peer, request: Response(200, body=page)
    _, theirs = bench.accept()
    theirs.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    if half_closed:
        theirs.shutdown(socket.SHUT_WR)
    received = b""
    while data := _turn_and_read(bench, theirs):
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (len(body), body == page) == (len(page), True)
    # The end of a stream is always ready to be read: watching for it would spin.
    assert interest == [EVENT_READ | EVENT_WRITE, *[EVENT_WRITE] * half_closed, EVENT_READ]
    theirs.close()
    bench.turn()
    assert not bench.service.peers


def test_what_follows_an_answered_request_is_discarded(bench: Workbench) -> None:
    bench.service.on_request = lambda peer, request: Response(200, body=b"once")
    _, theirs = bench.accept()
    theirs.sendall(b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody" + handshake())
    bench.turn()
    theirs.sendall(handshake())
    bench.turn()
    theirs.shutdown(socket.SHUT_WR)
    bench.turn()
    assert read_to_end(theirs).count(b"HTTP/1.1") == 1


def _raise(error: Exception) -> Callable[[Peer, Request], Response]:
    def on_request(peer: Peer, request: Request) -> Response:
        raise error

    return on_request


@pytest.mark.parametrize(
    "on_request",
    [
        pytest.param(_raise(RuntimeError("a fault")), id="raises"),
        pytest.param(lambda peer, request: None, id="gives None"),
        pytest.param(lambda peer, request: Response(299), id="gives an unknown status"),
        pytest.param(lambda peer, request: Response(200, [("Price", "1 €")]), id="a header"),
        pytest.param(_raise(HandshakeError(0, "status 0")), id="raises an unknown status"),
        pytest.param(lambda peer, request: Response(101, [("Price", "1 €")]), id="in a 101"),
    ],
)
def test_a_fault_in_on_request_is_answered_with_500_and_logged(
    bench: Workbench, caplog: pytest.LogCaptureFixture, on_request: Callable[..., Response]
) -> None:
    opened: list[Peer] = []
    bench.service.on_request = on_request
    bench.service.on_open = opened.append
    _, theirs = bench.accept()
    theirs.sendall(handshake())
    bench.turn()
    answer = read_to_end(theirs).decode()
    assert answer.startswith("HTTP/1.1 500 "), answer
    assert "internal server error" in answer
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert opened == []


def test_a_peer_that_on_request_aborts_is_gone_and_never_opens(bench: Workbench) -> None:
    def on_request(peer: Peer, request: Request) -> Response:
        peer.abort()
        return accept(request)

    opened: list[Peer] = []
    bench.service.on_request = on_request
    bench.service.on_open = opened.append
    _, theirs = bench.accept()
    theirs.sendall(handshake())
    bench.turn()
    assert read_to_end(theirs) == b""
    assert (opened, bench.service.closed, bench.service.peers) == ([], [], set())


@pytest.mark.parametrize(
    ("on_open", "expected"),
    [
        pytest.param(lambda peer: peer.send("hi"), ["hi"], id="sends"),
        pytest.param(lambda peer: peer.close(4000), [Close(4000)], id="closes"),
        pytest.param(lambda peer: peer.fail(4001), [Close(4001)], id="fails"),
        pytest.param(lambda peer: 1 / 0, [Close(1011, "internal server error")], id="has a fault"),
    ],
)
def test_on_open_may_do_as_it_likes_with_frames_already_waiting(
    bench: Workbench,
    caplog: pytest.LogCaptureFixture,
    on_open: Callable[[Peer], None],
    expected: list[Event],
) -> None:
    bench.service.on_open = on_open
    _, theirs = bench.accept()
    theirs.sendall(handshake() + text("early"))
    bench.turn()
    far = FarEnd(theirs)
    far.read()
    assert far.head.startswith(b"HTTP/1.1 101 ")
    assert far.events == expected
    assert [message for _, message in bench.received] == (["early"] if expected == ["hi"] else [])
    assert len(caplog.records) == (1 if "error" in str(expected) else 0)


def test_on_open_may_abort(bench: Workbench) -> None:
    bench.service.on_open = Peer.abort
    _, theirs = bench.accept()
    theirs.sendall(handshake() + text("early"))
    bench.turn()
    assert read_to_end(theirs) == b""
    assert bench.received == []
    assert not bench.service.peers


def test_a_peer_that_vanishes_in_its_handshake_is_opened_before_it_is_left(
    bench: Workbench,
) -> None:
    opened: list[Peer] = []
    bench.service.on_open = opened.append
    peer, theirs = bench.accept(perfect)
    theirs.sendall(handshake())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FaultySocket, "send", _reset_on_send)
        bench.turn()
    assert (opened, bench.service.closed) == ([peer], [peer]), "on_close without on_open"


def _reset_on_send(self: FaultySocket, data: bytes) -> int:
    raise ConnectionResetError


# A socket at its worst.


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 7, 1000]), st.sampled_from([0.0, 0.3, 0.7]))
def test_over_faulty_sockets_all_traffic_still_arrives_whole_and_in_order(
    seed: int, size: int, blocks: float
) -> None:
    bench = Workbench([0.0])
    group = Group(bench.service.write_coalescer)
    bench.service.on_open = group.add

    def echo_and_tell(peer: Peer, message: str | bytes) -> None:
        peer.send(message)
        group.send(message, sender=peer)

    bench.service.on_message = echo_and_tell
    pairs = [
        bench.open(lambda sock: wrap(sock, Faults(seed, transient=blocks, size=size)))
        for _ in range(3)
    ]
    said = [[f"{who}: {number}" * (number + 1) for number in range(8)] for who in range(3)]
    for (_, far), messages in zip(pairs, said, strict=True):
        far.sock.sendall(b"".join(map(text, messages)))

    def all_have(number: int) -> bool:
        return all(far.has(number) for _, far in pairs)

    try:
        bench.turn_until(lambda: all_have(24), "every peer gets every message")
        for _, far in pairs:
            for who, messages in enumerate(said):
                from_one = [event for event in far.events if str(event).startswith(f"{who}:")]
                assert from_one == messages
        for _, far in pairs:
            far.sock.sendall(close())
        bench.turn_until(lambda: all_have(25), "every Close is answered")
        bench.turn_until(lambda: not bench.service.peers, "every peer is closed")
    finally:
        bench.end()


@pytest.mark.parametrize("write_buffer_size", [0, 500_000], ids=["nothing queued", "much queued"])
@pytest.mark.parametrize("ending", [False, True], ids=["while open", "with its last words"])
@pytest.mark.parametrize("reading", [False, True], ids=["in a write", "in a read"])
def test_a_reset_loses_that_peer_and_no_other(
    bench: Workbench, write_buffer_size: int, ending: bool, reading: bool
) -> None:
    group = Group(bench.service.write_coalescer)
    victim, far_victim = bench.open(perfect)
    witness, far_witness = bench.open()
    group.add(victim)
    group.add(witness)
    victim.send("x" * write_buffer_size)
    bench.turn()
    sock = victim._transport._socket
    assert isinstance(sock, FaultySocket)
    sock.error = ConnectionResetError()
    if ending:
        victim.fail(4000)
    if reading:
        far_victim.sock.sendall(text("are you there?"))
    else:
        group.send("hello")
        far_victim.read()  # there is room again for what is queued
    bench.turn()
    bench.turn()
    assert victim not in bench.service.peers, "the lost peer was kept"
    assert list(group) == [witness]
    group.send("and you?")
    bench.turn()
    far_witness.read()
    assert far_witness.events == (["and you?"] if reading else ["hello", "and you?"])


def test_a_reset_after_the_last_words_is_noticed_when_the_stream_is_to_be_ended(
    bench: Workbench,
) -> None:
    peer, _ = bench.open(perfect)
    peer.fail(4000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FaultySocket, "shutdown", _not_connected)
        bench.turn()
    assert not bench.service.peers


def _not_connected(self: FaultySocket, how: int) -> None:
    raise OSError(107, "Transport endpoint is not connected")


def test_the_log_tells_whose_callback_had_the_fault(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.service.on_message = lambda peer, message: peer.user_data.whatever
    _, far = bench.open()
    with caplog.at_level(logging.ERROR):
        far.sock.sendall(text("provoke"))
        bench.turn()
    far.read()
    assert far.events == [Close(1011, "internal server error")]
    assert "somewhere:1" in caplog.text
    assert "AttributeError" in caplog.text


# Signs of life.


def quiet(clock: list[float], **options: Any) -> Workbench:
    """Return a workbench whose peers are pinged every 20 s and cut 8 s later."""
    return Workbench(clock, **{"ping_interval": 20.0, "ping_timeout": 8.0, **options})


def pings(far: FarEnd) -> int:
    far.read()
    return sum(isinstance(event, Ping) for event in far.events)


@pytest.fixture
def keeper(clock: list[float]) -> Iterator[Workbench]:
    bench = quiet(clock)
    yield bench
    bench.end()


def test_an_idle_peer_is_pinged_at_each_interval_and_its_pong_measures_the_way(
    keeper: Workbench,
) -> None:
    peer, far = keeper.open()
    assert peer.latency is None
    keeper.turn(ahead=8.0)
    for number, way in enumerate((0.25, 3.0, 7.5), 1):
        keeper.turn(ahead=11.5)
        assert pings(far) == number - 1, "pinged too early"
        keeper.turn(ahead=0.5)
        assert pings(far) == number
        far.answer()
        keeper.turn(ahead=way)
        assert peer.latency == way
        keeper.turn(ahead=8.0 - way)  # now one who was silent would be cut
    assert peer.is_open


def test_a_silent_peer_is_told_why_and_cut_when_the_timeout_has_passed(keeper: Workbench) -> None:
    peer, far = keeper.open()
    keeper.turn(ahead=20.0)
    assert pings(far) == 1
    keeper.turn(ahead=7.9)
    assert peer.is_open, "cut too early"
    keeper.turn(ahead=0.2)
    assert peer not in keeper.service.peers
    far.read()
    assert far.ended
    assert far.events[-1] == Close(1011, "no sign of life")


@pytest.mark.parametrize("data", [text("hi"), text("hi")[:1], PING], ids=["text", "byte", "Ping"])
def test_any_byte_that_arrives_is_a_sign_of_life(keeper: Workbench, data: bytes) -> None:
    peer, far = keeper.open()
    keeper.turn(ahead=20.0)
    assert pings(far) == 1
    far.sock.sendall(data)
    keeper.turn(ahead=1.0)
    keeper.turn(ahead=7.5)
    assert peer.is_open
    # What came before the next Ping says nothing of the time after it.
    keeper.turn(ahead=12.0)
    assert pings(far) == 2
    keeper.turn(ahead=8.1)
    assert not peer.is_open


def test_one_who_reads_what_is_queued_is_alive(keeper: Workbench) -> None:
    peer, far = keeper.open()
    peer.send("x" * 2_000_000)
    keeper.turn()
    keeper.turn(ahead=20.0)  # the Ping is queued behind all that
    far.sock.recv(100_000)
    keeper.turn(ahead=1.0)
    keeper.turn(ahead=7.5)
    assert peer.is_open
    keeper.turn(ahead=12.0)
    keeper.turn(ahead=8.1)  # this time it has read nothing
    assert not peer.is_open


@pytest.mark.parametrize(
    ("interval", "timeout", "times"),
    [
        (20.0, 8.0, [20, 40, 60]),
        (20.0, 20.0, [20, 40, 60]),
        (5.0, 20.0, [5, 25, 45]),  # never two Pings on their way
        (None, 8.0, []),
    ],
)
def test_pings_come_at_their_interval_or_once_the_last_is_settled(
    clock: list[float], interval: float | None, timeout: float, times: list[int]
) -> None:
    bench = quiet(clock, ping_interval=interval, ping_timeout=timeout)
    try:
        _, far = bench.open()
        found = []
        for second in range(1, 65):
            before = pings(far)
            bench.turn(ahead=1.0)
            if pings(far) > before:
                found.append(second)
                far.answer()
        assert found == times
    finally:
        bench.end()


def test_a_pong_that_answers_no_ping_measures_nothing(keeper: Workbench) -> None:
    peer, far = keeper.open()
    far.sock.sendall(encode_frame(Opcode.PONG, bytes(8), mask=MASK))
    keeper.turn()
    assert peer.latency is None
    keeper.turn(ahead=20.0)
    assert pings(far) == 1
    far.sock.sendall(encode_frame(Opcode.PONG, b"not its payload", mask=MASK))
    keeper.turn()
    assert peer.latency is None
    far.answer()
    keeper.turn(ahead=0.5)
    assert peer.latency == 0.5
    far.answer()  # again
    keeper.turn(ahead=3.0)
    assert peer.latency == 0.5


def test_one_who_is_closing_is_not_pinged_any_more(keeper: Workbench) -> None:
    peer, far = keeper.open()
    peer.close(4000)
    for _ in range(9):
        keeper.turn(ahead=1.0)
    assert pings(far) == 0
    keeper.turn(ahead=1.1)
    assert peer not in keeper.service.peers, "closing has its own deadline"
    keeper.turn(ahead=60.0)


@pytest.mark.parametrize(
    "fields",
    [
        [("Sec-WebSocket-Protocol", "a"), ("Sec-WebSocket-Protocol", "b")],
        [("Sec-WebSocket-Extensions", "not; a list")],
    ],
)
def test_an_answer_that_contradicts_itself_is_the_applications_fault_and_ends_nobody_else(
    clock: list[float], fields: list[tuple[str, str]]
) -> None:
    def on_request(peer: Peer, request: Request) -> Response:
        answer = accept(request)
        return Response(answer.response.status, [*answer.response.headers, *fields])

    bench = Workbench(clock, on_request=on_request)
    try:
        _, theirs = bench.accept()
        theirs.sendall(handshake())
        bench.turn()
        assert read_to_end(theirs).startswith(b"HTTP/1.1 500 ")
    finally:
        bench.end()


# Pauses.


def pausing(bench: Workbench, seconds: float) -> Callable[[Peer, str | bytes], None]:
    """Return an application that pauses whoever says "pause"."""

    def on_message(peer: Peer, message: str | bytes) -> None:
        bench.received.append((peer, message))
        if message == "pause":
            peer.pause_reading(seconds)

    return on_message


def heard(bench: Workbench) -> list[str | bytes]:
    return [message for _, message in bench.received]


def test_while_a_peer_is_paused_nothing_of_it_is_acted_on_and_afterwards_all_in_order(
    bench: Workbench, interest: list[int]
) -> None:
    bench.service.on_message = pausing(bench, 5.0)
    peer, far = bench.open()
    other, other_far = bench.open()
    far.sock.sendall(text("one") + text("pause") + text("two") + PING)
    bench.turn()
    far.sock.sendall(text("three"))
    other_far.sock.sendall(text("from another"))
    bench.turn(ahead=4.9)
    assert heard(bench) == ["one", "pause", "from another"]
    assert interest == [0], "watched for what it will not do"
    assert not far.has(1), "the Ping was answered"
    bench.turn(ahead=0.2)
    bench.turn_until(lambda: len(bench.received) == 5, "the rest is acted on")
    assert heard(bench)[3:] == ["two", "three"]
    assert far.has(1)
    assert far.events == [Pong(b"still there?")]
    assert interest == [0, EVENT_READ]
    assert peer.is_open
    assert other.is_open


def test_a_later_pause_replaces_an_earlier_one(bench: Workbench) -> None:
    peer, far = bench.open()
    peer.pause_reading(1.0)
    peer.pause_reading(5.0)
    far.sock.sendall(text("hi"))
    bench.turn(ahead=4.9)
    assert heard(bench) == []
    bench.turn(ahead=0.2)
    bench.turn()
    assert heard(bench) == ["hi"]


def test_one_who_pauses_again_and_again_is_heard_once_each_time(bench: Workbench) -> None:
    bench.service.on_message = pausing(bench, 5.0)
    _, far = bench.open()
    far.sock.sendall(text("pause") * 3)
    for number in range(1, 4):
        bench.turn()
        assert len(bench.received) == number
        bench.turn(ahead=4.9)
        assert len(bench.received) == number
        bench.turn(ahead=0.2)
    assert len(bench.received) == 3


def test_a_paused_peer_is_still_written_to(bench: Workbench, interest: list[int]) -> None:
    peer, far = bench.open()
    peer.pause_reading(5.0)
    peer.send("x" * 1_000_000)
    bench.turn_until(lambda: far.has(1), "the message arrives")
    bench.turn()
    assert interest == [0, EVENT_WRITE, 0]


def test_a_paused_peer_may_end_in_any_way(bench: Workbench) -> None:
    bench.service.on_message = pausing(bench, 5.0)
    peer, far = bench.open()
    peer.pause_reading(5.0)
    peer.abort()
    far.read()
    assert far.ended
    bench.turn(ahead=5.1)  # its pause ends, to no effect

    peer, far = bench.open()
    far.sock.sendall(text("pause") + close())
    bench.turn()
    assert peer.is_open, "its Close was acted on"
    bench.turn(ahead=5.1)
    bench.turn()
    assert far.has_ended()
    assert far.events == [Close(1000)]

    peer, far = bench.open()
    far.sock.sendall(text("pause") + text("more") + VIOLATION)
    bench.turn()
    peer.fail(1008, "enough")
    bench.turn(ahead=5.1)
    bench.turn()
    assert far.has_ended()
    assert far.events == [Close(1008, "enough")]
    assert heard(bench) == ["pause", "pause"]


def test_one_that_is_paused_as_it_opens_is_not_heard_before_its_time(bench: Workbench) -> None:
    bench.service.on_open = lambda peer: peer.pause_reading(5.0)
    peer, theirs = bench.accept()
    theirs.sendall(handshake() + text("early") + text("birds"))
    bench.turn()
    bench.turn(ahead=4.9)
    assert (peer.is_open, heard(bench)) == (True, [])
    bench.turn(ahead=0.2)
    assert heard(bench) == ["early", "birds"]


def test_one_that_is_paused_does_not_hold_up_its_end(bench: Workbench) -> None:
    peer, far = bench.open()
    peer.pause_reading(5.0)
    peer.close(1001, "good night")
    far.sock.sendall(text("ignored") + close(1001))
    bench.turn_until(lambda: peer not in bench.service.peers, "its Close is read")
    assert heard(bench) == []


def test_who_was_refused_is_kept_alive_by_nothing(bench: Workbench) -> None:
    def refuse(peer: Peer, request: Request) -> Response:
        try:
            raise KeyError
        except KeyError:
            raise HandshakeError(401, "who are you?") from None

    bench.service.on_request = refuse
    peer, theirs = bench.accept()
    theirs.sendall(handshake())
    bench.turn()
    assert theirs.recv(12) == b"HTTP/1.1 401"
    theirs.close()
    bench.turn_until(lambda: not bench.service.peers, "it is gone")
    bench.service.disconnected.clear()
    known = ref(peer)
    gc.collect()
    gc.disable()
    try:
        del peer
        assert known() is None, "it waits for the garbage collector"
    finally:
        gc.enable()


def test_a_paused_peer_is_not_cut_for_its_silence(keeper: Workbench) -> None:
    peer, far = keeper.open()
    keeper.turn(ahead=19.0)
    peer.pause_reading(30.0)
    keeper.turn(ahead=1.0)
    assert pings(far) == 1
    far.answer()
    keeper.turn(ahead=8.1)
    assert peer.is_open
    keeper.turn(ahead=21.0)
    keeper.turn()
    assert peer.is_open
