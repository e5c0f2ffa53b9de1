"""WebSocket traffic to test a parser with: good, nearly good, and bad in every known way.

Nothing here depends on `wsproto_min`, so any RFC 6455 implementation in Python
can be held against it:

- `frames` makes single frames, `traffic` whole sequences of messages, cut into
  fragments with control frames between them. Each brings its bytes and what a
  parser has to make of them.
- `chunkings` cuts bytes as a network might; what is parsed must not depend on it.
- `VIOLATIONS` lists the shortest input for each rule that a peer can break,
  the section that says so, and the close code due.
- `deflated` compresses messages as RFC 7692 lets a peer do it, and
  `DEFLATE_VIOLATIONS` lists how it can break those rules.
- `nearly_valid` damages good traffic: most of the paths through a parser lie
  behind a good start, where bytes drawn at random hardly ever get.

For example, a parser that is to be independent of how its input is cut::

    @given(st.data(), traffic(masked=True))
    def test_any_chunking_gives_the_same_events(data, sent):
        chunks = data.draw(chunkings(sent.data))
        assert parse(chunks) == list(sent.events)

The bytes come from `WireFrame`, an encoder written from the figure of RFC 6455,
section 5.2, which will also write what the RFC forbids.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from hypothesis import strategies as st

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

# Where one form of the length ends and the next begins (section 5.2), and one
# more on each side.
BOUNDARY_LENGTHS = (0, 1, 124, 125, 126, 127, 65534, 65535, 65536, 65537)

# The key of the RFC's own examples (section 5.7).
KEY = bytes.fromhex("37fa213d")


@dataclass(frozen=True)
class WireFrame:
    """A frame as it stands on the wire, lawful or not (section 5.2).

    `rsv` has the three reserved bits, RSV1 the highest. `length_bits` forces a
    form of the length that may be longer than need be; None is the shortest.
    """

    opcode: int
    payload: bytes = b""
    fin: bool = True
    mask: bytes | None = None
    rsv: int = 0b000
    length_bits: Literal[7, 16, 64] | None = None

    @property
    def data(self) -> bytes:
        """The frame's bytes, put together bit by bit."""
        length = len(self.payload)
        form = self.length_bits or (7 if length <= 125 else 16 if length <= 65535 else 64)
        bits = f"{self.fin:01b}{self.rsv:03b}{self.opcode:04b}{self.mask is not None:01b}"
        if form == 7:
            bits += f"{length:07b}"
        elif form == 16:
            bits += f"{126:07b}{length:016b}"
        else:
            bits += f"{127:07b}{length:064b}"
        header = int(bits, 2).to_bytes(len(bits) // 8, "big")
        if self.mask is None:
            return header + self.payload
        return header + self.mask + naive_mask(self.payload, self.mask)


def naive_mask(data: bytes, mask: bytes, offset: int = 0) -> bytes:
    """Mask byte by byte, as section 5.3 has it: octet i XOR key octet (i MOD 4)."""
    return bytes(octet ^ mask[(offset + i) % 4] for i, octet in enumerate(data))


@dataclass(frozen=True)
class Control:
    """A control frame, as an event."""

    opcode: int
    payload: bytes


Event = str | bytes | Control
"""What a parser owes its user: a text message, a binary one, or a control frame."""


@dataclass(frozen=True)
class Traffic:
    """Frames in one direction that break no rule, and what they mean."""

    frames: Sequence[WireFrame]
    events: Sequence[Event]

    @property
    def data(self) -> bytes:
        """All bytes of the frames."""
        return b"".join(frame.data for frame in self.frames)


def masks(masked: bool | None) -> st.SearchStrategy[bytes | None]:
    """Masking keys for a client (True), none for a server (False), or both (None)."""
    keys = st.binary(min_size=4, max_size=4)
    if masked is None:
        return st.none() | keys
    return keys if masked else st.none()


def payloads(max_size: int = 40) -> st.SearchStrategy[bytes]:
    """Payloads: short ones, and those whose length is at a boundary of section 5.2."""
    longer = [length for length in BOUNDARY_LENGTHS if length > max_size]
    return st.binary(max_size=max_size) | st.sampled_from(longer).map(patterned)


def patterned(length: int) -> bytes:
    """Return bytes in which no piece can be taken for its neighbour."""
    return (bytes(range(251)) * (length // 251 + 1))[:length]


def texts() -> st.SearchStrategy[str]:
    """Messages of text in characters of one to four bytes, some of them long."""
    short = st.text(max_size=20) | st.text("a\u00e9\u20ac\U0001f600", max_size=20)
    return short | st.sampled_from((125, 126, 65535, 65536)).map(lambda n: "x" * (n - 2) + "\u00e9")


@st.composite
def frames(draw: st.DrawFn, masked: bool | None = None) -> WireFrame:
    """Draw one lawful frame of any kind; see `masks` for `masked`."""
    mask = draw(masks(masked))
    if draw(st.booleans()):
        payload = draw(payloads())
        opcode = draw(st.sampled_from((CONTINUATION, TEXT, BINARY)))
        return WireFrame(opcode, payload, draw(st.booleans()), mask)
    opcode = draw(st.sampled_from((CLOSE, PING, PONG)))
    return WireFrame(opcode, draw(st.binary(max_size=125)), True, mask)


def close_payloads() -> st.SearchStrategy[bytes]:
    """Payloads that a Close frame may have: none, or a code and a reason in UTF-8."""
    codes = st.sampled_from((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011)) | st.integers(
        3000, 4999
    )
    reasons = st.text(max_size=30)  # at most 120 bytes
    return st.just(b"") | st.builds(
        lambda code, reason: code.to_bytes(2, "big") + reason.encode(), codes, reasons
    )


Compression = Literal["alone", "taken over"]
"""Whether a compressed message stands alone, or may refer to those before it."""


@st.composite
def deflated(draw: st.DrawFn, data: bytes) -> bytes:
    """Compress a message that stands alone as a peer may (RFC 7692, 7.2.1).

    With any window that zlib has, at any level, flushed anywhere on the way and
    ended by a block with BFINAL or without.
    """
    compressor = zlib.compressobj(draw(st.integers(0, 9)), wbits=-draw(st.integers(9, 15)))
    cut = draw(st.integers(0, len(data)))
    result = compressor.compress(data[:cut])
    result += compressor.flush(draw(st.sampled_from((zlib.Z_NO_FLUSH, zlib.Z_SYNC_FLUSH))))
    result += compressor.compress(data[cut:])
    if draw(st.booleans()):
        return result + compressor.flush(zlib.Z_FINISH) + b"\0"
    return without_tail(result + compressor.flush(zlib.Z_SYNC_FLUSH))


def without_tail(data: bytes) -> bytes:
    """Return what zlib flushed without the four bytes that section 7.2.1 strikes off."""
    # A second flush in a row gives nothing; one zero byte stands for no data.
    return data[:-4] or b"\0"


@st.composite
def traffic(
    draw: st.DrawFn,
    masked: bool,
    *,
    max_messages: int = 4,
    closes: bool | None = False,
    compression: Compression | None = None,
) -> Traffic:
    """Draw messages in one direction, each in one to five fragments.

    Pings and Pongs stand before, between and after the fragments, and text is
    cut anywhere, within a character too. `closes` says whether a Close frame
    ends it all; None leaves that open. With `compression` some of the messages
    are compressed.
    """
    sent: list[WireFrame] = []
    events: list[Event] = []
    shared = zlib.compressobj(1, wbits=-draw(st.integers(9, 15)))

    def add(opcode: int, payload: bytes, fin: bool = True, rsv: int = 0) -> None:
        sent.append(WireFrame(opcode, payload, fin, draw(masks(masked)), rsv))

    def add_controls() -> None:
        for opcode in draw(st.lists(st.sampled_from((PING, PONG)), max_size=2)):
            payload = draw(st.binary(max_size=8) | st.just(patterned(125)))
            add(opcode, payload)
            events.append(Control(opcode, payload))

    for message in draw(st.lists(texts() | payloads(), max_size=max_messages)):
        opcode, data = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
        rsv = 0b100 if compression is not None and draw(st.booleans()) else 0
        if rsv and compression == "alone":
            data = draw(deflated(data))
        elif rsv:
            data = without_tail(shared.compress(data) + shared.flush(zlib.Z_SYNC_FLUSH))
        cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
        for begin, end in zip([0, *cuts], [*cuts, None], strict=True):
            add_controls()
            add(opcode, data[begin:end], end is None, rsv)
            opcode, rsv = CONTINUATION, 0
        events.append(message)
    add_controls()
    if draw(st.booleans()) if closes is None else closes:
        payload = draw(close_payloads())
        add(CLOSE, payload)
        events.append(Control(CLOSE, payload))
    return Traffic(tuple(sent), tuple(events))


# Beyond this many bytes a chunking into single bytes costs more than it finds.
_SINGLE_BYTES_UP_TO = 600


@st.composite
def chunkings(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Cut `data` in pieces whose join it is: one, single bytes, or anything between.

    Some pieces may be empty.
    """
    if len(data) <= _SINGLE_BYTES_UP_TO and draw(st.booleans()):
        return single_bytes(data)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[i:j] for i, j in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def single_bytes(data: bytes) -> list[bytes]:
    """Return each byte by itself."""
    return [data[i : i + 1] for i in range(len(data))]


@st.composite
def nearly_valid(draw: st.DrawFn, masked: bool, *, compression: Compression | None = None) -> bytes:
    """Draw good traffic with up to three bytes changed, lost or put in."""
    good = draw(traffic(masked, max_messages=3, closes=None, compression=compression))
    data = bytearray(good.data[:2000])
    for _ in range(draw(st.integers(0, 3))):
        # Near the beginning as often as not: headers are where it matters.
        position = draw(st.integers(0, min(12, len(data))) | st.integers(0, len(data)))
        extra = draw(st.binary(max_size=2))
        data[position : position + draw(st.integers(0, 2))] = extra
    return bytes(data)


Role = Literal["client", "server"]

# The limits that the parser under test must have for the last few VIOLATIONS.
MAX_MESSAGE_SIZE = 1024
MAX_FRAGMENTS = 16


@dataclass(frozen=True)
class Violation:
    """The shortest input that breaks a rule: without its last byte it is not broken yet.

    `role` is the end that receives `data`, and has to fail the connection with
    `close_code`. The input presumes an open connection with nothing under way
    and, for the sizes, MAX_MESSAGE_SIZE and MAX_FRAGMENTS. A parser may judge a
    header when it is whole, but not wait for the payload; it has to judge text
    at its first wrong byte only if it fails fast, as section 8.1 does not demand.
    """

    name: str
    section: str
    close_code: int
    data: bytes
    role: Role

    def __str__(self) -> str:
        return f"{self.role}: {self.name}"


def wire(notation: str, *, masked: bool) -> bytes:
    """Return the bytes of frames written in hex, from a client if they are `masked`.

    `|` separates frames and `.` the header from the payload. Both are written
    as a server sends them. For a client the MASK bit is set, KEY put in place
    of the point, and the payload masked. A frame without a point ends within
    its header, before any key:

        >>> wire("89 02 . 6869", masked=False).hex(" ")
        '89 02 68 69'
        >>> wire("89 02 . 6869", masked=True).hex(" ")
        '89 82 37 fa 21 3d 5f 93'
        >>> wire("01 01 . c3 | 80", masked=False).hex(" ")
        '01 01 c3 80'
    """
    data = b""
    for frame in notation.split("|"):
        before, point, after = frame.partition(".")
        header, payload = bytearray.fromhex(before), bytes.fromhex(after)
        if masked and len(header) > 1:
            header[1] |= 0x80
        if masked and point:
            data += header + KEY + naive_mask(payload, KEY)
        else:
            data += header + payload
    return data


# Rules that bind both ends: a name, the section, the close code, the frames.
_RULES: list[tuple[str, str, int, str]] = [
    ("RSV1 is set", "5.2", 1002, "c1"),
    ("RSV2 is set", "5.2", 1002, "a1"),
    ("RSV3 is set", "5.2", 1002, "91"),
    ("RSV1 is set in a continuation", "5.2", 1002, "01 00 . | c0"),
    ("RSV1 is set in a Ping", "5.2", 1002, "c9"),
    *(
        (f"the data opcode {opcode:X} is reserved", "5.2", 1002, f"8{opcode:x}")
        for opcode in range(0x3, 0x8)
    ),
    *(
        (f"the control opcode {opcode:X} is reserved", "5.2", 1002, f"8{opcode:x}")
        for opcode in range(0xB, 0x10)
    ),
    ("a Close is fragmented", "5.5", 1002, "08"),
    ("a Ping is fragmented", "5.5", 1002, "09"),
    ("a Pong is fragmented", "5.5", 1002, "0a"),
    ("a Ping has over 125 bytes, the length in 16 bits", "5.5", 1002, "89 7e"),
    ("a Ping has over 125 bytes, the length in 64 bits", "5.5", 1002, "89 7f"),
    ("a Close has over 125 bytes, the length in 16 bits", "5.5", 1002, "88 7e"),
    ("125 bytes, the length in 16 bits", "5.2", 1002, "82 7e 007d"),
    ("no bytes, the length in 16 bits", "5.2", 1002, "82 7e 0000"),
    ("65535 bytes, the length in 64 bits", "5.2", 1002, "82 7f 000000000000ffff"),
    ("125 bytes, the length in 64 bits", "5.2", 1002, "82 7f 000000000000007d"),
    ("the top bit of a 64-bit length is set", "5.2", 1002, "82 7f 80"),
    ("a continuation with nothing to continue", "5.4", 1002, "80 00 ."),
    ("a continuation after a whole message", "5.4", 1002, "81 00 . | 80 00 ."),
    ("a new text within a message", "5.4", 1002, "01 01 . 61 | 81 00 ."),
    ("a new binary within a message", "5.4", 1002, "02 01 . 61 | 82 00 ."),
    ("a lone continuation byte in text", "8.1", 1007, "81 01 . 80"),
    ("an overlong slash in two bytes", "8.1", 1007, "81 02 . c0"),
    ("an overlong slash in three bytes", "8.1", 1007, "81 03 . e080"),
    ("an overlong slash in four bytes", "8.1", 1007, "81 04 . f080"),
    ("a surrogate, U+D800", "8.1", 1007, "81 03 . eda0"),
    ("a character above U+10FFFF", "8.1", 1007, "81 04 . f490"),
    ("a lead byte that no character has", "8.1", 1007, "81 04 . f5"),
    ("a character cut off by the message's end", "8.1", 1007, "81 02 . 61c3"),
    ("a four-byte character cut off by the message's end", "8.1", 1007, "81 03 . f09f98"),
    ("a character cut off by the last fragment's end", "8.1", 1007, "01 01 . c3 | 80 00 ."),
    ("a character gone wrong in the next fragment", "8.1", 1007, "01 01 . c3 | 80 01 . 28"),
    ("a surrogate over two fragments", "8.1", 1007, "01 01 . ed | 00 01 . a0"),
    ("bad text half-way through a frame", "8.1", 1007, "81 0a . 6869ff"),
    ("bad text half-way through a fragment", "8.1", 1007, "01 01 . 68 | 00 7e 0100 . 69ff"),
    ("a Close with half a code", "5.5.1", 1002, "88 01 . 03"),
    *(
        (f"a Close with the code {code}", section, 1002, f"88 02 . {code:04x}")
        for code, section in [
            (0, "7.4.2"),
            (999, "7.4.2"),
            (1004, "7.4.1"),
            (1005, "7.4.1"),
            (1006, "7.4.1"),
            (1015, "7.4.1"),
            (1016, "7.4.2"),
            (1100, "7.4.2"),
            (2000, "7.4.2"),
            (2999, "7.4.2"),
            (5000, "7.4.2"),
            (65535, "7.4.2"),
        ]
    ),
    ("a Close with a reason that is not UTF-8", "5.5.1", 1007, "88 04 . 03e8 68ff"),
    ("a Close with a reason cut within a character", "5.5.1", 1007, "88 03 . 03e8 c3"),
    ("a frame of one byte too many", "7.4.1", 1009, "82 7e 0401 ."),
    ("a frame of the largest length there is", "7.4.1", 1009, "82 7f 7fffffffffffffff ."),
    ("fragments of one byte too many", "7.4.1", 1009, f"02 7e 0400 . {'00' * 1024} | 80 01 ."),
    (
        "one fragment too many",
        "7.4.1",
        1008,
        "01 01 . 61" + "| 00 01 . 61" * (MAX_FRAGMENTS - 1) + "| 80 01 .",
    ),
    (
        "one empty fragment too many",
        "7.4.1",
        1008,
        "02 00 ." + "| 00 00 ." * (MAX_FRAGMENTS - 1) + "| 00 00 .",
    ),
]


# Rules that bind both ends once permessage-deflate is agreed on, each message
# standing alone; the sections are those of RFC 7692. `00 LLLL NNNN` begins a
# block without compression, its length L and NOT L in little-endian order.
_DEFLATE_RULES: list[tuple[str, str, int, str]] = [
    ("RSV1 is set in a continuation", "6.1", 1002, "41 01 . 00 | c0 00 ."),
    ("RSV1 is set in a continuation only", "6.1", 1002, "01 00 . | c0 00 ."),
    ("RSV1 is set in a Ping", "6.1", 1002, "c9"),
    ("RSV1 is set in a Pong", "6.1", 1002, "ca"),
    ("RSV1 is set in a Close", "6.1", 1002, "c8"),
    ("RSV2 is set beside RSV1", "6.1", 1002, "e1"),
    ("RSV3 is set beside RSV1", "6.1", 1002, "d1"),
    ("the block type 3", "7.2.2", 1007, "c1 0a . 06"),
    ("the block type 3 in the next fragment", "7.2.2", 1007, "41 02 . f248 | 80 02 . ffff"),
    ("a block's length and its complement", "7.2.2", 1007, "c2 0a . 00 0500 0000"),
    ("a reference before the beginning", "7.2.2", 1007, "c1 05 . f200 11"),
    ("a reference to the last message", "7.2.2", 1007, "c2 06 . f248cdc90700 | c2 05 . f200 11"),
    ("a fault in an otherwise empty message", "7.2.2", 1007, "c1 01 . 06"),
    ("text that is not UTF-8", "7.2.2", 1007, "c1 0a . 00 0300 fcff 6869ff"),
    ("text cut off in a character", "7.2.2", 1007, "41 06 . 00 0100 feff c3 | 80 01 . 00"),
    ("65 final blocks", "7.2.3.5", 1008, f"c1 7e 00ff . {'0300' * 65}"),
    (
        "65 final blocks over fragments",
        "7.2.3.5",
        1008,
        f"42 7e 0080 . {'0300' * 64} | 80 0a . 0300",
    ),
    ("one byte too many", "8", 1009, f"c2 7e 0406 . 00 0104 fefb {'00' * 1025}"),
    (
        "one byte too many over fragments",
        "8",
        1009,
        f"42 7e 0405 . 00 0004 fffb {'00' * 1024} | 80 06 . 00 0100 feff 00",
    ),
    ("more on the wire than the budget can need", "8", 1009, "c2 7e 04c1 ."),
]


def _violations() -> Iterator[Violation]:
    yield from _both_ends(_RULES)
    yield Violation("a client's frame is not masked", "5.1", 1002, bytes.fromhex("81 00"), "server")
    yield Violation("a client's Ping is not masked", "5.1", 1002, bytes.fromhex("89 00"), "server")
    yield Violation("a server's frame is masked", "5.1", 1002, bytes.fromhex("81 80"), "client")
    yield Violation("a server's Ping is masked", "5.1", 1002, bytes.fromhex("89 80"), "client")


def _both_ends(rules: Sequence[tuple[str, str, int, str]]) -> Iterator[Violation]:
    for name, section, close_code, notation in rules:
        yield Violation(name, section, close_code, wire(notation, masked=True), "server")
        yield Violation(name, section, close_code, wire(notation, masked=False), "client")


VIOLATIONS: tuple[Violation, ...] = tuple(_violations())
"""Every rule that a peer can break with bytes, for both ends; see `Violation`."""

DEFLATE_VIOLATIONS: tuple[Violation, ...] = tuple(_both_ends(_DEFLATE_RULES))
"""Those that come with permessage-deflate, where no context is taken over."""
