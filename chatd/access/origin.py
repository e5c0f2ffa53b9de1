"""Who may reach the chat through a browser.

Any web page can make its visitor's browser connect to a server on this machine
(cross-site WebSocket hijacking), and by DNS rebinding under a name of its own.
So a request must be addressed to a name that this server goes by, and a page
that connects must come from this server, unless an option says otherwise.
Clients that are no browser send no Origin and are not concerned.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import urlsplit

from wsproto_min import HandshakeError, Request

_DEFAULT_PORTS = {"http": 80, "https": 443}

# RFC 9110, section 7.2, as far as it is used: no name in DNS is longer.
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{0,5})?")
# An origin that an option can allow (RFC 6454, section 7).
_SITE = re.compile(r"https?://[A-Za-z0-9._:\[\]-]{1,300}", re.IGNORECASE)


class OriginPolicy:
    """Judges the Host and Origin of requests.

    `hosts` are names that the server goes by besides addresses, `localhost` and
    this machine's name; `origins` are other sites whose pages may connect.
    """

    def __init__(self, *, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        own = ("localhost", socket.gethostname(), *hosts)
        self._hosts = {name.lower().rstrip(".") for name in own}
        self._origins = {_normalize(origin) for origin in origins}

    def check(self, request: Request) -> None:
        """Raise `HandshakeError` 403, naming the option, for a Host or Origin not allowed.

        400 for a Host that is none.
        """
        host = request.headers.get("Host")
        if host is None:
            raise HandshakeError(HTTPStatus.BAD_REQUEST, "header Host is missing")
        if not _HOST.fullmatch(host):
            raise HandshakeError(
                HTTPStatus.BAD_REQUEST, "header Host is not a name or an address, with its port"
            )
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
        if _is_same_origin(origin, host) or _normalize(origin) in self._origins:
            return
        if not _SITE.fullmatch(origin):
            raise HandshakeError(
                HTTPStatus.FORBIDDEN,
                "pages that are no site's, such as files on a disk, may not connect;"
                " open the page at this server's own address",
            )
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


def _normalize(origin: str) -> str:
    """Return an origin in lower case and, as browsers send it, without the usual port."""
    scheme, colon, rest = origin.lower().rstrip("/").partition("://")
    return f"{scheme}{colon}{rest.removesuffix(f':{_DEFAULT_PORTS.get(scheme)}')}"


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
