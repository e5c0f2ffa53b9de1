"""The web page, and the paths of the server.

`GET /` and `GET /r/ROOM` answer with the page. With an Upgrade they open the WebSocket
of the room `lobby` or ROOM.
"""

from __future__ import annotations

import base64
import hashlib
import re
from http import HTTPStatus
from pathlib import Path

from chatd.model import is_room_name
from wsproto_min import HandshakeError, Request, Response

DEFAULT_ROOM = "lobby"
_ROOM_PREFIX = "/r/"


def load_page() -> Response:
    """Return the response with `client.html`.

    The file is next to the package in a checkout, and inside the package once
    installed. Its Content-Security-Policy allows only the script and the style of the
    file itself, so an injected script does not run.
    """
    package = Path(__file__).parent
    paths = (package / "client.html", package.parent / "client.html")
    html = next(path for path in paths if path.exists()).read_bytes()
    policy = (
        "default-src 'none'",
        f"script-src {_hashes(html, b'script')}",
        f"style-src {_hashes(html, b'style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return Response(
        HTTPStatus.OK,
        [
            ("Content-Type", "text/html; charset=utf-8"),
            ("Cache-Control", "no-cache"),
            ("Content-Security-Policy", "; ".join(policy)),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
        ],
        html,
    )


def _hashes(html: bytes, element: bytes) -> str:
    """Return the policy's list of hashes for all inline elements of one kind."""
    pattern = b"<%s>(.*?)</%s>" % (element, element)
    digests = (hashlib.sha256(body).digest() for body in re.findall(pattern, html, re.DOTALL))
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def check_method(request: Request) -> None:
    """Raise `HandshakeError` 405 unless the method is GET or HEAD."""
    if request.method not in ("GET", "HEAD"):
        raise HandshakeError(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "only GET and HEAD are allowed here",
            [("Allow", "GET, HEAD")],
        )


def room_of(request: Request) -> str:
    """Return the name of the room that a request's path selects.

    Raises:
        HandshakeError: 404 for any other path, 405 as in `check_method`.
    """
    check_method(request)
    path = request.path
    if path == "/":
        return DEFAULT_ROOM
    name = path.removeprefix(_ROOM_PREFIX)
    if name != path and is_room_name(name):
        return name
    raise HandshakeError(
        HTTPStatus.NOT_FOUND,
        "no such page; the chat is at / and at /r/ROOM, where ROOM is"
        " 1 to 64 letters, digits, dots, underscores or dashes; a proxy with the chat under another"
        " path must remove this path",
    )
