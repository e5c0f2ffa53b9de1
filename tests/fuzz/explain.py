"""Fuzz target: files that `explain` reads: captures, dumps, hex, handshakes and raw bytes.

The first byte of an input chooses the known sender and the form of the output, the second the
size of the first chunks and the event to render. The rest is the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from tests.explain.packets import CLIENT, ETHERNET, RAW, SERVER, SLL2, SYN, pcap, pcapng, tcp_packet
from tests.fuzz.splits import first_chunks_of
from wsproto_min.connection import Role
from wsproto_min.explain.captures.conversation import Conversation, HarConversation
from wsproto_min.explain.captures.packets import is_packet
from wsproto_min.explain.captures.reader import is_capture, read_capture
from wsproto_min.explain.conversation_dissector import (
    CaptureEvent,
    ConversationDissector,
    HarDissector,
)
from wsproto_min.explain.dissector import Dissector, FrameReport
from wsproto_min.explain.handshake_lines import HandshakeContext
from wsproto_min.explain.heads import learn_handshake
from wsproto_min.explain.hex_input import parse_input
from wsproto_min.explain.render_json import to_json, verdict_to_json
from wsproto_min.explain.render_text import render, render_verdict
from wsproto_min.explain.style import plain
from wsproto_min.explain.verdict import Verdict
from wsproto_min.handshake import accept_key
from wsproto_min.testing.violations import MAX_FRAGMENTS, MAX_MESSAGE_SIZE, VIOLATIONS

SENDERS = (None, Role.CLIENT, Role.SERVER)
AS_JSON = 0x04
# A dissector takes 20 times as long as a decoder.
MAX_EVENTS = 6
MAX_CONNECTIONS = 2

Outcome = tuple[list[CaptureEvent], Verdict]


def check(data: bytes) -> None:
    """Raise `AssertionError` for a wrong outcome; let undocumented exceptions pass."""
    options = data[0] if data else 0
    size = 1 + data[1] % 64 if len(data) > 1 else 1
    file = data[2:]
    try:
        if is_capture(file):
            found, _ = read_capture(file)
            outcomes = [explain_connection(each) for each in found[:MAX_CONNECTIONS]]
        else:
            outcomes = [explain_bytes(SENDERS[options % len(SENDERS)], parse_input(file), size)]
    except ValueError as error:
        assert type(error) is ValueError, "a reader must say what is wrong"
        assert str(error)
        return
    for events, verdict in outcomes:
        check_output(events[size % len(events)] if events else None, verdict, options & AS_JSON)


def explain_connection(found: Conversation | HarConversation) -> Outcome:
    """Return the first events and the verdict of one connection of a capture."""
    explanation = (
        HarDissector(found)
        if isinstance(found, HarConversation)
        else ConversationDissector(
            found, max_message_size=MAX_MESSAGE_SIZE, max_fragments=MAX_FRAGMENTS
        )
    )
    return list(islice(explanation.events(), MAX_EVENTS)), explanation.verdict


def explain_bytes(sender: Role | None, data: bytes, size: int) -> Outcome:
    """Return the outcome of bytes that are not in a capture; check that chunks have it too."""
    is_packet(data)
    learn = sender is None

    def context() -> HandshakeContext:
        result = HandshakeContext()
        if learn:
            learn_handshake(data, result)
        return result

    whole = dissected(sender, context, [data])
    assert dissected(sender, context, first_chunks_of(data, size, 6)) == whole
    return whole


def dissected(
    sender: Role | None, context: Callable[[], HandshakeContext], chunks: Sequence[bytes]
) -> Outcome:
    """Return the first events of the chunks, and the verdict after them."""
    dissector = Dissector(
        sender,
        context=context(),
        max_message_size=MAX_MESSAGE_SIZE,
        max_fragments=MAX_FRAGMENTS,
    )

    def events() -> Iterator[CaptureEvent]:
        for chunk in chunks:
            dissector.receive_data(chunk)
            yield from dissector.events()
        dissector.receive_eof()
        yield from dissector.events()

    found = [without_masks(event) for event in islice(events(), MAX_EVENTS)]
    return found, dissector.verdict


def without_masks(event: CaptureEvent) -> CaptureEvent:
    """Return an event without the masking keys of the replies, which are random."""
    if isinstance(event, FrameReport) and event.replies:
        return replace(event, replies=tuple(each._replace(mask=None) for each in event.replies))
    return event


def check_output(event: CaptureEvent | None, verdict: Verdict, as_json: int) -> None:
    """Raise `AssertionError` unless a terminal can print the lines, or they are JSON."""
    if as_json:
        values = [verdict_to_json(verdict), *([to_json(event)] if event else [])]
        assert json.loads(json.dumps(values, allow_nan=False)) == values
        return
    lines = [*render_verdict(verdict), *(render(event, plain) if event else [])]
    assert all(line.isprintable() for line in lines)


KEY = "dGhlIHNhbXBsZSBub25jZQ=="
REQUEST = (
    "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
).encode()
RESPONSE = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Accept: {accept_key(KEY)}\r\n"
    "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
).encode()
HELLO = bytes.fromhex("81 85 37 fa 21 3d 7f 9f 4d 51 58")
ANSWER = bytes.fromhex("c1 07 f2 48 cd c9 c9 07 00 89 00")
PACKETS = (
    tcp_packet(CLIENT, SERVER, 99, flags=SYN),
    tcp_packet(SERVER, CLIENT, 199, flags=SYN, acknowledged=100),
    tcp_packet(CLIENT, SERVER, 100, REQUEST, acknowledged=200),
    tcp_packet(SERVER, CLIENT, 200, RESPONSE, acknowledged=100 + len(REQUEST)),
    tcp_packet(CLIENT, SERVER, 100 + len(REQUEST), HELLO),
    tcp_packet(SERVER, CLIENT, 200 + len(RESPONSE), ANSWER),
)
DUMPS = (
    "00000000  81 05 48 65 6c 6c 6f                              |..Hello|\n00000007\n",
    "00000000: 8105 4865 6c6c 6f                        ..Hello\n",
    "0000000 81 05 48 65 6c 6c 6f\n0000007\n",
    "0000000 0581 6548 6c6c 006f\n0000007\n",
    "<Buffer 81 05 48 65 6c 6c 6f>",
    r"b'\x81\x05Hello'",
    r'"\x81\x05Hello"',
    "{0x81, 0x05, 72, 0x65, 0x6c, 0x6c, 0x6f}",
    "[129, 5, 72, 101, 108, 108, 111]",
    "0x81 0x05 48:65:6c 6c 6f # Hello",
    "\x1b[32m81\x1b[0m 05 4865 6c6c6f\r\n",
)


def _har() -> bytes:
    heads = []
    for head in (REQUEST, RESPONSE):
        lines = head.decode().split("\r\n")[1:-2]
        heads.append(
            [dict(zip(("name", "value"), line.split(": "), strict=True)) for line in lines]
        )
    entry = {
        "request": {"method": "GET", "url": "ws://a/b?c#d", "headers": heads[0]},
        "response": {"status": 101, "statusText": "Switching Protocols", "headers": heads[1]},
        "_webSocketMessages": [
            {"type": "send", "opcode": 1, "data": "Hello"},
            {"type": "receive", "opcode": 2, "data": "AQID"},
            {"type": "error", "opcode": -1, "data": "lost"},
        ],
    }
    return json.dumps({"log": {"entries": [entry]}}).encode()


def _follow() -> bytes:
    line = "=" * 67
    nodes = "Node 0: 127.0.0.1:1\nNode 1: [::1]:2\n"
    head = f"\n{line}\nFollow: tcp,raw\nFilter: tcp.stream eq 0\n{nodes}"
    units = f"{REQUEST.hex()}\n\t{RESPONSE.hex()}\n{HELLO.hex()}\n\t{ANSWER.hex()}\n"
    return f"{head}{units}{line}\n".encode()


def seeds() -> Iterator[bytes]:
    """Yield captures of each form, dumps of each form, and bytes of both ends."""
    captures = [pcap(PACKETS, link_type) for link_type in (RAW, ETHERNET, SLL2)]
    captures += [pcap(PACKETS, order="big", kept=300), pcap((*PACKETS[:4], *PACKETS[5:]))]
    captures += [pcapng(PACKETS, kind=kind) for kind in (2, 3, 6)]
    captures += [pcapng(PACKETS, order="big"), _har(), _follow()]
    for options in (0, AS_JSON):
        for capture in captures:
            for number in range(4):
                yield bytes((options, number)) + capture
        for dump in DUMPS:
            yield bytes((options, 1)) + dump.encode()
        for data in (REQUEST, RESPONSE, REQUEST + HELLO, REQUEST + RESPONSE + HELLO + ANSWER):
            yield bytes((options, 40)) + data
            yield bytes((options + 1, 7)) + data.replace(b"\r", b"")
            yield bytes((options, 2)) + data + HELLO.hex(" ").encode()
        for number, text in enumerate(DUMPS[:2]):
            for encoding in ("utf-8-sig", "utf-16"):
                yield bytes((options, number)) + text.encode(encoding)
    for violation in VIOLATIONS:
        yield bytes((1 if violation.role == "server" else 2, 3)) + violation.data
        yield b"\0\0" + violation.data
