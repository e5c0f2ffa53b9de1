"""Valid frames for the quiz, made from the choices of a `random.Random`.

The frames come from `RawFrame`, which does not use the codec. So the codec's verdict on them is
independent of the way in which they were made.
"""

from __future__ import annotations

import zlib
from random import Random

from wsproto_min.codes import Opcode
from wsproto_min.connection import Role
from wsproto_min.testing.raw_frame import RawFrame
from wsproto_min.testing.violations import MAX_FRAGMENTS, MAX_MESSAGE_SIZE

_TEXTS = ("Hello", "Hi", "tea", "ok?", "42")
# The characters of these texts have two, three and four bytes in UTF-8.
_LONG_CHARACTERS = ("H\u00e9", "5 \u20ac", "\u00e9t\u00e9", "a\u20acb", "\U0001f600")
_CODES = (1000, 1001, 1003, 1011, 1014, 3000, 4000, 4999)
_REASONS = ("", "bye", "\u00e0 bient\u00f4t")
_RSV1 = 0b100
# Lengths at the boundaries of the three forms (section 5.2).
_SHORT_BOUNDARIES = (125, 126)
_BOUNDARIES = (125, 126, 300, 65535, 65536)
_LIMITED_BOUNDARIES = (125, 126, 1000, MAX_MESSAGE_SIZE)


class ValidTraffic:
    """Source of valid frames of one sender.

    Args:
        random: The source of all choices.
        sender: The end that sends the frames. A client masks them.

    """

    def __init__(self, random: Random, sender: Role) -> None:
        self._random = random
        self._masked = sender is Role.CLIENT

    def frames(self, level: int, *, compression: bool = False) -> list[bytes]:
        """Return frames of whole messages and control frames, without a Close frame.

        Args:
            level: The level of the question, from 1. Up to level 2 there is one frame.
            compression: True if permessage-deflate is negotiated.

        """
        choose = self._random.choice
        if level < 3:
            makers = [self.message, self.message, self._control, self._control, self._long]
            return choose(makers[: 3 + level])(level)
        makers = [self.message, self._control, self.fragments, self.fragments]
        if level > 3:
            makers.append(self._long)
        if level > 4:
            makers.append(self._most_fragments)
        if compression:
            makers += [self._compressed] * 2
        sent: list[bytes] = []
        for _ in range(self._random.randint(1, 3)):
            make = choose(makers)
            sent += make(level)
            if make == self._long:
                makers.remove(make)  # one long message is enough to count
        return sent

    def message(self, level: int) -> list[bytes]:
        """Return a short text or binary message in one frame."""
        if self._random.random() < 0.3:
            return [self._frame(Opcode.BINARY, self._random.randbytes(self._random.randint(0, 6)))]
        return [self._frame(Opcode.TEXT, self._text(level))]

    def close(self, level: int) -> bytes:
        """Return a Close frame: empty, or with a code and perhaps a reason."""
        if self._random.random() < 0.3:
            return self._frame(Opcode.CLOSE, b"")
        reason = self._random.choice(_REASONS[: level - 1] or _REASONS[:1])
        return self._frame(
            Opcode.CLOSE, self._random.choice(_CODES).to_bytes(2, "big") + reason.encode()
        )

    def fragments(self, level: int) -> list[bytes]:
        """Return a text message in two or three fragments, perhaps with control frames within.

        A fragment may end within a character. No control frame follows the last fragment.
        """
        text = self._text(level)
        cuts = sorted(self._random.choices(range(len(text) + 1), k=self._random.randint(1, 2)))
        sent: list[bytes] = []
        opcode = Opcode.TEXT
        for begin, end in zip([0, *cuts], [*cuts, None], strict=True):
            if sent and self._random.random() < 0.5:
                sent += self._control(level)
            sent.append(self._frame(opcode, text[begin:end], fin=end is None))
            opcode = Opcode.CONTINUATION
        return sent

    def _text(self, level: int) -> bytes:
        return self._random.choice(_TEXTS if level < 3 else _TEXTS + _LONG_CHARACTERS).encode()

    def _control(self, level: int) -> list[bytes]:
        """Return a Ping or a Pong, which may be unsolicited."""
        payload = b"" if level < 3 else self._random.choice((b"", b"42", b"ping"))
        return [self._frame(self._random.choice((Opcode.PING, Opcode.PONG)), payload)]

    def _long(self, level: int) -> list[bytes]:
        """Return a message of equal bytes with a length at a boundary."""
        lengths = {4: _BOUNDARIES, 5: _LIMITED_BOUNDARIES}.get(level, _SHORT_BOUNDARIES)
        opcode = self._random.choice((Opcode.TEXT, Opcode.BINARY))
        return [self._frame(opcode, b"a" * self._random.choice(lengths))]

    def _most_fragments(self, level: int) -> list[bytes]:
        """Return a message with exactly as many fragments as the receiver accepts."""
        return [
            self._frame(
                Opcode.CONTINUATION if index else Opcode.BINARY,
                b"",
                fin=index == MAX_FRAGMENTS - 1,
            )
            for index in range(MAX_FRAGMENTS)
        ]

    def _compressed(self, level: int) -> list[bytes]:
        """Return a text message that is compressed by itself (RFC 7692, section 7.2.1)."""
        compressor = zlib.compressobj(wbits=-15)
        data = compressor.compress(self._text(level) * self._random.randint(1, 4))
        data += compressor.flush(zlib.Z_SYNC_FLUSH)
        return [self._frame(Opcode.TEXT, data[:-4], rsv=_RSV1)]

    def _frame(self, opcode: Opcode, payload: bytes, *, fin: bool = True, rsv: int = 0) -> bytes:
        mask = self._random.randbytes(4) if self._masked else None
        return RawFrame(opcode, payload, fin, mask, rsv).data
