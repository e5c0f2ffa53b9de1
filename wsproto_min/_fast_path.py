"""Fast paths for two usual shapes of frames, private to `connection`.

Both read directly from the decoder's buffer, where the slow path (`FrameDecoder` and
`MessageAssembler`) creates several objects for each frame. They leave every other frame to the
slow path, invalid ones above all, and property tests hold them equal to it.

- `read_messages` reads masked, unfragmented messages with at most 2 KiB: most frames that
  a chat server receives.
- `join_fragments` joins continuation frames, so that a run of small fragments costs one XOR, one
  decompression and one check of the text.
"""

from __future__ import annotations

from wsproto_min.codes import Opcode
from wsproto_min.frames import (
    FIN,
    LENGTH_IN_2_BYTES,
    MASK,
    MAX_CONTROL_PAYLOAD,
    Frame,
    FrameDecoder,
)
from wsproto_min.masking import INTEGER_LIMIT, REPEAT, xor
from wsproto_min.messages import MessageAssembler

_TEXT = FIN | Opcode.TEXT
_BINARY = FIN | Opcode.BINARY
_MASKED_2_BYTES = MASK | LENGTH_IN_2_BYTES

# Bounds for the messages that wait while their connection is paused: their number, and the bytes
# of their frames.
_MAX_MESSAGES = 64
_MAX_BYTES = 1 << 14


def read_messages(decoder: FrameDecoder, limit: int) -> list[str | bytes]:
    """Return the next messages while their frames have the usual shape, the last one first.

    The decoder must be at the start of a frame, between two messages, and its peer a client.

    Args:
        decoder: Its `position` moves behind the frames that were read.
        limit: The largest payload in bytes.

    """
    messages: list[str | bytes] = []
    from_bytes, repeat = int.from_bytes, REPEAT
    limit = min(limit, INTEGER_LIMIT)
    max_short = MASK | min(limit, MAX_CONTROL_PAYLOAD)
    data = decoder.buffer
    start = decoder.position
    available = min(len(data), start + _MAX_BYTES)
    while start + 6 <= available and len(messages) < _MAX_MESSAGES:
        opcode, length = data[start], data[start + 1]
        if opcode != _TEXT and opcode != _BINARY:
            break
        if MASK <= length <= max_short:
            length -= MASK
            begin = start + 6
            words = length + 3 >> 2
        elif length == _MASKED_2_BYTES:
            length = data[start + 2] << 8 | data[start + 3]
            begin = start + 8
            words = length + 63 >> 6 << 4
            if not LENGTH_IN_2_BYTES <= length <= limit:
                break
        else:
            break
        end = begin + length
        if end > available:
            break
        # This is `apply_mask` without a call.
        mask = from_bytes(data[begin - 4 : begin], "little") * repeat[words]
        payload = from_bytes(data[begin:end], "little") ^ mask
        binary = payload.to_bytes(words << 2, "little")[:length]
        try:
            messages.append(binary if opcode == _BINARY else str(binary, "utf-8"))
        except UnicodeDecodeError:
            break
        start = end
    if start == len(data):
        decoder.discard()  # all is decoded: release the read
    else:
        decoder.position = start
    messages.reverse()
    return messages


def join_fragments(
    decoder: FrameDecoder, assembler: MessageAssembler, *, masked: bool
) -> Frame | None:
    """Return the next fragments of a message as one frame, or None if the slow path must go on.

    Only complete continuation frames without FIN are joined, and only while none can exceed the
    limits of the assembler. The decoder must be at the start of a frame, within a message.

    Args:
        decoder: Its `position` moves behind the frames that were read.
        assembler: Counts all joined fragments except one, which `receive_frame` counts.
        masked: True if the peer is a client.

    """
    data = decoder.buffer
    start = decoder.position
    mask_bit, header_size = (MASK, 6) if masked else (0, 2)
    size_left, fragments_left = assembler.remaining_limits
    # So many bytes have at most `size_left` bytes of payload, and `fragments_left` headers.
    available = min(len(data), start + min(size_left, fragments_left * header_size))
    payloads: list[bytes] = []
    keys: list[bytes] = []
    # 0 is the first byte of a continuation frame without FIN.
    while start + header_size <= available and not data[start]:
        length = data[start + 1] - mask_bit
        begin = start + header_size
        if length == LENGTH_IN_2_BYTES:
            begin += 2
            if begin > available:
                break
            length = data[start + 2] << 8 | data[start + 3]
            if not LENGTH_IN_2_BYTES <= length <= INTEGER_LIMIT:
                break
        elif not 0 <= length <= MAX_CONTROL_PAYLOAD:
            break
        end = begin + length
        if end > available:
            break
        payloads.append(data[begin:end])
        if masked:
            keys.append((data[begin - 4 : begin] * (length + 3 >> 2))[:length])
        start = end
    if not payloads:
        return None
    if start == len(data):
        decoder.discard()  # as above
    else:
        decoder.position = start
    assembler.count_joined_fragments(len(payloads) - 1)
    payload = b"".join(payloads)
    if masked:
        payload = xor(payload, b"".join(keys))
    return Frame(Opcode.CONTINUATION, payload, fin=False)
