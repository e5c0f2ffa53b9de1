"""Observers of one connection's bytes: a WebSocket, or one exchange of plain HTTP.

An observer sees the bytes as the client sent them, before the tap changes the head.
"""

from __future__ import annotations

from typing import Protocol

from wsproto_min.client_handshake import is_interim
from wsproto_min.connection import Role
from wsproto_min.errors import HandshakeError
from wsproto_min.http import Request
from wsproto_min.http_reader import MAX_HEAD_SIZE, HeadReader, parse_response
from wsproto_min.tap.conversation import Conversation
from wsproto_min.tap.ending import Ending
from wsproto_min.tap.events import Body, Ended, Exchanged, Observer, Seen, Stopped, Unexplained
from wsproto_min.tap.recording import RecordedConnection
from wsproto_min.tap.refusal import RefusalReader


class Exchange(Protocol):
    """Observer of one connection.

    The first call is `on_data` with the head of the request. The last call is `on_end` or
    `on_refused`.
    """

    def on_data(self, sender: Role, data: bytes) -> None:
        """Observe bytes of one end."""

    def on_eof(self, sender: Role) -> None:
        """Observe the end of the bytes of one end."""

    def on_reset(self, sender: Role) -> None:
        """Observe that one end reset the connection."""

    def on_refused(self, status: int) -> None:
        """Observe that the tap itself answers the request, with an error."""

    def on_end(self) -> None:
        """Observe the end of the connection."""


class WebSocketExchange:
    """A WebSocket connection: explains its bytes and records them.

    Args:
        number: Number of the connection.
        observe: Receives the events.
        record: The connection in the capture file, or None.

    """

    def __init__(self, number: int, observe: Observer, record: RecordedConnection | None) -> None:
        self._number = number
        self._observe = observe
        self._record = record
        self._conversation = Conversation(number)
        self._ending = Ending()
        self._refusal = RefusalReader(number)

    def on_data(self, sender: Role, data: bytes) -> None:
        """Record and explain bytes."""
        if self._record is not None:
            self._record.data(sender, data)
        events = self._conversation.receive_data(sender, data)
        self._report(events)
        if sender is Role.SERVER:
            self._report_body(self._refusal.receive_data(data, events))

    def on_eof(self, sender: Role) -> None:
        """Record a FIN."""
        self._ending.on_eof(sender)
        if self._record is not None:
            self._record.end(sender)

    def on_reset(self, sender: Role) -> None:
        """Record a RST."""
        self._ending.on_reset(sender)
        if self._record is not None:
            self._record.reset(sender)

    def on_refused(self, status: int) -> None:
        """Give the verdict on the bytes of the client alone."""
        self._end(f"The tap answered {status}.")

    def on_end(self) -> None:
        """Explain incomplete frames, and give the verdict."""
        self._end(None)

    def _end(self, ending: str | None) -> None:
        self._report_body(self._refusal.end())
        self._report(self._conversation.end())
        verdict = self._conversation.verdict
        self._observe(Ended(self._number, verdict, ending or self._ending.sentence))

    def _report(self, events: list[Seen | Stopped]) -> None:
        for event in events:
            self._ending.on_event(event)
            self._observe(event)

    def _report_body(self, body: Body | None) -> None:
        if body is not None:
            self._observe(body)


class HTTPExchange:
    """A request and its response in plain HTTP: waits for the response's status.

    Args:
        number: Number of the connection.
        observe: Receives an event for the response, and at most one for further bytes.
        request: The request.

    """

    def __init__(self, number: int, observe: Observer, request: Request) -> None:
        self._number = number
        self._observe = observe
        self._request = request
        self._reader: HeadReader | None = HeadReader()  # None once the status is known
        self._has_head = False  # True after the head of the request
        self._rest = _body_size(request)  # bytes that belong to the request; None if unknown

    def on_data(self, sender: Role, data: bytes) -> None:
        """Read the response up to its status; count the bytes of the request."""
        if sender is Role.CLIENT:
            self._count(data)
        elif self._reader is not None:
            self._reader.receive_data(data)
            self._read(self._reader)

    def _count(self, data: bytes) -> None:
        if not self._has_head:
            self._has_head = True
        elif self._rest is not None:
            self._rest -= len(data)
            if self._rest < 0:
                self._rest = None
                self._observe(Unexplained(self._number))

    def _read(self, reader: HeadReader) -> None:
        """Report the status of the final response, once its head is complete."""
        while True:
            try:
                head = reader.next_head()
            except HandshakeError:  # its text is about requests
                self._report(None, f"its head is longer than {MAX_HEAD_SIZE} bytes")
                return
            if head is None:
                return
            try:
                response = parse_response(head)
            except HandshakeError as error:
                self._report(None, error.reason)
                return
            if not is_interim(response):
                self._report(response.status)
                return
            rest = reader.trailing_data
            reader = self._reader = HeadReader()  # a reader is for one head
            reader.receive_data(rest)

    def on_eof(self, sender: Role) -> None:
        """Ignore the end of a direction."""

    def on_reset(self, sender: Role) -> None:
        """Ignore a reset."""

    def on_refused(self, status: int) -> None:
        """Ignore the response of the tap, which has an event of its own."""

    def on_end(self) -> None:
        """Report a missing response."""
        if self._reader is not None:
            self._report(None, "it ends within its head" if self._reader.size else None)

    def _report(self, status: int | None, problem: str | None = None) -> None:
        self._reader = None
        method, target = self._request.method, self._request.target
        self._observe(Exchanged(self._number, method, target, status, problem))


def _body_size(request: Request) -> int | None:
    """Return the size of the request's body in bytes, or None if it is unknown."""
    if "Transfer-Encoding" in request.headers:
        return None
    length = request.headers.get("Content-Length") or "0"
    return int(length[:18]) if length.isascii() and length.isdigit() else None
