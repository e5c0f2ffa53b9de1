"""Rules of the protocol that a peer can break after the opening handshake, in one table.

A `ProtocolError` carries the rule that was broken. The Close frame, the verdicts of
`wsproto_min.explain`, the violations in `wsproto_min.testing` and the documentation all read
section, close code and sentence from here.
"""

from typing import NamedTuple

from wsproto_min.codes import CloseCode

_PROTOCOL_ERROR = CloseCode.PROTOCOL_ERROR
_INVALID_DATA = CloseCode.INVALID_FRAME_PAYLOAD_DATA


class Rule(NamedTuple):
    """A rule and the consequence of breaking it.

    Attributes:
        name: A short identifier, unique in the table.
        section: RFC number and section, such as "RFC 6455, 5.2".
        close_code: The code of the Close frame that answers a violation.
        sentence: The rule, as a peer must follow it.
        problem: The violation in a few words, for error messages and the Close frame.

    """

    name: str
    section: str
    close_code: CloseCode
    sentence: str
    problem: str


# Section 5.1 and 5.2: the header of a frame.

RESERVED_BIT = Rule(
    "reserved-bit",
    "RFC 6455, 5.2",
    _PROTOCOL_ERROR,
    "RSV1, RSV2 and RSV3 are 0 unless a negotiated extension defines them.",
    "a reserved bit is set",
)
RESERVED_OPCODE = Rule(
    "reserved-opcode",
    "RFC 6455, 5.2",
    _PROTOCOL_ERROR,
    "Opcodes 3 to 7 and B to F are reserved and must not be sent.",
    "the opcode is reserved",
)
CLIENT_MASKS = Rule(
    "client-masks",
    "RFC 6455, 5.1",
    _PROTOCOL_ERROR,
    "A client masks every frame that it sends.",
    "a client's frame is not masked",
)
SERVER_DOES_NOT_MASK = Rule(
    "server-does-not-mask",
    "RFC 6455, 5.1",
    _PROTOCOL_ERROR,
    "A server masks no frame that it sends.",
    "a server's frame is masked",
)
SHORTEST_LENGTH = Rule(
    "shortest-length",
    "RFC 6455, 5.2",
    _PROTOCOL_ERROR,
    "The payload length is encoded in the shortest of its three forms.",
    "a length is not in its shortest form",
)
LENGTH_TOP_BIT = Rule(
    "length-top-bit",
    "RFC 6455, 5.2",
    _PROTOCOL_ERROR,
    "The most significant bit of a 64-bit length is 0.",
    "the top bit of a 64-bit length is set",
)

# Section 5.5: control frames.

FRAGMENTED_CONTROL = Rule(
    "fragmented-control",
    "RFC 6455, 5.5",
    _PROTOCOL_ERROR,
    "A control frame is never fragmented: its FIN bit is 1.",
    "a control frame is fragmented",
)
LONG_CONTROL = Rule(
    "long-control",
    "RFC 6455, 5.5",
    _PROTOCOL_ERROR,
    "A control frame's payload has at most 125 bytes.",
    "a control frame is longer than 125 bytes",
)

# Section 5.4: fragmentation.

NOTHING_TO_CONTINUE = Rule(
    "nothing-to-continue",
    "RFC 6455, 5.4",
    _PROTOCOL_ERROR,
    "A continuation frame continues a message that has begun.",
    "a continuation frame has no message to continue",
)
MESSAGE_NOT_ENDED = Rule(
    "message-not-ended",
    "RFC 6455, 5.4",
    _PROTOCOL_ERROR,
    "A message ends before the next one begins; only control frames may come in between.",
    "a message begins before the last one has ended",
)

# Section 8.1: text, and the sizes of a message.

TEXT_NOT_UTF8 = Rule(
    "text-utf-8",
    "RFC 6455, 8.1",
    _INVALID_DATA,
    "A text message is UTF-8 as a whole; a fragment may end within a character.",
    "a text message is not UTF-8",
)
MESSAGE_TOO_BIG = Rule(
    "message-size",
    "RFC 6455, 7.4.1",
    CloseCode.MESSAGE_TOO_BIG,
    "A message is not larger than its receiver accepts.",
    "a message is too big",
)
TOO_MANY_FRAGMENTS = Rule(
    "fragment-count",
    "RFC 6455, 7.4.1",
    CloseCode.POLICY_VIOLATION,
    "A message has no more fragments than its receiver accepts; empty fragments count.",
    "a message has too many fragments",
)

# Sections 5.5.1 and 7.4: the Close frame.

CLOSE_PAYLOAD = Rule(
    "close-payload",
    "RFC 6455, 5.5.1",
    _PROTOCOL_ERROR,
    "A Close frame's payload is empty or begins with a close code of two bytes.",
    "a Close frame has a payload of one byte",
)
CLOSE_CODE_RANGE = Rule(
    "close-code-range",
    "RFC 6455, 7.4.2",
    _PROTOCOL_ERROR,
    "A Close frame carries a code from 3000 to 4999 or a registered code from 1000 to 2999.",
    "the close code must not be sent",
)
CLOSE_CODE_NEVER_SENT = Rule(
    "close-code-never-sent",
    "RFC 6455, 7.4.1",
    _PROTOCOL_ERROR,
    "1004, 1005, 1006 and 1015 are never sent; a library reports the last three to its program.",
    "the close code must not be sent",
)
CLOSE_REASON_NOT_UTF8 = Rule(
    "close-reason-utf-8",
    "RFC 6455, 5.5.1",
    _INVALID_DATA,
    "The reason in a Close frame is UTF-8.",
    "a close reason is not UTF-8",
)

# RFC 7692: permessage-deflate.

COMPRESSED_CONTINUATION = Rule(
    "compressed-continuation",
    "RFC 7692, 6.1",
    _PROTOCOL_ERROR,
    "RSV1 marks the first frame of a compressed message, never a continuation frame.",
    "a continuation frame is marked as compressed",
)
COMPRESSED_CONTROL = Rule(
    "compressed-control",
    "RFC 7692, 6.1",
    _PROTOCOL_ERROR,
    "A control frame is never compressed.",
    "a control frame is marked as compressed",
)
NOT_DEFLATE = Rule(
    "deflate-data",
    "RFC 7692, 7.2.2",
    _INVALID_DATA,
    "A compressed message is DEFLATE data within the negotiated context.",
    "a compressed message is not DEFLATE data",
)
TOO_MANY_FINAL_BLOCKS = Rule(
    "final-blocks",
    "RFC 7692, 7.2.3.5",
    CloseCode.POLICY_VIOLATION,
    "A compressed message has no more final blocks than its receiver accepts.",
    "a compressed message has too many final blocks",
)

RULES: tuple[Rule, ...] = (
    RESERVED_BIT,
    RESERVED_OPCODE,
    CLIENT_MASKS,
    SERVER_DOES_NOT_MASK,
    SHORTEST_LENGTH,
    LENGTH_TOP_BIT,
    FRAGMENTED_CONTROL,
    LONG_CONTROL,
    NOTHING_TO_CONTINUE,
    MESSAGE_NOT_ENDED,
    TEXT_NOT_UTF8,
    MESSAGE_TOO_BIG,
    TOO_MANY_FRAGMENTS,
    CLOSE_PAYLOAD,
    CLOSE_CODE_RANGE,
    CLOSE_CODE_NEVER_SENT,
    CLOSE_REASON_NOT_UTF8,
    COMPRESSED_CONTINUATION,
    COMPRESSED_CONTROL,
    NOT_DEFLATE,
    TOO_MANY_FINAL_BLOCKS,
)
"""All rules, in the order of their sections; those of RFC 7692 come last."""
