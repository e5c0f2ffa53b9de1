"""The chat server from end to end: a process, and sockets on 127.0.0.1."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support import (
    PATIENCE,
    ROOT,
    Client,
    Daemon,
    command,
    connect,
    daemon,
    exchange,
    handshake,
    need_ipv6,
    reset,
)
from wsproto_min.codes import CloseCode, Opcode
from wsproto_min.connection import Close
from wsproto_min.frames import encode_close, encode_frame

MASK = bytes.fromhex("37fa213d")
# No files and no limit on the message rate.
ALONE = ("--db", ":memory:", "--rate-limit", "0")
GET_PAGE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
# Seconds within which chatd must end.
STOPS_WITHIN = 2.0

SIGNALS = pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name
)


@pytest.fixture(scope="module")
def shared_chat() -> Iterator[Daemon]:
    """Run one server for all tests with rooms of their own; it must log no error."""
    with daemon("chatd", "--port", "0", *ALONE) as running:
        yield running
        assert running.stop(within=PATIENCE) == (0, ""), "an earlier test caused a log line"


@pytest.fixture
def chat(shared_chat: Daemon) -> Daemon:
    assert shared_chat.process.poll() is None, "an earlier test has ended the server"
    return shared_chat


def text(message: str) -> bytes:
    """Return a client's text frame."""
    return encode_frame(Opcode.TEXT, message.encode(), mask=MASK)


def welcome(newcomer: Client, host: Client) -> None:
    """Send a message from `host` that `newcomer` must receive."""
    host.send("welcome")
    assert newcomer.receive() == "welcome"


# Messages.


def test_fifty_peers_receive_all_messages_in_order_and_unchanged(
    chat: Daemon,
) -> None:
    texts = [
        "hello",
        "",
        " spaces and\nlines\r\n\t",
        "\ufeff a mark, a \0 zero, e\u0301 and \u00e9, \u202e right to left",
        "😀 Grüße из 東京",
        '{"type": "say"} <script>alert(1)</script>',
        "x" * 126,
        "y" * 3900,
        "repeated",
        "repeated",
    ]

    def texts_of(sender: int) -> list[str]:
        # Long messages of one sender are enough.
        return [f"{sender} {text if sender == 0 else text[:200]}" for text in texts]

    with ExitStack() as stack:
        peers = [stack.enter_context(Client(chat.address, "/r/fifty")) for _ in range(50)]
        for number in range(len(texts)):
            for sender, peer in enumerate(peers):
                peer.send(texts_of(sender)[number])
        for receiver, peer in enumerate(peers):
            received: dict[str, list[str]] = {}
            for _ in range(49 * len(texts)):
                message = peer.receive()
                assert isinstance(message, str)
                received.setdefault(message.partition(" ")[0], []).append(message)
            for sender in range(50):
                expected = [] if sender == receiver else texts_of(sender)
                assert received.get(str(sender), []) == expected, f"from {sender} to {receiver}"


def test_fragmented_message_arrives_unchanged(chat: Daemon) -> None:
    message = bytes(range(0x20)) + "\x7f é e\u0301 \ufeff 😀 \U0010ffff".encode()
    with Client(chat.address, "/r/bytes") as listener, Client(chat.address, "/r/bytes") as speaker:
        speaker.sock.sendall(
            # Three fragments, split within a character, with a Ping between them.
            encode_frame(Opcode.TEXT, message[:-2], fin=False, mask=MASK)
            + encode_frame(Opcode.PING, b"", mask=MASK)
            + encode_frame(Opcode.CONTINUATION, b"", fin=False, mask=MASK)
            + encode_frame(Opcode.CONTINUATION, message[-2:], mask=MASK)
        )
        received = b""
        expected = encode_frame(Opcode.TEXT, message)
        while len(received) < len(expected):
            received += listener.sock.recv(4096)
        assert received.hex(" ") == expected.hex(" ")


def test_rooms_are_separate_and_root_path_is_the_lobby(chat: Daemon) -> None:
    with ExitStack() as stack:
        lobby, by_name, one, other = (
            stack.enter_context(Client(chat.address, target))
            for target in ("/", "/r/lobby?from=link", "/r/one", "/r/One")
        )
        one.send("to room one")
        other.send("to room One")
        lobby.send("to the lobby")
        assert by_name.receive() == "to the lobby"
        for client in (one, other, lobby):
            client.close()
            assert client.receive_all() == [Close(1000)], "a message of another room arrived"


def test_room_works_again_after_all_peers_have_left(chat: Daemon) -> None:
    for _ in range(3):
        with (
            Client(chat.address, "/r/visited") as first,
            Client(chat.address, "/r/visited") as second,
        ):
            welcome(first, second)
            for client in (first, second):
                client.close()
                assert client.receive_all() == [Close(1000)]


def test_message_and_close_in_one_segment_both_take_effect(chat: Daemon) -> None:
    with Client(chat.address, "/r/parting") as listener:
        with Client(chat.address, "/r/parting") as speaker:
            speaker.sock.sendall(
                text("good bye") + encode_frame(Opcode.CLOSE, encode_close(1000), mask=MASK)
            )
            assert speaker.receive_all() == [Close(1000)]
        assert listener.receive() == "good bye"


def test_binary_message_closes_its_sender_with_1003_only(chat: Daemon) -> None:
    with (
        Client(chat.address, "/r/text") as first,
        Client(chat.address, "/r/text") as second,
        Client(chat.address, "/r/text") as offender,
    ):
        welcome(offender, first)
        assert second.receive() == "welcome"
        offender.sock.sendall(
            text("before")
            + encode_frame(Opcode.BINARY, b"\x00\x01", mask=MASK)
            + text("after the violation")
        )
        assert offender.receive_all() == [
            Close(CloseCode.UNSUPPORTED_DATA, "this chat takes text messages only")
        ]
        second.send("are you there?")
        assert [first.receive() for _ in range(2)] == ["before", "are you there?"]
        first.send("yes")
        assert [second.receive() for _ in range(2)] == ["before", "yes"]


@pytest.mark.parametrize("sender_resets", [False, True])
def test_peer_that_resets_does_not_disturb_others(chat: Daemon, sender_resets: bool) -> None:
    room = f"/r/vanish-{sender_resets}"
    with Client(chat.address, room) as first, Client(chat.address, room) as second:
        for number in range(20):
            resetting = Client(chat.address, room)
            with resetting:
                if sender_resets:
                    resetting.send(f"before the reset {number}")
                    assert first.receive() == second.receive() == f"before the reset {number}"
                reset(resetting.sock)
            first.send(f"message {number}")
            assert second.receive() == f"message {number}"


def test_frames_in_the_segment_of_the_handshake_are_delivered(chat: Daemon) -> None:
    with (
        Client(chat.address, "/r/early") as listener,
        Client(chat.address, "/r/early", early=text("one") + text("two")) as speaker,
    ):
        assert [listener.receive(), listener.receive()] == ["one", "two"]
        listener.send("heard")
        assert speaker.receive() == "heard"


def test_handshake_byte_by_byte_succeeds(chat: Daemon) -> None:
    with connect(chat.address) as sock:
        for byte in handshake("/r/bytewise"):
            sock.send(bytes((byte,)))
        assert sock.recv(4096).startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        for byte in encode_frame(Opcode.PING, b"one by one", mask=MASK):
            sock.send(bytes((byte,)))
        assert sock.recv(4096) == encode_frame(Opcode.PONG, b"one by one")


# HTTP.


@pytest.mark.parametrize("target", ["/", "/?x=y", "/r/kitchen"])
def test_get_returns_the_page(chat: Daemon, target: str) -> None:
    response = exchange(chat.address, f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Type: text/html; charset=utf-8\r\n" in head
    assert body == (ROOT / "client.html").read_bytes()


def test_head_returns_the_headers_of_get(chat: Daemon) -> None:
    page = exchange(chat.address, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head = exchange(chat.address, b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert head == page.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


@pytest.mark.parametrize("target", ["/nope", "/r/", "/r/a/b", "/r/" + "x" * 65, "/r/%20", "*"])
def test_other_paths_get_404_with_and_without_upgrade(chat: Daemon, target: str) -> None:
    plainly = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    for request in (plainly, handshake(target)):
        response = exchange(chat.address, request)
        assert response.startswith(b"HTTP/1.1 404 Not Found\r\n"), response
        assert b"/r/ROOM" in response.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_get_405_and_the_allowed_ones(chat: Daemon, method: str) -> None:
    request = f"{method} / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody"
    response = exchange(chat.address, request.encode())
    assert response.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n"), response
    assert b"\r\nAllow: GET, HEAD\r\n" in response


# A valid handshake with unusual header values.
GOOD = {
    "Host": "localhost",
    "Upgrade": "h2c, WebSocket",
    "Connection": "keep-alive, UPGRADE",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def request_with(headers: dict[str, str | None]) -> bytes:
    fields = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join(["GET /r/invalid HTTP/1.1", *fields, "", ""]).encode()


def test_handshake_with_unusual_headers_is_accepted(chat: Daemon) -> None:
    with connect(chat.address) as sock:
        sock.sendall(request_with({**GOOD}))
        head = sock.recv(4096)
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head


# The changed header (None removes it), the status and a part of the reason.
@pytest.mark.parametrize(
    ("header", "value", "status", "reason"),
    [
        ("Host", None, 400, "header Host is missing"),
        ("Upgrade", None, 400, "header Upgrade must include 'websocket'"),
        ("Upgrade", "h2c", 400, "header Upgrade must include 'websocket'"),
        ("Connection", None, 400, "header Connection must include 'Upgrade'"),
        ("Connection", "close", 400, "header Connection must include 'Upgrade'"),
        ("Sec-WebSocket-Key", None, 400, "header Sec-WebSocket-Key is missing"),
        ("Sec-WebSocket-Key", "", 400, "Sec-WebSocket-Key must be 16 bytes in base64"),
        ("Sec-WebSocket-Key", "not base64", 400, "must be 16 bytes in base64"),
        ("Sec-WebSocket-Key", "c2hvcnQ=", 400, "must be 16 bytes in base64"),
        ("Sec-WebSocket-Version", None, 426, "Sec-WebSocket-Version must be 13"),
        ("Sec-WebSocket-Version", "8", 426, "Sec-WebSocket-Version must be 13"),
        ("Sec-WebSocket-Version", "13, 8", 426, "Sec-WebSocket-Version must be 13"),
    ],
)
def test_invalid_handshake_gets_the_violated_rule(
    chat: Daemon, header: str, value: str | None, status: int, reason: str
) -> None:
    response = exchange(chat.address, request_with({**GOOD, header: value})).decode()
    head, _, body = response.partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} "), head
    assert reason in body
    assert body.count("\n") == 1
    if status == 426:
        assert "\r\nSec-WebSocket-Version: 13\r\n" in head


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, id="TLS"),
        pytest.param(b"GET /\r\n\r\n", 400, id="HTTP/0.9"),
        pytest.param(b"GET / HTTP/2\r\n\r\n", 400, id="HTTP/2"),
        pytest.param(b"\r\n\r\n", 400, id="empty"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000, 431, id="too long"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 101 + b"\r\n", 431, id="too many"),
    ],
)
def test_malformed_http_gets_a_response_and_no_reset(
    chat: Daemon, request_bytes: bytes, status: int
) -> None:
    response = exchange(chat.address, request_bytes)
    assert response.startswith(f"HTTP/1.1 {status} ".encode()), response


# Start and end of the process.


def test_ready_line_is_the_only_output_and_has_the_url() -> None:
    with daemon("chatd", "--port", "0", *ALONE) as running:
        assert f" http://127.0.0.1:{running.address[1]}/ " in running.line
        assert exchange(running.address, GET_PAGE).startswith(b"HTTP/1.1 200 ")
        running.process.send_signal(signal.SIGTERM)
        output, errors = running.process.communicate(timeout=PATIENCE)
        assert (output, errors) == (b"", b"")


@SIGNALS
def test_signal_closes_peers_with_1001_and_exits_with_0(
    number: signal.Signals,
) -> None:
    with daemon("chatd", "--port", "0", *ALONE) as running, ExitStack() as stack:
        peers = [stack.enter_context(Client(running.address)) for _ in range(5)]
        running.process.send_signal(number)
        for peer in peers:
            assert peer.receive_all() == [Close(1001, "the server is stopping")]
        assert running.process.wait(STOPS_WITHIN) == 0


@SIGNALS
def test_signal_ends_silent_peers_after_the_drain_timeout(number: signal.Signals) -> None:
    with (
        daemon("chatd", "--port", "0", "--drain-timeout", "0.3", *ALONE) as running,
        Client(running.address) as silent,
        connect(running.address) as in_handshake,
        connect(running.address),
        Client(running.address) as lively,
    ):
        in_handshake.sendall(b"GET / HTTP/1.1\r\nHost:")
        welcome(lively, silent)
        assert running.stop(number, within=STOPS_WITHIN) == (0, "")
        assert silent.receive_all() == [Close(1001, "the server is stopping")]
        assert in_handshake.recv(1) == b""


def test_second_signal_stops_at_once_and_exits_with_0() -> None:
    slow = ("--drain-timeout", "600")
    with daemon("chatd", "--port", "0", *slow, *ALONE) as running, Client(running.address) as peer:
        running.process.send_signal(signal.SIGINT)
        assert peer.receive() == Close(1001, "the server is stopping")
        assert running.stop(signal.SIGINT, within=STOPS_WITHIN) == (0, "")


def fails_to_start(*arguments: str) -> str:
    """Start chatd, which must fail; return its one line on standard error."""
    result = subprocess.run(
        command("chatd", "--db", ":memory:", *arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert result.stderr.startswith("chatd: "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_used_port_fails_with_one_line_and_the_remedy(chat: Daemon) -> None:
    port = str(chat.address[1])
    line = fails_to_start("--port", port)
    assert port in line
    assert "--port" in line


@pytest.mark.parametrize("port", ["65536", "-1", "http", "", "80.5", "9" * 5000, "٣"])
def test_invalid_port_fails_with_one_line(port: str) -> None:
    assert "port" in fails_to_start(f"--port={port}")


@pytest.mark.parametrize("host", ["256.1.1.1", "a..b", "x" * 64, "192.0.2.1"])
def test_invalid_host_fails_with_one_line(host: str) -> None:
    line = fails_to_start("--host", host, "--port", "0")
    assert host in line
    assert "--host" in line


@pytest.mark.parametrize("arguments", [["--loud"], ["extra"], ["--port"]], ids=" ".join)
def test_unknown_option_fails_with_one_line(arguments: list[str]) -> None:
    assert arguments[0] in fails_to_start(*arguments)


def test_ipv6_host_is_used_and_bracketed_in_the_url() -> None:
    need_ipv6()
    with daemon("chatd", "--host", "::1", "--port", "0", *ALONE) as running:
        assert f" http://[::1]:{running.address[1]}/ " in running.line
        assert exchange(running.address, GET_PAGE).startswith(b"HTTP/1.1 200 ")
        with pytest.raises(ConnectionRefusedError):
            connect(("127.0.0.1", running.address[1]))
