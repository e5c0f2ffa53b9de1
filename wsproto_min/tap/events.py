"""Events of the tap: one value for each line that the printer or the page shows.

`connection` is the number of a connection, from 1. The numbers follow the order of the requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wsproto_min.connection import Role
from wsproto_min.explain.dissector import FrameReport
from wsproto_min.explain.handshake_lines import HandshakeLines
from wsproto_min.explain.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Opened:
    """A request for a WebSocket has arrived.

    Attributes:
        connection: Number of the connection.
        client: The client's address and port.
        target: The target in the request, such as "/chat".

    """

    connection: int
    client: str
    target: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A head or a frame has passed."""

    connection: int
    sender: Role
    event: HandshakeLines | FrameReport


@dataclass(frozen=True, slots=True)
class Stopped:
    """The explanation of one direction has ended. The tap still passes its bytes on.

    Attributes:
        connection: Number of the connection.
        sender: The end that sent the bytes.
        verdict: The reason: a broken rule, a refused handshake, or a message that is too large.

    """

    connection: int
    sender: Role
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The response to a plain HTTP request has begun.

    Attributes:
        connection: Number of the connection.
        method: The request's method.
        target: The request's target.
        status: The response's status, or None without a valid response.
        problem: The reason why the response is not understood; None if it is, or is missing.

    """

    connection: int
    method: str
    target: str
    status: int | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Unexplained:
    """A client has sent more than one plain HTTP request, or other bytes after its request."""

    connection: int


@dataclass(frozen=True, slots=True)
class Body:
    """The body of a response that refuses a handshake.

    Attributes:
        connection: Number of the connection.
        text: The first bytes of the body; bytes that are not UTF-8 are escaped.
        truncated: True if the body is longer.

    """

    connection: int
    text: str
    truncated: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """The tap itself has answered a request, with an error.

    Attributes:
        connection: Number of the connection.
        status: The status of the response.
        reason: The problem.
        request: Method and target of the request; empty if the request is invalid.

    """

    connection: int
    status: int
    reason: str
    request: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """A WebSocket connection has ended.

    Attributes:
        connection: Number of the connection.
        verdict: The verdict on all of its bytes.
        ending: A sentence about the end; None after a complete closing handshake.

    """

    connection: int
    verdict: Verdict
    ending: str | None = None


TapEvent = Opened | Seen | Stopped | Exchanged | Unexplained | Body | Refused | Ended
Observer = Callable[[TapEvent], None]
"""Function that receives each event of the tap."""
