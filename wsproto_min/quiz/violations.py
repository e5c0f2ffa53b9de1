"""Violations for the quiz: each from the table, with valid frames around it.

The table of `wsproto_min.testing.violations` has the shortest input for each violation, so the
last byte shows it. `surround` adds valid frames before and the rest of the frame behind, so that
the byte is a question.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from wsproto_min import rules
from wsproto_min.connection import Role
from wsproto_min.explain.frame_fields import FrameFields
from wsproto_min.quiz.levels import LAST_LEVEL
from wsproto_min.quiz.traffic import ValidTraffic
from wsproto_min.rules import Rule
from wsproto_min.testing.violations import DEFLATE_VIOLATIONS, VIOLATIONS, Violation

# A masked payload must be unmasked by hand, so servers break these rules more often.
_PAYLOAD_RULES = {
    rules.TEXT_NOT_UTF8,
    rules.CLOSE_CODE_RANGE,
    rules.CLOSE_CODE_NEVER_SENT,
    rules.CLOSE_REASON_NOT_UTF8,
    rules.NOT_DEFLATE,
}
_SERVERS_WEIGHT = 3
_UNFINISHED = 0.4  # probability of an unfinished message before a violation
_SHOWN_PAYLOAD = 8  # bytes of a broken frame's payload behind its header


class Surrounded(NamedTuple):
    """A violation with other bytes around it.

    Attributes:
        data: All bytes.
        offset: Index of the violation's last byte.
        compression: True if permessage-deflate is negotiated.

    """

    data: bytes
    offset: int
    compression: bool


def choose_violation(random: Random, rule: Rule, level: int) -> Violation:
    """Return a violation of the rule that fits the level."""
    table = VIOLATIONS if level < LAST_LEVEL else VIOLATIONS + DEFLATE_VIOLATIONS
    candidates = [each for each in table if each.rule is rule]
    if level == 1:
        candidates = [each for each in candidates if each.sender == "server"]
    if level < 3:
        candidates = [each for each in candidates if len(list(split_frames(each.data))) == 1]
    weights = [
        _SERVERS_WEIGHT if rule in _PAYLOAD_RULES and each.sender == "server" else 1
        for each in candidates
    ]
    return random.choices(candidates, weights)[0]


def surround(
    random: Random, violation: Violation, level: int, *, compression: bool
) -> list[Surrounded]:
    """Return ways to show a violation, the most elaborate one first.

    In some of them another rule is broken first: for example, no text may follow an unfinished
    message. The caller takes the first one with the verdict of the violation. The last one, the
    plain violation, always has this verdict.

    Args:
        random: The source of all choices.
        violation: The violation.
        level: The level of the question. Up to level 2 there are no other frames.
        compression: True to negotiate permessage-deflate if the violation allows it.

    """
    needs_compression = violation in DEFLATE_VIOLATIONS
    traffic = ValidTraffic(random, Role(violation.sender))
    before = unfinished = b""
    if level > 2:
        before = b"".join(traffic.frames(level, compression=compression or needs_compression))
        if random.random() < _UNFINISHED:
            unfinished = b"".join(traffic.fragments(level)[:-1])
    end = _rest_of_frame(random, violation)
    return [
        Surrounded(first + violation.data + rest, len(first + violation.data) - 1, compressed)
        for first, rest, compressed in (
            (before + unfinished, end, compression or needs_compression),
            (before, end, compression or needs_compression),
            (before, b"", compression or needs_compression),
            (b"", end, needs_compression),
            (b"", b"", needs_compression),
        )
    ]


def split_frames(data: bytes) -> Iterator[bytes]:
    """Yield the frames in `data`. The last one may be incomplete.

    >>> [frame.hex() for frame in split_frames(bytes.fromhex("8900 010161 80"))]
    ['8900', '010161', '80']
    """
    while data:
        size = FrameFields(data).size
        yield data[:size]
        data = data[size:]


def _rest_of_frame(random: Random, violation: Violation) -> bytes:
    """Return the rest of the violation's last frame, or the beginning of a long rest."""
    *_, data = split_frames(violation.data)
    begin = len(data)
    if FrameFields(data).masked is None:
        mask_bit = (violation.sender == "client") << 7
        data += bytes([mask_bit | random.randint(0, _SHOWN_PAYLOAD)])
    frame = FrameFields(data)
    if frame.length is None:
        size = frame.length_end - 2
        shortest = 126 if size == 2 else 1 << 16  # the first length that needs this form
        data += shortest.to_bytes(size, "big")[len(data) - 2 :]
    data += random.randbytes(max(0, frame.header_size - len(data)))  # of the masking key
    frame = FrameFields(data)
    data += random.randbytes(min(frame.remaining, _SHOWN_PAYLOAD))
    return data[begin:]
