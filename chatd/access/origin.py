"""Origin policy: checks the Host and Origin headers of requests.

Any web page can make a browser connect to a server on the same machine: cross-site
WebSocket hijacking. With DNS rebinding the page even uses a host name of its own. So a
request must name this server in its Host header. A page that connects must come from
this server, unless an option allows its site. Clients other than browsers send no
Origin header, and the policy does not restrict them.
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

# RFC 9110, 7.2: host and port. A DNS name has at most 253 characters.
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{0,5})?")
# RFC 6454, 7: the origin of a site (https://example.org) or an app (tauri://localhost, file://).
_SITE = re.compile(
    r"https?://[A-Za-z0-9._:\[\]-]{1,300}"
    r"|(?!https?:)[a-z][a-z0-9+.-]{0,60}://[A-Za-z0-9._:\[\]-]{0,300}",
    re.IGNORECASE,
)


class OriginPolicy:
    """Allow list for the Host and Origin headers.

    Args:
        hosts: Names of this server besides IP addresses, `localhost` and the name of
            the machine.
        origins: Other origins with pages that may connect: sites such as
            `https://example.org` and apps such as `tauri://localhost`.
    """

    def __init__(self, *, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        own = ("localhost", socket.gethostname(), *hosts)
        self._hosts = {name.lower().rstrip(".") for name in own}
        self._origins = {_normalize(origin) for origin in origins}

    def check(self, request: Request) -> None:
        """Check the Host header of a request, and the Origin header unless it only reads a page.

        Raises:
            HandshakeError: 400 for a missing or malformed Host header. 403 for a host
                or origin that is not allowed; the reason names the option to allow it.
        """
        host = request.headers.get("Host")
        if host is None:
            raise HandshakeError(HTTPStatus.BAD_REQUEST, "header Host is missing")
        if not _HOST.fullmatch(host):
            raise HandshakeError(
                HTTPStatus.BAD_REQUEST,
                "header Host must be a name or an address, with an optional port",
            )
        name = host_name(host)
        if not (_is_address(name) or name in self._hosts):
            raise HandshakeError(
                HTTPStatus.FORBIDDEN,
                f"header Host: {name!r} is not a name of this server; to allow it, start chatd"
                f" with --allow-host {name}",
            )
        origin = request.headers.get("Origin")
        only_reads = request.method in ("GET", "HEAD") and not request.wants_websocket
        if origin is None or only_reads:
            return
        if _is_same_origin(origin, host) or _normalize(origin) in self._origins:
            return
        if origin.lower() == "null":
            raise HandshakeError(
                HTTPStatus.FORBIDDEN,
                "header Origin: a page with an opaque origin, such as a local file, may not"
                " connect, because every site can send null;"
                " open the page at the address of this server",
            )
        if not is_origin(origin):
            raise HandshakeError(
                HTTPStatus.FORBIDDEN,
                "header Origin must have the form SCHEME://HOST, with an optional port",
            )
        raise HandshakeError(
            HTTPStatus.FORBIDDEN,
            f"header Origin: pages of {origin!r} may not connect; to allow them, start chatd"
            f" with --allow-origin {origin}",
        )


def is_origin(text: str) -> bool:
    """Return True if a text is the origin of a site or an app; `null` is neither.

    >>> [is_origin(text) for text in ("https://example.org:8443", "tauri://localhost", "null")]
    [True, True, False]
    """
    return _SITE.fullmatch(text) is not None


def host_name(host: str) -> str:
    """Return the name in a Host header, without the port and in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower().rstrip(".")


def _normalize(origin: str) -> str:
    """Return an origin as browsers send it: lower case, without the default port."""
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
    """Return True if a page's origin equals the host of its request.

    The comparison leaves out the scheme, which the server does not know behind a proxy
    that terminates TLS.
    """
    try:
        page = urlsplit(origin)  # in lower case
        port = page.port or _DEFAULT_PORTS[page.scheme]
        server = urlsplit(f"{page.scheme}://{host}")
        return page.hostname is not None and (page.hostname, port) == (
            server.hostname,
            server.port or _DEFAULT_PORTS[page.scheme],
        )
    except (ValueError, KeyError):  # "null", or another scheme
        return False
