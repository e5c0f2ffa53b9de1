"""The page of the tap, and the WebSocket that brings the events to it.

`GET /` answers with the page, and `/events` is the WebSocket. A page that opens late gets the
history first. The conversation may be secret, so only pages of this server may connect, under
a name of this machine (RFC 6455, section 10.2).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections import deque
from http import HTTPStatus
from pathlib import Path

from wsproto_min.errors import HandshakeError
from wsproto_min.http import Request, Response
from wsproto_min.net.peer import Peer
from wsproto_min.net.server import Server
from wsproto_min.server_handshake import Acceptance, accept
from wsproto_min.tap.event_json import event_to_json
from wsproto_min.tap.events import TapEvent
from wsproto_min.tap.proxy import HOST
from wsproto_min.tap.request import names_this_machine

MAX_EVENTS = 2000
"""Number of events that a late page still gets."""
MAX_HISTORY_SIZE = 16 << 20
"""Bytes of these events."""

# The history must fit into the write buffer of a page, with the events that come meanwhile.
_WRITE_BUFFER_LIMIT = 2 * MAX_HISTORY_SIZE
_MAX_REQUEST = 1024  # bytes; a page sends no messages


class WebPage:
    """An observer that keeps the last events and sends each one to all open pages.

    Args:
        upstream: URL of the server behind the tap.

    Attributes:
        server: The server of the page. Its `run` drives the loop of the whole tap.
        address: URL at which clients reach the tap.

    """

    def __init__(self, upstream: str) -> None:
        self.address: str = ""
        self._upstream = upstream
        self._page = load_page()
        self._history: deque[str] = deque()
        self._history_size = 0
        self._dropped = 0
        self.server: Server = Server(
            on_message=lambda peer, message: None,
            on_request=self._respond,
            on_open=self._send_history,
            max_message_size=_MAX_REQUEST,
            write_buffer_limit=_WRITE_BUFFER_LIMIT,
        )
        self._pages = self.server.group()

    def listen(self, port: int) -> int:
        """Listen, and return the port; 0 picks a free one. Raises `OSError`."""
        return self.server.listen(HOST, port)[1]

    def __call__(self, event: TapEvent) -> None:
        """Keep an event, and send it to the open pages."""
        text = json.dumps({"time": round(time.time(), 3), **event_to_json(event)})
        self._history.append(text)
        self._history_size += len(text)
        while len(self._history) > MAX_EVENTS or self._history_size > MAX_HISTORY_SIZE:
            self._history_size -= len(self._history.popleft())
            self._dropped += 1
        self._pages.send(text)

    def _respond(self, peer: Peer, request: Request) -> Response | Acceptance:
        host = request.headers.get("Host") or ""
        if not names_this_machine(host):
            raise HandshakeError(
                HTTPStatus.FORBIDDEN, f"header Host: open the page at http://{HOST} or localhost"
            )
        if request.path == "/events":
            return accept(request, origins=[f"http://{host}"], compression=None)
        if request.path != "/":
            raise HandshakeError(HTTPStatus.NOT_FOUND, "no such page; the page is at /")
        if request.method not in ("GET", "HEAD"):
            raise HandshakeError(
                HTTPStatus.METHOD_NOT_ALLOWED,
                "only GET and HEAD are allowed here",
                [("Allow", "GET, HEAD")],
            )
        return self._page

    def _send_history(self, peer: Peer) -> None:
        hello = {
            "type": "hello",
            "upstream": self._upstream,
            "address": self.address,
            "dropped": self._dropped,
        }
        peer.send(json.dumps(hello))
        for text in self._history:
            peer.send(text)
        self._pages.add(peer)


def load_page() -> Response:
    """Return the response with the page.

    Its Content-Security-Policy allows only the script and the style of the file itself.
    """
    html = Path(__file__).with_name("page.html").read_bytes()
    policy = (
        "default-src 'none'",
        f"script-src {_hash(html, b'script')}",
        f"style-src {_hash(html, b'style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    headers = [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Cache-Control", "no-cache"),
        ("Content-Security-Policy", "; ".join(policy)),
        ("Referrer-Policy", "no-referrer"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    return Response(HTTPStatus.OK, headers, html)


def _hash(html: bytes, element: bytes) -> str:
    """Return the policy's source for the only inline element of a kind."""
    (body,) = re.findall(b"<%s>(.*?)</%s>" % (element, element), html, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(body).digest()).decode()}'"
