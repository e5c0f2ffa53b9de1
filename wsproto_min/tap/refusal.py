"""The body of the response that refuses a handshake: its first bytes, as text."""

from __future__ import annotations

from wsproto_min.explain.handshake_lines import HandshakeLines
from wsproto_min.tap.events import Body, Seen, Stopped

MAX_SHOWN = 500
"""Bytes of a body that are shown."""

_SWITCHING_PROTOCOLS = "101"


class RefusalReader:
    """Collects the body that follows a refused response.

    Args:
        number: Number of the connection.

    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._received = 0  # bytes of the server before the next call of `receive_data`
        self._body: bytearray | None = None  # None unless a body is expected
        self._size: int | None = None  # Content-Length

    def receive_data(self, data: bytes, events: list[Seen | Stopped]) -> Body | None:
        """Return the body, once enough of it has arrived.

        Args:
            data: Bytes of the server.
            events: The events of these bytes.

        """
        if self._body is not None:
            self._body += data
        else:
            for event in events:
                head = event.event if isinstance(event, Seen) else None
                if isinstance(head, HandshakeLines) and _has_body(head):
                    self._size = _content_length(head)
                    self._body = bytearray(data[head.offset + head.size - self._received :])
        self._received += len(data)
        if self._body is None:
            return None
        limit = MAX_SHOWN + 1  # one more byte shows that there is a rest
        wanted = limit if self._size is None else min(self._size, limit)
        return self.end() if len(self._body) >= wanted else None

    def end(self) -> Body | None:
        """Return the bytes of the body that have arrived, unless they were returned before."""
        body, self._body = self._body, None
        if not body:
            return None
        if self._size is not None:
            del body[self._size :]
        text = bytes(body[:MAX_SHOWN]).decode(errors="backslashreplace")
        return Body(self._number, text, len(body) > MAX_SHOWN)


def _has_body(head: HandshakeLines) -> bool:
    """Return True for a final response that is not the begin of a WebSocket."""
    return head.kind == "response" and _SWITCHING_PROTOCOLS not in head.lines[0][0].split()[1:2]


def _content_length(head: HandshakeLines) -> int | None:
    """Return the value of Content-Length, or None if it is missing or invalid."""
    for text, _ in head.lines[1:]:
        name, _, value = text.partition(":")
        digits = value.strip()
        if name.lower() == "content-length" and digits.isascii() and digits.isdigit():
            return int(digits[:18])
    return None
