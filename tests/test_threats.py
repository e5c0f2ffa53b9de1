"""What has gone wrong in other WebSocket software, tried on this one.

Each test's docstring begins with where it happened, a row of `ROWS`, and says
what that taught. Whatever can be tried from outside is, on a socket.
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
from chatd.access.trusted_networks import parse_proxy
from chatd.app import Chat
from tests.chat import Talker, chatting, open_client, open_log
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
from wsproto_min.codes import Opcode
from wsproto_min.connection import Close, Connection, Event, Ping, Role
from wsproto_min.deflate import Compressor, DeflateParameters
from wsproto_min.errors import ConnectionClosed
from wsproto_min.frames import encode_frame
from wsproto_min.handshake import upgrade_request
from wsproto_min.http import MAX_HEAD_SIZE, MAX_HEADERS
from wsproto_min.net.peer import Peer

ROWS = [
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


def test_every_row_has_its_test() -> None:
    told = [
        function.__doc__ or ""
        for name, function in globals().items()
        if name.startswith("test_") and function is not test_every_row_has_its_test
    ]
    rows = {doc.partition(":")[0] for doc in told}
    assert rows == set(ROWS)


def fragment(opcode: Opcode, payload: bytes, *, fin: bool = False, rsv1: bool = False) -> bytes:
    """Return a client's frame."""
    return encode_frame(opcode, payload, fin=fin, rsv1=rsv1, mask=MASK)


def cpu_time(running: RunningServer) -> float:
    """Return the seconds that a server's thread has computed so far."""
    return running.ask(time.thread_time)


# Messages.


@pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "tiny"])
def test_every_fragment_is_charged_and_none_is_an_object_of_its_own(payload: bytes) -> None:
    """CVE-2026-48779 (ws), ws #2329 and #2331: tiny and empty fragments pinned memory."""
    first = fragment(Opcode.TEXT, payload)
    more = fragment(Opcode.CONTINUATION, payload)
    with serving() as running, Client(running.address) as client:
        tracemalloc.start()
        try:
            for number in range(64):
                client.sock.sendall((more if number else first) + more * 255)
            running.ask(lambda: None)  # the last of them have been read
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        (peer,) = running.server.peers
        assert peer.is_open, "16384 fragments are the limit for 1 MiB"
        assert held < 256 * KIB, f"{held} bytes are held for 16384 fragments"
        client.sock.sendall(more)
        assert [event for event in client.receive_all() if isinstance(event, Close)] == [
            Close(1008, "a message has more than 16384 fragments")
        ]


def test_a_message_is_refused_on_its_announced_length_and_its_pieces_share_a_buffer() -> None:
    """CVE-2026-54274 (aiohttp): buffered before it was judged, an object for each read."""
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
            assert not list(connection.receive_data(frame[at : at + 1]))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 40_000, f"{held} bytes are held for {len(frame)} that came one by one"


def answered(address: Address, *frames: bytes) -> list[Event]:
    """Send compressed messages and a Close in one segment; return all that comes."""
    with connect(address) as sock:
        request = upgrade_request(
            "127.0.0.1", "/", new_key(), compression=DeflateParameters.DEFAULT
        )
        sock.sendall(request + b"".join(frames) + fragment(Opcode.CLOSE, b"", fin=True))
        head, _, data = read_to_end(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    assert b"permessage-deflate" in head, "no compression was agreed"
    connection = Connection(Role.CLIENT, compression=DeflateParameters.NO_CONTEXT_TAKEOVER)
    return list(connection.receive_data(data))


def test_what_a_message_expands_to_is_bounded_where_the_budget_ends_too() -> None:
    """CVE-2018-1000518 (websockets), CVE-2026-1526 (undici), wsproto: unbounded inflating.

    zlib takes a `max_length` of 0 for no limit, and 0 is what is left of a budget
    that is used up exactly.
    """
    budget = 100_000
    compressor = zlib.compressobj(9, wbits=-15)
    within = compressor.compress(bytes(budget)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    bomb = compressor.compress(bytes(64 * MIB)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    first = fragment(Opcode.BINARY, within, rsv1=True)
    too_big = Close(1009, f"a message is larger than {budget} bytes")
    with serving(max_message_size=budget) as running:
        tracemalloc.start()
        try:
            for last, events in (
                (b"", [bytes(budget), Close(1005)]),
                (bomb[: 80 * KIB], [too_big]),
            ):
                rest = fragment(Opcode.CONTINUATION, last, fin=True)
                assert answered(running.address, first, rest) == events
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 3 * MIB, f"{peak} bytes for messages of at most {budget}"


@pytest.mark.parametrize("context_takeover", [False, True])
def test_pings_between_compressed_fragments_leave_the_messages_alone(
    context_takeover: bool,
) -> None:
    """wsproto #205: a Ping between compressed fragments corrupted the message."""
    # Each bit of `places` stands for a Ping before one of eight fragments.
    for places in range(1 << 8):
        check_pings_at(places, context_takeover)


def check_pings_at(places: int, context_takeover: bool) -> None:
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
        cuts = [0, 1, 3, 3, len(payload)]
        for begin, end in pairwise(cuts):
            if places >> index & 1:
                data += fragment(Opcode.PING, bytes([index]), fin=True)
                expected.append(Ping(bytes([index])))
            opcode = Opcode.CONTINUATION if begin else Opcode.TEXT
            data += fragment(opcode, payload[begin:end], fin=end == len(payload), rsv1=not begin)
            index += 1
        expected.append("Hello, Hello")
    assert list(server.receive_data(data)) == expected, f"Pings at {places:08b}"
    assert server.error is None


def test_windows_are_8_to_15_bits_and_a_zlib_error_is_a_close() -> None:
    """CVE-2026-2229 (undici): a window of other bits, or an error of zlib, was a crash."""
    with chatting() as chat:
        for name in ("server_max_window_bits", "client_max_window_bits"):
            for bits in range(18):
                offer = f"Sec-WebSocket-Extensions: permessage-deflate; {name}={bits}\r\n\r\n"
                with connect(chat.address) as sock:
                    sock.sendall(handshake()[:-2] + offer.encode())
                    answer = sock.recv(4096)
                assert answer.startswith(b"HTTP/1.1 101 "), answer
                assert (b"permessage-deflate" in answer) is (8 <= bits <= 15), (name, bits)
        broken = fragment(Opcode.TEXT, b"\x06 is no type of block", fin=True, rsv1=True)
        (close,) = answered(chat.address, broken)
        assert isinstance(close, Close)
        assert close.code == 1007
        with open_client(chat.address) as client:
            assert client.ping(PATIENCE) > 0, "the chat goes on"


@pytest.mark.parametrize(
    ("before", "length", "code"),
    [
        (0, 1 << 63, 1002),  # the top bit must be zero (section 5.2)
        (0, (1 << 64) - 1, 1002),
        (0, (1 << 63) - 1, 1009),
        (1, (1 << 63) - 1, 1009),  # together with what came before they pass 2**63
        (1000, (1 << 63) - 1000, 1009),
    ],
)
def test_a_length_is_compared_before_it_is_added_to(before: int, length: int, code: int) -> None:
    """CVE-2020-27813 (gorilla), CVE-2026-1528 (undici): lengths that overflowed."""
    data = b"\x82\xff" if not before else b"\x80\xff"
    if before:
        data = fragment(Opcode.BINARY, bytes(before)) + data
    with serving() as running, Client(running.address) as client:
        client.sock.sendall(data + length.to_bytes(8, "big") + MASK)
        (close,) = client.receive_all()
        assert isinstance(close, Close)
        assert close.code == code


def test_a_pong_that_nobody_waits_for_is_harmless() -> None:
    """PRISMA-2021-0118 (coder): duplicate and unsolicited Pongs were a panic."""
    with (
        serving(ping_interval=0.05, ping_timeout=PATIENCE) as running,
        Client(running.address) as client,
    ):
        ping = client.receive()
        assert isinstance(ping, Ping)
        for payload in (ping.payload, ping.payload, b"", b"unasked", bytes(125)):
            client.connection.pong(payload)
        client.send("still there?")
        assert client.receive() == "still there?"


# The opening handshake.


def test_a_long_head_costs_one_look_at_each_byte_however_it_is_chopped() -> None:
    """CVE-2023-43669 (tungstenite): a long header cost minutes."""
    head = b"GET / HTTP/1.1\r\nX: ".ljust(MAX_HEAD_SIZE + 4, b"x")
    with serving(open_timeout=3 * PATIENCE) as running, connect(running.address) as sock:
        for at in range(len(head)):
            sock.sendall(head[at : at + 1])
        assert sock.recv(4096).startswith(b"HTTP/1.1 431 ")
        # Looked at anew with each byte, it would be 134 million.
        assert cpu_time(running) < PATIENCE


def test_a_missing_header_is_400_and_too_many_are_431(caplog: pytest.LogCaptureFixture) -> None:
    """CVE-2024-37890 (ws): beyond a number headers were dropped, and Upgrade missed."""
    line, *fields = handshake().removesuffix(b"\r\n\r\n").split(b"\r\n")
    padding = [b"X-%d: x" % number for number in range(MAX_HEADERS - len(fields))]
    with chatting() as chat:

        def status(*lines: bytes) -> int:
            with connect(chat.address) as sock:
                sock.sendall(b"\r\n".join((line, *lines)) + b"\r\n\r\n")
                return int(sock.recv(4096).split(b" ")[1])

        assert status(*padding, *fields) == 101
        assert status(b"X: x", *padding, *fields) == 431
        for left_out in fields:
            rest = [field for field in fields if field is not left_out]
            refused = 426 if b"Version" in left_out else 400
            assert status(*rest) == refused, left_out
    assert caplog.records == []


@pytest.mark.parametrize(
    "value",
    ["," * 15_000, " \t" * 7500 + "x", "a;" * 7500, 'a="' + "\\" * 15_000, "a " * 7500 + "a"],
    ids=["commas", "spaces", "parameters", "a quoted string", "words"],
)
def test_reading_lists_in_headers_does_not_backtrack(value: str) -> None:
    """CVE-2021-32640 (ws), CVE-2020-7662 and CVE-2020-7663: expressions that backtracked."""
    names = ["Connection", "Upgrade", "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol"]
    names += ["Origin", "Host", "Authorization", "X-Forwarded-For", "Sec-WebSocket-Key"]
    with chatting(trusted_proxies=[parse_proxy("127.0.0.1")]) as chat:
        for name in names:
            with connect(chat.address) as sock:
                sock.sendall(handshake()[:-2] + f"{name}: {value}\r\n\r\n".encode())
                assert sock.recv(4096).startswith(b"HTTP/1.1 ")
        assert cpu_time(chat) < PATIENCE


def test_signatures_are_compared_in_constant_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2021-33880 (websockets): how long a comparison took told how much was right."""
    invitations, now = Invitations(tmp_path), 1_700_000_000.0
    token = invitations.issue("Ann", [], 7, now)
    compared = []

    def spy(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac_compare(one, other)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr("chatd.access.invitations.hmac.compare_digest", spy)
    invitations.check(token, now)
    signature = token.partition(".")[2].encode()
    assert compared == [(signature, signature)]
    with pytest.raises(Unauthorized):
        invitations.check(token[:-2] + "AA", now)
    assert len(compared) == 2


def test_a_chat_refuses_foreign_pages_in_both_modes_and_programs_pass() -> None:
    """engine.io #128, GHSA-cf66-xwfp-gvc4 (webpack-dev-server): any page reached 127.0.0.1."""
    with chatting() as chat:
        port = chat.address[1]
        for subprotocols in ((), ("chat.v1",)):
            open_client(chat.address, subprotocols=subprotocols).close()
            own = f"http://127.0.0.1:{port}"
            open_client(chat.address, subprotocols=subprotocols, origin=own).close()
            for origin, why in (
                ("null", "pages that are no site's"),
                ("http://evil.example", "--allow-origin http://evil.example"),
                (f"http://localhost:{port}", f"--allow-origin http://localhost:{port}"),
            ):
                with pytest.raises(HandshakeError, match=why) as caught:
                    open_client(chat.address, subprotocols=subprotocols, origin=origin)
                assert caught.value.status == 403
        answer = exchange(chat.address, b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert b"--allow-host evil.example" in answer
        assert b"<script>" not in answer


def test_dripping_bytes_do_not_extend_the_deadline_of_the_handshake() -> None:
    """websocketpp #789: half-open handshakes stayed for ever."""
    started = time.monotonic()
    with serving(open_timeout=0.3) as running, connect(running.address) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nX: ")
        sock.settimeout(0.02)
        answer = b""
        while not answer:
            assert time.monotonic() - started < PATIENCE, "every byte extends the deadline"
            sock.sendall(b"x")
            try:
                answer = sock.recv(4096)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - started >= 0.3, "cut too early"


def test_who_has_not_joined_in_time_is_closed_and_who_has_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """websocketpp #789: and so did those who never said who they were."""
    assert app.JOIN_TIMEOUT == 10.0
    monkeypatch.setattr(app, "JOIN_TIMEOUT", 0.2)
    invitations = Invitations(tmp_path)
    token = invitations.issue("Ann", [], 7, time.time())
    bearer = [("Authorization", f"Bearer {token}")]
    with (
        chatting(invitations=invitations) as chat,
        Talker(chat.address) as ann,
        Talker(chat.address) as silent,
        Talker(chat.address) as left,
        open_client(chat.address, headers=bearer) as plain,
    ):
        ann.join("lobby", "Ann", token=token)
        left.refusal(type="join", room="lobby", name="Ann", token="forged")
        assert silent.hear_end() == (1008, "nothing joined within 0.2 s")
        assert left.hear_end() == (1008, "nothing joined within 0.2 s")
        ann.say("lobby", "still here")
        assert plain.recv(PATIENCE) == "still here"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_half_open_handshakes_of_one_address_leave_others_their_places() -> None:
    """websocketpp #789: nor was there a limit to how many one address could hold open."""
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
def test_what_a_client_forwards_of_itself_counts_for_nothing(
    trusted: str, forwarded: str, address: str
) -> None:
    """The X-Forwarded-For recipe (README of ws): it believed the leftmost address."""
    with (
        chatting(trusted_proxies=[parse_proxy(trusted)]) as chat,
        open_client(chat.address, headers=[("X-Forwarded-For", forwarded)]),
    ):
        (peer,) = chat.ask(lambda: chat.server.peers)
        assert peer.address.startswith(address)


# Slow, silent and too many peers.


def test_a_slow_reader_is_closed_and_resumes_where_it_was() -> None:
    """ws #1620, uWS #1056 and #1876: what a slow reader did not take piled up.

    An ordered chat does not skip messages either: it ends the connection, and the
    next one asks for all after the last id.
    """
    number, rounds = 100, 10
    with closing(open_log()) as log:
        chat = Chat(log, rate=0.0)
        chat.server._context.write_buffer_limit = 100_000
        listener = tight_listener()
        with serving(server=chat.server, listener=listener) as running, ExitStack() as stack:
            slow, ann, ben = (stack.enter_context(Talker(running.address)) for _ in range(3))
            session = slow.join("lobby", "Slow")["session"]
            ann.join("lobby", "Ann")
            ben.join("lobby", "Ben")
            ids: list[int] = []
            for turn in range(rounds):
                for index in range(number):
                    text = os.urandom(250).hex()  # does not become small on the wire
                    ann.tell(type="say", room="lobby", text=text, key=f"{turn}.{index}")
                ids += [ann.hear_next("message")["id"] for _ in range(number)]
                assert [ben.hear_next("message")["id"] for _ in range(number)] == ids[-number:]
            heard: list[int] = []
            with suppress(ConnectionClosed):
                while True:
                    heard.append(slow.hear_next("message")["id"])
            assert slow.hear_end() == (1008, "too slow: the send queue is full")
            back = stack.enter_context(Talker(running.address))
            joined = back.join("lobby", "Slow", session=session, after=heard[-1])
            assert joined["gap"] is False
            assert 0 < len(heard) < len(ids), "it never fell behind"
            assert heard + [message["id"] for message in joined["messages"]] == ids


def test_any_byte_is_a_sign_of_life_and_the_lack_of_any_is_told() -> None:
    """websockets #1005, #1012 and #1128: Pongs queued behind bulk data counted as silence."""
    with serving(ping_interval=0.1, ping_timeout=0.5) as running, connect(running.address) as sock:
        sock.sendall(handshake())
        bulk = fragment(Opcode.BINARY, bytes(100), fin=True)
        for at in range(12):  # a second without a Pong
            sock.sendall(bulk[at : at + 1])
            time.sleep(0.08)
        sock.sendall(bulk[12:])
        head, _, data = read_to_end(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    *earlier, last = Connection(Role.CLIENT).receive_data(data)
    assert [event for event in earlier if not isinstance(event, Ping)] == [bytes(100)]
    assert last == Close(1011, "no sign of life")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sets limits of other processes")
def test_without_descriptors_those_inside_talk_on_and_newcomers_wait_their_turn() -> None:
    """EMFILE at accept: a listener that stays ready made the loop spin."""
    alone = ("--port", "0", "--db", ":memory:", "--rate-limit", "0", "--drain-timeout", "0.1")
    with daemon("chatd", *alone) as running, ExitStack() as stack:
        first, second = (stack.enter_context(Client(running.address)) for _ in range(2))
        second.send("welcome")
        assert first.receive() == "welcome"
        # Descriptors are numbered from 0, the lowest free one first.
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
        assert "cannot accept" in errors
        assert "Traceback" not in errors


# What people see.


def test_nothing_that_a_server_sends_steers_the_terminal() -> None:
    """Terminal clients: control characters of the network reached the terminal."""
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


def test_the_page_has_only_text_nodes_and_allows_nothing_else_to_run() -> None:
    """Chat pages: what others wrote became part of the page."""
    with chatting() as chat:
        answer = exchange(chat.address, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").decode()
    head, _, page = answer.partition("\r\n\r\n")
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
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser"
    assert not re.findall(ways, page), "text could become something else"
    assert re.search(r"matchAll\(/\\bhttps\?:", page), "other addresses than http(s) are links"
    assert page.count('.target = "_blank"') == page.count('.rel = "noopener noreferrer"') == 1
