"""The server over TCP: messages, callbacks, groups, compression, and stopping."""

from __future__ import annotations

import errno
import gc
import math
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from tests.support import (
    PATIENCE,
    Client,
    RunningServer,
    connect,
    exchange,
    handshake,
    is_served,
    new_key,
    poll,
    read_to_end,
    reset,
    send_back,
    serving,
    tight_listener,
)
from wsproto_min.client_handshake import upgrade_request
from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.connection import Close, Event, Ping, Pong, Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import HandshakeError
from wsproto_min.frames import RSV1, encode_close, encode_frame
from wsproto_min.http import Request, Response
from wsproto_min.net import server as server_module
from wsproto_min.net.broadcast import Group
from wsproto_min.net.client import connect as connect_url
from wsproto_min.net.event_loop import EventLoop
from wsproto_min.net.peer import Peer
from wsproto_min.net.server import Server
from wsproto_min.server_handshake import Acceptance, accept

MASK = bytes.fromhex("37fa213d")


def frame(opcode: Opcode, payload: bytes) -> bytes:
    """Return a client's frame."""
    return encode_frame(opcode, payload, mask=MASK)


# Messages.


@pytest.mark.parametrize("message", ["", "Grüße 😀", b"", bytes(range(256)), "x" * 70_000])
def test_message_is_echoed_unchanged(message: str | bytes) -> None:
    with serving() as running, Client(running.address) as client:
        client.send(message)
        assert client.receive() == message


def test_large_message_passes_through_small_socket_buffers() -> None:
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


def test_slow_reader_is_closed_and_others_miss_nothing() -> None:
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
        assert 10 <= len(got) < 30, f"the write buffer held {len(got)} messages of 50,000 bytes"


def test_frames_of_one_segment_are_answered_in_order() -> None:
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


def test_violation_is_answered_without_a_reset() -> None:
    with serving() as running, Client(running.address) as client:
        client.sock.sendall(encode_frame(Opcode.TEXT, b"not masked"))
        # This input stays unread in the server's socket, where close() would send RST.
        client.sock.sendall(frame(Opcode.TEXT, b"x") * 500_000)
        assert client.receive_all() == [
            Close(1002, "a client's frame is not masked (RFC 6455, 5.1)")
        ]
        assert len(running.server.peers) == 1, "the client has not ended its stream yet"
        client.sock.close()
        running.wait_for_peers(0)


def test_close_timeout_ends_a_client_after_its_violation() -> None:
    with serving(close_timeout=0.1) as running, Client(running.address) as client:
        client.sock.sendall(encode_frame(Opcode.TEXT, b"not masked"))
        running.wait_for_peers(0)


def test_close_timeout_ends_a_client_that_does_not_answer() -> None:
    def close(peer: Peer, message: str | bytes) -> None:
        peer.close(4000)

    with serving(close, close_timeout=0.1) as running, Client(running.address) as client:
        client.send("close me")
        # `Client.receive` would answer the Close frame.
        received = client.sock.recv(4096)
        assert received.hex(" ") == "88 02 0f a0"
        assert client.sock.recv(4096) == b"", "the socket is still open"


def test_half_closed_client_receives_the_whole_response() -> None:
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
        _client_provokes("unknown call"),
    ],
    ids=lambda end: end.__name__.strip("_"),
)
def test_on_close_comes_once_after_the_peer_left_its_groups(
    end: Callable[[Client], None],
) -> None:
    calls: list[tuple[str, Peer, bool, int]] = []

    def on_open(peer: Peer) -> None:
        for group in groups:
            group.add(peer)
        calls.append(("open", peer, peer.is_open, len(peer._groups)))

    def on_close(peer: Peer) -> None:
        calls.append(("close", peer, peer.is_open, sum(peer in group for group in groups)))

    def on_message(peer: Peer, message: str | bytes) -> None:
        actions: dict[str | bytes, Callable[[], object]] = {
            "close": peer.close,
            "fail": lambda: peer.fail(4000),
            "abort": peer.abort,
        }
        actions[message]()

    server = Server(on_message=on_message, on_open=on_open, on_close=on_close, close_timeout=0.1)
    groups = [server.group() for _ in range(2)]
    with serving(server=server) as running:
        client = Client(running.address)
        with client:
            end(client)
            running.wait_for_peers(0)
        running.ask(lambda: None)
        [(_, peer, _, _), *_] = calls
        assert calls == [("open", peer, True, 2), ("close", peer, False, 0)]


def test_peer_has_its_address_and_user_data() -> None:
    def on_request(peer: Peer, request: Request) -> Acceptance:
        peer.user_data = request.path
        return accept(request)

    def on_message(peer: Peer, message: str | bytes) -> None:
        peer.send(f"{peer.address} {peer.user_data}")

    with (
        serving(on_message, on_request=on_request) as running,
        Client(running.address, "/somewhere?query") as client,
    ):
        client.send("address?")
        port = client.sock.getsockname()[1]
        assert client.receive() == f"127.0.0.1:{port} /somewhere"


def _fail(*arguments: object) -> None:
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
def test_exception_in_a_callback_ends_no_other_peer(
    caplog: pytest.LogCaptureFixture, callback: str, expected: list[Event]
) -> None:
    def fail_unless_witness(peer: Peer | None = None, *arguments: object) -> None:
        if peer is None or peer.user_data != "/witness":
            raise RuntimeError("on purpose")
        if callback == "on_message":
            peer.send(str(arguments[0]))

    def on_request(peer: Peer, request: Request) -> Acceptance:
        peer.user_data = request.path
        return accept(request)

    options: dict[str, Any] = {
        "on_message": send_back,
        "on_request": on_request,
        callback: fail_unless_witness,
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
        witness.send("still served?")
        assert witness.receive() == "still served?"
    assert "on purpose" in caplog.text


def test_exception_in_on_request_is_answered_with_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def on_request(peer: Peer, request: Request) -> Acceptance:
        if request.path == "/exception":
            _fail()
        if request.path == "/error":
            raise HandshakeError(418, "no coffee here", [("X-Pot", "tea")])
        return accept(request)

    with serving(on_request=on_request) as running:
        response = exchange(running.address, b"GET /exception HTTP/1.1\r\nHost: x\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 500 ")
        assert "on purpose" in caplog.text
        response = exchange(running.address, b"GET /error HTTP/1.1\r\nHost: x\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 418 ")
        assert b"\r\nX-Pot: tea\r\n" in response
        assert response.endswith(b"\r\n\r\nno coffee here\n")
        assert is_served(running.address)


def test_exception_in_a_scheduled_call_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving() as running:
        running.server.call_soon_threadsafe(_fail)
        running.server.call_soon_threadsafe(lambda: running.server.call_later(0, _fail))
        poll(
            lambda: caplog.text.count("RuntimeError: on purpose") == 2, "both exceptions are logged"
        )
        assert is_served(running.address)


def test_messages_of_on_before_flush_and_on_close_go_out_at_once() -> None:
    pending: list[str] = []

    def send_together() -> None:
        if pending:
            group.send("+".join(pending))
            pending.clear()

    server = Server(
        on_message=lambda peer, message: pending.append(str(message)),
        on_open=lambda peer: group.add(peer),
        on_close=lambda peer: pending.append("a peer left"),
        on_before_flush=send_together,
    )
    group = server.group()
    with serving(server=server) as running, Client(running.address) as client:
        client.sock.sendall(frame(Opcode.TEXT, b"one") + frame(Opcode.TEXT, b"two"))
        assert client.receive() == "one+two", "both messages came in one iteration"
        with Client(running.address):
            pass
        assert client.receive() == "a peer left"


def test_messages_of_on_disconnect_go_out_at_once() -> None:
    server = Server(
        on_message=send_back,
        on_open=lambda peer: group.add(peer),
        on_disconnect=lambda peer: group.send("a peer has gone"),
    )
    group = server.group()
    with serving(server=server) as running, Client(running.address) as client:
        with Client(running.address):
            pass
        assert client.receive() == "a peer has gone"


def test_handshake_is_answered_before_on_before_flush() -> None:
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
        poll(lambda: waited, "the iteration has ended")
    assert waited == [True]


def test_on_close_after_a_failed_write_comes_in_the_iteration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    happened: list[str] = []
    closed = threading.Event()
    run_once = EventLoop.run_once

    def flood(peer: Peer, message: str | bytes) -> None:
        happened.append("message")
        peer.send("x" * 3_000_000)

    def on_close(peer: Peer) -> None:
        happened.append("close")
        closed.set()

    def record_and_run(self: EventLoop) -> None:
        happened.append("iteration")
        run_once(self)

    monkeypatch.setattr(EventLoop, "run_once", record_and_run)
    with (
        serving(
            flood, listener=tight_listener(), write_buffer_limit=1_000_000, on_close=on_close
        ) as running,
        Client(running.address) as client,
    ):
        client.send("more than the write buffer may hold")
        assert closed.wait(PATIENCE)
    assert happened[happened.index("message") :][:2] == ["message", "close"]


def test_call_later_calls_come_in_order() -> None:
    called: list[str] = []
    done = threading.Event()
    with serving() as running:

        def schedule() -> None:
            running.server.call_later(0.02, lambda: called.append("second"))
            running.server.call_later(0.01, lambda: called.append("first"))
            running.server.call_later(0.02, lambda: called.append("third"))
            running.server.call_later(0.03, done.set)

        running.server.call_soon_threadsafe(schedule)
        assert done.wait(PATIENCE)
    assert called == ["first", "second", "third"]


# Options of the handshake.


def test_server_without_on_request_negotiates_its_options() -> None:
    options: dict[str, Any] = {
        "subprotocols": ["b", "a"],
        "origins": ["https://example.org"],
        "compression": DeflateParameters.DEFAULT,
    }
    with serving(**options) as running:
        url = f"ws://127.0.0.1:{running.address[1]}/"
        offer: dict[str, Any] = {"subprotocols": ["a", "b"], "origin": "https://example.org"}
        with connect_url(url, **offer) as client:
            assert client.subprotocol == "b"
            assert client.connection._decoders[RSV1]().keeps_context
        with pytest.raises(HandshakeError, match=r"pages of .* may not connect") as raised:
            connect_url(url, origin="https://evil.example")
        assert raised.value.status == 403
    with serving(compression=None) as running, connect(running.address) as sock:
        offered = upgrade_request("a", "/", new_key(), compression=DeflateParameters.DEFAULT)
        sock.sendall(offered)
        assert b"permessage-deflate" not in sock.recv(4096)


@pytest.mark.parametrize(
    "options", [{"subprotocols": ["a"]}, {"origins": []}, {"compression": None}], ids=str
)
def test_server_with_on_request_refuses_options_for_accept(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"pass these arguments to accept\(\) instead"):
        Server(on_message=send_back, on_request=lambda peer, request: accept(request), **options)


@pytest.mark.parametrize("rate", [0, -1.0, math.nan])
def test_server_with_a_useless_rate_limit_raises(rate: float) -> None:
    with pytest.raises(ValueError, match="control_rate_limit: must be above 0"):
        Server(on_message=send_back, control_rate_limit=rate)


def test_server_with_an_infinite_rate_limit_answers_all_pings() -> None:
    with serving(control_rate_limit=math.inf) as running, Client(running.address) as client:
        client.sock.sendall(frame(Opcode.PING, b"") * 1000)
        assert [client.receive() for _ in range(1000)] == [Pong(b"")] * 1000


# Other threads.


@pytest.mark.parametrize(
    "call",
    [
        lambda server, peer, group: peer.send("x"),
        lambda server, peer, group: peer.close(),
        lambda server, peer, group: peer.go_away("x"),
        lambda server, peer, group: peer.fail(1011),
        lambda server, peer, group: peer.abort(),
        lambda server, peer, group: peer.pause_reading(1),
        lambda server, peer, group: peer.ping(lambda pinged, seconds: None),
        lambda server, peer, group: peer.send_stream(),
        lambda server, peer, group: peer.receive_chunks(max_message_size=None),
        lambda server, peer, group: peer.set_write_marks(high=2, low=1),
        lambda server, peer, group: peer.respond(Response.text("x")),
        lambda server, peer, group: group.send("x"),
        lambda server, peer, group: group.add(peer),
        lambda server, peer, group: group.discard(peer),
        lambda server, peer, group: server.call_later(0, lambda: None),
        lambda server, peer, group: server.listen("127.0.0.1", 0),
        lambda server, peer, group: server.listen_unix("unused"),
    ],
    ids=[
        "send",
        "close",
        "go_away",
        "fail",
        "abort",
        "pause_reading",
        "ping",
        "send_stream",
        "receive_chunks",
        "set_write_marks",
        "respond",
        "group_send",
        "group_add",
        "group_discard",
        "call_later",
        "listen",
        "listen_unix",
    ],
)
def test_call_from_another_thread_raises_and_names_the_way(
    call: Callable[[Server, Peer, Group], None],
) -> None:
    with serving() as running, Client(running.address) as client:
        group = running.server.group()
        (peer,) = running.server.peers
        with pytest.raises(RuntimeError, match=r"Server\.call_soon_threadsafe"):
            call(running.server, peer, group)
        running.server.call_soon_threadsafe(lambda: peer.send("from another thread"))
        assert client.receive() == "from another thread"
        assert peer.is_open
    peer.send("ignored")  # the server has ended


# Callbacks and counters for operators.


def test_on_accept_and_on_disconnect_come_for_every_peer() -> None:
    calls: list[tuple[str, bool, int]] = []

    def record(name: str) -> Callable[[Peer], None]:
        def callback(peer: Peer) -> None:
            refusal = 0 if peer.refusal is None else peer.refusal.status
            calls.append((name, peer.connection is not None, refusal))

        return callback

    with serving(
        on_accept=record("accept"), on_close=record("close"), on_disconnect=record("disconnect")
    ) as running:
        with Client(running.address) as client:
            client.close()
            client.receive_all()
        running.wait_for_peers(0)
        exchange(running.address, b"GET / HTTP/1.1\r\n\r\n")
        running.wait_for_peers(0)
        connect(running.address).close()
        poll(lambda: len(calls) == 7, "seven calls have come")
    assert calls == [
        ("accept", False, 0),
        ("close", True, 0),
        ("disconnect", True, 0),
        ("accept", False, 0),
        ("disconnect", False, 400),
        ("accept", False, 0),
        ("disconnect", False, 0),
    ]


def test_abort_in_on_accept_refuses_that_client_only() -> None:
    disconnected: list[Peer] = []

    def admit_one(peer: Peer) -> None:
        if len(running.server.peers) > 1:
            peer.abort()

    with (
        serving(on_accept=admit_one, on_disconnect=disconnected.append) as running,
        Client(running.address) as first,
    ):
        for _ in range(3):
            with connect(running.address) as late, suppress(ConnectionResetError):
                assert late.recv(1) == b""
        first.send("still here")
        assert first.receive() == "still here"
        poll(lambda: len(disconnected) == 3, "three clients are disconnected")


def test_exception_in_on_accept_is_logged_and_aborts(caplog: pytest.LogCaptureFixture) -> None:
    disconnected: list[Peer] = []

    def fail_once(peer: Peer) -> None:
        if not disconnected:
            _fail()

    with serving(on_accept=fail_once, on_disconnect=disconnected.append) as running:
        with connect(running.address) as sock, suppress(ConnectionResetError):
            assert sock.recv(1) == b"", "the server answered a peer that on_accept did not admit"
        poll(lambda: disconnected, "on_disconnect comes")
        assert is_served(running.address)
    assert "on_accept: raised an exception for 127.0.0.1:" in caplog.text
    assert "on purpose" in caplog.text


@pytest.mark.parametrize(
    "callback", ["on_open", "on_message", "on_close", "on_disconnect", "on_before_flush"]
)
def test_exception_in_a_callback_is_logged_with_its_name(
    caplog: pytest.LogCaptureFixture, callback: str
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("on purpose")

    options: dict[str, Any] = {"on_message": send_back, callback: fail}
    with serving(server=Server(**options)) as running:
        with Client(running.address) as client:
            client.send("hello")
            client.close()
            client.receive_all()
        running.wait_for_peers(0)
        poll(lambda: f"{callback}: raised an exception" in caplog.text, "the name is logged")
    assert "; fix the callback" in caplog.text


@pytest.mark.parametrize("call", ["send", "abort"])
def test_calls_in_on_iteration_end_take_effect_at_once(call: str) -> None:
    peers: list[Peer] = []
    disconnected: list[Peer] = []

    def on_iteration_end(seconds: float) -> None:
        while peers:
            peer = peers.pop()
            if call == "send":
                peer.send("from the end of the iteration")
            else:
                peer.abort()

    server = Server(
        on_message=lambda peer, message: peers.append(peer),
        on_iteration_end=on_iteration_end,
        on_disconnect=disconnected.append,
        ping_interval=None,
    )
    with serving(server=server) as running, Client(running.address) as client:
        client.sock.settimeout(PATIENCE)
        client.send("hello")
        if call == "send":
            assert client.receive() == "from the end of the iteration"
        else:
            assert client.receive() is None
            poll(lambda: disconnected, "on_disconnect comes before the loop waits")


def test_on_iteration_end_measures_without_the_wait() -> None:
    seconds: list[float] = []
    began = time.monotonic()
    with serving(on_iteration_end=seconds.append) as running:
        assert is_served(running.address)
        running.wait_for_peers(0)
        time.sleep(0.3)  # the loop waits
        running.ask(lambda: time.sleep(0.05))
        poll(lambda: max(seconds) >= 0.05, "the long iteration is reported")
        assert sum(seconds) <= time.monotonic() - began - 0.3, "the wait was included"


def test_bytes_of_all_peers_are_counted() -> None:
    with serving() as running:
        with connect(running.address) as sock:
            request = handshake() + frame(Opcode.TEXT, b"Hello")
            sock.sendall(request)
            received = sock.recv(4096)
            while not received.endswith(b"Hello"):
                received += sock.recv(4096)
        running.wait_for_peers(0)
        server = running.server
        assert running.ask(lambda: server.bytes_received) == len(request)
        assert running.ask(lambda: server.bytes_sent) == len(received)


# Stopping.


def test_stop_sends_1001_after_pending_messages() -> None:
    left: list[Peer] = []
    with serving(on_close=left.append) as running, Client(running.address) as client:
        client.send("hello")
        assert client.receive() == "hello"

        def send_and_stop() -> None:
            for peer in running.server.peers:
                peer.send("pending")
            running.server.stop(PATIENCE)

        running.server.call_soon_threadsafe(send_and_stop)
        assert client.receive_all() == ["pending", Close(1001, "the server is stopping")]
        running.thread.join(PATIENCE)
        assert not running.thread.is_alive(), "all clients have answered, and it still runs"
        assert len(left) == 1
        with pytest.raises(ConnectionRefusedError):
            connect(running.address)


def test_stop_processes_data_that_has_arrived() -> None:
    received: list[str] = []

    def on_message(peer: Peer, message: str | bytes) -> None:
        received.append(str(message))
        if message == "first":
            client.sock.sendall(frame(Opcode.TEXT, b"last"))
            server.stop()

    def on_before_flush() -> None:
        while received:
            group.send(received.pop(0))

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


def test_stop_without_grace_still_sends_1001() -> None:
    with serving() as running, Client(running.address) as client:
        running.server.stop(0)
        assert client.receive_all() == [Close(1001, "the server is stopping")]


def test_stop_calls_on_disconnect_for_every_peer() -> None:
    accepted: list[Peer] = []
    disconnected: list[Peer] = []
    with (
        serving(on_accept=accepted.append, on_disconnect=disconnected.append) as running,
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
    assert set(disconnected) == set(accepted)


def test_on_close_precedes_on_disconnect_for_each_peer() -> None:
    calls: list[tuple[str, int]] = []
    peers: list[Peer] = []

    def on_close(peer: Peer) -> None:
        calls.append(("close", peers.index(peer)))
        for other in peers:
            other.abort()

    def on_disconnect(peer: Peer) -> None:
        calls.append(("disconnect", peers.index(peer)))

    with (
        serving(on_open=peers.append, on_close=on_close, on_disconnect=on_disconnect) as running,
        Client(running.address) as first,
        Client(running.address),
    ):
        running.wait_for_peers(2)
        first.sock.close()
        poll(lambda: len(calls) == 4, "both peers are disconnected")
    assert calls == [("close", 0), ("disconnect", 0), ("close", 1), ("disconnect", 1)]


def test_socket_that_cannot_be_watched_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register = EventLoop.register

    def fail_once(*arguments: Any) -> None:
        monkeypatch.setattr(EventLoop, "register", register)
        raise OSError(errno.ENOSPC, "on purpose")

    with serving() as running:
        running.ask(lambda: monkeypatch.setattr(EventLoop, "register", fail_once))
        with connect(running.address) as refused, suppress(ConnectionResetError):
            assert refused.recv(1) == b""
        assert running.ask(lambda: running.server.peers) == frozenset()
        assert is_served(running.address)


def test_stop_waits_no_longer_than_its_grace() -> None:
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
        running.server.stop(PATIENCE)  # cannot prolong the first grace
        running.thread.join(PATIENCE / 2)
        assert not running.thread.is_alive(), "it waits for clients that do not answer"
        assert len(left) == 1, "one peer was open"
        assert in_handshake.recv(1) == b""
        assert silent.receive_all() == [Close(1001, "the server is stopping")]


def test_stop_before_and_after_run() -> None:
    server = Server(on_message=send_back)
    address = server.listen("127.0.0.1", 0)
    server.stop()
    server.run()
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        connect(address)


def test_server_that_never_runs_leaves_no_socket_open(recwarn: pytest.WarningsRecorder) -> None:
    warnings.simplefilter("always")
    server = Server(on_message=send_back)
    address = server.listen("127.0.0.1", 0)
    del server
    gc.collect()
    assert [each.message for each in recwarn if each.category is ResourceWarning] == []
    with pytest.raises(ConnectionRefusedError):
        connect(address)


def refuse_while_stopping(stopping: threading.Event) -> Callable[[Peer, Request], Acceptance]:
    """Return an `on_request` that refuses all requests while the server stops."""

    def on_request(peer: Peer, request: Request) -> Acceptance:
        if stopping.is_set():
            raise HandshakeError(503, "the server is stopping")
        return accept(request)

    return on_request


def test_stop_while_accepting_lets_on_request_refuse() -> None:
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
        assert silent.recv(1) == b"", "waited for a client without a request"
        early.close()
        running.thread.join(PATIENCE / 2)
        assert not running.thread.is_alive(), "all peers have gone, and it still runs"
        with pytest.raises(ConnectionRefusedError):
            connect(running.address)


def test_stop_waits_briefly_for_unread_responses(
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
            assert not running.thread.is_alive(), "waited too long for an unread response"


def test_stop_by_a_signal_to_another_thread_is_immediate() -> None:
    server = Server(on_message=send_back)
    server.listen("127.0.0.1", 0)
    server.call_later(PATIENCE, lambda: late.append("stopped too late"))
    late: list[str] = []

    def signal_this_thread() -> None:
        time.sleep(0.05)  # the server waits; the signal interrupts this thread only
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


def test_second_stop_shortens_the_grace() -> None:
    with serving() as running, Client(running.address) as silent:
        running.server.stop(600, accepting=True)
        assert silent.sock.recv(1) == b"\x88", "a Close frame"
        running.server.stop(0)
        running.thread.join(PATIENCE)
        assert not running.thread.is_alive()


def test_stop_gives_slow_readers_the_whole_grace() -> None:
    messages = ["x" * 100_000] * 20

    def send_and_stop(peer: Peer, message: str | bytes) -> None:
        for each in messages:
            peer.send(each)
        server.stop(PATIENCE, accepting=True)

    server = Server(on_message=send_and_stop, close_timeout=0.0)
    with (
        serving(server=server, listener=tight_listener()) as running,
        Client(running.address, receive_buffer=4096) as slow,
    ):
        slow.send("send")
        assert slow.receive_all() == [*messages, Close(1001, "the server is stopping")]


def test_interrupt_closes_every_socket() -> None:
    def interrupt(peer: Peer, message: str | bytes) -> None:
        raise KeyboardInterrupt

    server = Server(on_message=interrupt)
    running = RunningServer(server, server.listen("127.0.0.1", 0))
    running.thread.start()
    with Client(running.address) as client:
        client.send("interrupt")
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


def test_members_with_any_compression_get_the_same_messages() -> None:
    offers_accepted = {
        "/none": None,
        "/alone": DeflateParameters.NO_CONTEXT_TAKEOVER,
        "/over": DeflateParameters.DEFAULT,
    }

    def on_request(peer: Peer, request: Request) -> Acceptance:
        return accept(request, compression=offers_accepted[request.path])

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


def test_message_is_compressed_from_the_threshold() -> None:
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


# Keepalive.


def test_idle_client_is_pinged_and_its_latency_measured() -> None:
    with (
        serving(ping_interval=0.05, ping_timeout=5.0) as running,
        Client(running.address) as client,
    ):
        assert isinstance(client.receive(), Ping)  # receive() answers it
        (peer,) = running.ask(lambda: running.server.peers)
        poll(lambda: running.ask(lambda: peer.latency) is not None, "the Pong is processed")
        latency = peer.latency
        assert latency is not None
        assert 0 < latency < PATIENCE
