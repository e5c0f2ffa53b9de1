"""Exceptions with the close code or HTTP status that answers their cause.

A `ProtocolError` has the rule that was broken, and with it the close code (RFC 6455, section
7.4). Each rule's close code is written in one place, module `rules`. A `HandshakeError` has the
HTTP status (section 4.2.2).
"""

from __future__ import annotations

from collections.abc import Iterable

from wsproto_min.codes import CloseCode
from wsproto_min.rules import Rule


class WebSocketError(Exception):
    """Base class of all exceptions of this package."""


class ProtocolError(WebSocketError):
    """The peer broke a rule after the opening handshake.

    The receiver must send a Close frame and end the connection (section 7.1.7: "Fail the
    WebSocket Connection").

    Attributes:
        rule: The rule that was broken.
        problem: The violation in a few words; by default the rule's own.
        code: The close code to send.
        reason: Problem and section, as the Close frame carries them.

    """

    rule: Rule
    problem: str
    code: CloseCode
    reason: str

    def __init__(self, rule: Rule, problem: str | None = None) -> None:
        self.rule = rule
        self.problem = rule.problem if problem is None else problem
        self.code = rule.close_code
        self.reason = f"{self.problem} ({rule.section})"
        super().__init__(self.reason)


class HandshakeError(WebSocketError):
    """The opening handshake failed (section 4).

    Attributes:
        status: On a server, the HTTP status to send. On a client, the status of the server's
            response, or 0 without a valid response.
        reason: One sentence for a person.
        headers: Headers of that response, as pairs of name and value.

    """

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]

    def __init__(self, status: int, reason: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = tuple(headers)


class ConnectionClosed(WebSocketError):
    """The connection is closed: nothing can be sent or received any more.

    Attributes:
        code: The close code (section 7.4), 1006 if no Close frame was received.
        reason: The reason in the Close frame, possibly empty.

    """

    code: int
    reason: str

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{code} {reason}".rstrip())
        self.code = code
        self.reason = reason
