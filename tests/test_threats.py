"""Known vulnerabilities and bugs of other WebSocket software, tested on this one.

The docstring of each test begins with an advisory or issue of `ADVISORIES` and describes the
bug. The tests use sockets where possible.
"""

from __future__ import annotations

import hmac
import os
import re
import resource
import socket
import subprocess
import sys
import time
import tracemalloc
import zlib
from contextlib import ExitStack, closing, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from chatd import app
from chatd.access.invitations import Invitations, Unauthorized
from chatd.access.trusted_networks import parse_network
from chatd.app import Chat
from tests.chat import ChatClient, open_client, open_store, serve_chat
from tests.support import (
    PATIENCE,
    ROOT,
    Address,
    Client,
    RunningServer,
    command,
    connect,
    daemon,
    exchange,
    handshake,
    new_key,
    read_to_end,
    reset,
    serving,
    tight_listener,
)
from wsproto_min import HandshakeError, Headers
from wsproto_min.client_handshake import upgrade_request
from wsproto_min.codes import Opcode
from wsproto_min.connection import Close, Connection, Event, Ping, Role
from wsproto_min.deflate import Compressor, DeflateParameters
from wsproto_min.errors import ConnectionClosed
from wsproto_min.frames import encode_frame
from wsproto_min.http_reader import MAX_HEAD_SIZE, MAX_HEADERS
from wsproto_min.net.peer import Peer

ADVISORIES = [
    "CVE-2026-48779 (ws), ws #2329 and #2331",
    "CVE-2026-54274 (aiohttp)",
    "CVE-2018-1000518 (websockets), CVE-2026-1526 (undici), wsproto",
    "wsproto #205",
    "CVE-2026-2229 (undici)",
    "CVE-2020-27813 (gorilla), CVE-2026-1528 (undici)",
    "CVE-2023-43669 (tungstenite)",
    "CVE-2024-37890 (ws)",
    "CVE-2021-32640 (ws), CVE-2020-7662 and CVE-2020-7663",
    "CVE-2021-33880 (websockets)",
    "PRISMA-2021-0118 (coder)",
    "engine.io #128, GHSA-cf66-xwfp-gvc4 (webpack-dev-server)",
    "ws #1620, uWS #1056 and #1876",
    "websockets #1005, #1012 and #1128",
    "websocketpp #789",
    "The X-Forwarded-For recipe (README of ws)",
    "EMFILE at accept",
    "Terminal clients",
    "Chat pages",
]

MASK = bytes.fromhex("37fa213d")
KIB, MIB = 1 << 10, 1 << 20


def test_advisories_all_have_a_test() -> None:
    docstrings = [
        function.__doc__ or ""
        for name, function in globals().items()
        if name.startswith("test_") and function is not test_advisories_all_have_a_test
    ]
    assert {docstring.partition(":")[0] for docstring in docstrings} == set(ADVISORIES)


def fragment(opcode: Opcode, payload: bytes, *, fin: bool = False, rsv1: bool = False) -> bytes:
    """Return a masked frame."""
    return encode_frame(opcode, payload, fin=fin, rsv1=rsv1, mask=MASK)


def events_of(connection: Connection, data: bytes) -> list[Event]:
    """Return the events of `data`."""
    connection.receive_data(data)
    return list(iter(connection.next_event, None))


def cpu_time(running: RunningServer) -> float:
    """Return the CPU seconds of a server's thread."""
    return running.ask(time.thread_time)


# Messages


@pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "tiny"])
def test_tiny_fragments_are_counted_and_share_one_buffer(payload: bytes) -> None:
    """CVE-2026-48779 (ws), ws #2329 and #2331: tiny and empty fragments pinned memory."""
    first = fragment(Opcode.TEXT, payload)
    more = fragment(Opcode.CONTINUATION, payload)
    with serving() as running, Client(running.address) as client:
        tracemalloc.start()
        try:
            for number in range(64):
                client.sock.sendall((more if number else first) + more * 255)
            running.ask(lambda: None)  # the server has read all fragments
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        (peer,) = running.server.peers
        assert peer.is_open, "16384 fragments are the limit for 1 MiB"
        assert held < 256 * KIB, f"{held} bytes are held for 16384 fragments"
        client.sock.sendall(more)
        assert [event for event in client.receive_all() if isinstance(event, Close)] == [
            Close(1008, "a message has more than 16384 fragments (RFC 6455, 7.4.1)")
        ]


def test_big_message_is_refused_by_its_header_before_buffering() -> None:
    """CVE-2026-54274 (aiohttp): buffered the payload before the check, an object per read."""
    with serving(max_message_size=100_000) as running:
        announced = fragment(Opcode.BINARY, bytes(100_001))[:14]
        with Client(running.address) as client:
            client.sock.sendall(announced)
            (close,) = client.receive_all()
            assert isinstance(close, Close)
            assert close.code == 1009
    frame = fragment(Opcode.BINARY, bytes(20_000))
    connection = Connection(Role.SERVER)
    tracemalloc.start()
    try:
        for at in range(len(frame) - 1):
            assert not events_of(connection, frame[at : at + 1])
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 40_000, f"{held} bytes are held for {len(frame)} received one by one"


def events_after_compressed(address: Address, *frames: bytes) -> list[Event]:
    """Send compressed messages and a Close in one segment; return the events of the reply."""
    with connect(address) as sock:
        request = upgrade_request(
            "127.0.0.1", "/", new_key(), compression=DeflateParameters.DEFAULT
        )
        sock.sendall(request + b"".join(frames) + fragment(Opcode.CLOSE, b"", fin=True))
        head, _, data = read_to_end(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    assert b"permessage-deflate" in head, "compression was not negotiated"
    connection = Connection(Role.CLIENT, compression=DeflateParameters.NO_CONTEXT_TAKEOVER)
    return events_of(connection, data)


def test_decompressed_size_is_limited_also_at_the_exact_limit() -> None:
    """CVE-2018-1000518 (websockets), CVE-2026-1526 (undici), wsproto: unbounded decompression.

    zlib reads a `max_length` of 0 as no limit, and 0 bytes remain when a message has
    used its limit exactly.
    """
    limit = 100_000
    compressor = zlib.compressobj(9, wbits=-15)
    within = compressor.compress(bytes(limit)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    bomb = compressor.compress(bytes(64 * MIB)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    first = fragment(Opcode.BINARY, within, rsv1=True)
    too_big = Close(1009, f"a message is larger than {limit} bytes (RFC 6455, 7.4.1)")
    with serving(max_message_size=limit) as running:
        tracemalloc.start()
        try:
            for last, events in (
                (b"\0", [bytes(limit), Close(1005)]),
                (bomb[: 80 * KIB], [too_big]),
            ):
                rest = fragment(Opcode.CONTINUATION, last, fin=True)
                assert events_after_compressed(running.address, first, rest) == events
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 3 * MIB, f"{peak} bytes for messages of at most {limit}"


@pytest.mark.parametrize("context_takeover", [False, True])
def test_pings_between_compressed_fragments_keep_messages_intact(
    context_takeover: bool,
) -> None:
    """wsproto #205: a Ping between compressed fragments corrupted the message."""
    # Each bit of `positions` stands for a Ping before one of eight fragments.
    for positions in range(1 << 8):
        check_pings_at(positions, context_takeover)


def check_pings_at(positions: int, context_takeover: bool) -> None:
    compressor = Compressor(context_takeover=context_takeover)
    server = Connection(
        Role.SERVER,
        compression=DeflateParameters.DEFAULT
        if context_takeover
        else DeflateParameters.NO_CONTEXT_TAKEOVER,
    )
    data = b""
    expected: list[Event] = []
    index = 0
    for _ in range(2):
        payload = compressor.compress(b"Hello, Hello")
        bounds = [0, 1, 3, 3, len(payload)]
        for begin, end in pairwise(bounds):
            if positions >> index & 1:
                data += fragment(Opcode.PING, bytes([index]), fin=True)
                expected.append(Ping(bytes([index])))
            opcode = Opcode.CONTINUATION if begin else Opcode.TEXT
            data += fragment(opcode, payload[begin:end], fin=end == len(payload), rsv1=not begin)
            index += 1
        expected.append("Hello, Hello")
    assert events_of(server, data) == expected, f"Pings at {positions:08b}"
    assert server.error is None


def test_bad_window_bits_and_zlib_errors_are_handled() -> None:
    """CVE-2026-2229 (undici): window bits out of range, or an error of zlib, crashed it."""
    with serve_chat() as chat:
        for name in ("server_max_window_bits", "client_max_window_bits"):
            for bits in range(18):
                offer = f"Sec-WebSocket-Extensions: permessage-deflate; {name}={bits}\r\n\r\n"
                with connect(chat.address) as sock:
                    sock.sendall(handshake()[:-2] + offer.encode())
                    response = sock.recv(4096)
                assert response.startswith(b"HTTP/1.1 101 "), response
                assert (b"permessage-deflate" in response) is (8 <= bits <= 15), (name, bits)
        broken = fragment(Opcode.TEXT, b"\x06 is no type of block", fin=True, rsv1=True)
        (close,) = events_after_compressed(chat.address, broken)
        assert isinstance(close, Close)
        assert close.code == 1007
        with open_client(chat.address) as client:
            assert client.ping(PATIENCE) > 0, "the chat goes on"


@pytest.mark.parametrize(
    ("before", "length", "code"),
    [
        (0, 1 << 63, 1002),  # the top bit must be zero (RFC 6455, 5.2)
        (0, (1 << 64) - 1, 1002),
        (0, (1 << 63) - 1, 1009),
        (1, (1 << 63) - 1, 1009),  # the total with the first frame exceeds 2**63 - 1
        (1000, (1 << 63) - 1000, 1009),
    ],
)
def test_huge_payload_length_does_not_overflow(before: int, length: int, code: int) -> None:
    """CVE-2020-27813 (gorilla), CVE-2026-1528 (undici): lengths that overflowed."""
    data = b"\x82\xff" if not before else b"\x80\xff"
    if before:
        data = fragment(Opcode.BINARY, bytes(before)) + data
    with serving() as running, Client(running.address) as client:
        client.sock.sendall(data + length.to_bytes(8, "big") + MASK)
        (close,) = client.receive_all()
        assert isinstance(close, Close)
        assert close.code == code


def test_unsolicited_pongs_are_ignored() -> None:
    """PRISMA-2021-0118 (coder): duplicate and unsolicited Pongs were a panic."""
    with (
        serving(ping_interval=0.05, ping_timeout=PATIENCE) as running,
        Client(running.address) as client,
    ):
        ping = client.receive()
        assert isinstance(ping, Ping)
        for payload in (ping.payload, ping.payload, b"", b"unsolicited", bytes(125)):
            client.connection.pong(payload)
        client.send("still there?")
        assert client.receive() == "still there?"


# The opening handshake


def test_long_head_in_single_bytes_takes_linear_time() -> None:
    """CVE-2023-43669 (tungstenite): parsing a long header took minutes."""
    head = b"GET / HTTP/1.1\r\nX: ".ljust(MAX_HEAD_SIZE + 4, b"x")
    with serving(open_timeout=3 * PATIENCE) as running, connect(running.address) as sock:
        for at in range(len(head)):
            sock.sendall(head[at : at + 1])
        assert sock.recv(4096).startswith(b"HTTP/1.1 431 ")
        # Parsing the whole head after each byte would read 134 million bytes.
        assert cpu_time(running) < PATIENCE


def test_missing_header_is_400_and_too_many_are_431(caplog: pytest.LogCaptureFixture) -> None:
    """CVE-2024-37890 (ws): headers over a maximum number were dropped, Upgrade among them."""
    line, *fields = handshake().removesuffix(b"\r\n\r\n").split(b"\r\n")
    padding = [b"X-%d: x" % number for number in range(MAX_HEADERS - len(fields))]
    with serve_chat() as chat:

        def status(*lines: bytes) -> int:
            with connect(chat.address) as sock:
                sock.sendall(b"\r\n".join((line, *lines)) + b"\r\n\r\n")
                return int(sock.recv(4096).split(b" ")[1])

        assert status(*padding, *fields) == 101
        assert status(b"X: x", *padding, *fields) == 431
        for omitted in fields:
            rest = [field for field in fields if field is not omitted]
            expected = 426 if b"Version" in omitted else 400
            assert status(*rest) == expected, omitted
    assert caplog.records == []


@pytest.mark.parametrize(
    "value",
    ["," * 15_000, " \t" * 7500 + "x", "a;" * 7500, 'a="' + "\\" * 15_000, "a " * 7500 + "a"],
    ids=["commas", "spaces", "parameters", "quoted string", "words"],
)
def test_long_header_lists_take_linear_time(value: str) -> None:
    """CVE-2021-32640 (ws), CVE-2020-7662 and CVE-2020-7663: backtracking regular expressions."""
    names = ["Connection", "Upgrade", "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol"]
    names += ["Origin", "Host", "Authorization", "X-Forwarded-For", "Sec-WebSocket-Key"]
    with serve_chat(trusted_proxies=[parse_network("127.0.0.1")]) as chat:
        for name in names:
            with connect(chat.address) as sock:
                sock.sendall(handshake()[:-2] + f"{name}: {value}\r\n\r\n".encode())
                assert sock.recv(4096).startswith(b"HTTP/1.1 ")
        assert cpu_time(chat) < PATIENCE


def test_invitation_signatures_are_compared_in_constant_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2021-33880 (websockets): the time of a comparison leaked the correct prefix."""
    invitations, now = Invitations(tmp_path), 1_700_000_000.0
    token = invitations.issue("Ann", [], 7, now)
    compared = []

    def spy(expected: bytes, received: bytes) -> bool:
        compared.append((expected, received))
        return hmac_compare(expected, received)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr("chatd.access.invitations.hmac.compare_digest", spy)
    invitations.check(token, now)
    signature = token.partition(".")[2].encode()
    assert compared == [(signature, signature)]
    with pytest.raises(Unauthorized):
        invitations.check(token[:-2] + "AA", now)
    assert len(compared) == 2


def test_chat_refuses_foreign_origins_and_accepts_programs() -> None:
    """engine.io #128, GHSA-cf66-xwfp-gvc4 (webpack-dev-server): any page reached 127.0.0.1."""
    with serve_chat() as chat:
        port = chat.address[1]
        for subprotocols in ((), ("chat.v1",)):
            open_client(chat.address, subprotocols=subprotocols).close()
            own = f"http://127.0.0.1:{port}"
            open_client(chat.address, subprotocols=subprotocols, origin=own).close()
            for origin, hint in (
                ("null", "a page with an opaque origin"),
                ("http://evil.example", "--allow-origin http://evil.example"),
                (f"http://localhost:{port}", f"--allow-origin http://localhost:{port}"),
            ):
                with pytest.raises(HandshakeError, match=hint) as caught:
                    open_client(chat.address, subprotocols=subprotocols, origin=origin)
                assert caught.value.status == 403
        response = exchange(chat.address, b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert b"--allow-host evil.example" in response
        assert b"<script>" not in response


def test_slow_handshake_bytes_do_not_extend_its_deadline() -> None:
    """websocketpp #789: half-open handshakes had no time limit."""
    started = time.monotonic()
    with serving(open_timeout=0.3) as running, connect(running.address) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nX: ")
        sock.settimeout(0.02)
        response = b""
        while not response:
            assert time.monotonic() - started < PATIENCE, "every byte extends the deadline"
            sock.sendall(b"x")
            try:
                response = sock.recv(4096)
            except TimeoutError:
                continue
        assert response.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - started >= 0.3, "closed too early"


def test_chat_peer_without_a_join_in_time_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """websocketpp #789: connections that never authenticated had no time limit."""
    assert app.JOIN_TIMEOUT == 10.0
    monkeypatch.setattr(app, "JOIN_TIMEOUT", 0.2)
    invitations = Invitations(tmp_path)
    token = invitations.issue("Ann", [], 7, time.time())
    bearer = [("Authorization", f"Bearer {token}")]
    with (
        serve_chat(invitations=invitations) as chat,
        ChatClient(chat.address) as ann,
        ChatClient(chat.address) as silent,
        ChatClient(chat.address) as left,
        open_client(chat.address, headers=bearer) as plain,
    ):
        ann.join("lobby", "Ann", token=token)
        left.error_for(type="join", room="lobby", name="Ann", token="forged")
        assert silent.receive_close() == (1008, "no room joined within 0.2 s")
        assert left.receive_close() == (1008, "no room joined within 0.2 s")
        ann.say("lobby", "still here")
        assert plain.recv(PATIENCE) == "still here"


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: all of 127.0.0.0/8 is local")
def test_half_open_handshakes_of_one_address_are_limited() -> None:
    """websocketpp #789: the number of handshakes per address had no limit."""
    options = ("--port", "0", "--db", ":memory:", "--max-per-address", "3", "--max-peers", "10")
    with daemon("chatd", *options, "--drain-timeout", "0.1") as running, ExitStack() as stack:
        for _ in range(30):
            half = stack.enter_context(connect(running.address))
            half.sendall(b"GET / HTTP/1.1\r\nX: ")
        assert exchange(running.address, handshake()).startswith(b"HTTP/1.1 503 ")
        with socket.create_connection(
            running.address, PATIENCE, source_address=("127.0.0.2", 0)
        ) as other:
            other.sendall(handshake())
            assert other.recv(4096).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    ("trusted", "forwarded", "address"),
    [
        ("127.0.0.1", "192.0.2.1, 203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "203.0.113.7, 127.0.0.1", "203.0.113.7"),
        ("10.0.0.1", "192.0.2.1, 203.0.113.7", "127.0.0.1:"),
    ],
)
def test_forged_x_forwarded_for_is_ignored(trusted: str, forwarded: str, address: str) -> None:
    """The X-Forwarded-For recipe (README of ws): it trusts the leftmost address."""
    with (
        serve_chat(trusted_proxies=[parse_network(trusted)]) as chat,
        open_client(chat.address, headers=[("X-Forwarded-For", forwarded)]),
    ):
        (peer,) = chat.ask(lambda: chat.server.peers)
        assert peer.address.startswith(address)


# Slow, silent and too many peers


def test_slow_reader_is_closed_and_resumes_after_its_last_id() -> None:
    """ws #1620, uWS #1056 and #1876: the write buffer of a slow reader grew without limit.

    An ordered chat cannot skip messages, so the server closes the connection. The next
    connection requests the messages after the last received id.
    """
    number, rounds = 100, 10
    with closing(open_store()) as store:
        chat = Chat(store, rate=0.0)
        chat.server._context.write_buffer_limit = 100_000
        listener = tight_listener()
        with serving(server=chat.server, listener=listener) as running, ExitStack() as stack:
            slow, ann, ben = (stack.enter_context(ChatClient(running.address)) for _ in range(3))
            session = slow.join("lobby", "Slow")["session"]
            ann.join("lobby", "Ann")
            ben.join("lobby", "Ben")
            ids: list[int] = []
            for round_number in range(rounds):
                for index in range(number):
                    text = os.urandom(250).hex()  # random, hence hardly compressible
                    ann.send(type="say", room="lobby", text=text, key=f"{round_number}.{index}")
                ids += [ann.receive_type("message")["id"] for _ in range(number)]
                assert [ben.receive_type("message")["id"] for _ in range(number)] == ids[-number:]
            received: list[int] = []
            with suppress(ConnectionClosed):
                while True:
                    received.append(slow.receive_type("message")["id"])
            assert slow.receive_close() == (1008, "too slow: the write buffer is full")
            resumed = stack.enter_context(ChatClient(running.address))
            joined = resumed.join("lobby", "Slow", session=session, after=received[-1])
            missed = [message["id"] for message in joined["messages"]]
            # A response has a limit for its text; pages of history have the rest.
            assert joined["gap"] is (received[-1] + 1 < missed[0])
            while received[-1] + 1 < missed[0]:
                resumed.send(type="history", room="lobby", before=missed[0], limit=100)
                page = resumed.receive_type("history")["messages"]
                missed = [
                    message["id"] for message in page if message["id"] > received[-1]
                ] + missed
            assert 0 < len(received) < len(ids), "the reader was never behind"
            assert received + missed == ids


def test_ping_timeout_restarts_with_every_received_byte() -> None:
    """websockets #1005, #1012 and #1128: a Pong queued behind bulk data missed the timeout."""
    with serving(ping_interval=0.1, ping_timeout=0.5) as running, connect(running.address) as sock:
        sock.sendall(handshake())
        bulk = fragment(Opcode.BINARY, bytes(100), fin=True)
        for at in range(7):  # 0.56 s without a Pong, longer than the timeout
            sock.sendall(bulk[at : at + 1])
            time.sleep(0.08)
        sock.sendall(bulk[7:])
        head, _, data = read_to_end(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    *earlier, last = events_of(Connection(Role.CLIENT), data)
    assert [event for event in earlier if not isinstance(event, Ping)] == [bytes(100)]
    assert last == Close(1011, "no sign of life")


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit of Linux")
def test_accept_without_descriptors_waits_and_serves_open_peers() -> None:
    """EMFILE at accept: a listener that stayed ready made the loop spin."""
    alone = ("--port", "0", "--db", ":memory:", "--rate-limit", "0", "--drain-timeout", "0.1")
    with daemon("chatd", *alone) as running, ExitStack() as stack:
        first, second = (stack.enter_context(Client(running.address)) for _ in range(2))
        second.send("welcome")
        assert first.receive() == "welcome"
        # The kernel assigns the lowest free descriptor, from 0.
        limit = 20
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        crowd = [stack.enter_context(connect(running.address)) for _ in range(limit)]
        for number in range(5):
            first.send(f"message {number}")
            assert second.receive() == f"message {number}"
        for sock in crowd[:-2]:
            reset(sock)
        newcomer = stack.enter_context(Client(running.address))
        first.send("welcome")
        assert newcomer.receive() == second.receive() == "welcome"
        status, errors = running.stop()
        assert status == 0
        assert "accept: [Errno 24]" in errors
        assert "Traceback" not in errors


# Display


def test_terminal_client_escapes_control_characters() -> None:
    """Terminal clients: received control characters reached the terminal."""
    controls = "".join(map(chr, [*range(32), 0x7F, *range(0x80, 0xA0), 0x202E, 0x2066, 0x200F]))

    def greet(peer: Peer) -> None:
        peer.send(f"text {controls}")
        peer.send(controls.encode())
        peer.close(4000, f"reason {controls}")

    with serving(on_open=greet) as running:
        url = f"ws://127.0.0.1:{running.address[1]}/"
        for options in ((), ("--trace",)):
            ended = subprocess.run(
                command("wsproto_min", "connect", *options, url),
                cwd=ROOT,
                input=b"",
                capture_output=True,
                timeout=PATIENCE,
                check=True,
            )
            shown = (ended.stdout + ended.stderr).decode()
            assert "text " in shown
            assert "reason " in shown
            assert not {character for character in controls if character in shown} - {"\n"}


def test_page_uses_text_nodes_and_a_strict_security_policy() -> None:
    """Chat pages: text of other users became HTML of the page."""
    with serve_chat() as chat:
        response = exchange(chat.address, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").decode()
    head, _, page = response.partition("\r\n\r\n")
    headers = Headers([(n, v) for n, _, v in (line.partition(": ") for line in head.split("\r\n"))])
    assert headers.get("X-Content-Type-Options") == "nosniff"
    assert headers.get("Referrer-Policy") == "no-referrer"
    assert headers.get("Content-Type") == "text/html; charset=utf-8"
    policy = headers.get("Content-Security-Policy") or ""
    rules = {name: value for name, _, value in (each.partition(" ") for each in policy.split("; "))}
    for name in ("default-src", "frame-ancestors", "base-uri", "form-action"):
        assert rules[name] == "'none'"
    for name, value in rules.items():
        assert "unsafe" not in value, name
        assert "*" not in value, name
    assert re.fullmatch("'sha256-[A-Za-z0-9+/]{43}='", rules["script-src"])
    unsafe = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser"
    )
    assert not re.findall(unsafe, page), "text could become HTML or code"
    assert re.search(r"matchAll\(/\\bhttps\?:", page), "addresses other than http(s) become links"
    assert page.count('.target = "_blank"') == page.count('.rel = "noopener noreferrer"') == 1
