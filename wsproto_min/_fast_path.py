"""Fast paths for two usual shapes of frames, private to `connection`.

Both read directly from the decoder's buffer, where the slow path (`FrameDecoder` and
`MessageAssembler`) creates several objects for each frame. They leave every other frame to the
slow path, invalid ones above all, and property tests hold them equal to it.

- `read_short_messages` reads masked, unfragmented messages with at most 125 bytes: most frames
  that a chat server receives.
- `join_fragments` joins masked continuation frames, so that a run of small fragments costs one
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
from wsproto_min.masking import apply_mask
from wsproto_min.messages import MessageAssembler

_TEXT = FIN | Opcode.TEXT
_BINARY = FIN | Opcode.BINARY
_MAX_LENGTH = MAX_CONTROL_PAYLOAD  # the longest payload with a 7-bit length

# Bound for the messages that wait while their connection is paused.
_MAX_MESSAGES = 64

# A masking key times the n-th of these numbers is the key repeated n times.
_REPEAT = [sum(1 << 32 * index for index in range(count)) for count in range(_MAX_LENGTH // 4 + 2)]


def read_short_messages(decoder: FrameDecoder, limit: int) -> list[str | bytes]:
    """Return the next messages while their frames have the usual shape, the last one first.

    The decoder must be at the start of a frame, between two messages, and its peer a client.

    Args:
        decoder: Its `position` moves behind the frames that were read.
        limit: The largest payload in bytes.

    """
    messages: list[str | bytes] = []
    from_bytes = int.from_bytes
    max_length = MASK | min(limit, _MAX_LENGTH)
    data = decoder.buffer
    start = decoder.position
    available = len(data)
    while start + 6 <= available and len(messages) < _MAX_MESSAGES:
        opcode, length = data[start], data[start + 1]
        if not MASK <= length <= max_length or (opcode != _TEXT and opcode != _BINARY):
            break
        length -= MASK
        begin = start + 6
        end = begin + length
        if end > available:
            break
        words = length + 3 >> 2
        mask = from_bytes(data[begin - 4 : begin], "little") * _REPEAT[words]
        payload = from_bytes(data[begin:end], "little") ^ mask
        binary = payload.to_bytes(words << 2, "little")[:length]
        try:
            messages.append(binary if opcode == _BINARY else str(binary, "utf-8"))
        except UnicodeDecodeError:
            break
        start = end
    if start == available:
        decoder.discard()  # all is decoded: release the read
    else:
        decoder.position = start
    messages.reverse()
    return messages


def join_fragments(decoder: FrameDecoder, assembler: MessageAssembler) -> Frame | None:
    """Return the next fragments of a message as one frame, or None if the slow path must go on.

    Only complete continuation frames without FIN are joined, and only as many as the limits of
    the assembler allow. The decoder must be at the start of a frame, within a message, and its
    peer a client.

    Args:
        decoder: Its `position` moves behind the frames that were read.
        assembler: Counts all joined fragments except one, which `receive_frame` counts.

    """
    size_left, fragments_left = assembler.remaining_limits
    data = decoder.buffer
    start = decoder.position
    available = len(data)
    payloads: list[bytes] = []
    # 0 is the first byte of a continuation frame without FIN.
    while start + 6 <= available and not data[start] and len(payloads) < fragments_left:
        length = data[start + 1] - MASK
        begin = start + 6
        if length == LENGTH_IN_2_BYTES:
            length = data[start + 2] << 8 | data[start + 3]
            begin = start + 8
            if length < LENGTH_IN_2_BYTES:
                break
        elif not 0 <= length <= MAX_CONTROL_PAYLOAD:
            break
        end = begin + length
        size_left -= length
        if end > available or size_left < 0:
            break
        payloads.append(apply_mask(data[begin:end], data[begin - 4 : begin]))
        start = end
    if not payloads:
        return None
    decoder.position = start
    assembler.count_joined_fragments(len(payloads) - 1)
    return Frame(Opcode.CONTINUATION, b"".join(payloads), fin=False)
