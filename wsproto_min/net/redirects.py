"""Redirects of the opening handshake (RFC 6455, section 4.1; RFC 9110, section 15.4)."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, urljoin, urlsplit

from wsproto_min.errors import HandshakeError
from wsproto_min.http import Headers, Response
from wsproto_min.net.url import WebSocketURL, parse_url

REDIRECTS = frozenset({301, 302, 303, 307, 308})
DEFAULT_MAX_REDIRECTS = 10
"""Number of redirects that `connect` follows, as in `websockets` and `ws`."""
CREDENTIALS = frozenset({"authorization", "cookie"})

# The characters of RFC 3986, section 2. A server may send others, and browsers encode them.
_URL_CHARACTERS = "%:/?#[]@!$&'()*+,;=-._~"
_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


def next_url(url: WebSocketURL, response: Response) -> WebSocketURL | None:
    """Return the URL to which a response redirects, or None if it is no redirect.

    `Location` may be relative. `http` means `ws` there, and `https` means `wss`.

    Raises:
        HandshakeError: The URL is invalid, leads from `wss` to `ws`, or away from a Unix
            socket. The status is that of the response.
    """
    locations = Headers(response.headers).values("Location")
    if response.status not in REDIRECTS or len(locations) != 1:
        return None
    is_unix = url.scheme == "ws+unix"
    base = "ws://localhost" if is_unix else f"{url.scheme}://{url.host_header}"
    try:
        location = quote(locations[0], safe=_URL_CHARACTERS, encoding="latin-1")
        parts = urlsplit(urljoin(base + url.target, location))
        if parts.scheme not in _SCHEMES:
            raise ValueError("only ws, wss, http and https are possible")
        scheme = _SCHEMES[parts.scheme]
        target = parse_url(parts._replace(scheme=scheme, fragment="").geturl())
        if url.scheme == "wss" and target.scheme == "ws":
            raise ValueError("leads from wss to ws; connect to the new URL if TLS is not needed")
        if is_unix and (target.scheme, target.host, target.port) != ("ws", "localhost", 80):
            raise ValueError("leads away from the Unix socket; connect to the new URL")
    except ValueError as error:
        reason = f"redirect {response.status} to {locations[0]!r}: {error}"
        raise HandshakeError(response.status, reason, response.headers) from None
    return target._replace(scheme=url.scheme, host=url.host, port=0) if is_unix else target


def headers_after(
    headers: Sequence[tuple[str, str]], old: WebSocketURL, new: WebSocketURL
) -> Sequence[tuple[str, str]]:
    """Return the headers of the next request: no credentials for another origin (RFC 6454)."""
    if (old.scheme, old.host, old.port) == (new.scheme, new.host, new.port):
        return headers
    return [(name, value) for name, value in headers if name.lower() not in CREDENTIALS]
