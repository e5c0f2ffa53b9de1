"""Hypothesis strategies: WebSocket traffic to test a parser with, valid and damaged.

Any RFC 6455 implementation in Python can be tested with them:

- `frames` draws single frames. `traffic` draws messages, split into fragments with control
  frames in between. Each comes with its bytes and with the events that a parser must return.
- `chunkings` splits bytes as a network might. The events must not depend on the split.
- `deflated` compresses a message in any way that RFC 7692 allows.
- `nearly_valid` damages valid traffic. Most paths through a parser lie behind a valid start,
  which random bytes hardly ever have.

The table of `wsproto_min.testing.violations` complements them. An example::

    @given(st.data(), traffic(masked=True))
    def test_any_chunking_gives_the_same_events(data, sent):
        chunks = data.draw(chunkings(sent.data))
        assert parse(chunks) == list(sent.events)

The frames come from `RawFrame`, which does not use this package's codec.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hypothesis import strategies as st

from wsproto_min.testing.raw_frame import RawFrame, patterned

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

# Lengths at which one form of the length ends and the next begins (section 5.2).
BOUNDARY_LENGTHS = (0, 1, 124, 125, 126, 127, 65534, 65535, 65536, 65537)


@dataclass(frozen=True)
class Control:
    """A received control frame, as an event."""

    opcode: int
    payload: bytes


Event = str | bytes | Control
"""A text message, a binary message or a control frame."""


@dataclass(frozen=True)
class Traffic:
    """Valid frames in one direction, and the events that a parser returns for them."""

    frames: Sequence[RawFrame]
    events: Sequence[Event]

    @property
    def data(self) -> bytes:
        """The bytes of all frames."""
        return b"".join(frame.data for frame in self.frames)


def masks(masked: bool | None) -> st.SearchStrategy[bytes | None]:
    """Draw masking keys for a client (True), None for a server (False), or either (None)."""
    keys = st.binary(min_size=4, max_size=4)
    if masked is None:
        return st.none() | keys
    return keys if masked else st.none()


def payloads(max_size: int = 40) -> st.SearchStrategy[bytes]:
    """Draw short payloads, and payloads with a length at a boundary of section 5.2."""
    longer = [length for length in BOUNDARY_LENGTHS if length > max_size]
    return st.binary(max_size=max_size) | st.sampled_from(longer).map(patterned)


def texts() -> st.SearchStrategy[str]:
    """Draw text messages with characters of one to four bytes, some of them long."""
    short = st.text(max_size=20) | st.text("a\u00e9\u20ac\U0001f600", max_size=20)
    return short | st.sampled_from((125, 126, 65535, 65536)).map(lambda n: "x" * (n - 2) + "\u00e9")


@st.composite
def frames(draw: st.DrawFn, masked: bool | None = None) -> RawFrame:
    """Draw one valid frame of any kind; `masked` is that of `masks`."""
    mask = draw(masks(masked))
    if draw(st.booleans()):
        payload = draw(payloads())
        opcode = draw(st.sampled_from((CONTINUATION, TEXT, BINARY)))
        return RawFrame(opcode, payload, draw(st.booleans()), mask)
    opcode = draw(st.sampled_from((CLOSE, PING, PONG)))
    return RawFrame(opcode, draw(st.binary(max_size=125)), True, mask)


def close_payloads() -> st.SearchStrategy[bytes]:
    """Draw valid payloads of a Close frame: empty, or a code and a reason in UTF-8."""
    codes = st.sampled_from((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011)) | st.integers(
        3000, 4999
    )
    reasons = st.text(max_size=30)  # at most 120 bytes
    return st.just(b"") | st.builds(
        lambda code, reason: code.to_bytes(2, "big") + reason.encode(), codes, reasons
    )


Compression = Literal["alone", "taken over"]
"""Compressed messages stand alone, or may refer to earlier ones (context takeover)."""


@st.composite
def deflated(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a compressed form of a message that stands alone (RFC 7692, 7.2.1).

    Window, level, the place of a flush and the final block's BFINAL vary.
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
    """Return flushed output of zlib without its last four bytes (RFC 7692, 7.2.1)."""
    # A second flush in a row gives nothing; a single zero byte stands for no data.
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

    Pings and Pongs come before, between and after the fragments. A fragment may end within a
    character. `masked` is True for the frames of a client, `max_messages` limits the messages.
    With `closes` a Close frame ends the traffic; None draws both. With `compression` some of
    the messages are compressed, in that way.
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


# Bytes. For longer data a split into single bytes takes too long.
_MAX_SINGLE_BYTES = 600


@st.composite
def chunkings(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Draw a split of `data` into chunks: one, single bytes, or anything between.

    Chunks may be empty.
    """
    if len(data) <= _MAX_SINGLE_BYTES and draw(st.booleans()):
        return single_bytes(data)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[i:j] for i, j in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def single_bytes(data: bytes) -> list[bytes]:
    """Return each byte as a chunk of its own."""
    return [data[i : i + 1] for i in range(len(data))]


@st.composite
def nearly_valid(draw: st.DrawFn, masked: bool, *, compression: Compression | None = None) -> bytes:
    """Draw valid traffic with up to three bytes changed, removed or inserted."""
    valid = draw(traffic(masked, max_messages=3, closes=None, compression=compression))
    data = bytearray(valid.data[:2000])
    for _ in range(draw(st.integers(0, 3))):
        # Half of the changes are near the start, because headers are there.
        position = draw(st.integers(0, min(12, len(data))) | st.integers(0, len(data)))
        extra = draw(st.binary(max_size=2))
        data[position : position + draw(st.integers(0, 2))] = extra
    return bytes(data)
