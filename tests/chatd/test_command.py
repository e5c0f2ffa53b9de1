"""The chat daemon from end to end: a real process, real sockets on 127.0.0.1."""

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
# Nothing on disk, and no limit on how fast the tests talk.
ALONE = ("--db", ":memory:", "--rate-limit", "0")
GET_PAGE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
# Seconds that chatd may take for its end when its peers have one of them.
STOPS_WITHIN = 2.0

SIGNALS = pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name
)


@pytest.fixture(scope="module")
def shared_chat() -> Iterator[Daemon]:
    """One daemon for all tests that use rooms of their own; it must not say a word."""
    with daemon("chatd", "--port", "0", *ALONE) as running:
        yield running
        assert running.stop(within=PATIENCE) == (0, ""), "something went wrong in some test above"


@pytest.fixture
def chat(shared_chat: Daemon) -> Daemon:
    assert shared_chat.process.poll() is None, "a test above has ended the daemon"
    return shared_chat


def text(message: str) -> bytes:
    """Return a client's text frame."""
    return encode_frame(Opcode.TEXT, message.encode(), mask=MASK)


def welcome(newcomer: Client, host: Client) -> None:
    """Let `host` say a word that `newcomer` must hear."""
    host.send("welcome")
    assert newcomer.receive() == "welcome"


# Messages.


def test_in_a_room_of_fifty_each_gets_all_that_the_others_say_in_their_order_and_unchanged(
    chat: Daemon,
) -> None:
    sayings = [
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

    def said_by(who: int) -> list[str]:
        # One long message is enough for all.
        return [f"{who} {saying if who == 0 else saying[:200]}" for saying in sayings]

    with ExitStack() as stack:
        peers = [stack.enter_context(Client(chat.address, "/r/fifty")) for _ in range(50)]
        for number in range(len(sayings)):
            for who, peer in enumerate(peers):
                peer.send(said_by(who)[number])
        for who, peer in enumerate(peers):
            heard: dict[str, list[str]] = {}
            for _ in range(49 * len(sayings)):
                message = peer.receive()
                assert isinstance(message, str)
                heard.setdefault(message.partition(" ")[0], []).append(message)
            for speaker in range(50):
                expected = [] if speaker == who else said_by(speaker)
                assert heard.get(str(speaker), []) == expected, f"{who} of {speaker}"


def test_the_bytes_of_a_message_arrive_as_they_were_sent(chat: Daemon) -> None:
    message = bytes(range(0x20)) + "\x7f é e\u0301 \ufeff 😀 \U0010ffff".encode()
    with Client(chat.address, "/r/bytes") as listener, Client(chat.address, "/r/bytes") as speaker:
        speaker.sock.sendall(
            # Three fragments, cut within a character, with a Ping between them.
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


def test_rooms_are_separate_and_the_bare_path_is_the_lobby(chat: Daemon) -> None:
    with ExitStack() as stack:
        lobby, by_name, one, other = (
            stack.enter_context(Client(chat.address, target))
            for target in ("/", "/r/lobby?from=link", "/r/one", "/r/One")
        )
        one.send("to nobody")
        other.send("to nobody either")
        lobby.send("to the lobby")
        assert by_name.receive() == "to the lobby"
        for client in (one, other, lobby):
            client.close()
            assert client.receive_all() == [Close(1000)], "somebody else's message came"


def test_a_room_is_as_new_after_the_last_one_has_left(chat: Daemon) -> None:
    for _ in range(3):
        with (
            Client(chat.address, "/r/visited") as first,
            Client(chat.address, "/r/visited") as second,
        ):
            welcome(first, second)
            for client in (first, second):
                client.close()
                assert client.receive_all() == [Close(1000)]


def test_a_message_and_a_close_in_one_segment_both_have_their_effect(chat: Daemon) -> None:
    with Client(chat.address, "/r/parting") as listener:
        with Client(chat.address, "/r/parting") as speaker:
            speaker.sock.sendall(
                text("good bye") + encode_frame(Opcode.CLOSE, encode_close(1000), mask=MASK)
            )
            assert speaker.receive_all() == [Close(1000)]
        assert listener.receive() == "good bye"


def test_a_binary_message_is_refused_with_1003_and_the_others_talk_on(chat: Daemon) -> None:
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
            + text("after, and not to be heard")
        )
        assert offender.receive_all() == [
            Close(CloseCode.UNSUPPORTED_DATA, "this chat takes text messages only")
        ]
        second.send("are you there?")
        assert [first.receive() for _ in range(2)] == ["before", "are you there?"]
        first.send("yes")
        assert [second.receive() for _ in range(2)] == ["before", "yes"]


@pytest.mark.parametrize("sender_resets", [False, True])
def test_a_peer_that_vanishes_disturbs_nobody(chat: Daemon, sender_resets: bool) -> None:
    room = f"/r/vanish-{sender_resets}"
    with Client(chat.address, room) as first, Client(chat.address, room) as second:
        for number in range(20):
            ghost = Client(chat.address, room)
            with ghost:
                if sender_resets:
                    ghost.send(f"last words {number}")
                    assert first.receive() == second.receive() == f"last words {number}"
                reset(ghost.sock)
            first.send(f"message {number}")
            assert second.receive() == f"message {number}"


def test_frames_in_the_segment_of_the_upgrade_request_are_heard(chat: Daemon) -> None:
    with (
        Client(chat.address, "/r/early") as listener,
        Client(chat.address, "/r/early", early=text("one") + text("two")) as speaker,
    ):
        assert [listener.receive(), listener.receive()] == ["one", "two"]
        listener.send("heard")
        assert speaker.receive() == "heard"


def test_a_handshake_may_come_byte_by_byte(chat: Daemon) -> None:
    with connect(chat.address) as sock:
        for byte in handshake("/r/bytewise"):
            sock.send(bytes((byte,)))
        assert sock.recv(4096).startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        for byte in encode_frame(Opcode.PING, b"one by one", mask=MASK):
            sock.send(bytes((byte,)))
        assert sock.recv(4096) == encode_frame(Opcode.PONG, b"one by one")


# HTTP.


@pytest.mark.parametrize("target", ["/", "/?x=y", "/r/kitchen"])
def test_a_browser_gets_the_page(chat: Daemon, target: str) -> None:
    answer = exchange(chat.address, f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Type: text/html; charset=utf-8\r\n" in head
    assert body == (ROOT / "client.html").read_bytes()


def test_head_gets_the_same_headers_and_no_body(chat: Daemon) -> None:
    page = exchange(chat.address, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head = exchange(chat.address, b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert head == page.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


@pytest.mark.parametrize("target", ["/nope", "/r/", "/r/a/b", "/r/" + "x" * 65, "/r/%20", "*"])
def test_there_is_nothing_at_any_other_path_with_or_without_upgrade(
    chat: Daemon, target: str
) -> None:
    plainly = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    for request in (plainly, handshake(target)):
        answer = exchange(chat.address, request)
        assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n"), answer
        assert b"/r/ROOM" in answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_any_other_method_is_refused_with_the_ones_allowed(chat: Daemon, method: str) -> None:
    request = f"{method} / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody"
    answer = exchange(chat.address, request.encode())
    assert answer.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n"), answer
    assert b"\r\nAllow: GET, HEAD\r\n" in answer


# A handshake that breaks no rule, in its least usual form.
GOOD = {
    "Host": "localhost",
    "Upgrade": "h2c, WebSocket",
    "Connection": "keep-alive, UPGRADE",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def request_with(headers: dict[str, str | None]) -> bytes:
    fields = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join(["GET /r/faulty HTTP/1.1", *fields, "", ""]).encode()


def test_a_handshake_that_breaks_no_rule_is_accepted(chat: Daemon) -> None:
    with connect(chat.address) as sock:
        sock.sendall(request_with({**GOOD}))
        head = sock.recv(4096)
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head


# What is changed in it (None takes the header out), the status due, and words
# of the sentence that names the broken rule.
@pytest.mark.parametrize(
    ("header", "value", "status", "rule"),
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
def test_a_faulty_handshake_is_answered_with_the_rule_that_it_breaks(
    chat: Daemon, header: str, value: str | None, status: int, rule: str
) -> None:
    answer = exchange(chat.address, request_with({**GOOD, header: value})).decode()
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} "), head
    assert rule in body
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
def test_what_is_no_sound_http_gets_an_answer_and_no_reset(
    chat: Daemon, request_bytes: bytes, status: int
) -> None:
    answer = exchange(chat.address, request_bytes)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer


# The process.


def test_its_one_line_of_output_names_the_url_that_serves_the_page() -> None:
    with daemon("chatd", "--port", "0", *ALONE) as running:
        assert f" http://127.0.0.1:{running.address[1]}/ " in running.line
        assert exchange(running.address, GET_PAGE).startswith(b"HTTP/1.1 200 ")
        running.process.send_signal(signal.SIGTERM)
        output, errors = running.process.communicate(timeout=PATIENCE)
        assert (output, errors) == (b"", b"")


@SIGNALS
def test_at_a_signal_peers_are_told_1001_and_the_process_ends_in_good_order(
    number: signal.Signals,
) -> None:
    with daemon("chatd", "--port", "0", *ALONE) as running, ExitStack() as stack:
        peers = [stack.enter_context(Client(running.address)) for _ in range(5)]
        running.process.send_signal(number)
        for peer in peers:
            assert peer.receive_all() == [Close(1001, "the server is stopping")]
        assert running.process.wait(STOPS_WITHIN) == 0


@SIGNALS
def test_at_a_signal_it_does_not_wait_for_those_who_never_answer(number: signal.Signals) -> None:
    with (
        daemon("chatd", "--port", "0", "--drain-timeout", "1", *ALONE) as running,
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


def test_a_second_signal_ends_it_at_once_and_in_good_order() -> None:
    slow = ("--drain-timeout", "600")
    with daemon("chatd", "--port", "0", *slow, *ALONE) as running, Client(running.address) as peer:
        running.process.send_signal(signal.SIGINT)
        assert peer.receive() == Close(1001, "the server is stopping")
        assert running.stop(signal.SIGINT, within=STOPS_WITHIN) == (0, "")


def fails_to_start(*arguments: str) -> str:
    """Return the one line that chatd says when it cannot start."""
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


def test_a_taken_port_is_told_in_one_line_with_what_to_do(chat: Daemon) -> None:
    port = str(chat.address[1])
    line = fails_to_start("--port", port)
    assert port in line
    assert "--port" in line


@pytest.mark.parametrize("port", ["65536", "-1", "http", "", "80.5", "9" * 5000, "٣"])
def test_a_bad_port_is_told_in_one_line(port: str) -> None:
    assert "port" in fails_to_start(f"--port={port}")


@pytest.mark.parametrize("host", ["256.1.1.1", "a..b", "x" * 64, "192.0.2.1"])
def test_a_bad_host_is_told_in_one_line(host: str) -> None:
    line = fails_to_start("--host", host, "--port", "0")
    assert host in line
    assert "--host" in line


@pytest.mark.parametrize("arguments", [["--loud"], ["extra"], ["--port"]], ids=" ".join)
def test_an_unknown_option_is_told_in_one_line(arguments: list[str]) -> None:
    assert arguments[0] in fails_to_start(*arguments)


def test_it_listens_on_the_address_it_is_given_and_prints_it_as_a_url_has_it() -> None:
    need_ipv6()
    with daemon("chatd", "--host", "::1", "--port", "0", *ALONE) as running:
        assert f" http://[::1]:{running.address[1]}/ " in running.line
        assert exchange(running.address, GET_PAGE).startswith(b"HTTP/1.1 200 ")
        with pytest.raises(ConnectionRefusedError):
            connect(("127.0.0.1", running.address[1]))
