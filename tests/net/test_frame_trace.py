"""The frame trace of servers and clients."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import PATIENCE, handshake, make_certificate, read_to_end, serving
from tests.support import connect as connect_socket
from wsproto_min.client_handshake import upgrade_request
from wsproto_min.codes import Opcode
from wsproto_min.connection import Role
from wsproto_min.frames import Frame, encode_frame
from wsproto_min.net.client import connect
from wsproto_min.net.frame_trace import MAX_SHOWN, FrameTrace, describe
from wsproto_min.testing.strategies import chunkings

LOGGER = logging.getLogger("test_frame_trace")
MASK = bytes.fromhex("37fa213d")
UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


class Lines(logging.Handler):
    """A handler that keeps messages."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert record.levelno == logging.DEBUG
        self.lines.append(record.getMessage())


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    handler = Lines()
    monkeypatch.setattr(LOGGER, "handlers", [handler])
    monkeypatch.setattr(LOGGER, "propagate", False)
    LOGGER.setLevel(logging.DEBUG)
    return handler.lines


def without_names(lines: list[str]) -> list[str]:
    return [line.partition(" ")[2] for line in lines]


REQUEST = "client: <Request GET / HTTP/1.1, 6 headers, 0 bytes>"
RESPONSE = "server: <Response 101 upgrade, connection, sec-websocket-accept, 0 bytes>"
CONVERSATION = [
    REQUEST,
    RESPONSE,
    "client: TEXT, 5 bytes: 'Hello'",
    "server: TEXT, 5 bytes: 'Hello'",
    "client: BINARY, 2 bytes: 00 ff",
    "server: BINARY, 2 bytes: 00 ff",
    "client: CLOSE, 5 bytes: 1000 'bye'",
    "server: CLOSE, 2 bytes: 1000 ''",
]


def talk(url: str, **options: Any) -> None:
    with connect(url, headers=[("X", "secret")], compression=None, **options) as client:
        for message in ("Hello", b"\0\xff"):
            client.send(message)
            assert client.recv(PATIENCE) == message
        client.close(1000, "bye")


def test_server_and_client_trace_the_same_frames(lines: list[str]) -> None:
    with serving(trace=LOGGER) as running:
        talk(f"ws://127.0.0.1:{running.address[1]}/")
        running.wait_for_peers(0)
    assert all(line.startswith("127.0.0.1:") for line in lines)
    assert without_names(lines) == CONVERSATION
    lines.clear()
    with serving() as running:
        talk(f"ws://127.0.0.1:{running.address[1]}/", trace=LOGGER)
    assert all(line.startswith(f"127.0.0.1:{running.address[1]} ") for line in lines)
    assert without_names(lines) == CONVERSATION
    assert "secret" not in "".join(lines)


def test_server_with_tls_traces_decrypted_frames(lines: list[str], tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=certificate)
    with serving(trace=LOGGER, ssl_context=context) as running:
        talk(f"wss://127.0.0.1:{running.address[1]}/", ssl_context=trusting)
        running.wait_for_peers(0)
    assert without_names(lines) == CONVERSATION


@pytest.mark.parametrize("option", [False, True])
def test_no_trace_without_the_option_and_debug(
    lines: list[str], option: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO if option else logging.DEBUG)
    with serving(trace=option) as running:
        talk(f"ws://127.0.0.1:{running.address[1]}/", trace=option)
    assert (lines, caplog.records) == ([], [])


def test_trace_true_logs_as_wsproto_min(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "wsproto_min")
    with serving(trace=True) as running:
        talk(f"ws://127.0.0.1:{running.address[1]}/")
        running.wait_for_peers(0)
    assert {record.name for record in caplog.records} == {"wsproto_min"}
    assert len(caplog.records) == len(CONVERSATION)


def test_untraced_socket_is_not_wrapped() -> None:
    with serving() as running, connect(f"ws://127.0.0.1:{running.address[1]}/"):
        [kind] = running.ask(
            lambda: [type(peer._transport._socket).__name__ for peer in running.server.peers]
        )
    assert kind == "socket"


# The bytes of both directions.


@given(st.data())
def test_trace_any_chunking_logs_the_same_heads(data: st.DataObject) -> None:
    handler = Lines()
    logger = logging.Logger("chunks", logging.DEBUG)
    logger.addHandler(handler)
    trace = FrameTrace("x", logger)
    frames = encode_frame(Opcode.PING, b"\x01", mask=MASK) + encode_frame(
        Opcode.CONTINUATION, b"", fin=False, mask=MASK
    )
    for chunk in data.draw(chunkings(upgrade_request("a", "/", "key") + frames)):
        trace(Role.CLIENT, chunk)
    for chunk in data.draw(chunkings(b"HTTP/1.1 103 Early Hints\r\n\r\n" + UPGRADE)):
        trace(Role.SERVER, chunk)
    assert without_names(handler.lines) == [
        "client: <Request GET / HTTP/1.1, 5 headers, 0 bytes>",
        "client: PING, 1 bytes: 01",
        "client: CONTINUATION, not final, 0 bytes",
        "server: <Response 103 no headers, 0 bytes>",
        "server: <Response 101 upgrade, 0 bytes>",
    ]


def test_trace_logs_a_frame_of_several_reads_once(lines: list[str]) -> None:
    trace = FrameTrace("x", LOGGER)
    trace(Role.SERVER, UPGRADE + bytes.fromhex("81 05 48 65"))
    trace(Role.SERVER, b"llo" + bytes.fromhex("89 00"))
    assert without_names(lines)[1:] == ["server: TEXT, 5 bytes: 'He'...", "server: PING, 0 bytes"]


def test_server_trace_of_a_client_that_leaves_ends(lines: list[str]) -> None:
    with serving(trace=LOGGER) as running:
        with connect_socket(running.address) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_to_end(sock).startswith(b"HTTP/1.1 400 ")
        running.wait_for_peers(0)
    assert without_names(lines) == [
        "client: <Request GET / HTTP/1.1, 1 headers, 0 bytes>",
        "server: <Response 400 content-type, content-length, connection, 0 bytes>",
    ]


def test_trace_skips_bodies_and_follows_redirects(lines: list[str]) -> None:
    trace = FrameTrace("x", LOGGER)
    trace(Role.CLIENT, b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello")
    trace(Role.CLIENT, b"the rest of the body")
    trace(Role.SERVER, b"HTTP/1.1 301 Moved\r\n\r\na body")
    trace(Role.SERVER, b"and its rest")
    trace(Role.CLIENT, handshake())
    trace(Role.SERVER, UPGRADE + bytes.fromhex("81 01 61"))
    assert without_names(lines) == [
        "client: <Request POST / HTTP/1.1, 1 headers, 0 bytes>",
        "server: <Response 301 no headers, 0 bytes>",
        "client: <Request GET / HTTP/1.1, 5 headers, 0 bytes>",
        "server: <Response 101 upgrade, 0 bytes>",
        "server: TEXT, 1 bytes: 'a'",
    ]


def test_trace_ends_at_invalid_bytes(lines: list[str]) -> None:
    trace = FrameTrace("x", LOGGER)
    trace(Role.CLIENT, handshake() + bytes.fromhex("83 00"))
    trace(Role.CLIENT, bytes.fromhex("81 00"))
    trace(Role.SERVER, b"220 mail.example.com ESMTP\r\n\r\n")
    trace(Role.SERVER, UPGRADE)
    assert without_names(lines)[1:] == [
        "client: invalid, not traced from here on: opcode 0x3 is reserved (RFC 6455, 5.2)",
        "server: invalid, not traced from here on: the server's response is not HTTP/1.1",
    ]


@pytest.mark.parametrize(
    ("frame", "line"),
    [
        (Frame(Opcode.TEXT, "Hé\n".encode()), r"TEXT, 4 bytes: 'H\xe9\n'"),
        (Frame(Opcode.TEXT, b"\xff"), r"TEXT, 1 bytes: '\ufffd'"),
        (Frame(Opcode.TEXT, b"\x01", rsv1=True), "TEXT, compressed, 1 bytes: 01"),
        (Frame(Opcode.TEXT, b"x" * 65), f"TEXT, 65 bytes: '{'x' * 64}'..."),
        (Frame(Opcode.BINARY, bytes(99)), f"BINARY, 99 bytes: {bytes(MAX_SHOWN).hex(' ')}..."),
        (Frame(Opcode.CLOSE, b""), "CLOSE, 0 bytes"),
        (Frame(Opcode.CLOSE, b"\x03"), "CLOSE, 1 bytes: a Close frame has a payload of one byte"),
        (Frame(Opcode.CLOSE, b"\x0f\xa0" + b"\n"), r"CLOSE, 3 bytes: 4000 '\n'"),
    ],
)
def test_describe_is_one_bounded_line_of_ascii(frame: Frame, line: str) -> None:
    assert describe(frame).startswith(line)
    assert describe(frame).isascii()
