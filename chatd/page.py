"""The plain HTTP answers: the page, and which paths there are.

`GET /` and `GET /r/ROOM` are the page and, with an Upgrade, the WebSocket of
the room `lobby` or ROOM.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from pathlib import Path

from wsproto_min import HandshakeError, Request, Response

DEFAULT_ROOM = "lobby"
_ROOM_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ROOM_PREFIX = "/r/"


def load_page() -> Response:
    """Return the answer that carries `client.html`.

    The file lies beside the package in a checkout and inside it once installed.
    """
    package = Path(__file__).parent
    paths = (package / "client.html", package.parent / "client.html")
    html = next(path for path in paths if path.exists()).read_bytes()
    return Response(
        HTTPStatus.OK,
        [
            ("Content-Type", "text/html; charset=utf-8"),
            ("Cache-Control", "no-cache"),
            ("X-Content-Type-Options", "nosniff"),
        ],
        html,
    )


def is_room_name(name: str) -> bool:
    """Return whether `name` is 1 to 64 letters, digits, dots, underscores and dashes."""
    return _ROOM_NAME.fullmatch(name) is not None


def room_of(request: Request) -> str:
    """Return the name of the room that a request's path stands for.

    Raises `HandshakeError` 404 for any other path, 405 for any other method
    than GET and HEAD.
    """
    if request.method not in ("GET", "HEAD"):
        raise HandshakeError(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "only GET and HEAD are known here",
            [("Allow", "GET, HEAD")],
        )
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
