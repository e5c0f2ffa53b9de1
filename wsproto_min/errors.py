"""What can go wrong, as exceptions that carry what the peer must be told.

A `ProtocolError` knows the close code (RFC 6455, section 7.4) and a
`HandshakeError` the HTTP status (section 4.2.2) that its cause calls for, so
that there is one path from a broken rule to the answer on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable

from wsproto_min.codes import CloseCode


class WebSocketError(Exception):
    """The base of every exception that this package raises by itself."""


class ProtocolError(WebSocketError):
    """The peer broke a rule after the handshake; the connection must be failed.

    `code` is the close code to send, and the exception's text the reason.
    """

    def __init__(self, reason: str, code: CloseCode = CloseCode.PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class HandshakeError(WebSocketError):
    """The opening handshake cannot be completed.

    On the server `status` and `headers` are the HTTP answer that is due. On the
    client they are the answer that came, with `status` 0 when there was none.
    """

    def __init__(self, status: int, reason: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = tuple(headers)


class ConnectionClosed(WebSocketError):
    """Nothing more can be sent or received; `code` and `reason` say why."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason
