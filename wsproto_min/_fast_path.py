"""Fast path for short messages, private to `connection` and equal to the slow path.

Most frames that a chat server receives have one shape: masked, unfragmented text or binary with
a payload of at most 125 bytes. `read_short_messages` reads these directly from the decoder's
buffer, where the slow path (`FrameDecoder` and `MessageAssembler`) creates four objects for each
frame. It leaves every other frame to the slow path, invalid ones above all.
"""

from __future__ import annotations

from wsproto_min.codes import Opcode
from wsproto_min.frames import FIN, MASK, MAX_CONTROL_PAYLOAD, FrameDecoder

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
