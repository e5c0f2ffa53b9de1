"""Who may reach the chat through a browser.

Any web page can make its visitor's browser connect to a server on this machine
(cross-site WebSocket hijacking), and by DNS rebinding under a name of its own.
So a request must be addressed to a name that this server goes by, and a page
that connects must come from this server, unless an option says otherwise.
Clients that are no browser send no Origin and are not concerned.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import urlsplit

from wsproto_min import HandshakeError, Request

_DEFAULT_PORTS = {"http": 80, "https": 443}


class OriginPolicy:
    """Judges the Host and Origin of requests.

    `hosts` are names that the server goes by besides addresses, `localhost` and
    this machine's name; `origins` are other sites whose pages may connect.
    """

    def __init__(self, *, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        own = ("localhost", socket.gethostname(), *hosts)
        self._hosts = {name.lower().rstrip(".") for name in own}
        self._origins = {origin.lower().rstrip("/") for origin in origins}

    def check(self, request: Request) -> None:
        """Raise `HandshakeError` 403, naming the option, for a Host or Origin not allowed."""
        host = request.headers.get("Host")
        if host is None:
            raise HandshakeError(HTTPStatus.BAD_REQUEST, "header Host is missing")
        name = host_name(host)
        if not (_is_address(name) or name in self._hosts):
            raise HandshakeError(
                HTTPStatus.FORBIDDEN,
                f"this server does not go by the name {name!r}; if it should, start chatd"
                f" with --allow-host {name}",
            )
        origin = request.headers.get("Origin")
        if origin is None or not request.wants_websocket:
            return
        if not (_is_same_origin(origin, host) or origin.lower() in self._origins):
            raise HandshakeError(
                HTTPStatus.FORBIDDEN,
                f"pages of {origin!r} may not connect; if they should, start chatd"
                f" with --allow-origin {origin}",
            )


def host_name(host: str) -> str:
    """Return a Host header's name without its port, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower().rstrip(".")


@lru_cache(1024)
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_same_origin(origin: str, host: str) -> bool:
    """Return whether a page's origin is the host that it connects to.

    The scheme is not compared: behind a proxy that ends TLS it is not known.
    """
    try:
        parts = urlsplit(origin.lower())
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        asked = urlsplit(f"{parts.scheme}://{host.lower()}")
        return parts.hostname is not None and (parts.hostname, port) == (
            asked.hostname,
            asked.port or _DEFAULT_PORTS[parts.scheme],
        )
    except (ValueError, KeyError):  # "null", or no origin of the web at all
        return False
