"""Opcodes (RFC 6455, section 5.2) and close codes (section 7.4).

Both enums follow the registries that IANA keeps for the WebSocket protocol. The rest of this
package uses the names in this module, not bare numbers.
"""

from __future__ import annotations

from enum import IntEnum, unique


@unique
class Opcode(IntEnum):
    """Frame types (RFC 6455, section 5.2). All other values are reserved."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA

    is_control: bool
    """True for Close, Ping and Pong: the top bit of the opcode is set (section 5.5)."""

    def __init__(self, value: int) -> None:
        self.is_control = bool(value & 0b1000)


@unique
class CloseCode(IntEnum):
    """Reasons for closing a connection (RFC 6455, section 7.4.1, and IANA's registry)."""

    NORMAL_CLOSURE = 1000  # The conversation is complete.
    GOING_AWAY = 1001  # A server stops, or a browser leaves the page.
    PROTOCOL_ERROR = 1002  # A frame breaks a rule of the protocol.
    UNSUPPORTED_DATA = 1003  # Binary where the receiver accepts only text, or the reverse.
    NO_STATUS_RCVD = 1005  # Never sent: the received Close frame had no code.
    ABNORMAL_CLOSURE = 1006  # Never sent: the connection ended without a Close frame.
    INVALID_FRAME_PAYLOAD_DATA = 1007  # A text message is not UTF-8, or similar.
    POLICY_VIOLATION = 1008  # Against the receiver's policy, where no other code fits.
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010  # From a client: the server did not accept an extension.
    INTERNAL_ERROR = 1011  # From a server: an unexpected condition.
    SERVICE_RESTART = 1012  # The client may reconnect later.
    TRY_AGAIN_LATER = 1013  # The server is overloaded.
    BAD_GATEWAY = 1014  # From a proxy: the server behind it gave no valid response.
    TLS_HANDSHAKE = 1015  # Never sent: the TLS handshake failed.


NEVER_SENT: frozenset[int] = frozenset(
    {
        1004,  # Reserved, without a meaning; so it has no name in `CloseCode`.
        CloseCode.NO_STATUS_RCVD,
        CloseCode.ABNORMAL_CLOSURE,
        CloseCode.TLS_HANDSHAKE,
    }
)
"""Close codes that no Close frame carries (section 7.4.1).

1004 is reserved. A library uses 1005, 1006 and 1015 only to tell its own program how a
connection ended: each "MUST NOT be set as a status code in a Close control frame".
"""

_REGISTERED = frozenset(CloseCode) - NEVER_SENT


def is_sendable_close_code(code: int) -> bool:
    """Return True if a Close frame may carry `code` (sections 7.4.1 and 7.4.2).

    Codes from 3000 to 3999 belong to libraries, 4000 to 4999 to applications. From 1000 to 2999
    a frame may carry only registered codes.
    """
    return 3000 <= code <= 4999 or code in _REGISTERED
