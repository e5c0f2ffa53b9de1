"""WebSocket traffic to test a parser with: good, nearly good, and bad in every known way.

Nothing here depends on the codec, so any RFC 6455 implementation in Python can be
held against it:

- `frames` makes single frames, `traffic` whole sequences of messages, cut into
  fragments with control frames between them. Each brings its bytes and what a
  parser has to make of them.
- `chunkings` cuts bytes as a network might; what is parsed must not depend on it.
- `VIOLATIONS` lists the shortest input for each rule that a peer can break,
  the section that says so, and the close code due; it is the table of
  `wsproto_min.testing.violations`, which `explain --break` prints.
- `deflated` compresses messages as RFC 7692 lets a peer do it, and
  `DEFLATE_VIOLATIONS` lists how it can break those rules.
- `nearly_valid` damages good traffic: most of the paths through a parser lie
  behind a good start, where bytes drawn at random hardly ever get.

For example, a parser that is to be independent of how its input is cut::

    @given(st.data(), traffic(masked=True))
    def test_any_chunking_gives_the_same_events(data, sent):
        chunks = data.draw(chunkings(sent.data))
        assert parse(chunks) == list(sent.events)

The bytes come from `RawFrame`, an encoder written from the figure of RFC 6455,
section 5.2, which will also write what the RFC forbids; README has an example
under "Test your own parser".
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hypothesis import strategies as st

from wsproto_min.testing.raw_frame import KEY as KEY
from wsproto_min.testing.raw_frame import RawFrame as RawFrame
from wsproto_min.testing.raw_frame import naive_mask as naive_mask
from wsproto_min.testing.raw_frame import wire as wire
from wsproto_min.testing.violations import DEFLATE_VIOLATIONS as DEFLATE_VIOLATIONS
from wsproto_min.testing.violations import MAX_FRAGMENTS as MAX_FRAGMENTS
from wsproto_min.testing.violations import MAX_MESSAGE_SIZE as MAX_MESSAGE_SIZE
from wsproto_min.testing.violations import VIOLATIONS as VIOLATIONS
from wsproto_min.testing.violations import Violation as Violation

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

# Where one form of the length ends and the next begins (section 5.2), and one
# more on each side.
BOUNDARY_LENGTHS = (0, 1, 124, 125, 126, 127, 65534, 65535, 65536, 65537)


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

    frames: Sequence[RawFrame]
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
def frames(draw: st.DrawFn, masked: bool | None = None) -> RawFrame:
    """Draw one lawful frame of any kind; see `masks` for `masked`."""
    mask = draw(masks(masked))
    if draw(st.booleans()):
        payload = draw(payloads())
        opcode = draw(st.sampled_from((CONTINUATION, TEXT, BINARY)))
        return RawFrame(opcode, payload, draw(st.booleans()), mask)
    opcode = draw(st.sampled_from((CLOSE, PING, PONG)))
    return RawFrame(opcode, draw(st.binary(max_size=125)), True, mask)


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
    sent: list[RawFrame] = []
    events: list[Event] = []
    shared = zlib.compressobj(1, wbits=-draw(st.integers(9, 15)))

    def add(opcode: int, payload: bytes, fin: bool = True, rsv: int = 0) -> None:
        sent.append(RawFrame(opcode, payload, fin, draw(masks(masked)), rsv))

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
