"""The plain HTTP answers: the page, and which paths there are.

`GET /` and `GET /r/ROOM` are the page and, with an Upgrade, the WebSocket of
the room `lobby` or ROOM.
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
    """Return the answer that carries `client.html`.

    The file lies beside the package in a checkout and inside it once installed.
    Its policy lets run the one script and the one style that it holds, so that
    whatever else might get into the page stays dead.
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
    """Return the hashes of the inline elements of a kind, as a policy has them."""
    pattern = b"<%s>(.*?)</%s>" % (element, element)
    digests = (hashlib.sha256(body).digest() for body in re.findall(pattern, html, re.DOTALL))
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def check_method(request: Request) -> None:
    """Raise `HandshakeError` 405 for any other method than GET and HEAD."""
    if request.method not in ("GET", "HEAD"):
        raise HandshakeError(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "only GET and HEAD are known here",
            [("Allow", "GET, HEAD")],
        )


def room_of(request: Request) -> str:
    """Return the name of the room that a request's path stands for.

    Raises `HandshakeError` 404 for any other path, 405 as `check_method` does.
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
        "there is nothing here; the chat is at / and at /r/ROOM, where ROOM is"
        " 1 to 64 letters, digits, dots, underscores or dashes",
    )
