"""The shortest input that breaks each rule of `wsproto_min.rules`.

`explain --break NAME` prints an input. The tests of this package use all of them, and so can the
tests of any other parser. This module does not use the codec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from wsproto_min import rules
from wsproto_min.rules import Rule
from wsproto_min.testing.raw_frame import parse_frame_notation

Role = Literal["client", "server"]

# Limits that a parser must have for the violations of sizes.
MAX_MESSAGE_SIZE = 1024
MAX_FRAGMENTS = 16


@dataclass(frozen=True, slots=True)
class Violation:
    """The shortest input that breaks a rule: without its last byte it is still valid.

    The input assumes an open connection without a message under way, MAX_MESSAGE_SIZE and
    MAX_FRAGMENTS. Violations of permessage-deflate assume that no context is taken over.

    A parser may check a header when it is complete, but must not wait for the payload. It finds
    invalid text at its first invalid byte only if it fails fast, which section 8.1 does not
    demand.

    Attributes:
        name: The violation's name, unique for each role.
        rule: The rule that is broken.
        role: The side that receives `data` and must fail the connection.
        data: The input.

    """

    name: str
    rule: Rule
    role: Role
    data: bytes

    @property
    def close_code(self) -> int:
        """The code of the receiver's Close frame."""
        return int(self.rule.close_code)

    @property
    def sender(self) -> Role:
        """The side that breaks the rule."""
        return "client" if self.role == "server" else "server"

    def __str__(self) -> str:
        """Return role and name."""
        return f"{self.role}: {self.name}"


# For each rule the names and the frames of its violations, in the notation of
# `parse_frame_notation`.
_CASES: dict[Rule, Mapping[str, str]] = {
    rules.RESERVED_BIT: {
        "rsv1": "c1",
        "rsv2": "a1",
        "rsv3": "91",
        "rsv1-continuation": "01 00 . | c0",
        "rsv1-ping": "c9",
        "rsv2-ping": "a9",
        "rsv3-pong": "9a",
    },
    rules.RESERVED_OPCODE: {
        **{f"opcode-{opcode:x}": f"8{opcode:x}" for opcode in (*range(3, 8), *range(0xB, 0x10))},
        "opcode-3-within-message": "01 00 . | 83",
    },
    rules.FRAGMENTED_CONTROL: {
        "fragmented-close": "08",
        "fragmented-ping": "09",
        "fragmented-pong": "0a",
        "fragmented-ping-within-message": "01 00 . | 09",
    },
    rules.LONG_CONTROL: {
        "long-ping-16": "89 7e",
        "long-ping-64": "89 7f",
        "long-close": "88 7e",
        "long-pong": "8a 7e",
    },
    rules.SHORTEST_LENGTH: {
        "length-125-in-16": "82 7e 007d",
        "length-0-in-16": "82 7e 0000",
        "length-125-in-16-text": "81 7e 007d",
        "length-125-in-16-continuation": "01 00 . | 80 7e 007d",
        "length-65535-in-64": "82 7f 000000000000ffff",
        "length-125-in-64": "82 7f 000000000000007d",
    },
    rules.LENGTH_TOP_BIT: {"length-top-bit": "82 7f 80"},
    rules.NOTHING_TO_CONTINUE: {
        "continuation-first": "80 00 .",
        "continuation-after-message": "81 00 . | 80 00 .",
    },
    rules.MESSAGE_NOT_ENDED: {
        "text-within-message": "01 01 . 61 | 81 00 .",
        "binary-within": "02 01 . 61 | 82 00 .",
        "binary-within-text": "01 01 . 61 | 82 00 .",
    },
    rules.TEXT_NOT_UTF8: {
        "utf8-lone-continuation": "81 01 . 80",
        "utf8-overlong-2": "81 02 . c0",
        "utf8-overlong-3": "81 03 . e080",
        "utf8-overlong-4": "81 04 . f080",
        "utf8-surrogate": "81 03 . eda0",
        "utf8-above-10ffff": "81 04 . f490",
        "utf8-no-lead-byte": "81 04 . f5",
        "utf8-cut-by-end": "81 02 . 61c3",
        "utf8-cut-by-end-4": "81 03 . f09f98",
        "utf8-cut-by-last-fragment": "01 01 . c3 | 80 00 .",
        "utf8-wrong-in-next-fragment": "01 01 . c3 | 80 01 . 28",
        "utf8-surrogate-over-fragments": "01 01 . ed | 00 01 . a0",
        "utf8-half-way": "81 0a . 6869ff",
        "utf8-half-way-in-fragment": "01 01 . 68 | 00 7e 0100 . 69ff",
    },
    rules.CLOSE_PAYLOAD: {"close-half-a-code": "88 01 . 03"},
    rules.CLOSE_CODE_RANGE: {
        f"close-{code}": f"88 02 . {code:04x}"
        for code in (0, 999, 1016, 1100, 2000, 2999, 5000, 65535)
    },
    rules.CLOSE_CODE_NEVER_SENT: {
        f"close-{code}": f"88 02 . {code:04x}" for code in (1004, 1005, 1006, 1015)
    },
    rules.CLOSE_REASON_NOT_UTF8: {
        "close-reason-not-utf8": "88 04 . 03e8 68ff",
        "close-reason-cut": "88 03 . 03e8 c3",
    },
    rules.MESSAGE_TOO_BIG: {
        "too-big": "82 7e 0401 .",
        "too-big-by-far": "82 7f 7fffffffffffffff .",
        "too-big-in-fragments": f"02 7e 0400 . {'00' * 1024} | 80 01 .",
    },
    rules.TOO_MANY_FRAGMENTS: {
        "too-many-fragments": "01 01 . 61" + "| 00 01 . 61" * (MAX_FRAGMENTS - 1) + "| 80 01 .",
        "too-many-empty-fragments": "02 00 ." + "| 00 00 ." * (MAX_FRAGMENTS - 1) + "| 00 00 .",
    },
}

# The only rules about the mask itself bind one side each; their frames are written as sent.
_MASK_CASES: dict[Role, tuple[Rule, Mapping[str, str]]] = {
    "server": (
        rules.CLIENT_MASKS,
        {
            "unmasked-text": "81 00",
            "unmasked-binary": "82 00",
            "unmasked-ping": "89 00",
            "unmasked-close": "88 00",
            "unmasked-continuation": "01 80 37fa213d 80 00",
            "unmasked-after-masked": "82 80 37fa213d 82 00",
        },
    ),
    "client": (rules.SERVER_DOES_NOT_MASK, {"masked-text": "81 80", "masked-ping": "89 80"}),
}

# `00 LLLL NNNN` begins a block without compression: its length L, and NOT L, little-endian.
_DEFLATE_CASES: dict[Rule, Mapping[str, str]] = {
    rules.COMPRESSED_CONTINUATION: {
        "deflate-rsv1-continuation": "41 01 . 00 | c0 00 .",
        "deflate-rsv1-continuation-only": "01 00 . | c0 00 .",
    },
    rules.COMPRESSED_CONTROL: {
        "deflate-rsv1-ping": "c9",
        "deflate-rsv1-pong": "ca",
        "deflate-rsv1-close": "c8",
    },
    rules.RESERVED_BIT: {"deflate-rsv2": "e1", "deflate-rsv3": "d1"},
    rules.NOT_DEFLATE: {
        "deflate-block-type": "c1 0a . 06",
        "deflate-block-type-in-fragment": "42 06 . 00 0100 feff 61 | 80 0a . 06",
        "deflate-stored-length": "c2 0a . 00 0500 0000",
        "deflate-before-beginning": "c1 05 . f200 11",
        "deflate-last-message": "c2 06 . f248cdc90700 | c2 05 . f200 11",
        "deflate-block-type-only": "c1 01 . 06",
        "deflate-ends-within-block": "c2 01 . 02",
        "deflate-ends-within-stored-block": "c2 08 . 00 0800 f7ff 616263",
        "deflate-ends-with-final-block": "c2 02 . 0300",
    },
    rules.TEXT_NOT_UTF8: {
        "deflate-utf8": "c1 0a . 00 0300 fcff 6869ff",
        "deflate-utf8-cut": "41 06 . 00 0100 feff c3 | 80 01 . 00",
    },
    rules.TOO_MANY_FINAL_BLOCKS: {
        "deflate-final-blocks": f"c1 7e 00ff . {'0300' * 65}",
        "deflate-final-blocks-in-fragments": f"42 7e 0080 . {'0300' * 64} | 80 0a . 0300",
    },
    rules.MESSAGE_TOO_BIG: {
        "deflate-too-big": f"c2 7e 0406 . 00 0104 fefb {'00' * 1025}",
        "deflate-too-big-in-fragments": (
            f"42 7e 0405 . 00 0004 fffb {'00' * 1024} | 80 06 . 00 0100 feff 00"
        ),
        "deflate-too-big-on-wire": "c2 7e 04c1 .",
    },
}


def _violations(cases: Mapping[Rule, Mapping[str, str]]) -> Iterator[Violation]:
    for rule, notations in cases.items():
        for name, notation in notations.items():
            yield Violation(name, rule, "server", parse_frame_notation(notation, masked=True))
            yield Violation(name, rule, "client", parse_frame_notation(notation, masked=False))


def _mask_violations() -> Iterator[Violation]:
    for role, (rule, notations) in _MASK_CASES.items():
        for name, notation in notations.items():
            yield Violation(name, rule, role, bytes.fromhex(notation))


VIOLATIONS: tuple[Violation, ...] = (*_violations(_CASES), *_mask_violations())
"""Violations of RFC 6455, for both sides."""

DEFLATE_VIOLATIONS: tuple[Violation, ...] = tuple(_violations(_DEFLATE_CASES))
"""Violations on a connection with permessage-deflate and without context takeover."""


def find_violation(name: str, sender: Role | None = None) -> Violation:
    """Return the violation of a name.

    Args:
        name: The violation's name.
        sender: The side that breaks the rule; None prefers the client.

    Raises:
        LookupError: There is no such violation.

    """
    for violation in (*VIOLATIONS, *DEFLATE_VIOLATIONS):
        if violation.name == name and sender in (None, violation.sender):
            return violation
    by = "" if sender is None else f" that a {sender} can commit"
    raise LookupError(f"there is no violation named {name!r}{by}")
