"""Verdicts on a capture: valid, incomplete, broken or refused.

A verdict on broken bytes takes section, sentence and close code from the rule that the codec's
`ProtocolError` carries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

from wsproto_min.codes import CloseCode
from wsproto_min.errors import HandshakeError, ProtocolError

_SECTION = re.compile(r" \((RFC \d+, [\d.]+)\)")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result for all bytes of a capture.

    Attributes:
        result: "valid"; "incomplete" if more bytes are needed; "broken" if a frame breaks a rule;
            "refused" if the opening handshake fails.
        reason: The result in a few words, such as a count of frames or a problem.
        section: RFC number and section, such as "RFC 6455, 5.2".
        rule: The sentence of the broken rule.
        offset: Index of the byte that shows the problem, from 0.
        needs: The number of missing bytes.
        at_least: True if more than `needs` bytes may be missing.
        close_code: The code in the Close frame that answers a broken frame.
        status: The HTTP status that answers a refused request.
        stream: "client" or "server", if `offset` counts the bytes of that end only.

    """

    result: Literal["valid", "incomplete", "broken", "refused"]
    reason: str
    section: str | None = None
    rule: str | None = None
    offset: int | None = None
    needs: int | None = None
    at_least: bool = False
    close_code: int | None = None
    status: int | None = None
    stream: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """The parts of valid bytes.

    Attributes:
        heads: Number of requests and responses.
        frames: Number of frames.
        messages: Number of text and binary messages.
        ignored: Number of frames after a Close frame.
        assumes_compression: True if frames are compressed as the client offered it, because the
            response is missing.

    """

    heads: int = 0
    frames: int = 0
    messages: int = 0
    ignored: int = 0
    assumes_compression: bool = False

    def __add__(self, other: Counts) -> Counts:
        """Return the counts of both ends together."""
        return Counts(
            self.heads + other.heads,
            self.frames + other.frames,
            self.messages + other.messages,
            self.ignored + other.ignored,
            self.assumes_compression or other.assumes_compression,
        )


def valid(counts: Counts) -> Verdict:
    """Return the verdict on valid bytes.

    >>> valid(Counts(heads=2, frames=1)).reason
    '2 heads, 1 frame, 0 messages'
    """
    heads = [count(counts.heads, "head")] if counts.heads else []
    parts = [*heads, count(counts.frames, "frame"), count(counts.messages, "message")]
    ignored = f"; {count(counts.ignored, 'frame')} after a Close" if counts.ignored else ""
    assumed = "; compression as offered, because the response is missing"
    note = assumed if counts.assumes_compression else ""
    return Verdict("valid", ", ".join(parts) + ignored + note)


def count(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> count(1, "frame"), count(2, "frame")
    ('1 frame', '2 frames')
    """
    return f"{number} {noun}" + ("" if number == 1 else "s")


def broken(error: ProtocolError, offset: int) -> Verdict:
    """Return the verdict on a frame that breaks a rule at byte `offset`.

    >>> from wsproto_min import rules
    >>> verdict = broken(ProtocolError(rules.RESERVED_OPCODE, "opcode 0x3 is reserved"), 0)
    >>> verdict.reason, verdict.section, verdict.close_code
    ('opcode 0x3 is reserved', 'RFC 6455, 5.2', 1002)
    """
    rule = error.rule
    return Verdict(
        "broken",
        error.problem,
        rule.section,
        rule.sentence,
        offset,
        close_code=int(error.code),
    )


def refused(error: HandshakeError, offset: int, *, by_server: bool) -> Verdict:
    """Return the verdict on a request or response that does not open a connection.

    Args:
        error: The error of `http` or `handshake`.
        offset: Index of the head's first byte.
        by_server: True for a request, which the server refuses. False for a response.

    """
    found = _SECTION.search(error.reason)
    return Verdict(
        "refused",
        _SECTION.sub("", error.reason),
        found[1] if found else f"RFC 6455, {'4.2.1' if by_server else '4.1'}",
        offset=offset,
        status=int(error.status) if by_server else None,
    )


def incomplete(reason: str, needs: int, *, at_least: bool) -> Verdict:
    """Return the verdict on bytes that break no rule but end too early."""
    return Verdict("incomplete", reason, needs=needs, at_least=at_least)


def close_code_name(code: int) -> str:
    """Return a close code, followed by its name if it has one (section 7.4.1).

    >>> close_code_name(1002), close_code_name(4000)
    ('1002 PROTOCOL_ERROR', '4000')
    """
    try:
        return f"{code:d} {CloseCode(code).name}"
    except ValueError:
        return str(code)


def status_name(status: int) -> str:
    """Return an HTTP status, followed by its phrase if it has one.

    >>> status_name(426), status_name(299)
    ('426 Upgrade Required', '299')
    """
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
