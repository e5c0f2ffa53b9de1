"""TLS on the server's non-blocking sockets: real clients, odd timing, and failures."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any, cast

import pytest

from tests.support import (
    PATIENCE,
    RunningServer,
    connect,
    handshake,
    make_certificate,
    poll,
    read_to_end,
    reset,
    serving,
)
from wsproto_min.codes import Opcode
from wsproto_min.connection import Connection, Event, Role
from wsproto_min.errors import HandshakeError
from wsproto_min.frames import encode_close, encode_frame
from wsproto_min.http import Request, Response
from wsproto_min.net.client import connect as connect_url
from wsproto_min.net.peer import Peer
from wsproto_min.net.server import Server
from wsproto_min.net.session import Session
from wsproto_min.net.tls import TLSSocket

MASK = bytes(4)
VERSIONS = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda version: version.name
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def client_context(certificate: Path) -> ssl.SSLContext:
    """A client's TLS configuration, which trusts the certificate."""
    return ssl.create_default_context(cafile=certificate)


@contextmanager
def secure(
    certificate: Path, *, ssl_context: ssl.SSLContext | None = None, **options: Any
) -> Iterator[RunningServer]:
    """Run a server with TLS at `address`, by default an echo server."""
    if ssl_context is None:
        ssl_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ssl_context.load_cert_chain(certificate)
    server = Server(**{"on_message": Peer.send, **options})
    address = server.listen("127.0.0.1", 0, ssl_context)
    with serving(server=server) as running:
        running.address = address
        yield running


def url(running: RunningServer) -> str:
    return f"wss://127.0.0.1:{running.address[1]}/"


def is_served(running: RunningServer, client_context: ssl.SSLContext) -> bool:
    with connect_url(url(running), ssl_context=client_context) as client:
        client.send("is it served?")
        return client.recv(timeout=PATIENCE) == "is it served?"


def text(message: str) -> bytes:
    return encode_frame(Opcode.TEXT, message.encode(), mask=MASK)


class ManualClient:
    """A TLS client without a socket of its own: the test sends its records."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="127.0.0.1")

    def handshake(self, send: Callable[[bytes], None]) -> None:
        while True:
            try:
                self.tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                send(self.outgoing.read())
                self.fetch()
            finally:
                send(self.outgoing.read())

    def fetch(self) -> None:
        data = self.sock.recv(1 << 16)
        assert data, "the server ended the stream"
        self.incoming.write(data)

    def record(self, data: bytes) -> bytes:
        """Return `data` as a TLS record."""
        assert self.tls.write(data) == len(data)
        return self.outgoing.read()

    def read(self) -> bytes:
        while True:
            try:
                return self.tls.read(1 << 16)
            except ssl.SSLWantReadError:
                self.fetch()

    def read_until(self, end: bytes) -> bytes:
        data = b""
        while not data.endswith(end):
            data += self.read()
        return data


def by_single_bytes(sock: socket.socket) -> Callable[[bytes], None]:
    def send(data: bytes) -> None:
        for byte in data:
            sock.sendall(bytes([byte]))

    return send


# Messages.


@VERSIONS
@pytest.mark.parametrize("message", ["", "Hello", b"\0" * 16384, bytes(range(251)) * 20_000])
def test_messages_are_echoed_unchanged(
    certificate: Path, client_context: ssl.SSLContext, version: ssl.TLSVersion, message: str | bytes
) -> None:
    client_context.minimum_version = client_context.maximum_version = version
    limits: dict[str, Any] = {"max_message_size": 8 << 20, "write_buffer_limit": 16 << 20}
    with (
        secure(certificate, **limits) as running,
        connect_url(
            url(running), ssl_context=client_context, compression=None, max_message_size=8 << 20
        ) as client,
    ):
        for _ in range(2):
            client.send(message)
            assert client.recv(timeout=PATIENCE) == message


def test_many_clients_are_served_at_once(certificate: Path, client_context: ssl.SSLContext) -> None:
    with secure(certificate) as running, ExitStack() as stack:
        clients = [
            stack.enter_context(connect_url(url(running), ssl_context=client_context))
            for _ in range(30)
        ]
        for number, client in enumerate(clients):
            client.send(f"{number}" * 10_000)
        for number, client in enumerate(clients):
            assert client.recv(timeout=PATIENCE) == f"{number}" * 10_000


def test_both_sides_may_send_much_at_once(
    certificate: Path, client_context: ssl.SSLContext
) -> None:
    # Each side writes while the other one does not read.
    parts = [bytes([number]) * 200_000 for number in range(40)]
    with (
        secure(certificate, write_buffer_limit=64 << 20) as running,
        connect_url(url(running), ssl_context=client_context, compression=None) as client,
    ):
        for part in parts:
            client.send(part)
        assert [client.recv(timeout=PATIENCE) for _ in parts] == parts


@VERSIONS
def test_handshake_and_request_may_arrive_byte_by_byte(
    certificate: Path, client_context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    client_context.minimum_version = client_context.maximum_version = version
    with secure(certificate) as running, connect(running.address) as sock:
        client, send = ManualClient(sock, client_context), by_single_bytes(sock)
        client.handshake(send)
        send(client.record(handshake()))
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        send(client.record(text("Hello")))
        assert client.read().hex() == "810548656c6c6f"


def test_records_of_one_segment_are_all_answered(
    certificate: Path, client_context: ssl.SSLContext
) -> None:
    # TLS keeps decrypted records, and no selector reports them.
    with secure(certificate) as running, connect(running.address) as sock:
        client = ManualClient(sock, client_context)
        client.handshake(sock.sendall)
        messages = [str(number) * 100 for number in range(100)]
        records = [client.record(handshake()), *(client.record(text(each)) for each in messages)]
        sock.sendall(b"".join(records))
        client.read_until(b"\r\n\r\n")
        connection = Connection(Role.CLIENT)
        received: list[Event] = []
        while len(received) < len(messages):
            connection.receive_data(client.read())
            received += iter(connection.next_event, None)
        assert received == messages


def test_large_record_is_processed_without_further_input(
    certificate: Path, client_context: ssl.SSLContext
) -> None:
    with secure(certificate) as running, connect(running.address) as sock:
        client = ManualClient(sock, client_context)
        client.handshake(sock.sendall)
        sock.sendall(client.record(handshake()))
        client.read_until(b"\r\n\r\n")
        frames = text("x") * 2300
        assert 16000 < len(frames) <= 16384, "not the size of one record"
        sock.sendall(client.record(frames))
        echo = encode_frame(Opcode.TEXT, b"x") * 2300
        assert client.read_until(echo[-300:])


# Clients that do not speak TLS, or stop.


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "the client did not begin TLS on a port with TLS"),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", "the client did not begin TLS on a port with TLS"),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", "the client did not begin TLS on a port with TLS"),
        (b"\0" * 50, "the client did not begin TLS on a port with TLS"),
        (b"\x16\x03\x01\xff\xff" + b"x" * 100, "the TLS handshake failed: "),
    ],
)
def test_plain_bytes_at_a_tls_port_end_that_connection_at_once(
    certificate: Path, client_context: ssl.SSLContext, data: bytes, reason: str
) -> None:
    refusals: list[HandshakeError | None] = []
    with secure(certificate, on_disconnect=lambda peer: refusals.append(peer.refusal)) as running:
        with connect(running.address) as sock:
            sock.sendall(data)
            try:
                response = read_to_end(sock)
            except ConnectionResetError:
                response = b""
            assert not response.startswith(b"HTTP/"), "a plain-text response"
        poll(lambda: refusals, "the peer is disconnected")
        (error,) = refusals
        assert error is not None
        assert reason in error.reason
        assert is_served(running, client_context)


def test_tls_client_at_a_plain_port_is_refused_at_once(
    client_context: ssl.SSLContext,
) -> None:
    refusals: list[HandshakeError | None] = []
    with serving(on_disconnect=lambda peer: refusals.append(peer.refusal)) as running:
        with connect(running.address) as sock, pytest.raises(ssl.SSLError):
            client_context.wrap_socket(sock, server_hostname="127.0.0.1")
        poll(lambda: refusals, "the peer is disconnected")
        (error,) = refusals
        assert error is not None
        assert error.reason == "the client began TLS on a port without TLS; use ws:// or http://"
        with connect_url(f"ws://127.0.0.1:{running.address[1]}/") as client:
            client.send("still there?")
            assert client.recv(timeout=PATIENCE) == "still there?"


def client_hello(client_context: ssl.SSLContext) -> bytes:
    outgoing = ssl.MemoryBIO()
    tls = client_context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0], ids=["none", "half", "all"])
def test_stalled_tls_handshake_ends_without_plain_text(
    certificate: Path, client_context: ssl.SSLContext, share: float
) -> None:
    hello = client_hello(client_context)
    with secure(certificate, open_timeout=0.2) as running, connect(running.address) as sock:
        sock.sendall(hello[: int(len(hello) * share)])
        assert b"HTTP" not in read_to_end(sock)
        running.wait_for_peers(0)


def test_stalled_request_after_the_tls_handshake_gets_408(
    certificate: Path, client_context: ssl.SSLContext
) -> None:
    with (
        secure(certificate, open_timeout=0.3) as running,
        client_context.wrap_socket(
            connect(running.address), server_hostname="127.0.0.1", suppress_ragged_eofs=False
        ) as sock,
    ):
        sock.sendall(b"GET / HTTP/1.1\r\n")
        assert read_to_end(sock).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["closed", "reset"])
def test_clients_leaving_in_the_handshake_are_forgotten(
    certificate: Path, client_context: ssl.SSLContext, leave: Callable[[socket.socket], None]
) -> None:
    hello = client_hello(client_context)
    with secure(certificate) as running:
        for length in (0, 1, 100, len(hello)):
            sock = connect(running.address)
            sock.sendall(hello[:length])
            leave(sock)
        running.wait_for_peers(0)
        assert is_served(running, client_context)


def test_clients_gone_before_accept_disturb_no_other(
    certificate: Path, client_context: ssl.SSLContext
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server = Server(on_message=Peer.send)
    address = server.listen("127.0.0.1", 0, context)
    for data in (b"", b"x", client_hello(client_context)):
        sock = connect(address)
        sock.sendall(data)
        reset(sock)
    with serving(server=server) as running:
        running.address = address
        assert is_served(running, client_context)


def test_untrusted_certificate_ends_that_attempt_only(
    certificate: Path, client_context: ssl.SSLContext
) -> None:
    with secure(certificate) as running:
        with pytest.raises(ssl.SSLCertVerificationError, match="self-signed"):
            connect_url(url(running))
        with (
            connect(running.address) as sock,
            pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for 'example\.com'"),
        ):
            client_context.wrap_socket(sock, server_hostname="example.com")
        running.wait_for_peers(0)
        assert is_served(running, client_context)


def test_connect_to_a_server_without_tls_times_out(
    client_context: ssl.SSLContext,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            connect_url(
                f"wss://127.0.0.1:{listener.getsockname()[1]}/",
                ssl_context=client_context,
                open_timeout=0.2,
            )
        assert 0.2 <= time.monotonic() - started < 2


# The end.


def _by_closing(sock: ssl.SSLSocket) -> None:
    sock.sendall(encode_frame(Opcode.CLOSE, encode_close(1000), mask=MASK))


def _by_a_violation(sock: ssl.SSLSocket) -> None:
    sock.sendall(b"\x81\x00")  # not masked


@VERSIONS
@pytest.mark.parametrize("end", [_by_closing, _by_a_violation])
def test_connection_ends_with_close_notify(
    certificate: Path,
    client_context: ssl.SSLContext,
    version: ssl.TLSVersion,
    end: Callable[[ssl.SSLSocket], None],
) -> None:
    client_context.minimum_version = client_context.maximum_version = version
    with (
        secure(certificate) as running,
        client_context.wrap_socket(
            connect(running.address), server_hostname="127.0.0.1", suppress_ragged_eofs=False
        ) as sock,
    ):
        sock.sendall(handshake())
        assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
        end(sock)
        # Without close_notify, recv() raises "EOF occurred in violation of protocol".
        assert read_to_end(sock)[:1] == b"\x88"
        sock.close()
        running.wait_for_peers(0)


@pytest.mark.parametrize("size", [0, 5_000_000])
def test_page_is_sent_whole_before_close_notify(
    certificate: Path, client_context: ssl.SSLContext, size: int
) -> None:
    page = b"0123456789" * (size // 10)

    def on_request(peer: Peer, request: Request) -> Response:
        return Response(200, body=page)

    with (
        secure(certificate, on_request=on_request, write_buffer_limit=16 << 20) as running,
        client_context.wrap_socket(
            connect(running.address, receive_buffer=8192),
            server_hostname="127.0.0.1",
            suppress_ragged_eofs=False,
        ) as sock,
    ):
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        body = read_to_end(sock).partition(b"\r\n\r\n")[2]
        assert (len(body), body == page) == (len(page), True)


def test_stop_sends_1001_and_close_notify(
    certificate: Path, client_context: ssl.SSLContext
) -> None:
    with secure(certificate) as running:
        sock = client_context.wrap_socket(
            connect(running.address), server_hostname="127.0.0.1", suppress_ragged_eofs=False
        )
        with sock:
            sock.sendall(handshake())
            assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
            running.server.stop(0.1)
            assert read_to_end(sock)[2:4].hex() == "03e9"


def test_close_notify_of_the_client_ends_the_peer(
    certificate: Path, client_context: ssl.SSLContext
) -> None:
    left = threading.Event()
    with (
        secure(certificate, on_close=lambda peer: left.set()) as running,
        client_context.wrap_socket(connect(running.address), server_hostname="127.0.0.1") as sock,
    ):
        sock.sendall(handshake())
        assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
        sock.unwrap().close()
        assert left.wait(PATIENCE)


# TLS that must read to write, or write to read.


class FakeTLS:
    """A stand-in for `ssl.SSLSocket` on a plain socket; it raises the `errors` in turn."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.errors: dict[str, list[Exception]] = {"recv": [], "send": []}
        self.established = True
        self.records: list[bytes] = []  # decrypted; while there are any, recv() returns these
        self.calls: list[str] = []

    def wrap_socket(self, sock: socket.socket, **options: object) -> FakeTLS:
        assert options == {"server_side": True, "do_handshake_on_connect": False}
        return self

    def version(self) -> str | None:
        return "TLSv1.3" if self.established else None

    def fileno(self) -> int:
        return self.sock.fileno()

    def pending(self) -> int:
        return len(self.records[0]) if self.records else 0

    def recv(self, size: int) -> bytes:
        if self.errors["recv"]:
            raise self.errors["recv"].pop(0)
        if self.records:
            record = self.records.pop(0)
            if record[size:]:
                self.records.insert(0, record[size:])
            return record[:size]
        return self.sock.recv(size)

    def send(self, data: bytes | memoryview) -> int:
        if self.errors["send"]:
            raise self.errors["send"].pop(0)
        return self.sock.send(data)

    def unwrap(self) -> None:
        self.calls.append("unwrap")
        raise ssl.SSLWantReadError

    def shutdown(self, how: int) -> None:
        self.calls.append("shutdown")
        self.sock.shutdown(how)

    def close(self) -> None:
        self.calls.append("close")
        self.sock.close()


@pytest.fixture
def pair() -> Iterator[tuple[FakeTLS, TLSSocket, socket.socket]]:
    ours, other = socket.socketpair()
    with ours, other:
        ours.setblocking(False)
        other.settimeout(PATIENCE)
        fake = FakeTLS(ours)
        yield fake, TLSSocket(ours, cast(ssl.SSLContext, fake)), other


Pair = tuple[FakeTLS, TLSSocket, socket.socket]


def test_recv_that_must_write_waits_for_writability(
    pair: Pair,
) -> None:
    fake, tls, other = pair
    fake.errors["recv"] = [ssl.SSLWantWriteError(), ssl.SSLWantReadError()]
    for waits_for in (EVENT_WRITE, EVENT_READ):
        with pytest.raises(BlockingIOError):
            tls.recv(100)
        assert (tls.read_waits_for, tls.write_waits_for) == (waits_for, EVENT_WRITE)
    other.sendall(b"data")
    assert tls.recv(100) == b"data"


def test_send_that_must_read_waits_for_readability(
    pair: Pair,
) -> None:
    fake, tls, other = pair
    fake.errors["send"] = [ssl.SSLWantReadError(), ssl.SSLWantWriteError()]
    for waits_for in (EVENT_READ, EVENT_WRITE):
        with pytest.raises(BlockingIOError):
            tls.send(b"data")
        assert (tls.read_waits_for, tls.write_waits_for) == (EVENT_READ, waits_for)
    assert tls.send(b"data") == 4
    assert other.recv(100) == b"data"


def test_recv_returns_all_decrypted_bytes(pair: Pair) -> None:
    fake, tls, _ = pair
    fake.records = [b"one", b"two", b"three"]
    assert tls.recv(100) == b"onetwothree"
    fake.records = [b"one", b"two"]
    assert [tls.recv(4), tls.recv(4)] == [b"onet", b"wo"], "returned more than requested"


def test_recv_returns_bytes_before_the_end_or_a_block(pair: Pair) -> None:
    fake, tls, other = pair
    fake.records = [b"one", b""]
    fake.pending = lambda: 1  # type: ignore[method-assign]
    assert tls.recv(100) == b"one"
    other.close()
    assert tls.recv(100) == b""
    fake.records = [b"one"]
    fake.sock = cast(socket.socket, type("Raises", (), {"recv": _wants_write})())
    assert tls.recv(100) == b"one"
    assert tls.read_waits_for == EVENT_WRITE


def _wants_write(self: object, size: int) -> bytes:
    raise ssl.SSLWantWriteError


def test_shutdown_and_close_send_close_notify_without_waiting(pair: Pair) -> None:
    fake, tls, other = pair
    assert tls.is_established
    tls.shutdown(socket.SHUT_WR)
    assert other.recv(1) == b""
    tls.close()
    assert fake.calls == ["unwrap", "shutdown", "unwrap", "close"]


def test_session_continues_when_the_awaited_event_comes() -> None:
    ours, other = socket.socketpair()
    ours.setblocking(False)
    other.settimeout(PATIENCE)
    fake = FakeTLS(ours)
    fake.errors["recv"] = [ssl.SSLWantWriteError(), ssl.SSLWantReadError()]
    sending: list[Exception] = [ssl.SSLWantReadError(), ssl.SSLWantWriteError()]
    server = Server(on_message=Peer.send)
    transport = TLSSocket(ours, cast(ssl.SSLContext, fake))
    with serving(server=server) as running, other:
        running.ask(lambda: Session(server._context, transport, "somewhere:1"))
        other.sendall(handshake())
        assert other.recv(4096).endswith(b"\r\n\r\n")
        running.ask(lambda: fake.errors.update(send=sending, recv=[ssl.SSLWantWriteError()]))
        other.sendall(text("Hello"))
        # The echo waits for readability, not for writability.
        poll(lambda: len(sending) == 1, "the server tries to send")
        other.sendall(encode_frame(Opcode.PING, b"p", mask=MASK))
        received = b""
        while len(received) < 10:
            received += other.recv(4096)
        assert received.hex(" ") == "81 05 48 65 6c 6c 6f 8a 01 70"
        other.close()
        running.wait_for_peers(0)
    assert (sending, fake.errors["recv"]) == ([], [])


# Certificates that change, and several names.


def common_name(address: tuple[str, int], name: str) -> str:
    """Return the common name of the certificate that the server presents to a client."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with connect(address) as sock, context.wrap_socket(sock, server_hostname=name) as secured:
        certificate = secured.getpeercert(binary_form=True)
    assert certificate is not None
    return next(name for name in ("localhost", "other.example") if name.encode() in certificate)


def test_load_cert_chain_holds_for_later_connections(
    certificate: Path, client_context: ssl.SSLContext, tmp_path: Path
) -> None:
    other = make_certificate(tmp_path, "other.example")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with (
        secure(certificate, ssl_context=context) as running,
        connect_url(url(running), ssl_context=client_context) as before,
    ):
        running.ask(lambda: context.load_cert_chain(other))
        assert common_name(running.address, "localhost") == "other.example"
        before.send("still open")
        assert before.recv(PATIENCE) == "still open"


def test_sni_callback_chooses_the_certificate(certificate: Path, tmp_path: Path) -> None:
    contexts = {}
    for name, path in (
        ("localhost", certificate),
        ("other.example", make_certificate(tmp_path, "other.example")),
    ):
        contexts[name] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        contexts[name].load_cert_chain(path)

    def choose(sock: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        sock.context = contexts.get(name or "", context)

    contexts["localhost"].sni_callback = choose
    with secure(certificate, ssl_context=contexts["localhost"]) as running:
        for name in (*contexts, "localhost"):
            assert common_name(running.address, name) == name
        assert common_name(running.address, "unknown.example") == "localhost"
