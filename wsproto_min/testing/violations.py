"""Every rule that a peer can break with bytes, and the shortest input that breaks it.

One table for three uses: `explain --break NAME` prints an input, the tests hold
this codec against all of them, and `tests/strategies.py` passes them on to test
other parsers. So nothing here depends on the codec. The sections are those of RFC
6455, and those of RFC 7692 for what comes with permessage-deflate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from wsproto_min.testing.raw_frame import wire

Role = Literal["client", "server"]

# The limits that a parser must have for the violations of sizes.
MAX_MESSAGE_SIZE = 1024
MAX_FRAGMENTS = 16


@dataclass(frozen=True, slots=True)
class Rule:
    """What a peer must keep to, in our words, and the ways to break it.

    `cases` has the frames of each way under its name, in the notation of `wire`.
    `senders` are the ends that the rule binds.
    """

    section: str
    close_code: int
    sentence: str
    cases: Mapping[str, str]
    senders: Sequence[Role] = ("client", "server")
    compression: bool = False


@dataclass(frozen=True, slots=True)
class Violation:
    """The shortest input that breaks a rule: without its last byte it is not broken yet.

    `role` is the end that receives `data`, and has to fail the connection with
    `close_code`; `sender` is the other one. The input presumes an open connection
    with nothing under way and, for the sizes, MAX_MESSAGE_SIZE and MAX_FRAGMENTS.
    A parser may judge a header when it is whole, but not wait for the payload; it
    has to judge text at its first wrong byte only if it fails fast, as section 8.1
    does not demand.
    """

    name: str
    rule: Rule
    role: Role
    data: bytes

    @property
    def section(self) -> str:
        """The section that has the rule: of RFC 7692 if the rule is one of `deflate`."""
        return self.rule.section

    @property
    def close_code(self) -> int:
        """What the receiver says in its Close frame."""
        return self.rule.close_code

    @property
    def sender(self) -> Role:
        """The end that breaks the rule."""
        return "client" if self.role == "server" else "server"

    def __str__(self) -> str:
        """Return what tells it from all others."""
        return f"{self.role}: {self.name}"


RULES: tuple[Rule, ...] = (
    Rule(
        "5.2",
        1002,
        "RSV1, RSV2 and RSV3 are 0 unless an agreed extension gives them a meaning.",
        {
            "rsv1": "c1",
            "rsv2": "a1",
            "rsv3": "91",
            "rsv1-continuation": "01 00 . | c0",
            "rsv1-ping": "c9",
        },
    ),
    Rule(
        "5.2",
        1002,
        "Opcodes 3 to 7 and B to F are reserved; nobody may send them yet.",
        {f"opcode-{opcode:x}": f"8{opcode:x}" for opcode in (*range(3, 8), *range(0xB, 0x10))},
    ),
    Rule(
        "5.5",
        1002,
        "A control frame is never fragmented: its FIN bit is set.",
        {"fragmented-close": "08", "fragmented-ping": "09", "fragmented-pong": "0a"},
    ),
    Rule(
        "5.1",
        1002,
        "A client masks every frame that it sends.",
        {"unmasked-text": "81 00", "unmasked-ping": "89 00"},
        senders=("client",),
    ),
    Rule(
        "5.1",
        1002,
        "A server masks no frame that it sends.",
        {"masked-text": "81 80", "masked-ping": "89 80"},
        senders=("server",),
    ),
    Rule(
        "5.5",
        1002,
        "A control frame's payload has 125 bytes at most.",
        {"long-ping-16": "89 7e", "long-ping-64": "89 7f", "long-close": "88 7e"},
    ),
    Rule(
        "5.2",
        1002,
        "A length is written in the shortest of its three forms.",
        {
            "length-125-in-16": "82 7e 007d",
            "length-0-in-16": "82 7e 0000",
            "length-65535-in-64": "82 7f 000000000000ffff",
            "length-125-in-64": "82 7f 000000000000007d",
        },
    ),
    Rule(
        "5.2",
        1002,
        "The top bit of a 64-bit length is 0.",
        {"length-top-bit": "82 7f 80"},
    ),
    Rule(
        "5.4",
        1002,
        "A continuation frame has a message to continue.",
        {"continuation-first": "80 00 .", "continuation-after-message": "81 00 . | 80 00 ."},
    ),
    Rule(
        "5.4",
        1002,
        "A message ends before the next one begins; only control frames go in between.",
        {"text-within-message": "01 01 . 61 | 81 00 .", "binary-within": "02 01 . 61 | 82 00 ."},
    ),
    Rule(
        "8.1",
        1007,
        "A text message is UTF-8, as a whole; its fragments may be cut anywhere.",
        {
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
    ),
    Rule(
        "5.5.1",
        1002,
        "A Close frame's payload is empty, or begins with a code of two bytes.",
        {"close-half-a-code": "88 01 . 03"},
    ),
    Rule(
        "7.4.2",
        1002,
        "Codes below 1000, above 4999, and below 3000 without a meaning are not for the wire.",
        {
            f"close-{code}": f"88 02 . {code:04x}"
            for code in (0, 999, 1016, 1100, 2000, 2999, 5000, 65535)
        },
    ),
    Rule(
        "7.4.1",
        1002,
        "1005, 1006 and 1015 stand for what nobody sent, 1004 for nothing; none is ever sent.",
        {f"close-{code}": f"88 02 . {code:04x}" for code in (1004, 1005, 1006, 1015)},
    ),
    Rule(
        "5.5.1",
        1007,
        "The reason in a Close frame is UTF-8.",
        {"close-reason-not-utf8": "88 04 . 03e8 68ff", "close-reason-cut": "88 03 . 03e8 c3"},
    ),
    Rule(
        "7.4.1",
        1009,
        "A message is no larger than its receiver can take.",
        {
            "too-big": "82 7e 0401 .",
            "too-big-by-far": "82 7f 7fffffffffffffff .",
            "too-big-in-fragments": f"02 7e 0400 . {'00' * 1024} | 80 01 .",
        },
    ),
    Rule(
        "7.4.1",
        1008,
        "A message has no more fragments than its receiver's policy allows, empty ones too.",
        {
            "too-many-fragments": "01 01 . 61" + "| 00 01 . 61" * (MAX_FRAGMENTS - 1) + "| 80 01 .",
            "too-many-empty-fragments": "02 00 ." + "| 00 00 ." * (MAX_FRAGMENTS - 1) + "| 00 00 .",
        },
    ),
)
"""The rules of every connection."""


# `00 LLLL NNNN` begins a block without compression, its length L and NOT L in
# little-endian order.
DEFLATE_RULES: tuple[Rule, ...] = (
    Rule(
        "6.1",
        1002,
        "RSV1 marks the first frame of a compressed message, never a continuation.",
        {
            "deflate-rsv1-continuation": "41 01 . 00 | c0 00 .",
            "deflate-rsv1-continuation-only": "01 00 . | c0 00 .",
        },
        compression=True,
    ),
    Rule(
        "6.1",
        1002,
        "A control frame is never compressed.",
        {"deflate-rsv1-ping": "c9", "deflate-rsv1-pong": "ca", "deflate-rsv1-close": "c8"},
        compression=True,
    ),
    Rule(
        "6.1",
        1002,
        "permessage-deflate gives RSV1 a meaning, but none to RSV2 and RSV3.",
        {"deflate-rsv2": "e1", "deflate-rsv3": "d1"},
        compression=True,
    ),
    Rule(
        "7.2.2",
        1007,
        "A compressed message is deflate data that stands alone unless contexts are taken over.",
        {
            "deflate-block-type": "c1 0a . 06",
            "deflate-block-type-in-fragment": "41 02 . f248 | 80 02 . ffff",
            "deflate-stored-length": "c2 0a . 00 0500 0000",
            "deflate-before-beginning": "c1 05 . f200 11",
            "deflate-last-message": "c2 06 . f248cdc90700 | c2 05 . f200 11",
            "deflate-fault-alone": "c1 01 . 06",
        },
        compression=True,
    ),
    Rule(
        "7.2.2",
        1007,
        "A text message is UTF-8 once it is inflated.",
        {
            "deflate-utf8": "c1 0a . 00 0300 fcff 6869ff",
            "deflate-utf8-cut": "41 06 . 00 0100 feff c3 | 80 01 . 00",
        },
        compression=True,
    ),
    Rule(
        "7.2.3.5",
        1008,
        "A message has no more final blocks than its receiver's policy allows.",
        {
            "deflate-final-blocks": f"c1 7e 00ff . {'0300' * 65}",
            "deflate-final-blocks-in-fragments": f"42 7e 0080 . {'0300' * 64} | 80 0a . 0300",
        },
        compression=True,
    ),
    Rule(
        "8",
        1009,
        "A message is no larger than its receiver can take once it is inflated.",
        {
            "deflate-too-big": f"c2 7e 0406 . 00 0104 fefb {'00' * 1025}",
            "deflate-too-big-in-fragments": (
                f"42 7e 0405 . 00 0004 fffb {'00' * 1024} | 80 06 . 00 0100 feff 00"
            ),
            "deflate-too-big-on-wire": "c2 7e 04c1 .",
        },
        compression=True,
    ),
)
"""The rules that permessage-deflate adds, where no context is taken over."""


def _violations(rules: Sequence[Rule]) -> Iterator[Violation]:
    for rule in rules:
        for name, notation in rule.cases.items():
            if len(rule.senders) == 1:  # the rule is about the mask, the notation is the wire's
                role: Role = "server" if rule.senders[0] == "client" else "client"
                yield Violation(name, rule, role, bytes.fromhex(notation))
            else:
                yield Violation(name, rule, "server", wire(notation, masked=True))
                yield Violation(name, rule, "client", wire(notation, masked=False))


VIOLATIONS: tuple[Violation, ...] = tuple(_violations(RULES))
"""Every rule that a peer can break with bytes, for both ends; see `Violation`."""

DEFLATE_VIOLATIONS: tuple[Violation, ...] = tuple(_violations(DEFLATE_RULES))
"""Those that come with permessage-deflate, where no context is taken over."""


def find_violation(name: str, sender: Role | None = None) -> Violation:
    """Return the violation of that name, by `sender` if given; a client's is preferred.

    Raises `LookupError` if there is none.
    """
    for violation in (*VIOLATIONS, *DEFLATE_VIOLATIONS):
        if violation.name == name and sender in (None, violation.sender):
            return violation
    by = "" if sender is None else f" that a {sender} can break"
    raise LookupError(f"there is no rule named {name!r}{by}")
