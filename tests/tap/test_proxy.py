"""The proxy with real sockets: bytes pass unchanged, and both directions are explained."""

from __future__ import annotations

import errno
import os
import random
import socket
import ssl
import threading
from pathlib import Path

import pytest

from tests.support import (
    PATIENCE,
    Client,
    connect,
    exchange,
    handshake,
    make_certificate,
    poll,
    read_to_end,
    reset,
    serving,
)
from tests.tap.tapping import RunningTap, tapping, url_of
from wsproto_min.codes import Opcode
from wsproto_min.connection import Close, Ping, Pong, Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.frames import encode_frame
from wsproto_min.handshake import accept_key
from wsproto_min.http import Request, Response, encode_head
from wsproto_min.http_reader import parse_request
from wsproto_min.net.client import connect as open_client
from wsproto_min.net.peer import Peer
from wsproto_min.server_handshake import Acceptance, accept
from wsproto_min.tap import connection, proxy
from wsproto_min.tap.events import (
    Body,
    Ended,
    Exchanged,
    Opened,
    Refused,
    Stopped,
    TapEvent,
    Unexplained,
)
from wsproto_min.tap.exchange import HTTPExchange

Output = pytest.CaptureFixture[str]


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def accepted(listener: socket.socket) -> socket.socket:
    listener.settimeout(PATIENCE)
    sock, _ = listener.accept()
    sock.settimeout(PATIENCE)
    return sock


def read_head(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(1 << 16)
    return data


def open_websocket(client: socket.socket, listener: socket.socket) -> socket.socket:
    """Make the opening handshake on both ends; return the server's socket."""
    client.sendall(handshake())
    server = accepted(listener)
    head = read_head(server).partition(b"\r\n\r\n")[0]
    key = parse_request(head).headers.get("Sec-WebSocket-Key")
    assert key is not None
    response = encode_head(
        "HTTP/1.1 101 Switching Protocols",
        [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept_key(key)),
        ],
    )
    server.sendall(response)
    assert client.recv(len(response), socket.MSG_WAITALL) == response
    return server


def read_to_reset(sock: socket.socket) -> bytes:
    """Return all bytes up to the reset of the connection."""
    data = bytearray()
    try:
        while received := sock.recv(4096):
            data += received
    except ConnectionResetError:
        return bytes(data)
    raise AssertionError("the stream ends without a reset")


def shrink_send_buffers(tap: RunningTap) -> None:
    """Let the kernel take only some KiB for each client of the tap."""
    assert tap.proxy._listener is not None
    tap.proxy._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


def is_resetting(tap: RunningTap) -> bool:
    """Return True if a client has still to receive bytes before a reset."""
    (each,) = tap.proxy._connections
    return each._upstream is not None and each._upstream.closed


def url_for(listener: socket.socket) -> str:
    return url_of(listener.getsockname())


def has_no_connections(tap: RunningTap) -> bool:
    return not tap.ask(lambda: len(tap.proxy._connections))


# WebSocket


def test_messages_pass_and_both_directions_are_explained() -> None:
    with serving() as server, tapping(url_of(server.address)) as tap:
        with Client(tap.address, "/chat") as client:
            client.send("Hello")
            assert client.receive() == "Hello"
            client.close()
            assert isinstance(client.receive(), Close)
            assert client.receive() is None
        verdict = tap.wait_for_verdict()
    (opened,) = tap.of(Opened)
    assert (opened.connection, opened.target) == (1, "/chat")
    assert [head.kind for head in tap.heads()] == ["request", "response"]
    shown = [(frame.number, frame.sender, frame.event) for frame in tap.frames()]
    assert shown[:2] == [(1, Role.CLIENT, "Hello"), (2, Role.SERVER, "Hello")]
    assert verdict.reason == "2 heads, 4 frames, 2 messages"
    assert tap.of(Ended)[0].ending is None


def test_compression_with_context_takeover_is_explained() -> None:
    def on_request(peer: Peer, request: Request) -> Acceptance:
        return accept(request, compression=DeflateParameters.DEFAULT)

    text = "the same words again " * 20
    with (
        serving(on_request=on_request, compression_threshold=0) as server,
        tapping(url_of(server.address)) as tap,
    ):
        with open_client(tap.url, compression_threshold=0) as client:
            for _ in range(3):
                client.send(text)
                assert client.recv() == text
        verdict = tap.wait_for_verdict()
    for sender in Role:
        frames = tap.frames(sender)[:3]
        assert [frame.event for frame in frames] == [text] * 3
        sizes = [len(frame.fields.wire_payload) for frame in frames]
        assert sizes[1] < sizes[0] / 2  # refers to the first message
    assert verdict.result == "valid"


def test_tls_upstream_with_a_trusted_certificate(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(certificate)
    ours = ssl.create_default_context(cafile=str(certificate))
    message = os.urandom(3 << 20)
    with (
        serving(ssl_context=theirs, write_buffer_limit=1 << 24, max_message_size=1 << 23) as tls,
        tapping(url_of(tls.address, "wss"), context=ours) as tap,
    ):
        with Client(tap.address) as client:
            client.send(message)
            assert client.receive() == message
            client.sock.shutdown(socket.SHUT_WR)
            assert client.receive() is None
        assert tap.wait_for_verdict().result == "valid"
        with connect(tap.address) as plain:
            plain.sendall(handshake())
            read_head(plain)
            reset(plain)
        tap.wait_for(Ended, 2)


def test_tls_upstream_with_a_slow_reader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(connection, "WRITE_BUFFER_LIMIT", 1000)
    certificate = make_certificate(tmp_path)
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(certificate)
    ours = ssl.create_default_context(cafile=str(certificate))
    body = os.urandom(1 << 20)

    def on_request(peer: Peer, request: Request) -> Response:
        return Response(200, [], body)

    with (
        serving(on_request=on_request, ssl_context=theirs) as tls,
        tapping(url_of(tls.address, "wss"), context=ours) as tap,
    ):
        shrink_send_buffers(tap)
        with connect(tap.address, receive_buffer=4096) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_to_end(client).endswith(b"\r\n\r\n" + body)


def test_tls_upstream_with_an_unknown_certificate_is_502(tmp_path: Path) -> None:
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(make_certificate(tmp_path))
    with serving(ssl_context=theirs) as tls, tapping(url_of(tls.address, "wss")) as tap:
        response = exchange(tap.address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"certificate verify failed" in response


def test_fragments_with_a_ping_between_are_explained() -> None:
    key = bytes(4)
    parts = [
        encode_frame(Opcode.TEXT, b"one ", fin=False, mask=key),
        encode_frame(Opcode.PING, b"still there?", mask=key),
        encode_frame(Opcode.CONTINUATION, b"message", mask=key),
    ]
    with (
        serving() as server,
        tapping(url_of(server.address)) as tap,
        Client(tap.address) as client,
    ):
        for part in parts:
            client.sock.sendall(part)
        assert client.receive() == Pong(b"still there?")
        assert client.receive() == "one message"
    first, ping, last = tap.frames(Role.CLIENT)
    assert first.fragment is not None
    assert (first.fragment.fragments, first.fragment.last, first.event) == (1, False, None)
    assert ping.event == Ping(b"still there?")
    assert last.fragment is not None
    assert (last.fragment.fragments, last.event) == (2, "one message")


def test_violation_is_marked_and_passed_on() -> None:
    with listening() as listener, tapping(url_for(listener)) as tap:
        with connect(tap.address) as client, open_websocket(client, listener) as server:
            broken = bytes.fromhex("83 80 00000000") + b"anything \xff"
            client.sendall(broken)
            client.sendall(broken)
            received = b""
            while len(received) < 2 * len(broken):
                received += server.recv(100)
            assert received == 2 * broken
        verdict = tap.wait_for_verdict()
    (event,) = tap.of(Stopped)
    assert event.sender is Role.CLIENT
    stopped = event.verdict
    assert (stopped.section, stopped.close_code) == ("RFC 6455, 5.2", 1002)
    assert verdict.result == "broken"


def test_refused_handshake_passes_with_its_body() -> None:
    def on_request(peer: Peer, request: Request) -> Response:
        return Response.text("not today", 403)

    with serving(on_request=on_request) as server, tapping(url_of(server.address)) as tap:
        response = exchange(tap.address, handshake())
        verdict = tap.wait_for_verdict()
    assert response.startswith(b"HTTP/1.1 403 ")
    assert response.endswith(b"not today")
    assert verdict.result == "refused"
    assert tap.of(Body) == [Body(1, "not today", False)]
    assert tap.of(Ended)[0].ending is None


def test_frames_before_the_response_are_explained_after_it() -> None:
    with serving() as server, tapping(url_of(server.address)) as tap:
        with Client(
            tap.address, early=encode_frame(Opcode.TEXT, b"early", mask=bytes(4))
        ) as client:
            assert client.receive() == "early"
        tap.wait_for_verdict()
    assert [head.kind for head in tap.heads()] == ["request", "response"]
    assert [frame.event for frame in tap.frames()[:2]] == ["early", "early"]


# HTTP


def test_http_passes_with_its_own_headers() -> None:
    requests: list[Request] = []

    def on_request(peer: Peer, request: Request) -> Response:
        requests.append(request)
        return Response.text("the page")

    with serving(on_request=on_request) as server, tapping(url_of(server.address)) as tap:
        host = f"localhost:{tap.address[1]}"
        response = exchange(
            tap.address,
            f"GET /r/one?x=1 HTTP/1.1\r\nHost: {host}\r\nX-Odd:  kept\r\n"
            f"Origin: http://{host}\r\nConnection: keep-alive\r\n\r\n".encode(),
        )
        (done,) = tap.wait_for(Exchanged)
        poll(lambda: has_no_connections(tap), "the connection is closed")
    assert response.endswith(b"\r\n\r\nthe page")
    assert done == Exchanged(1, "GET", "/r/one?x=1", 200)
    upstream = "{}:{}".format(*server.address)
    assert requests[0].headers.fields == (
        ("host", upstream),
        ("x-odd", "kept"),
        ("origin", f"http://{upstream}"),
        ("connection", "close"),
    )


def test_http_response_after_an_interim_one_is_reported() -> None:
    with listening() as listener, tapping(url_for(listener)) as tap:
        with connect(tap.address) as client:
            client.sendall(b"POST / HTTP/1.0\r\n\r\nthe body")
            with accepted(listener) as server:
                assert read_head(server).endswith(b"\r\n\r\nthe body")
                server.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                server.sendall(b"HTTP/1.1 201 Created\r\n\r\nbody")
                server.sendall(b"more")
            assert read_to_end(client).endswith(b"bodymore")
        assert tap.wait_for(Exchanged) == [Exchanged(1, "POST", "/", 201)]


def test_http_status_in_two_reads_is_reported() -> None:
    events: list[TapEvent] = []
    request = parse_request(b"GET / HTTP/1.1\r\nHost: x")
    exchange = HTTPExchange(1, events.append, request)
    exchange.on_data(Role.SERVER, b"HTTP/1.1 200 O")
    exchange.on_eof(Role.CLIENT)
    exchange.on_reset(Role.CLIENT)
    exchange.on_data(Role.SERVER, b"K\r\n\r\n")
    exchange.on_end()
    assert events == [Exchanged(1, "GET", "/", 200)]


@pytest.mark.parametrize(
    ("length", "body", "count"),
    [
        ("", [b"", b"GET /b HTTP/1.1\r\n\r\n", b"more"], 1),
        ("Content-Length: 4\r\n", [b"bo", b"dy"], 0),
        ("Content-Length: 4\r\n", [b"bo", b"dyGET /b"], 1),
        ("Content-Length: four\r\n", [b"body"], 0),
        ("Transfer-Encoding: chunked\r\n", [b"4\r\nbody\r\n"], 0),
    ],
)
def test_bytes_after_the_request_are_reported_once(
    length: str, body: list[bytes], count: int
) -> None:
    events: list[TapEvent] = []
    head = f"POST / HTTP/1.1\r\nHost: x\r\n{length}".encode().removesuffix(b"\r\n")
    exchange = HTTPExchange(7, events.append, parse_request(head))
    exchange.on_data(Role.CLIENT, head + b"\r\n\r\n")
    for part in body:
        exchange.on_data(Role.CLIENT, part)
    assert events == [Unexplained(7)] * count


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        (b"", None),
        (b"HTTP/1.1 200 O", "it ends within its head"),
        (b"HTTP/1.1 200 OK\r\nX: \x01\r\n\r\n", "the head contains a control character"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 17000, "its head is longer than 16384 bytes"),
    ],
    ids=["none", "incomplete", "control character", "large"],
)
def test_http_without_a_valid_response_is_reported(response: bytes, problem: str | None) -> None:
    with listening() as listener, tapping(url_for(listener)) as tap:
        with connect(tap.address) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            with accepted(listener) as server:
                read_head(server)
                server.sendall(response)
            assert read_to_end(client) == response
        assert tap.wait_for(Exchanged) == [Exchanged(1, "GET", "/", None, problem)]


def test_half_close_passes_before_the_response() -> None:
    with (
        listening() as listener,
        tapping(url_for(listener)) as tap,
        connect(tap.address) as client,
    ):
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        with accepted(listener) as server:
            assert read_to_end(server).endswith(b"\r\nConnection: close\r\n\r\n")
            server.sendall(b"HTTP/1.1 200 OK\r\n\r\nlate")
        assert read_to_end(client).endswith(b"late")


# Errors of the client and of the upstream


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"\x16\x03\x01", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 17000, 431),
    ],
)
def test_invalid_head_is_answered_by_the_tap(head: bytes, status: int) -> None:
    with serving() as server, tapping(url_of(server.address)) as tap:
        with connect(tap.address) as client:
            client.sendall(head)
            assert read_to_end(client).startswith(b"HTTP/1.1 %d " % status)
            client.sendall(b"dropped")
        (refused,) = tap.wait_for(Refused)
        poll(lambda: has_no_connections(tap), "the connection is closed")
    assert (refused.connection, refused.status) == (1, status)


def test_client_ending_within_its_head_is_forgotten() -> None:
    with serving() as server, tapping(url_of(server.address)) as tap:
        for end in (socket.socket.close, reset):
            client = connect(tap.address)
            client.sendall(b"GET / HT")
            poll(lambda: not has_no_connections(tap), "the tap has the connection")
            end(client)
            poll(lambda: has_no_connections(tap), "the connection is closed")
    assert tap.events == []


@pytest.mark.parametrize("websocket", [False, True])
def test_unreachable_upstream_is_502(websocket: bool) -> None:
    with listening() as listener:
        upstream = url_for(listener)
    head = handshake() if websocket else b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with tapping(upstream) as tap:
        response = exchange(tap.address, head)
        (refused,) = tap.wait_for(Refused)
        poll(lambda: has_no_connections(tap), "the connection is closed")
    assert response.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert f"cannot connect to {upstream}: ".encode() in response
    assert refused.reason.encode() in response
    assert refused.request == f"GET {'/' if not websocket else tap.of(Opened)[0].target}"
    assert tap.of(Exchanged) == []
    assert [event.ending for event in tap.of(Ended)] == ["The tap answered 502."] * websocket
    assert [head.kind for head in tap.heads()] == ["request"] * websocket


def test_refused_client_that_stays_is_closed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER_TIMEOUT", 0.01)
    with (
        serving() as server,
        tapping(url_of(server.address)) as tap,
        connect(tap.address) as client,
    ):
        client.sendall(b"\xff")
        poll(lambda: has_no_connections(tap), "the connection is closed")
        assert read_to_end(client).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("is_reachable", [False, True])
def test_connection_closed_while_connecting(
    monkeypatch: pytest.MonkeyPatch, is_reachable: bool
) -> None:
    connecting, closed = threading.Event(), threading.Event()
    ours, theirs = socket.socketpair()

    def open_socket(*_: object) -> socket.socket:
        connecting.set()
        assert closed.wait(PATIENCE)
        if is_reachable:
            return ours
        raise OSError("unreachable")

    monkeypatch.setattr("wsproto_min.tap.upstream.open_socket", open_socket)
    with theirs, ours, tapping("ws://127.0.0.1:1/") as tap, connect(tap.address) as client:
        client.sendall(handshake())
        assert connecting.wait(PATIENCE)

        def close() -> None:
            for each in list(tap.proxy._connections):
                each.close()

        tap.ask(close)
        closed.set()
        tap.wait_for_verdict()
        threads = "(_run)"  # of Upstream.connect, in the names that Python gives
        poll(lambda: all(threads not in each.name for each in threading.enumerate()), "the result")
        tap.ask(lambda: None)  # the loop has the result
        if is_reachable:
            theirs.settimeout(PATIENCE)
            assert theirs.recv(1) == b""
    assert tap.of(Refused) == []


@pytest.mark.parametrize("end", ["client", "server"])
def test_reset_passes_to_the_other_end(end: str) -> None:
    with listening() as listener, tapping(url_for(listener)) as tap:
        client = connect(tap.address)
        client.sendall(handshake())
        server = accepted(listener)
        read_head(server)
        first, second = (client, server) if end == "client" else (server, client)
        reset(first)
        with second, pytest.raises(ConnectionResetError):
            read_to_end(second)
        (ended,) = tap.wait_for(Ended)
        assert ended.ending == f"The {end} reset the connection."
        assert has_no_connections(tap)


def test_bytes_before_a_reset_arrive_first() -> None:
    with listening() as listener, tapping(url_for(listener)) as tap:
        client = connect(tap.address, receive_buffer=4096)
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        server = accepted(listener)
        read_head(server)
        data = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(100_000)
        server.sendall(data)
        poll(lambda: tap.of(Exchanged), "the tap has read the response")
        reset(server)
        with client:
            assert data.startswith(read_to_reset(client))
        poll(lambda: has_no_connections(tap), "the connection is closed")


def test_both_ends_may_reset_a_slow_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WRITE_BUFFER_LIMIT", 1 << 30)
    with listening() as listener, tapping(url_for(listener)) as tap:
        client = connect(tap.address, receive_buffer=4096)
        server = open_websocket(client, listener)
        server.sendall(encode_frame(Opcode.BINARY, bytes(16 << 20)))
        reset(server)
        poll(lambda: tap.ask(lambda: is_resetting(tap)), "the tap has seen the reset")
        reset(client)
        tap.wait_for_verdict()
        poll(lambda: has_no_connections(tap), "the connection is closed")


def test_resets_at_any_moment_leave_no_connection() -> None:
    chance = random.Random(1)
    with serving() as server, tapping(url_of(server.address)) as tap:
        for _ in range(60):
            client = connect(tap.address)
            data = handshake() + encode_frame(Opcode.TEXT, b"x" * 70_000, mask=bytes(4))
            client.sendall(data[: chance.choice((0, 10, 150, 5000, len(data)))])
            (reset if chance.random() < 0.7 else socket.socket.close)(client)
        poll(lambda: has_no_connections(tap), "all connections are closed")
        server.wait_for_peers(0)
        with Client(tap.address) as last:
            last.send("still served")
            assert last.receive() == "still served"


# Load


def test_slow_reader_stops_the_other_end() -> None:
    size = 32 << 20
    message = encode_frame(Opcode.BINARY, bytes(size))
    with listening() as listener, tapping(url_for(listener)) as tap:
        client = connect(tap.address)
        with open_websocket(client, listener) as server, client:
            server.setblocking(False)
            sent, quiet = 0, 0
            while quiet < 20:  # until the tap has not read for a while
                try:
                    sent += server.send(memoryview(message)[sent : sent + (1 << 20)])
                    quiet = 0
                except BlockingIOError:
                    quiet += 1
                    threading.Event().wait(0.005)
            buffered = tap.ask(
                lambda: max(each._client.buffer_size for each in tap.proxy._connections)
            )
            assert buffered > connection.WRITE_BUFFER_LIMIT
            assert buffered <= connection.WRITE_BUFFER_LIMIT + (1 << 16)
            assert sent < size
            server.settimeout(PATIENCE)
            rest = threading.Thread(target=server.sendall, args=(memoryview(message)[sent:],))
            rest.start()
            received = 0
            while received < len(message):
                received += len(client.recv(1 << 20))
            rest.join(PATIENCE)
            poll(lambda: tap.frames(), "the message is explained")
    (frame,) = tap.frames()
    assert frame.fields.length == size
    assert frame.event == bytes(size)


def test_small_steps_of_a_slow_reader_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WRITE_BUFFER_LIMIT", 1000)
    with (
        listening() as listener,
        tapping(url_for(listener)) as tap,
        connect(tap.address, receive_buffer=4096) as client,
    ):
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with accepted(listener) as server:
            read_head(server)
            body = os.urandom(3 << 20)
            writer = threading.Thread(target=server.sendall, args=(body,))
            writer.start()
            received = bytearray()
            while len(received) < len(body):
                received += client.recv(1 << 14)
            writer.join(PATIENCE)
    assert received == body


def test_other_end_stays_paused_above_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_paused() -> bool:
        (each,) = tap.proxy._connections
        assert each._upstream is not None
        each._upstream.pause()
        each.on_written(each._client)
        return each._upstream._paused

    with serving() as server, tapping(url_of(server.address)) as tap, Client(tap.address):
        assert not tap.ask(is_paused)
        monkeypatch.setattr(connection, "WRITE_BUFFER_LIMIT", -1)
        assert tap.ask(is_paused)


def test_100_connections_at_once_are_all_explained() -> None:
    with serving() as server, tapping(url_of(server.address)) as tap:
        clients = [Client(tap.address) for _ in range(100)]
        for number, client in enumerate(clients):
            client.send(f"{number}")
        for number, client in enumerate(clients):
            assert client.receive() == f"{number}"
            client.close()
        for client in clients:
            client.receive_all()
            client.sock.close()
        ended = tap.wait_for(Ended, 100)
    assert {event.verdict.reason for event in ended} == {"2 heads, 4 frames, 2 messages"}
    assert sorted(event.connection for event in ended) == list(range(1, 101))


def test_stop_gives_a_verdict_on_open_connections() -> None:
    with (
        serving() as server,
        tapping(url_of(server.address)) as tap,
        Client(tap.address) as client,
    ):
        client.send("one")
        assert client.receive() == "one"
        poll(lambda: len(tap.frames()) == 2, "both frames are explained")
        tap.stop()
        assert tap.wait_for_verdict().reason == "2 heads, 2 frames, 2 messages"


class FailingListener:
    """A listening socket: its next calls of accept() fail."""

    def __init__(self, sock: socket.socket, *numbers: int) -> None:
        self.sock = sock
        self.numbers = list(numbers)

    def accept(self) -> tuple[socket.socket, object]:
        if self.numbers:
            number = self.numbers.pop(0)
            raise OSError(number, os.strerror(number))
        return self.sock.accept()

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()


def fail_accept(tap: RunningTap, *numbers: int) -> None:
    sock = tap.proxy._listener
    assert sock is not None
    tap.proxy._listener = FailingListener(sock, *numbers)  # type: ignore[assignment]


def test_one_accept_in_an_iteration_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "ACCEPTS_PER_ITERATION", 1)
    with (
        serving() as server,
        tapping(url_of(server.address)) as tap,
        Client(tap.address),
        Client(tap.address),
        Client(tap.address),
    ):
        pass


def test_accept_continues_after_a_client_has_gone() -> None:
    with serving() as server, tapping(url_of(server.address)) as tap:
        tap.ask(lambda: fail_accept(tap, errno.ECONNABORTED))
        with Client(tap.address):
            pass


def test_accept_pauses_without_descriptors(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr(proxy, "ACCEPT_PAUSE", 0.01)
    with serving() as server, tapping(url_of(server.address)) as tap:
        tap.ask(lambda: fail_accept(tap, errno.EMFILE))
        with Client(tap.address):
            pass
    errors = capsys.readouterr().err
    assert errors == (
        "wsproto_min: cannot accept a connection: Too many open files;"
        " raise the limit on open files\n"
    )


def test_close_during_a_pause_ends_accepting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "ACCEPT_PAUSE", 0.05)
    with serving() as server, tapping(url_of(server.address)) as tap:
        tap.ask(lambda: fail_accept(tap, errno.ENFILE))
        with connect(tap.address):
            poll(lambda: tap.ask(lambda: tap.proxy._paused), "accepting is paused")
            tap.ask(tap.proxy.close)
            tap.ask(tap.proxy._resume)
            tap.ask(lambda: tap.proxy.on_ready(1))
        with pytest.raises(ConnectionRefusedError):
            connect(tap.address)
