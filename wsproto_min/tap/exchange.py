"""Observers of one connection's bytes: a WebSocket, or one exchange of plain HTTP.

An observer sees the bytes as the client sent them, before the tap changes the head.
"""

from __future__ import annotations

from typing import Protocol

from wsproto_min.client_handshake import is_interim
from wsproto_min.connection import Role
from wsproto_min.errors import HandshakeError
from wsproto_min.http import Request
from wsproto_min.http_reader import HeadReader, parse_response
from wsproto_min.tap.conversation import Conversation
from wsproto_min.tap.events import Ended, Exchanged, Observer
from wsproto_min.tap.recording import RecordedConnection


class Exchange(Protocol):
    """Observer of one connection. The connection calls `on_end` once, as its last call."""

    def on_data(self, sender: Role, data: bytes) -> None:
        """Observe bytes of one end."""

    def on_eof(self, sender: Role) -> None:
        """Observe the end of the bytes of one end."""

    def on_reset(self, sender: Role) -> None:
        """Observe that one end reset the connection."""

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

    def on_data(self, sender: Role, data: bytes) -> None:
        """Record and explain bytes."""
        if self._record is not None:
            self._record.data(sender, data)
        for event in self._conversation.receive_data(sender, data):
            self._observe(event)

    def on_eof(self, sender: Role) -> None:
        """Record a FIN."""
        if self._record is not None:
            self._record.end(sender)

    def on_reset(self, sender: Role) -> None:
        """Record a RST."""
        if self._record is not None:
            self._record.reset(sender)

    def on_end(self) -> None:
        """Explain incomplete frames, and give the verdict."""
        for event in self._conversation.end():
            self._observe(event)
        self._observe(Ended(self._number, self._conversation.verdict))


class HTTPExchange:
    """A request and its response in plain HTTP: waits for the response's status.

    Args:
        number: Number of the connection.
        observe: Receives one event.
        request: The request.

    """

    def __init__(self, number: int, observe: Observer, request: Request) -> None:
        self._number = number
        self._observe = observe
        self._request = request
        self._reader: HeadReader | None = HeadReader()  # None once the status is known

    def on_data(self, sender: Role, data: bytes) -> None:
        """Read the response up to its status."""
        if sender is Role.CLIENT or self._reader is None:
            return
        try:
            self._reader.receive_data(data)
            while (head := self._reader.next_head()) is not None:
                response = parse_response(head)
                if not is_interim(response):
                    self._report(response.status)
                    return
                rest = self._reader.trailing_data
                self._reader = HeadReader()  # a reader is for one head
                self._reader.receive_data(rest)
        except HandshakeError:
            self._report(None)

    def on_eof(self, sender: Role) -> None:
        """Ignore the end of a direction."""

    def on_reset(self, sender: Role) -> None:
        """Ignore a reset."""

    def on_end(self) -> None:
        """Report a missing response."""
        if self._reader is not None:
            self._report(None)

    def _report(self, status: int | None) -> None:
        self._reader = None
        self._observe(Exchanged(self._number, self._request.method, self._request.target, status))
