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

from chatd.model import direct_authors, is_room_name
from wsproto_min import HandshakeError, Request, Response

DEFAULT_ROOM = "lobby"
SERVICE_WORKER_PATH = "/service-worker.js"
_ROOM_PREFIX = "/r/"


def load_page() -> Response:
    """Return the response with `client.html`.

    Its Content-Security-Policy allows only the script and the style of the
    file itself, so an injected script does not run.
    """
    html = _read_html()
    policy = (
        "default-src 'none'",
        f"script-src {_hashes(html, b'script')}",
        f"style-src {_hashes(html, b'style')}",
        "connect-src 'self'",
        "img-src data:",
        "manifest-src data:",
        "worker-src 'self'",
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


def load_service_worker() -> Response:
    """Return the response with the page's service worker, a part of `client.html`."""
    pattern = rb'<script type="text/plain" id="service-worker">\n(.*?)</script>'
    found = re.search(pattern, _read_html(), re.DOTALL)
    assert found is not None
    headers = [
        ("Content-Type", "text/javascript; charset=utf-8"),
        ("Cache-Control", "no-cache"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    return Response(HTTPStatus.OK, headers, found[1])


def _read_html() -> bytes:
    """Return `client.html`: beside the package in a checkout, inside of it once installed."""
    package = Path(__file__).parent
    paths = (package / "client.html", package.parent / "client.html")
    return next(path for path in paths if path.exists()).read_bytes()


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
    return _room_in(path)


def is_post_path(path: str) -> bool:
    """Return True for the path of a room, which takes POST requests too."""
    return path.startswith(_ROOM_PREFIX)


def post_room(request: Request) -> str:
    """Return the name of the room for a POST request, whose path is /r/ROOM or /r/ROOM/TOKEN.

    Raises:
        HandshakeError: 404 for any other path.
    """
    return _room_in("/".join(request.path.split("/", 3)[:3]))


def post_token(request: Request) -> str | None:
    """Return the token in the path of a POST request, None without one."""
    parts = request.path.split("/", 3)
    return parts[3] if len(parts) == 4 else None


def _room_in(path: str) -> str:
    name = path.removeprefix(_ROOM_PREFIX)
    if name != path and (is_room_name(name) or direct_authors(name)):
        return name
    raise HandshakeError(
        HTTPStatus.NOT_FOUND,
        "no such page; the chat is at / and at /r/ROOM, where ROOM is"
        " 1 to 64 letters, digits, dots, underscores or dashes; a proxy with the chat under another"
        " path must remove this path",
    )
