"""The numbers of RFC 6455: opcodes (section 5.2) and close codes (section 7.4).

Both are the registries that IANA keeps for the WebSocket protocol. Everything
else in this package refers to these names and never to a bare number.
"""

from __future__ import annotations

from enum import IntEnum, unique


@unique
class Opcode(IntEnum):
    """What a frame carries (RFC 6455, section 5.2); all other values are reserved."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA

    is_control: bool
    """Whether the top bit of the opcode is set (section 5.5)."""

    def __init__(self, value: int) -> None:
        self.is_control = bool(value & 0b1000)


@unique
class CloseCode(IntEnum):
    """Why a connection was closed (RFC 6455, section 7.4.1, and IANA's registry)."""

    NORMAL_CLOSURE = 1000  # all is said
    GOING_AWAY = 1001  # a server stops, or a browser leaves the page
    PROTOCOL_ERROR = 1002  # a frame of a form, or in a place, that is not allowed
    UNSUPPORTED_DATA = 1003  # binary where only text is taken, or the reverse
    NO_STATUS_RCVD = 1005  # to the application: the Close frame was empty
    ABNORMAL_CLOSURE = 1006  # to the application: the connection ended without one
    INVALID_FRAME_PAYLOAD_DATA = 1007  # text that is not UTF-8, or the like
    POLICY_VIOLATION = 1008  # against the receiver's rules, where no other code fits
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010  # by a client: the server did not agree to an extension
    INTERNAL_ERROR = 1011  # by a server: something went wrong in it
    SERVICE_RESTART = 1012  # come back later
    TRY_AGAIN_LATER = 1013  # the server has too much to do
    BAD_GATEWAY = 1014  # by a proxy: the server behind it gave no good answer
    TLS_HANDSHAKE = 1015  # to the application: TLS failed


# Section 7.4.1: these three stand for "nothing was received" in an API and
# "MUST NOT be set as a status code in a Close control frame by an endpoint".
# (1004 has no meaning yet, hence no name here, and may not be sent either.)
_NEVER_ON_THE_WIRE = {
    CloseCode.NO_STATUS_RCVD,
    CloseCode.ABNORMAL_CLOSURE,
    CloseCode.TLS_HANDSHAKE,
}
_DEFINED = frozenset(CloseCode) - _NEVER_ON_THE_WIRE


def is_sendable_close_code(code: int) -> bool:
    """Whether `code` may stand in a Close frame.

    Section 7.4.2 leaves 3000-3999 to libraries and 4000-4999 to applications;
    below 3000 only what the registry defines is allowed.
    """
    return 3000 <= code <= 4999 or code in _DEFINED
