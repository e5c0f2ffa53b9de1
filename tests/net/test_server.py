"""The server over TCP, in a thread: accepting, callbacks, groups, and stopping."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support import (
    PATIENCE,
    Client,
    RunningServer,
    connect,
    exchange,
    handshake,
    need_ipv6,
    poll,
    read_to_end,
    reset,
    send_back,
    serving,
    tight_listener,
)
from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.connection import Close, Event, Ping, Pong, Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import HandshakeError
from wsproto_min.frames import encode_close, encode_frame
from wsproto_min.handshake import accept
from wsproto_min.http import Request, Response
from wsproto_min.net import listener as listener_module
from wsproto_min.net import server as server_module
from wsproto_min.net.broadcast import Group
from wsproto_min.net.client import connect as connect_url
from wsproto_min.net.event_loop import EventLoop
from wsproto_min.net.peer import Peer
from wsproto_min.net.server import Server

MASK = bytes.fromhex("37fa213d")


def frame(opcode: Opcode, payload: bytes) -> bytes:
    """Return a client's frame."""
    return encode_frame(opcode, payload, mask=MASK)


def is_served(address: tuple[str, int]) -> bool:
    """Return whether a new client is sent back what it says."""
    with Client(address) as client:
        client.send("is anybody there?")
        return client.receive() == "is anybody there?"


# Messages.


@pytest.mark.parametrize("message", ["", "Grüße 😀", b"", bytes(range(256)), "x" * 70_000])
def test_a_message_comes_back_as_it_was(message: str | bytes) -> None:
    with serving() as running, Client(running.address) as client:
        client.send(message)
        assert client.receive() == message


def test_megabytes_pass_through_a_socket_that_takes_little_at_a_time() -> None:
    message = bytes(range(251)) * 20_000  # 5 MB, and no power of two
    listener = tight_listener()
    with (
        serving(listener=listener, max_message_size=8 << 20, write_buffer_limit=8 << 20) as running,
        Client(running.address, receive_buffer=8192) as client,
    ):
        client.send(message)
        received = client.receive()
        assert isinstance(received, bytes)
        assert (len(received), received == message) == (len(message), True)


def test_one_slow_reader_is_closed_with_1008_and_the_rest_miss_nothing() -> None:
    messages = [f"{number:10}" * 5000 for number in range(60)]
    with ExitStack() as stack:
        server = Server(
            on_message=lambda peer, message: group.send(messages[int(str(message))]),
            on_open=lambda peer: group.add(peer),
            write_buffer_limit=500_000,
        )
        group = server.group()
        running = stack.enter_context(serving(server=server, listener=tight_listener()))
        slow = stack.enter_context(Client(running.address, receive_buffer=8192))
        quick = [stack.enter_context(Client(running.address)) for _ in range(3)]
        for number, message in enumerate(messages):
            quick[0].send(str(number))
            for client in quick:
                assert client.receive() == message
        *got, last = slow.receive_all()
        assert got == messages[: len(got)]
        assert isinstance(last, Close)
        assert last.code == CloseCode.POLICY_VIOLATION
        assert 10 <= len(got) < 30, f"the queue held {len(got)} messages of 50,000 bytes"


def test_frames_of_one_segment_are_answered_in_order_with_the_close_last() -> None:
    with serving() as running:
        data = (
            frame(Opcode.TEXT, b"one")
            + frame(Opcode.PING, b"two")
            + frame(Opcode.TEXT, b"three")
            + frame(Opcode.CLOSE, encode_close(1000))
        )
        with Client(running.address, early=data) as client:
            assert client.receive_all() == ["one", Pong(b"two"), "three", Close(1000)]


# The end of a connection.


def test_after_a_violation_the_client_sees_the_close_frame_and_no_reset() -> None:
    with serving() as running, Client(running.address) as client:
        client.sock.sendall(encode_frame(Opcode.TEXT, b"not masked"))
        # All of it would lie unread in the server's socket if it just closed.
        client.sock.sendall(frame(Opcode.TEXT, b"x") * 500_000)
        assert client.receive_all() == [
            Close(1002, "a client's frame is not masked (RFC 6455, 5.1)")
        ]
        assert len(running.server.peers) == 1, "the client has not ended its own stream yet"
        client.sock.close()
        running.wait_for_peers(0)


def test_who_does_not_end_its_stream_after_a_violation_is_cut() -> None:
    with serving(close_timeout=0.1) as running, Client(running.address) as client:
        client.sock.sendall(encode_frame(Opcode.TEXT, b"not masked"))
        running.wait_for_peers(0)


def test_who_does_not_answer_a_close_is_cut() -> None:
    def close(peer: Peer, message: str | bytes) -> None:
        peer.close(4000)

    with serving(close, close_timeout=0.1) as running, Client(running.address) as client:
        client.send("close me")
        # Read by hand: a `Client` would answer.
        received = client.sock.recv(4096)
        assert received.hex(" ") == "88 02 0f a0"
        assert client.sock.recv(4096) == b"", "the socket is still open"


def test_a_client_that_has_ended_its_stream_gets_its_whole_answer() -> None:
    page = b"0123456789" * 500_000

    def on_request(peer: Peer, request: Request) -> Response:
        return Response(200, body=page)

    with (
        serving(listener=tight_listener(), on_request=on_request) as running,
        connect(running.address, receive_buffer=8192) as sock,
    ):
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        body = read_to_end(sock).partition(b"\r\n\r\n")[2]
        assert (len(body), body == page) == (len(page), True)
        running.wait_for_peers(0)


# Callbacks.


def _client_closes(client: Client) -> None:
    client.close()


def _client_resets(client: Client) -> None:
    reset(client.sock)


def _client_ends_its_stream(client: Client) -> None:
    client.sock.shutdown(socket.SHUT_WR)


def _client_breaks_a_rule(client: Client) -> None:
    client.sock.sendall(b"\xff\xff")


def _client_provokes(call: str) -> Callable[[Client], None]:
    return lambda client: client.send(call)


@pytest.mark.parametrize(
    "end",
    [
        _client_closes,
        _client_resets,
        _client_ends_its_stream,
        _client_breaks_a_rule,
        _client_provokes("close"),
        _client_provokes("fail"),
        _client_provokes("abort"),
        _client_provokes("fault"),
    ],
    ids=lambda end: end.__name__.strip("_"),
)
def test_on_open_and_on_close_come_once_each_and_by_then_the_peer_has_left_its_groups(
    end: Callable[[Client], None],
) -> None:
    told: list[tuple[str, Peer, bool, int]] = []

    def on_open(peer: Peer) -> None:
        for group in groups:
            group.add(peer)
        told.append(("open", peer, peer.is_open, len(peer._groups)))

    def on_close(peer: Peer) -> None:
        told.append(("close", peer, peer.is_open, sum(peer in group for group in groups)))

    def on_message(peer: Peer, message: str | bytes) -> None:
        calls: dict[str | bytes, Callable[[], object]] = {
            "close": peer.close,
            "fail": lambda: peer.fail(4000),
            "abort": peer.abort,
        }
        calls[message]()

    server = Server(on_message=on_message, on_open=on_open, on_close=on_close, close_timeout=0.1)
    groups = [server.group() for _ in range(2)]
    with serving(server=server) as running:
        client = Client(running.address)
        with client:
            end(client)
            running.wait_for_peers(0)
        running.ask(lambda: None)
        [(_, peer, _, _), *_] = told
        assert told == [("open", peer, True, 2), ("close", peer, False, 0)]


def test_a_peer_knows_its_address_and_keeps_what_the_application_gives_it() -> None:
    def on_request(peer: Peer, request: Request) -> Response:
        peer.user_data = request.path
        return accept(request)

    def tell(peer: Peer, message: str | bytes) -> None:
        peer.send(f"{peer.address} {peer.user_data}")

    with (
        serving(tell, on_request=on_request) as running,
        Client(running.address, "/somewhere?query") as client,
    ):
        client.send("who am I?")
        port = client.sock.getsockname()[1]
        assert client.receive() == f"127.0.0.1:{port} /somewhere"


def _fault(*arguments: object) -> None:
    raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        ("on_open", [Close(1011, "internal server error")]),
        ("on_message", [Close(1011, "internal server error")]),
        ("on_close", ["hello", Close(1000)]),
        ("on_before_flush", ["hello", Close(1000)]),
    ],
)
def test_a_fault_in_a_callback_ends_that_peer_at_most_and_is_logged(
    caplog: pytest.LogCaptureFixture, callback: str, expected: list[Event]
) -> None:
    def unless_witness(peer: Peer | None = None, *arguments: object) -> None:
        if peer is None or peer.user_data != "/witness":
            raise RuntimeError("on purpose")
        if callback == "on_message":
            peer.send(str(arguments[0]))

    def on_request(peer: Peer, request: Request) -> Response:
        peer.user_data = request.path
        return accept(request)

    options: dict[str, Any] = {
        "on_message": send_back,
        "on_request": on_request,
        callback: unless_witness,
    }
    with (
        serving(server=Server(**options)) as running,
        Client(running.address, "/witness") as witness,
    ):
        with Client(running.address) as client:
            client.send("hello")
            client.close()
            assert client.receive_all() == expected
        running.wait_for_peers(1)
        witness.send("and I?")
        assert witness.receive() == "and I?"
    assert "on purpose" in caplog.text


def test_a_fault_in_on_request_is_answered_with_500_and_the_server_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def on_request(peer: Peer, request: Request) -> Response:
        if request.path == "/fault":
            _fault()
        if request.path == "/error":
            raise HandshakeError(418, "no coffee here", [("X-Pot", "tea")])
        return accept(request)

    with serving(on_request=on_request) as running:
        answer = exchange(running.address, b"GET /fault HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert "on purpose" in caplog.text
        answer = exchange(running.address, b"GET /error HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 418 ")
        assert b"\r\nX-Pot: tea\r\n" in answer
        assert answer.endswith(b"\r\n\r\nno coffee here\n")
        assert is_served(running.address)


def test_a_fault_in_a_call_for_later_is_logged_and_the_server_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving() as running:
        running.server.call_soon_threadsafe(_fault)
        running.server.call_soon_threadsafe(lambda: running.server.call_later(0, _fault))
        poll(lambda: caplog.text.count("RuntimeError: on purpose") == 2, "both are logged")
        assert is_served(running.address)


def test_what_is_sent_when_the_turn_ends_or_when_one_leaves_goes_out_in_the_same_turn() -> None:
    pending: list[str] = []

    def act_together() -> None:
        if pending:
            group.send("+".join(pending))
            pending.clear()

    server = Server(
        on_message=lambda peer, message: pending.append(str(message)),
        on_open=lambda peer: group.add(peer),
        on_close=lambda peer: pending.append("somebody left"),
        on_before_flush=act_together,
    )
    group = server.group()
    with serving(server=server) as running, Client(running.address) as client:
        client.sock.sendall(frame(Opcode.TEXT, b"one") + frame(Opcode.TEXT, b"two"))
        assert client.receive() == "one+two", "two messages that came in one turn"
        with Client(running.address):
            pass
        assert client.receive() == "somebody left"


def test_what_is_sent_when_one_has_gone_does_not_wait_for_something_else() -> None:
    server = Server(
        on_message=send_back,
        on_open=lambda peer: group.add(peer),
        on_disconnect=lambda peer: group.send("somebody has gone"),
    )
    group = server.group()
    with serving(server=server) as running, Client(running.address) as client:
        with Client(running.address):
            pass
        assert client.receive() == "somebody has gone"


def test_a_handshake_is_answered_before_the_rest_of_its_turn() -> None:
    opened: list[Peer] = []
    answered = threading.Event()
    waited: list[bool] = []

    def on_before_flush() -> None:
        if opened and not waited:
            waited.append(answered.wait(PATIENCE))

    def on_open(peer: Peer) -> None:
        opened.append(peer)
        peer.send("welcome")

    with serving(on_open=on_open, on_before_flush=on_before_flush) as running:
        with Client(running.address) as client:
            assert client.receive() == "welcome"
            answered.set()
        poll(lambda: waited, "the turn has ended")
    assert waited == [True]


def test_who_is_lost_in_writing_is_reported_before_the_loop_waits_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    happened: list[str] = []
    closed = threading.Event()
    turn = EventLoop.run_once

    def flood(peer: Peer, message: str | bytes) -> None:
        happened.append("message")
        peer.send("x" * 3_000_000)

    def on_close(peer: Peer) -> None:
        happened.append("close")
        closed.set()

    def note_and_turn(self: EventLoop) -> None:
        happened.append("turn")
        turn(self)

    monkeypatch.setattr(EventLoop, "run_once", note_and_turn)
    with (
        serving(
            flood, listener=tight_listener(), write_buffer_limit=1_000_000, on_close=on_close
        ) as running,
        Client(running.address) as client,
    ):
        client.send("more than the queue holds")
        assert closed.wait(PATIENCE)
    assert happened[happened.index("message") :][:2] == ["message", "close"]


def test_later_calls_come_in_order() -> None:
    called: list[str] = []
    done = threading.Event()
    with serving() as running:

        def ask() -> None:
            running.server.call_later(0.02, lambda: called.append("second"))
            running.server.call_later(0.01, lambda: called.append("first"))
            running.server.call_later(0.02, lambda: called.append("third"))
            running.server.call_later(0.03, done.set)

        running.server.call_soon_threadsafe(ask)
        assert done.wait(PATIENCE)
    assert called == ["first", "second", "third"]


# Accepting.


def test_accepted_sockets_do_not_wait_for_more_before_they_send() -> None:
    def nodelay() -> list[int]:
        option = (socket.IPPROTO_TCP, socket.TCP_NODELAY)
        sockets = [peer._transport._socket for peer in running.server.peers]
        return [sock.getsockopt(*option) for sock in sockets if isinstance(sock, socket.socket)]

    with serving() as running, Client(running.address):
        [delays_off] = running.ask(nodelay)
        assert delays_off, "Nagle's algorithm is on"


def test_more_than_a_turns_worth_of_connections_are_all_accepted() -> None:
    with ExitStack() as stack:
        listener = tight_listener()
        number = listener_module.ACCEPTS_PER_ITERATION + 10
        waiting = [stack.enter_context(connect(listener.getsockname())) for _ in range(number)]
        running = stack.enter_context(serving(listener=listener))
        running.wait_for_peers(number)
        for sock in waiting:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 400"


class FailingListener(socket.socket):
    """A listening socket whose `accept` fails while `fault` is set."""

    fault: OSError | None = None
    failures = 0

    def accept(self) -> tuple[socket.socket, Any]:
        if self.fault is not None:
            self.failures += 1
            raise self.fault
        return super().accept()


def failing_listener() -> FailingListener:
    sock = FailingListener()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_without_descriptors_accepting_pauses_without_spinning_and_then_resumes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    monkeypatch.setattr(listener_module, "ACCEPT_PAUSE", 0.05)
    turns = 0

    def count() -> None:
        nonlocal turns
        turns += 1

    listener = failing_listener()
    with (
        serving(listener=listener, on_before_flush=count) as running,
        Client(running.address) as present,
    ):
        listener.fault = OSError(number, "exhausted, on purpose")
        turns_before, started = turns, time.monotonic()
        with connect(running.address) as waiting:
            poll(lambda: listener.failures >= 3, "accepting is tried again")
            pauses = (time.monotonic() - started) / 0.05 + 2
            assert turns - turns_before < 4 * pauses, "the loop spun"
            present.send("am I served?")
            assert present.receive() == "am I served?"
            listener.fault = None
            waiting.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert waiting.recv(12) == b"HTTP/1.1 400"
        assert listener.failures <= (time.monotonic() - started) / 0.05 + 2
    assert "accept: " in caplog.text
    assert "on purpose" in caplog.text


def test_who_has_gone_again_before_it_was_accepted_disturbs_nobody() -> None:
    listener = failing_listener()
    with serving(listener=listener) as running:
        listener.fault = ConnectionAbortedError()
        with connect(running.address) as waiting:
            poll(lambda: listener.failures, "accept was tried")
            listener.fault = None
            waiting.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert waiting.recv(12) == b"HTTP/1.1 400"


def test_stopping_while_accepting_is_paused_does_not_resume_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener_module, "ACCEPT_PAUSE", 0.05)
    listener = failing_listener()
    with serving(listener=listener) as running, Client(running.address) as stubborn:
        listener.fault = OSError(errno.EMFILE, "exhausted, on purpose")
        with connect(running.address):
            poll(lambda: listener.failures, "accepting is paused")
            running.server.stop(0.3)  # the stubborn peer makes it outlast the pause
            running.thread.join(PATIENCE)
        assert listener.fileno() == -1
        assert stubborn.receive() == Close(1001, "the server is stopping")


def test_it_listens_on_ipv6_and_shows_such_addresses_in_brackets() -> None:
    need_ipv6()

    def tell(peer: Peer, message: str | bytes) -> None:
        peer.send(peer.address)

    with serving(tell, host="::1") as running, Client(running.address) as client:
        client.send("who am I?")
        assert client.receive() == f"[::1]:{client.sock.getsockname()[1]}"


def test_a_server_may_listen_in_several_places() -> None:
    server = Server(on_message=send_back)
    addresses = [server.listen("127.0.0.1", 0) for _ in range(2)]
    with serving(server=server):
        assert [is_served(address) for address in addresses] == [True, True]


@pytest.mark.parametrize(
    ("host", "port"),
    [
        pytest.param("192.0.2.1", 0, id="an address of another machine"),
        pytest.param("256.1.1.1", 0, id="no address"),
        pytest.param("a..b", 0, id="no name"),
        pytest.param("x" * 64, 0, id="a name that is too long"),
        pytest.param("127.0.0.1", -1, id="a port below 0"),
        pytest.param("127.0.0.1", 65536, id="a port above 65535"),
    ],
)
def test_what_cannot_be_listened_on_is_an_oserror_with_a_reason(host: str, port: int) -> None:
    server = Server(on_message=send_back)
    with pytest.raises(OSError) as caught:  # noqa: PT011
        server.listen(host, port)
    assert caught.value.strerror
    server.stop()
    server.run()


def test_a_taken_port_is_an_oserror() -> None:
    server = Server(on_message=send_back)
    with serving() as running, pytest.raises(OSError, match="in use"):
        server.listen(*running.address)
    server.stop()
    server.run()


# What an operator asks for.


def test_of_every_peer_the_first_and_the_last_moment_are_told() -> None:
    told: list[tuple[str, bool, int]] = []

    def note(moment: str) -> Callable[[Peer], None]:
        def callback(peer: Peer) -> None:
            refusal = 0 if peer.refusal is None else peer.refusal.status
            told.append((moment, peer.connection is not None, refusal))

        return callback

    with serving(
        on_accept=note("accepted"), on_close=note("closed"), on_disconnect=note("gone")
    ) as (running):
        with Client(running.address) as client:
            client.close()
            client.receive_all()
        running.wait_for_peers(0)
        exchange(running.address, b"GET / HTTP/1.1\r\n\r\n")
        running.wait_for_peers(0)
        connect(running.address).close()
        poll(lambda: len(told) == 7, "seven moments are told")
    assert told == [
        ("accepted", False, 0),
        ("closed", True, 0),
        ("gone", True, 0),
        ("accepted", False, 0),
        ("gone", False, 400),
        ("accepted", False, 0),
        ("gone", False, 0),
    ]


def test_who_is_turned_away_as_it_is_accepted_is_not_read_and_the_others_are_served() -> None:
    gone: list[Peer] = []

    def let_in_one(peer: Peer) -> None:
        if len(running.server.peers) > 1:
            peer.abort()

    with (
        serving(on_accept=let_in_one, on_disconnect=gone.append) as running,
        Client(running.address) as first,
    ):
        for _ in range(3):
            with connect(running.address) as late, suppress(ConnectionResetError):
                assert late.recv(1) == b""
        first.send("still here")
        assert first.receive() == "still here"
        poll(lambda: len(gone) == 3, "three are gone")


def test_a_fault_as_one_is_accepted_is_logged_and_it_is_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving(on_accept=_fault) as running:
        assert is_served(running.address)
    assert "application callback: raised an exception" in caplog.text


def test_the_work_of_turns_is_timed_without_their_waiting() -> None:
    seconds: list[float] = []
    began = time.monotonic()
    with serving(on_iteration_end=seconds.append) as running:
        assert is_served(running.address)
        running.wait_for_peers(0)
        time.sleep(0.3)  # and nothing happens
        running.ask(lambda: time.sleep(0.05))
        poll(lambda: max(seconds) >= 0.05, "the turn that took long is told")
        assert sum(seconds) <= time.monotonic() - began - 0.3, "the waiting was counted"


def test_the_bytes_of_all_peers_are_counted() -> None:
    with serving() as running:
        with connect(running.address) as sock:
            request = handshake() + frame(Opcode.TEXT, b"Hello")
            sock.sendall(request)
            answer = sock.recv(4096)
            while not answer.endswith(b"Hello"):
                answer += sock.recv(4096)
        running.wait_for_peers(0)
        server = running.server
        assert running.ask(lambda: server.bytes_received) == len(request)
        assert running.ask(lambda: server.bytes_sent) == len(answer)


# Stopping.


def test_stopping_says_1001_after_what_was_sent_and_tells_the_application() -> None:
    left: list[Peer] = []
    with serving(on_close=left.append) as running, Client(running.address) as client:
        client.send("the last word?")
        assert client.receive() == "the last word?"

        def send_and_stop() -> None:
            for peer in running.server.peers:
                peer.send("this is")
            running.server.stop(PATIENCE)

        running.server.call_soon_threadsafe(send_and_stop)
        assert client.receive_all() == ["this is", Close(1001, "the server is stopping")]
        running.thread.join(PATIENCE)
        assert not running.thread.is_alive(), "all have answered, yet it still serves"
        assert len(left) == 1
        with pytest.raises(ConnectionRefusedError):
            connect(running.address)


def test_what_has_arrived_when_it_is_stopped_is_acted_on_and_reaches_the_others() -> None:
    said: list[str] = []

    def on_message(peer: Peer, message: str | bytes) -> None:
        said.append(str(message))
        if message == "first":
            client.sock.sendall(frame(Opcode.TEXT, b"last"))
            server.stop()

    def on_before_flush() -> None:
        while said:
            group.send(said.pop(0))

    server = Server(
        on_message=on_message, on_open=lambda peer: group.add(peer), on_before_flush=on_before_flush
    )
    group = server.group()
    with (
        serving(server=server) as running,
        Client(running.address) as client,
        Client(running.address) as other,
    ):
        client.send("first")
        for end in (client, other):
            assert end.receive_all() == ["first", "last", Close(1001, "the server is stopping")]


def test_who_is_given_no_time_is_told_the_end_all_the_same() -> None:
    with serving() as running, Client(running.address) as client:
        running.server.stop(0)
        assert client.receive_all() == [Close(1001, "the server is stopping")]


def test_of_everyone_it_is_told_that_they_have_gone_those_cut_at_the_end_included() -> None:
    accepted: list[Peer] = []
    gone: list[Peer] = []
    with (
        serving(on_accept=accepted.append, on_disconnect=gone.append) as running,
        Client(running.address) as client,
        connect(running.address),
    ):
        running.wait_for_peers(2)
        running.server.stop(PATIENCE, accepting=True)
        client.receive_all()
        client.sock.close()
        running.thread.join(PATIENCE)
        assert not running.thread.is_alive()
    assert len(accepted) == 2
    assert set(gone) == set(accepted)


def test_nobody_is_told_to_have_gone_before_it_is_told_to_have_left() -> None:
    told: list[tuple[str, int]] = []
    peers: list[Peer] = []

    def on_close(peer: Peer) -> None:
        told.append(("left", peers.index(peer)))
        for other in peers:
            other.abort()

    def on_disconnect(peer: Peer) -> None:
        told.append(("gone", peers.index(peer)))

    with (
        serving(on_open=peers.append, on_close=on_close, on_disconnect=on_disconnect) as running,
        Client(running.address) as first,
        Client(running.address),
    ):
        running.wait_for_peers(2)
        first.sock.close()
        poll(lambda: len(told) == 4, "both are told to have gone")
    assert told == [("left", 0), ("gone", 0), ("left", 1), ("gone", 1)]


def test_a_socket_that_cannot_be_watched_is_closed_and_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register = EventLoop.register

    def fail_once(*arguments: Any) -> None:
        monkeypatch.setattr(EventLoop, "register", register)
        raise OSError(errno.ENOSPC, "no watch is left")

    with serving() as running:
        running.ask(lambda: monkeypatch.setattr(EventLoop, "register", fail_once))
        with connect(running.address) as refused, suppress(ConnectionResetError):
            assert refused.recv(1) == b""
        assert running.ask(lambda: running.server.peers) == frozenset()
        assert is_served(running.address)


def test_stopping_waits_no_longer_than_the_grace_for_those_who_do_not_answer() -> None:
    left: list[Peer] = []
    with (
        serving(on_close=left.append) as running,
        Client(running.address) as silent,
        connect(running.address) as in_handshake,
        connect(running.address) as answered,
    ):
        in_handshake.sendall(b"GET / HTT")
        answered.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert answered.recv(12) == b"HTTP/1.1 400"
        running.wait_for_peers(3)
        running.server.stop(0.1)
        running.server.stop(PATIENCE)  # only the first has a say
        running.thread.join(PATIENCE / 2)
        assert not running.thread.is_alive(), "it waits for peers that will never answer"
        assert len(left) == 1, "one was open"
        assert in_handshake.recv(1) == b""
        assert silent.receive_all() == [Close(1001, "the server is stopping")]


def test_a_server_may_be_stopped_before_it_runs_and_after_it_has_ended() -> None:
    server = Server(on_message=send_back)
    address = server.listen("127.0.0.1", 0)
    server.stop()
    server.run()
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        connect(address)


def refuse_while_stopping(stopping: threading.Event) -> Callable[[Peer, Request], Response]:
    """Return an `on_request` that lets in nobody while the server stops."""

    def on_request(peer: Peer, request: Request) -> Response:
        if stopping.is_set():
            raise HandshakeError(503, "the server is stopping")
        return accept(request)

    return on_request


def test_while_the_last_peers_go_newcomers_are_accepted_to_be_refused() -> None:
    stopping = threading.Event()
    with (
        serving(on_request=refuse_while_stopping(stopping)) as running,
        Client(running.address) as slow,
        connect(running.address) as early,
        connect(running.address) as silent,
    ):
        early.sendall(b"GET / HT")
        running.wait_for_peers(3)
        stopping.set()
        running.server.stop(PATIENCE, accepting=True)
        slow.connection.receive_data(slow.sock.recv(100))
        assert slow.connection.next_event() == Close(1001, "the server is stopping")
        assert exchange(running.address, handshake()).startswith(b"HTTP/1.1 503 ")
        early.sendall(b"TP/1.1\r\n\r\n")
        assert early.recv(12) == b"HTTP/1.1 503"
        slow.flush()
        assert silent.recv(1) == b"", "who says nothing is not waited for"
        early.close()
        running.thread.join(PATIENCE / 2)
        assert not running.thread.is_alive(), "all have gone, yet it still serves"
        with pytest.raises(ConnectionRefusedError):
            connect(running.address)


def test_who_does_not_take_its_answer_holds_up_the_end_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "FINAL_RESPONSE_TIMEOUT", 0.1)
    stopping = threading.Event()
    with (
        serving(on_request=refuse_while_stopping(stopping)) as running,
        Client(running.address) as peer,
    ):
        stopping.set()
        running.server.stop(600, accepting=True)
        assert peer.sock.recv(1) == b"\x88", "a Close frame"
        with connect(running.address) as lazy:
            lazy.sendall(handshake())
            assert lazy.recv(12) == b"HTTP/1.1 503"
            peer.sock.close()
            running.thread.join(PATIENCE)
            assert not running.thread.is_alive(), "one who was answered is waited for"


def test_a_signal_that_another_thread_has_got_stops_the_server_at_once() -> None:
    server = Server(on_message=send_back)
    server.listen("127.0.0.1", 0)
    server.call_later(PATIENCE, lambda: late.append("stopped too late"))
    late: list[str] = []

    def signal_this_thread() -> None:
        time.sleep(0.05)  # the server waits by now, and this interrupts no wait of its thread
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: server.stop())
    try:
        thread = threading.Thread(target=signal_this_thread)
        thread.start()
        server.run()
        thread.join(PATIENCE)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert late == []


def test_a_second_stop_can_make_the_end_come_earlier() -> None:
    with serving() as running, Client(running.address) as silent:
        running.server.stop(600, accepting=True)
        assert silent.sock.recv(1) == b"\x88", "a Close frame"
        running.server.stop(0)
        running.thread.join(PATIENCE)
        assert not running.thread.is_alive()


def test_while_it_stops_a_peer_has_all_the_time_to_take_what_is_queued() -> None:
    messages = ["x" * 100_000] * 20

    def send_all(peer: Peer, message: str | bytes) -> None:
        for each in messages:
            peer.send(each)
        server.stop(PATIENCE, accepting=True)

    server = Server(on_message=send_all, close_timeout=0.0)
    with (
        serving(server=server, listener=tight_listener()) as running,
        Client(running.address, receive_buffer=4096) as slow,
    ):
        slow.send("all of it")
        assert slow.receive_all() == [*messages, Close(1001, "the server is stopping")]


def test_an_interrupt_releases_every_socket() -> None:
    def interrupt(peer: Peer, message: str | bytes) -> None:
        raise KeyboardInterrupt

    server = Server(on_message=interrupt)
    running = RunningServer(server, server.listen("127.0.0.1", 0))
    running.thread.start()
    with Client(running.address) as client:
        client.send("stop at once")
        assert client.receive_all() == []
    running.thread.join(PATIENCE)
    assert isinstance(running.error, KeyboardInterrupt), running.error
    with pytest.raises(ConnectionRefusedError):
        connect(running.address)


def test_groups_of_one_server_are_independent() -> None:
    def on_message(peer: Peer, message: str | bytes) -> None:
        groups[message].send(message, sender=peer)

    def on_open(peer: Peer) -> None:
        for group in groups.values():
            group.add(peer)

    server = Server(on_message=on_message, on_open=on_open)
    groups: dict[str | bytes, Group] = {name: server.group() for name in ("a", "b")}
    with (
        serving(server=server) as running,
        Client(running.address) as first,
        Client(running.address) as second,
    ):
        for message in ("a", "b", "a", "a"):
            first.send(message)
        assert [second.receive() for _ in range(4)] == ["a", "b", "a", "a"]
        second.send("b")
        assert first.receive() == "b"


# Compression.


def test_members_with_and_without_compression_get_the_same_messages_in_order() -> None:
    wishes = {
        "/none": None,
        "/alone": DeflateParameters.NO_CONTEXT_TAKEOVER,
        "/over": DeflateParameters.DEFAULT,
    }

    def on_request(peer: Peer, request: Request) -> Response:
        return accept(request, compression=wishes[request.path])

    server = Server(
        on_message=lambda peer, message: group.send(message),
        on_request=on_request,
        on_open=lambda peer: group.add(peer),
    )
    group = server.group()
    offers: list[tuple[str, DeflateParameters | None]] = [
        ("/none", DeflateParameters.DEFAULT),
        ("/alone", None),
        ("/alone", DeflateParameters.DEFAULT),
        ("/alone", DeflateParameters(server_max_window_bits=9)),
        ("/alone", DeflateParameters.DEFAULT),
        ("/over", DeflateParameters.DEFAULT),
        ("/over", DeflateParameters(client_max_window_bits=8)),
        ("/over", DeflateParameters.NO_CONTEXT_TAKEOVER),
    ]
    messages: list[str | bytes] = [
        "small",
        "x" * 1000,
        b"y" * 1000,
        "",
        "x" * 1000,
        b"\0" * 100_000,
    ]
    with serving(server=server) as running, ExitStack() as stack:
        address = f"ws://{running.address[0]}:{running.address[1]}"
        clients = [
            stack.enter_context(connect_url(address + path, compression=offer))
            for path, offer in offers
        ]
        shares = running.ask(lambda: [peer._accepts_shared_compression for peer in group])
        assert shares == [False, False, True, False, True, False, False, True]
        for message in messages:
            clients[0].send(message)
        for client, offer in zip(clients, offers, strict=True):
            received = [client.recv(timeout=PATIENCE) for _ in messages]
            assert received == messages, offer


def test_what_is_sent_to_one_peer_is_compressed_from_the_size_that_was_told() -> None:
    seen = bytearray()

    def trace(sender: Role, data: bytes) -> None:
        if sender is Role.SERVER:
            seen.extend(data)

    with serving(compression_threshold=100) as running:
        address = f"ws://{running.address[0]}:{running.address[1]}/"
        with connect_url(address, trace=trace) as client:
            for size in (99, 100):
                client.send("x" * size)
                assert client.recv(timeout=PATIENCE) == "x" * size
    _, _, frames = seen.partition(b"\r\n\r\n")
    assert frames[0] == 0x81
    assert frames[2 + 99] == 0xC1


# Unix sockets.


def test_a_unix_socket_is_for_owner_and_group_and_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    addresses: list[str] = []
    server = Server(on_message=Peer.send, on_open=lambda peer: addresses.append(peer.address))
    mask = os.umask(0o022)
    try:
        server.listen_unix(str(path))
        assert os.umask(0o022) == 0o022, "the process's mask was left changed"
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with serving(server=server), connect_url(f"ws+unix:{path}") as client:
        client.send("Hello")
        assert client.recv(timeout=PATIENCE) == "Hello"
    assert addresses == ["unix"]
    assert not path.exists()


def test_a_socket_that_a_server_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = Server(on_message=Peer.send)
    server.listen_unix(str(path))
    with serving(server=server), connect_url(f"ws+unix:{path}") as client:
        client.send("Hello")
        assert client.recv(timeout=PATIENCE) == "Hello"


@pytest.mark.parametrize("waiting", [0, 3], ids=["idle", "with a full queue"])
def test_where_a_server_lives_another_is_refused(tmp_path: Path, waiting: int) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as alive, ExitStack() as stack:
        alive.bind(path)
        alive.listen(1)
        for _ in range(waiting):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect(path)
        with pytest.raises(OSError, match="already in use") as raised:
            Server(on_message=send_back).listen_unix(path)
        assert raised.value.errno == errno.EADDRINUSE
        assert os.path.exists(path)


@pytest.mark.parametrize("kind", ["file", "directory", "link to nowhere"])
def test_what_is_not_a_socket_is_refused_and_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "precious"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="already in use"):
        Server(on_message=send_back).listen_unix(str(path))
    assert os.path.lexists(path)


def test_where_no_socket_can_be_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Server(on_message=send_back).listen_unix(str(tmp_path / "missing" / "socket"))
    with pytest.raises(OSError, match="too long"):
        Server(on_message=send_back).listen_unix(str(tmp_path / ("x" * 200)))


need_abstract = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has Unix sockets without a file"
)


@need_abstract
def test_a_client_with_a_name_of_its_own_is_served_as_any_other(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    server = Server(on_message=Peer.send)
    server.listen_unix(path)
    with serving(server=server) as running, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.bind("\0" + tmp_path.name + "client")
        client.connect(path)
        client.sendall(handshake())
        assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
        (peer,) = running.ask(lambda: running.server.peers)
        assert peer.address == "unix"


@need_abstract
def test_a_listening_socket_without_a_file_is_closed_in_peace(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0" + tmp_path.name + "server")
    listener.listen()
    server = Server(on_message=Peer.send)
    server.listen_on(listener)
    server.stop()
    server.run()
    assert listener.fileno() == -1


# Signs of life.


def test_an_idle_client_is_pinged_and_its_latency_known() -> None:
    with (
        serving(ping_interval=0.05, ping_timeout=5.0) as running,
        Client(running.address) as client,
    ):
        assert isinstance(client.receive(), Ping)  # and answered as it is read
        (peer,) = running.ask(lambda: running.server.peers)
        poll(lambda: running.ask(lambda: peer.latency) is not None, "the Pong is noticed")
        latency = peer.latency
        assert latency is not None
        assert 0 < latency < PATIENCE
