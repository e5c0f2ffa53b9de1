"""Tests of the blocking client, with a server in a thread and with scripted servers."""

from __future__ import annotations

import select
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.reference import reference_decode
from tests.support import PATIENCE, need_ipv6, poll, reset, serving
from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.connection import Connection, Ping, Role, State
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import ConnectionClosed, HandshakeError, ProtocolError
from wsproto_min.frames import FrameDecoder, encode_close, encode_frame
from wsproto_min.http import Request
from wsproto_min.http_reader import HeadReader, parse_request, parse_response
from wsproto_min.net.client import Client, connect
from wsproto_min.net.connector import open_socket
from wsproto_min.net.peer import Peer
from wsproto_min.net.proxy import Proxy
from wsproto_min.net.server import Server
from wsproto_min.net.tcp import alternate_families
from wsproto_min.net.url import WebSocketURL, parse_url
from wsproto_min.server_handshake import Acceptance, accept

HELLO = encode_frame(Opcode.TEXT, b"Hello")  # 81 05 48 65 6c 6c 6f
BYE = encode_frame(Opcode.CLOSE, encode_close(1000, "bye"))
GOING = encode_frame(Opcode.CLOSE, encode_close(1001))

Script = Callable[[socket.socket], None]


def url(address: tuple[str, int]) -> str:
    return f"ws://{address[0]}:{address[1]}/"


@contextmanager
def scripted(script: Script) -> Iterator[str]:
    """Serve one connection by `script` in a thread; yield the URL.

    An exception in the script fails the test, unless the test has failed before.
    """
    errors: list[BaseException] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)

        def run() -> None:
            try:
                sock, _ = listener.accept()
                with sock:
                    sock.settimeout(PATIENCE)
                    script(sock)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield url(listener.getsockname())
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the script has not ended"
    for error in errors:
        raise error


def read_request(sock: socket.socket) -> Request:
    reader = HeadReader()
    while (head := reader.next_head()) is None:
        reader.receive_data(sock.recv(1 << 16))
    return parse_request(head)


def upgrade(sock: socket.socket, then: bytes = b"", **options: Any) -> None:
    """Accept the handshake and send `then` in the same segment."""
    sock.sendall(accept(read_request(sock), **options).response.encode() + then)


def until_close(sock: socket.socket) -> bytes:
    """Return the client's bytes up to its Close frame or the end of its stream."""
    decoder = FrameDecoder(masked=True, rsv1_allowed=True)
    received = b""
    while data := sock.recv(1 << 16):
        received += data
        decoder.receive_data(data)
        while (frame := decoder.next_frame()) is not None:
            if frame.opcode is Opcode.CLOSE:
                return received
    return received


def sends(then: bytes) -> Script:
    """Return a script that accepts the handshake, sends `then` and reads up to the Close."""

    def script(sock: socket.socket) -> None:
        upgrade(sock, then)
        until_close(sock)

    return script


def responds(data: bytes) -> Script:
    """Return a script that answers the handshake with `data` and closes."""

    def script(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(data)

    return script


def arrives(sock: socket.socket, seconds: float) -> bool:
    """Return True if data, or the end of the stream, arrives within `seconds`."""
    return bool(select.select([sock], [], [], seconds)[0])


def refusal(url: str, **options: Any) -> HandshakeError:
    with pytest.raises(HandshakeError) as raised:
        connect(url, **options)
    return raised.value


def closed(client: Client) -> tuple[int, str]:
    """Return code and reason of the ConnectionClosed that `recv` raises."""
    with pytest.raises(ConnectionClosed) as raised:
        client.recv(timeout=PATIENCE)
    return raised.value.code, raised.value.reason


# URLs (section 3)


@pytest.mark.parametrize(
    ("url", "address", "host"),
    [
        ("ws://example.com", WebSocketURL("ws", "example.com", 80, "/"), "example.com"),
        ("ws://example.com/", WebSocketURL("ws", "example.com", 80, "/"), "example.com"),
        ("wss://example.com/a/b", WebSocketURL("wss", "example.com", 443, "/a/b"), "example.com"),
        ("ws://h:80/", WebSocketURL("ws", "h", 80, "/"), "h"),
        ("ws://h:443/", WebSocketURL("ws", "h", 443, "/"), "h:443"),
        ("wss://h:443/", WebSocketURL("wss", "h", 443, "/"), "h"),
        ("wss://h:80/", WebSocketURL("wss", "h", 80, "/"), "h:80"),
        ("ws://h:9001/?a=1&b", WebSocketURL("ws", "h", 9001, "/?a=1&b"), "h:9001"),
        ("ws://h?a=1", WebSocketURL("ws", "h", 80, "/?a=1"), "h"),
        ("ws://h/x?", WebSocketURL("ws", "h", 80, "/x"), "h"),
        ("ws://h/%23%20", WebSocketURL("ws", "h", 80, "/%23%20"), "h"),
        ("WS://EXAMPLE.com/A", WebSocketURL("ws", "example.com", 80, "/A"), "example.com"),
        ("ws://[::1]/", WebSocketURL("ws", "::1", 80, "/"), "[::1]"),
        ("ws://[::1]:9001/x", WebSocketURL("ws", "::1", 9001, "/x"), "[::1]:9001"),
        ("ws://[fe80::1%eth0]/", WebSocketURL("ws", "fe80::1%eth0", 80, "/"), "[fe80::1]"),
        ("ws://my_host.example./", WebSocketURL("ws", "my_host.example.", 80, "/"), None),
        ("ws+unix:/tmp/s", WebSocketURL("ws+unix", "/tmp/s", 0, "/"), "localhost"),
        ("ws+unix:/tmp/s:/a?b", WebSocketURL("ws+unix", "/tmp/s", 0, "/a?b"), "localhost"),
        ("ws+unix:///tmp/s:/a", WebSocketURL("ws+unix", "/tmp/s", 0, "/a"), "localhost"),
        ("ws+unix:s:a", WebSocketURL("ws+unix", "s", 0, "/a"), "localhost"),
    ],
)
def test_url_is_parsed_into_address_and_host_header(
    url: str, address: WebSocketURL, host: str | None
) -> None:
    assert parse_url(url) == address
    assert parse_url(url).host_header == (host or address.host)


@pytest.mark.parametrize(
    ("host", "a_labels"),
    [
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("b%C3%BCcher.example", "xn--bcher-kva.example"),
        ("%61.example", "a.example"),
        ("bücher\u3002example", "xn--bcher-kva.example"),
        ("bücher.example.", "xn--bcher-kva.example."),
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("straße.example", "strasse.example"),
        ("\u2460.example", "1.example"),
    ],
)
def test_url_host_is_in_a_label_form(host: str, a_labels: str) -> None:
    assert parse_url(f"wss://{host}/").host == a_labels
    assert parse_url(f"wss://{host}:9001/").host_header == f"{a_labels}:9001"


@pytest.mark.parametrize(
    "host",
    [
        "a..b",
        ".example",
        "a" * 64 + ".example",
        "ü" * 60 + ".example",
        "a\u0378\ufffd",
        "\u202eabc",
    ],
)
def test_url_host_without_a_label_form_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match=r"not a valid name .*; write its A-label form"):
        parse_url(f"ws://{host}/")


def test_url_host_over_253_characters_is_refused() -> None:
    host = ".".join(["x" * 62] * 4)
    assert parse_url(f"ws://{host}.x/").host == f"{host}.x"
    with pytest.raises(ValueError, match="longer than 253 characters"):
        parse_url(f"ws://{host}.xx/")


@pytest.mark.parametrize("host", ["a b", "a\\b", "a|b", "%00", "a%0d%0aX", "a%2fb", "%40", "<a>"])
def test_url_host_with_a_forbidden_character_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="contains a character that a host name must not have"):
        parse_url(f"ws://{host}/")


def test_connect_idn_host_reaches_lookup_and_header(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[Request] = []
    looked_up: list[object] = []

    def script(sock: socket.socket) -> None:
        requests.append(read_request(sock))
        sock.sendall(accept(requests[0]).response.encode() + BYE)
        until_close(sock)

    with scripted(script) as address:
        port = int(address.rstrip("/").rpartition(":")[2])

        def resolve(host: str, *_: object, **__: object) -> list[Any]:
            looked_up.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        connect("ws://bücher.example/").close()
    assert looked_up == ["xn--bcher-kva.example"]
    assert requests[0].headers.get("Host") == "xn--bcher-kva.example"


def test_connect_idn_host_is_the_server_name_of_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[object] = []

    class Context:
        def wrap_socket(self, sock: socket.socket, *, server_hostname: str) -> socket.socket:
            names.append(server_hostname)
            raise ConnectionAbortedError

    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", listener.getsockname())]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        context: Any = Context()
        with pytest.raises(ConnectionAbortedError):
            connect("wss://bücher.example/", ssl_context=context)
    assert names == ["xn--bcher-kva.example"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ws://h/#top", "fragment"),
        ("ws://h/a#", "fragment"),
        ("ws+unix:/tmp/s:/#x", "fragment"),
        ("http://h/", "is not ws://HOST/PATH"),
        ("h:80", "is not ws://HOST/PATH"),
        ("h", "is not ws://HOST/PATH"),
        ("", "is not ws://HOST/PATH"),
        ("ws:", "is not ws://HOST/PATH"),
        ("ws:///path", "is not ws://HOST/PATH"),
        ("ws+unix:", "is not ws://HOST/PATH"),
        ("ws+unix::/path", "is not ws://HOST/PATH"),
        ("ws://user@h/", "Authorization"),
        ("ws://user:secret@h/", "Authorization"),
        ("ws://@h/", "Authorization"),
        ("ws://h:http/", "[Pp]ort"),
        ("ws://h:65536/", "[Pp]ort"),
        ("ws://[::1/", "IPv6"),
        ("ws://h/a b", "percent-encoded"),
        ("ws://h/\u00e9", "percent-encoded"),
        ("ws://h/?\x7f", "percent-encoded"),
        ("ws+unix:/tmp/s:/a\r\nHost: evil", "percent-encoded"),
    ],
)
def test_url_invalid_raises_value_error_with_reason(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        connect(url)


# Opening handshake


def test_connect_options_appear_in_request() -> None:
    requests: list[Request] = []

    def script(sock: socket.socket) -> None:
        request = read_request(sock)
        requests.append(request)
        sock.sendall(accept(request, subprotocols=["chat"]).response.encode() + BYE)
        until_close(sock)

    with (
        scripted(script) as address,
        connect(
            f"{address}room?id=1",
            subprotocols=["superchat", "chat"],
            headers=[("Authorization", "Bearer x")],
            origin="https://example.com",
        ) as client,
    ):
        assert client.subprotocol == "chat"
    (request,) = requests
    assert request.target == "/room?id=1"
    fields = {name: request.headers.get(name) for name in ("Host", "Origin", "Authorization")}
    assert fields == {
        "Host": address.removeprefix("ws://").strip("/"),
        "Origin": "https://example.com",
        "Authorization": "Bearer x",
    }
    assert request.headers.tokens("Sec-WebSocket-Protocol") == ["superchat", "chat"]
    assert request.headers.get("Sec-WebSocket-Extensions") == DeflateParameters.DEFAULT.to_offer()


@pytest.mark.parametrize(
    ("response", "status", "reason"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\nno such room\nnor any other", 404, "404: no such room"),
        (b"HTTP/1.1 403 Forbidden\r\nX: y\r\n\r\n", 403, "the server answered 403"),
        (b"HTTP/1.1 302 Found\r\nLocation: ws://a/\r\n\r\nover there\r\n", 302, "302: over there"),
        (b"HTTP/1.1 200 OK\r\n\r\n\xff", 200, "200: \ufffd"),
        (b"HTTP/1.1 500 Error\r\n\r\n" + b"x" * 10_000, 500, "500: " + "x" * 500),
        (
            b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyou\r\n0\r\n\r\n",
            403,
            "403: you",
        ),
        (b"HTTP/1.1 403 No\r\nContent-Length: 3\r\n\r\nyou, and more", 403, "403: you"),
        (b"HTTP/1.1 403 No\r\nContent-Length: -1\r\n\r\nyou", 403, "403: you"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n", 0, "the server's response is not HTTP/1.1"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", 0, "the server's response is not HTTP/1.1"),
        (b"HTTP/1.1 101 X\r\nbad line\r\n\r\n", 0, "a header line is not 'Name: value'"),
        (b"", 0, "the server closed the connection without a response"),
        (b"HTTP/1.1 101 Swi", 0, "the server closed the connection without a response"),
        (
            b"HTTP/1.1 101 X\r\nA: " + b"x" * 20_000,
            0,
            "the head of the server's response is too long",
        ),
    ],
)
def test_refusal_raises_with_status_and_first_body_line(
    response: bytes, status: int, reason: str
) -> None:
    with scripted(responds(response)) as address:
        error = refusal(address, max_redirects=0)
    assert error.status == status
    assert error.reason.endswith(reason), error.reason


def test_refusal_on_kept_open_connection_raises_at_once() -> None:
    def script(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 3\r\n\r\nyou")
        assert sock.recv(1) == b""

    with scripted(script) as address:
        started = time.monotonic()
        assert refusal(address).reason == "the server answered 403: you"
        assert time.monotonic() - started < 5


def test_connect_skips_interim_responses_and_traces_each() -> None:
    heads: list[bytes] = []
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"

    def trace(sender: Role, data: bytes) -> None:
        if sender is Role.SERVER and data.startswith(b"HTTP/"):
            heads.append(data)

    def script(sock: socket.socket) -> None:
        response = accept(read_request(sock)).response.encode()
        sock.sendall(hints + hints + response + HELLO)
        until_close(sock)

    with scripted(script) as address, connect(address, trace=trace, close_timeout=0) as client:
        assert client.recv(PATIENCE) == "Hello"
    assert heads[:2] == [hints, hints]
    assert [parse_response(head[:-4]).status for head in heads] == [103, 103, 101]


def test_refusal_error_carries_response_headers() -> None:
    response = b"HTTP/1.1 302 Found\r\nLocation: ws://elsewhere/\r\n\r\n"
    with scripted(responds(response)) as address:
        error = refusal(address, max_redirects=0)
        assert error.headers == (("location", "ws://elsewhere/"),)


END = b"\r\n\r\n"


def altered(old: bytes, new: bytes) -> Script:
    """Return a script that accepts the handshake with `old` replaced by `new`."""

    def script(sock: socket.socket) -> None:
        response = accept(read_request(sock)).response.encode()
        assert old in response
        sock.sendall(response.replace(old, new))

    return script


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (b"Sec-WebSocket-Accept: ", b"Sec-WebSocket-Accept: x", "Accept does not fit the key"),
        (b"Upgrade: websocket", b"Upgrade: h2c", "Upgrade must be 'websocket'"),
        (b"Connection: Upgrade", b"Connection: close", "Connection must include 'Upgrade'"),
        (END, b"\r\nSec-WebSocket-Protocol: x" + END, "subprotocol that was not offered"),
        (END, b"\r\nSec-WebSocket-Extensions: x" + END, "extension that was not offered: x"),
    ],
)
def test_response_breaking_a_rule_raises_with_section(old: bytes, new: bytes, rule: str) -> None:
    with scripted(altered(old, new)) as address:
        error = refusal(address)
    assert error.status == 101
    assert rule in error.reason
    assert "(RFC 6455, 4.1)" in error.reason


def test_connect_to_unreachable_server_raises_oserror(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, but not listening
        with pytest.raises(ConnectionRefusedError):
            connect(url(unused.getsockname()))
    with pytest.raises(FileNotFoundError):
        connect(f"ws+unix:{tmp_path}/missing")


def drips(start: bytes, byte: bytes) -> Script:
    """Return a script that answers `start`, then `byte` again and again until the client closes."""

    def script(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(start)
        with suppress(ConnectionError):
            while not arrives(sock, 0.02):
                sock.sendall(byte)

    return script


def test_slow_response_head_does_not_extend_open_timeout() -> None:
    with scripted(drips(b"HTTP/1.1 101 X\r\nA: ", b"x")) as address:
        started = time.monotonic()
        with pytest.raises(TimeoutError, match="timed out"):
            connect(address, open_timeout=0.15)
        assert 0.15 <= time.monotonic() - started < 2


def test_slow_refusal_body_is_quoted_as_far_as_it_arrived() -> None:
    with scripted(drips(b"HTTP/1.1 403 Forbidden\r\n\r\nno", b"o")) as address:
        error = refusal(address, open_timeout=0.4)
    assert error.status == 403
    assert "the server answered 403: no" in error.reason


def test_server_without_response_times_out_at_open_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            connect(url(listener.getsockname()), open_timeout=0.1)
        assert 0.1 <= time.monotonic() - started < 2


@pytest.mark.parametrize("data", [HELLO, HELLO * 3 + BYE])
def test_messages_in_same_read_as_response_are_received(data: bytes) -> None:
    with scripted(sends(data)) as address, connect(address) as client:
        for _ in range(data.count(HELLO)):
            assert client.recv() == "Hello"


# Messages


@pytest.mark.parametrize(
    "compression",
    [
        None,
        DeflateParameters.DEFAULT,
        DeflateParameters.NO_CONTEXT_TAKEOVER,
        DeflateParameters(True, False, 9, 9),
    ],
)
def test_messages_round_trip_with_any_compression(
    compression: DeflateParameters | None,
) -> None:
    def on_request(peer: Peer, request: Request) -> Acceptance:
        return accept(request, compression=DeflateParameters.DEFAULT)

    with (
        serving(
            on_request=on_request, compression_threshold=0, write_buffer_limit=8 << 20
        ) as running,
        connect(url(running.address), compression=compression, compression_threshold=0) as client,
    ):
        for message in ("", "Hello", b"", bytes(range(256)), "x" * 70_000, b"\0" * (1 << 20)):
            client.send(message)
            assert client.recv(timeout=PATIENCE) == message


def test_messages_from_threshold_size_are_compressed() -> None:
    seen: list[bytes] = []

    def trace(sender: Role, data: bytes) -> None:
        if sender is Role.CLIENT:
            seen.append(data)

    with (
        serving() as running,
        connect(url(running.address), compression_threshold=100, trace=trace) as client,
    ):
        client.send("x" * 99)
        client.send("x" * 100)
    # The request; FIN, text; FIN, RSV1, text; FIN, Close.
    assert [data[0] for data in seen] == [ord("G"), 0x81, 0xC1, 0x88]


def test_each_frame_has_its_own_masking_key() -> None:
    sent = bytearray()

    def script(sock: socket.socket) -> None:
        upgrade(sock)
        sent.extend(until_close(sock))

    with scripted(script) as address:
        client = connect(address, close_timeout=0.0)
        for _ in range(50):
            client.send("Hello")
        client.close()
    frames = reference_decode(bytes(sent), masked=True).frames
    assert len(frames) == 51
    assert len({frame.masking_key for frame in frames}) == 51


def test_recv_after_timeout_returns_the_late_message() -> None:
    ready = threading.Event()

    def script(sock: socket.socket) -> None:
        upgrade(sock)
        assert ready.wait(PATIENCE)
        sock.sendall(HELLO[:3])
        assert sock.recv(1 << 16)
        sock.sendall(HELLO[3:] + BYE)
        until_close(sock)

    with scripted(script) as address, connect(address) as client:
        for timeout in (0, 0.05):
            with pytest.raises(TimeoutError):
                client.recv(timeout)
        ready.set()
        poll(lambda: select.select([client], [], [], 0)[0], "half a message arrives")
        with pytest.raises(TimeoutError):
            client.recv(timeout=0)
        client.send("go on")
        assert client.recv(timeout=PATIENCE) == "Hello"


def test_recv_with_zero_timeout_returns_received_messages() -> None:
    with scripted(sends(HELLO * 2)) as address:
        client = connect(address, close_timeout=0.0)
        assert client.recv() == "Hello"
        assert client.recv(timeout=0) == "Hello"
        with pytest.raises(TimeoutError):
            client.recv(timeout=0)
        client.close()


def test_recv_answers_pings_while_waiting() -> None:
    answered: list[bytes] = []

    def script(sock: socket.socket) -> None:
        upgrade(sock, encode_frame(Opcode.PING, b"p"))
        answered.append(sock.recv(1 << 16))
        sock.sendall(HELLO + BYE)
        until_close(sock)

    with scripted(script) as address, connect(address) as client:
        assert client.recv(timeout=PATIENCE) == "Hello"
    (frame,) = reference_decode(answered[0], masked=True).frames
    assert (frame.opcode, frame.payload) == (Opcode.PONG, b"p")


def test_ping_measures_round_trip_and_keeps_messages() -> None:
    def script(sock: socket.socket) -> None:
        upgrade(sock)
        connection = Connection(Role.SERVER)
        connection.send("one")
        connection.pong(b"unasked")
        connection.send("two")
        data = sock.recv(1 << 16)
        arrives(sock, 0.05)  # delay of the Pong
        sock.sendall(connection.data_to_send())
        connection.receive_data(data)
        assert isinstance(connection.next_event(), Ping)
        connection.send("three")
        connection.close()
        sock.sendall(connection.data_to_send())
        until_close(sock)

    with scripted(script) as address, connect(address) as client:
        latency = client.ping(timeout=PATIENCE)
        assert 0.05 <= latency < PATIENCE
        assert [client.recv() for _ in range(3)] == ["one", "two", "three"]


def test_ping_ignores_late_pong_of_previous_ping() -> None:
    def script(sock: socket.socket) -> None:
        upgrade(sock)
        first = sock.recv(1 << 16)
        second = sock.recv(1 << 16)
        connection = Connection(Role.SERVER)
        connection.receive_data(first)
        assert isinstance(connection.next_event(), Ping)
        sock.sendall(connection.data_to_send())
        assert not arrives(sock, 0.05), "the client closed after the late Pong of its first Ping"
        connection.receive_data(second)
        assert isinstance(connection.next_event(), Ping)
        sock.sendall(connection.data_to_send() + BYE)
        until_close(sock)

    with scripted(script) as address, connect(address) as client:
        with pytest.raises(TimeoutError):
            client.ping(timeout=0.05)
        assert client.ping(timeout=PATIENCE) >= 0.05


# Closing


@pytest.mark.parametrize("code", [1000, 1001])
def test_iteration_ends_at_normal_close(code: int) -> None:
    close = encode_frame(Opcode.CLOSE, encode_close(code))
    with scripted(sends(HELLO * 2 + close)) as address, connect(address) as client:
        assert list(client) == ["Hello", "Hello"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (encode_frame(Opcode.CLOSE, b""), 1005),
        (encode_frame(Opcode.CLOSE, encode_close(1011)), 1011),
        (encode_frame(Opcode.CLOSE, encode_close(4000)), 4000),
    ],
)
def test_iteration_raises_at_other_close_codes(data: bytes, code: int) -> None:
    got: list[str | bytes] = []
    with scripted(sends(HELLO + data)) as address, connect(address) as client:
        with pytest.raises(ConnectionClosed) as raised:
            got.extend(client)
        assert raised.value.code == code


def test_calls_after_server_close_raise_its_code_and_reason() -> None:
    with scripted(sends(HELLO + BYE)) as address, connect(address) as client:
        assert client.recv() == "Hello"
        assert (client.close_code, client.close_reason) == (None, "")
        assert [closed(client), closed(client)] == [(1000, "bye")] * 2
        assert (client.close_code, client.close_reason) == (1000, "bye")
        with pytest.raises(ConnectionClosed, match="1000 bye"):
            client.send("too late")
        with pytest.raises(ConnectionClosed, match="1000 bye"):
            client.ping()
        assert client.fileno() == -1, "the socket is still open"


@pytest.mark.parametrize("end", [socket.socket.close, reset], ids=["closed", "reset"])
def test_stream_end_without_close_frame_is_1006(end: Callable[[socket.socket], None]) -> None:
    def script(sock: socket.socket) -> None:
        upgrade(sock, HELLO)
        assert sock.recv(1 << 16)
        end(sock)

    with scripted(script) as address, connect(address) as client:
        assert client.recv() == "Hello"
        client.send("go")
        assert closed(client) == (1006, "the server is gone")
        assert client.connection.state is State.CLOSED
        assert (client.close_code, client.close_reason) == (1006, "")


def test_send_of_a_wrong_type_raises_and_keeps_the_client_open() -> None:
    with serving() as running, connect(url(running.address)) as client:
        wrong: Any
        for wrong, kind in ((bytearray(b"hi"), "bytearray"), ([104, 105], "int"), (5, "int")):
            with pytest.raises(TypeError, match=f"a message is str or bytes, not {kind}"):
                client.send(wrong)
        client.send("hi")
        assert client.recv(timeout=PATIENCE) == "hi"


def test_send_bytes_as_text_is_checked_and_arrives_as_text() -> None:
    with serving() as running, connect(url(running.address)) as client:
        with pytest.raises(ValueError, match="text: not UTF-8 at byte 0; send it as binary"):
            client.send(b"\xff", text=True)
        client.send("Hé".encode(), text=True, compress=False)
        assert client.recv(timeout=PATIENCE) == "Hé"


def send_often(client: Client) -> None:
    for _ in range(100):
        client.send("hello?")


def test_send_on_lost_connection_raises_connection_closed() -> None:
    def script(sock: socket.socket) -> None:
        upgrade(sock, HELLO)
        reset(sock)

    with scripted(script) as address, connect(address) as client:
        poll(lambda: select.select([client], [], [], 0)[0], "the reset arrives")
        with pytest.raises(ConnectionClosed) as raised:
            send_often(client)  # the first send may precede the RST
        assert (raised.value.code, raised.value.reason) == (1006, "the server is gone")
        with pytest.raises(ConnectionClosed):
            client.ping()
        assert client.recv() == "Hello", "a message received before the reset is lost"


def test_close_sends_code_and_keeps_late_messages() -> None:
    received: list[bytes] = []

    def script(sock: socket.socket) -> None:
        upgrade(sock)
        received.append(sock.recv(1 << 16))
        sock.sendall(HELLO + encode_frame(Opcode.PING, b"p") + HELLO)
        received.append(sock.recv(1 << 16))
        sock.sendall(BYE)

    with scripted(script) as address:
        client = connect(address)
        client.close(4000, "enough")
        client.close()  # does nothing
        assert [client.recv(), client.recv()] == ["Hello", "Hello"]
        assert closed(client) == (1000, "bye")
    (close,) = reference_decode(received[0], masked=True).frames
    assert (close.opcode, close.payload) == (Opcode.CLOSE, encode_close(4000, "enough"))
    (pong,) = reference_decode(received[1], masked=True).frames
    assert (pong.opcode, pong.payload) == (Opcode.PONG, b"p")


def test_close_with_reserved_code_raises_and_keeps_open() -> None:
    with serving() as running, connect(url(running.address)) as client:
        with pytest.raises(ValueError, match="1006 must not be sent"):
            client.close(1006)
        client.send("still here")
        assert client.recv() == "still here"


@pytest.mark.parametrize(
    ("error", "code"), [(None, 1000), (ZeroDivisionError, 1011), (KeyboardInterrupt, 1011)]
)
def test_with_block_closes_with_code_for_its_outcome(
    error: type[BaseException] | None, code: int
) -> None:
    closes: list[tuple[int, str]] = []

    def on_close(peer: Peer) -> None:
        assert peer.connection is not None
        assert peer.connection.close_received is not None
        closes.append((peer.connection.close_received.code, peer.address))

    with serving(on_close=on_close) as running:
        with suppress(ZeroDivisionError, KeyboardInterrupt), connect(url(running.address)):
            if error is not None:
                raise error
        running.wait_for_peers(0)
    assert [found for found, _ in closes] == [code]


@pytest.mark.parametrize("talks", [False, True])
def test_close_ends_at_close_timeout_if_server_stays(
    talks: bool,
) -> None:
    def script(sock: socket.socket) -> None:
        upgrade(sock)
        assert sock.recv(1 << 16)
        with suppress(ConnectionError):
            while not arrives(sock, 0.02):  # until the client closes TCP
                if talks:
                    sock.sendall(HELLO)

    with scripted(script) as address:
        client = connect(address, close_timeout=0.15)
        started = time.monotonic()
        client.close()
        assert 0.15 <= time.monotonic() - started < 2
        assert client.fileno() == -1
        assert client.close_code == 1006
        if talks:
            assert client.recv() == "Hello"


def test_recv_after_both_closes_lets_the_server_end_tcp() -> None:
    ended = threading.Event()

    def script(sock: socket.socket) -> None:
        upgrade(sock, BYE)
        until_close(sock)
        # A client that closes TCP here resets it when the server sends more, as TLS does.
        assert not arrives(sock, 0.1)
        ended.wait(PATIENCE)

    with scripted(script) as address:
        client = connect(address)
        for timeout in (0, 0.2):
            with pytest.raises(TimeoutError):
                client.recv(timeout)
        assert client.fileno() != -1
        ended.set()
        assert closed(client) == (1000, "bye")
        assert client.fileno() == -1


@pytest.mark.parametrize("talks", [False, True])
@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_recv_ends_at_close_timeout_if_server_stays(talks: bool, timeout: float | None) -> None:
    def script(sock: socket.socket) -> None:
        upgrade(sock, BYE)
        until_close(sock)
        with suppress(ConnectionError):
            while not arrives(sock, 0.02):  # until the client closes TCP
                if talks:
                    sock.sendall(HELLO)

    with scripted(script) as address:
        client = connect(address, close_timeout=0.15)
        started = time.monotonic()
        with pytest.raises(ConnectionClosed, match="1000 bye"):
            client.recv(timeout)
        assert 0.15 <= time.monotonic() - started < 2


@pytest.mark.parametrize("wait", ["recv", "ping"])
def test_server_sending_nonstop_does_not_extend_timeout(wait: str) -> None:
    stop = threading.Event()

    def script(sock: socket.socket) -> None:
        upgrade(sock)
        with suppress(OSError):
            while not stop.is_set():
                sock.sendall(encode_frame(Opcode.PONG, b"x" * 125) * 1000)

    with scripted(script) as address:
        client = connect(address, close_timeout=0.1)
        started = time.monotonic()
        with pytest.raises(TimeoutError, match="no data arrived within the time limit"):
            getattr(client, wait)(timeout=0.1)
        assert 0.1 <= time.monotonic() - started < 5
        client.close()
        stop.set()
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("wait", ["recv", "ping"])
def test_server_not_reading_gets_whole_frames_after_timeout(
    wait: str,
) -> None:
    number = 5000  # more Pongs than the buffers of both sockets hold
    reads = threading.Event()
    opcodes: list[Opcode] = []

    def read(sock: socket.socket) -> None:
        reads.wait(PATIENCE)
        decoder = FrameDecoder(masked=True)
        decoder.receive_data(until_close(sock))
        while (frame := decoder.next_frame()) is not None:
            opcodes.append(frame.opcode)

    def script(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        upgrade(sock)
        reader = threading.Thread(target=read, args=[sock], daemon=True)
        reader.start()
        sock.sendall(encode_frame(Opcode.PING, b"x" * 125) * number + HELLO)
        reader.join(PATIENCE)

    with scripted(script) as address, connect(address, compression=None) as client:
        with socket.socket(fileno=socket.dup(client.fileno())) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        started = time.monotonic()
        with pytest.raises(TimeoutError, match="the server did not read within the time limit"):
            getattr(client, wait)(timeout=0.2)
        assert 0.2 <= time.monotonic() - started < 5
        reads.set()
        assert client.recv(PATIENCE) == "Hello"
    assert opcodes.count(Opcode.PONG) == number
    assert opcodes[-1] is Opcode.CLOSE


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_open_timeout_includes_name_lookup(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()

        def resolve(*_: object, **options: object) -> list[Any]:
            time.sleep(0.15)
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address)]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        with pytest.raises(TimeoutError):
            connect(f"{scheme}://slow.example/", open_timeout=0.1)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):  # no connection was tried
            listener.accept()


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_open_timeout_includes_all_addresses(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as stack:
        for _ in range(3):  # fill the accept queue, so that further connects wait
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", full.getsockname())] * 10
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            connect(f"{scheme}://full.example/", open_timeout=0.2)
        assert 0.2 <= time.monotonic() - started < 1.5  # not 10 times 0.2


Found = tuple[int, int, int, str, Any]


@contextmanager
def silent_address(host: str = "127.0.0.1") -> Iterator[Found]:
    """Yield an address that leaves connection attempts unanswered."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=0) as full, ExitStack() as stack:
        for _ in range(3):  # fill the accept queue
            sock = stack.enter_context(socket.socket(family))
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        yield (family, socket.SOCK_STREAM, 0, "", full.getsockname())


@pytest.mark.parametrize(
    ("silent", "open_timeout", "seconds"), [(1, 10.0, 0.25), (3, 10.0, 0.75), (3, 0.4, 0.3)]
)
def test_connect_tries_next_address_while_one_is_silent(
    silent: int, open_timeout: float, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent_address() as address, scripted(sends(HELLO)) as server:
        port = int(server.rstrip("/").rpartition(":")[2])
        found = [address] * silent
        found.append((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        started = time.monotonic()
        with connect("ws://two.example/", open_timeout=open_timeout) as client:
            assert seconds - 0.01 <= time.monotonic() - started < seconds + 0.25
            assert client.recv(PATIENCE) == "Hello"


def test_connect_over_broken_ipv6_uses_ipv4_after_one_delay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need_ipv6()
    opened: list[socket.socket] = []

    class Recorded(socket.socket):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            opened.append(self)

    with (
        silent_address("::1") as first,
        silent_address("::1") as second,
        scripted(sends(HELLO)) as server,
    ):
        port = int(server.rstrip("/").rpartition(":")[2])
        ipv4 = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [first, second, ipv4])
        monkeypatch.setattr("wsproto_min.net.tcp.socket.socket", Recorded)
        started = time.monotonic()
        with connect("ws://dual.example/", open_timeout=PATIENCE) as client:
            assert time.monotonic() - started >= 0.24
            assert client.recv(PATIENCE) == "Hello"
        # The second address over IPv6 would come after that over IPv4.
        (loser,) = [sock for sock in opened if sock.family == socket.AF_INET6]
        assert loser.fileno() == -1


def test_connect_waits_for_a_silent_address_after_a_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        refusing = (socket.AF_INET, socket.SOCK_STREAM, 0, "", free.getsockname())
    with silent_address() as silent:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [silent, refusing])
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            connect("ws://two.example/", open_timeout=0.4)
        assert 0.39 <= time.monotonic() - started < 2


def test_connect_slow_first_address_still_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_address() as silent, scripted(sends(HELLO)) as server:
        port = int(server.rstrip("/").rpartition(":")[2])
        slow = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [slow, silent, silent])
        select_sockets = selectors.DefaultSelector.select
        waits: list[float | None] = []

        def select_late(self: Any, timeout: float | None = None) -> list[Any]:
            waits.append(timeout)
            return select_sockets(self, timeout) if len(waits) > 2 else []

        monkeypatch.setattr(selectors.DefaultSelector, "select", select_late)
        with connect("ws://two.example/") as client:
            assert client.recv(PATIENCE) == "Hello"
        assert waits[:2] == [0.25, 0.25]


def test_connect_alternates_between_address_families() -> None:
    ipv6, ipv4 = socket.AF_INET6, socket.AF_INET
    found = [
        (family, 0, 0, "", name)
        for family, name in zip([ipv6] * 3 + [ipv4] * 2, "abcde", strict=True)
    ]
    assert "".join(name for _, name in alternate_families(found)) == "adbec"


def test_connect_closes_sockets_of_other_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []

    class Recorded(socket.socket):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            opened.append(self)

    with silent_address() as silent, scripted(sends(HELLO)) as server:
        port = int(server.rstrip("/").rpartition(":")[2])
        found = [silent, (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)), silent]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        monkeypatch.setattr("wsproto_min.net.tcp.socket.socket", Recorded)
        with connect("ws://two.example/"):
            attempts = [sock for sock in opened if sock.family == socket.AF_INET][:2]
            assert [sock.fileno() == -1 for sock in attempts] == [True, False]


def test_connect_tries_all_addresses_and_raises_last_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        refusing = free.getsockname()
    unknown = 12345  # a family that no machine has
    found = [
        (unknown, socket.SOCK_STREAM, 0, "", refusing),
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", refusing),
    ]
    with scripted(sends(HELLO)) as address:
        port = int(address.rstrip("/").rpartition(":")[2])
        found.append((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with connect("ws://two.example/") as client:
            assert client.recv(PATIENCE) == "Hello"
        found.pop()
        with pytest.raises(ConnectionRefusedError):
            connect("ws://two.example/")
        found.pop()
        with pytest.raises(OSError, match="not supported"):
            connect("ws://two.example/")
        found.pop()
        with pytest.raises(OSError, match=r"two\.example: the name has no address"):
            connect("ws://two.example/")


@pytest.mark.parametrize("close_timeout", [0.2, 0.0])
def test_close_is_not_delayed_by_server_that_only_pings(
    close_timeout: float,
) -> None:
    stop = threading.Event()

    def script(sock: socket.socket) -> None:
        upgrade(sock)
        with suppress(OSError):
            while not stop.is_set():
                sock.sendall(encode_frame(Opcode.PING, b"x" * 125) * 100)

    with scripted(script) as address:
        client = connect(address, close_timeout=close_timeout)
        # A small send buffer, so that the client waits early.
        sock = socket.socket(fileno=socket.dup(client.fileno()))
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        started = time.monotonic()
        client.close()
        stop.set()
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("data", "section"),
    [
        ("81 85 37fa213d 7f9f4d5158", "a server's frame is masked (RFC 6455, 5.1)"),
        ("83 00", "opcode 0x3 is reserved (RFC 6455, 5.2)"),
        ("81 01 ff", "a text message is not UTF-8 (RFC 6455, 8.1)"),
    ],
)
def test_violation_raises_after_earlier_messages(data: str, section: str) -> None:
    received = bytearray()

    def script(sock: socket.socket) -> None:
        upgrade(sock, HELLO * 2 + bytes.fromhex(data))
        received.extend(until_close(sock))

    with scripted(script) as address, connect(address, compression=None) as client:
        for message in ("one", "two"):
            assert client.recv() == "Hello"
            client.send(message)
        for _ in range(2):
            with pytest.raises(ProtocolError) as raised:
                client.recv()
            assert raised.value.reason == section
        assert (client.close_code, client.close_reason) == (raised.value.code, section)
        with pytest.raises(ConnectionClosed):
            client.send("three")
    *replies, close = reference_decode(bytes(received), masked=True).frames
    assert [reply.payload for reply in replies] == [b"one", b"two"]
    assert close.opcode == Opcode.CLOSE
    assert close.payload[2:].decode() == section


def test_violation_of_disconnected_server_raises() -> None:
    def script(sock: socket.socket) -> None:
        upgrade(sock, HELLO + bytes.fromhex("83 00"))
        sock.recv(1)  # leaves input unread, so that close() sends RST
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes(8))

    with scripted(script) as address, connect(address) as client:
        assert client.recv() == "Hello"
        client.send("go")
        with pytest.raises(ProtocolError, match="opcode 0x3 is reserved"):
            client.recv(timeout=PATIENCE)


def test_message_over_size_limit_raises() -> None:
    with (
        serving() as running,
        connect(url(running.address), max_message_size=1000, max_fragments=2) as client,
    ):
        client.send("x" * 1000)
        assert client.recv() == "x" * 1000
        client.send("x" * 1001)
        with pytest.raises(ProtocolError, match="larger than 1000 bytes"):
            client.recv()


def test_ping_raises_violation_and_keeps_earlier_messages() -> None:
    with scripted(sends(HELLO + bytes.fromhex("83 00"))) as address, connect(address) as client:
        with pytest.raises(ProtocolError):
            client.ping()
        assert client.recv() == "Hello"
        with pytest.raises(ProtocolError):
            client.recv()


# Trace, sockets, close codes


def test_trace_gets_every_byte_in_order() -> None:
    shown: dict[Role, bytes] = {Role.CLIENT: b"", Role.SERVER: b""}
    received = bytearray()

    def trace(sender: Role, data: bytes) -> None:
        assert data, "the trace was called without data"
        shown[sender] += data

    def script(sock: socket.socket) -> None:
        upgrade(sock, HELLO)
        received.extend(sock.recv(1 << 16))
        sock.sendall(encode_frame(Opcode.PING, b"p") + BYE)
        received.extend(until_close(sock))

    with scripted(script) as address, connect(address, trace=trace) as client:
        assert client.recv() == "Hello"
        client.send("hi")
        assert list(client) == []
    request, _, sent = shown[Role.CLIENT].partition(b"\r\n\r\n")
    assert parse_request(request).target == "/"
    assert sent == bytes(received)
    response, _, frames = shown[Role.SERVER].partition(b"\r\n\r\n")
    assert parse_response(response).status == 101
    assert frames == HELLO + encode_frame(Opcode.PING, b"p") + BYE
    opcodes = [frame.opcode for frame in reference_decode(bytes(received)).frames]
    assert opcodes == [Opcode.TEXT, Opcode.PONG, Opcode.CLOSE]


def test_connect_over_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    hosts: list[str | None] = []

    def on_request(peer: Peer, request: Request) -> Acceptance:
        hosts.append(request.headers.get("Host"))
        return accept(request)

    server = Server(on_message=Peer.send, on_request=on_request)
    server.listen_unix(str(path))
    with serving(server=server), connect(f"ws+unix:{path}:/room") as client:
        client.send("Hello")
        assert client.recv(timeout=PATIENCE) == "Hello"
    assert hosts == ["localhost"]


def test_connect_without_unix_sockets_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(OSError, match="ws\\+unix: this system has no Unix sockets; use ws or wss"):
        connect("ws+unix:/tmp/s")


def test_failed_connect_closes_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []

    def fail(sender: Role, data: bytes) -> None:
        raise ZeroDivisionError

    def recording(
        address: WebSocketURL,
        deadline: float,
        context: ssl.SSLContext | None,
        proxy: Proxy | None,
    ) -> socket.socket:
        sock = open_socket(address, deadline, context, proxy)
        opened.append(sock)
        return sock

    monkeypatch.setattr("wsproto_min.net.connector.open_socket", recording)
    with scripted(responds(b"HTTP/1.1 403 No\r\n\r\n")) as address:
        refusal(address)
    with scripted(lambda sock: None) as address, pytest.raises(ZeroDivisionError):
        connect(address, trace=fail)
    assert [sock.fileno() for sock in opened] == [-1, -1]
    with pytest.raises(ValueError, match="control"):
        connect("ws://127.0.0.1/", headers=[("X", "a\r\nY: b")])
    assert len(opened) == 2


def test_close_reply_echoes_the_servers_code() -> None:
    received = bytearray()

    def script(sock: socket.socket) -> None:
        upgrade(sock, GOING)
        received.extend(until_close(sock))

    with scripted(script) as address, connect(address) as client:
        assert closed(client) == (CloseCode.GOING_AWAY, "")
    (frame,) = reference_decode(bytes(received), masked=True).frames
    assert (frame.opcode, frame.payload.hex()) == (Opcode.CLOSE, "03e9")
