"""WebSocket URLs: RFC 6455, section 3."""

from typing import NamedTuple
from urllib.parse import urlsplit

DEFAULT_PORTS: dict[str, int] = {"ws": 80, "wss": 443}
"""Port of each scheme if the URL names none."""


class WebSocketURL(NamedTuple):
    """Parts of a WebSocket URL (section 3).

    Attributes:
        scheme: `ws`, `wss` or `ws+unix`, in lower case.
        host: Host name or IP address; for `ws+unix`, the path of the Unix socket.
        port: TCP port; 0 for `ws+unix`.
        target: Request target: the path and the query.
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def host_header(self) -> str:
        """Value of the Host header (section 4.1, item 4); omits the scheme's default port."""
        if self.scheme == "ws+unix":
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse_url(url: str) -> WebSocketURL:
    """Parse `ws://HOST[:PORT]/PATH`, `wss://HOST[:PORT]/PATH` or `ws+unix:FILE:/PATH`.

    Raises:
        ValueError: The URL has another form, user information, a fragment (section 3
            forbids it) or a character that must be percent-encoded.
    """
    if "#" in url:
        raise ValueError(f"{url!r} has a fragment; write '#' as %23 (RFC 6455, section 3)")
    scheme, _, rest = url.partition(":")
    scheme = scheme.lower()
    if scheme == "ws+unix":
        host, _, target = rest.removeprefix("//").partition(":")
        port = 0
    else:
        parts = urlsplit(url)
        if parts.username is not None:
            raise ValueError(f"{url!r} has user information; pass an Authorization header instead")
        host, port = parts.hostname or "", parts.port or DEFAULT_PORTS.get(scheme, 0)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
    if not target.startswith("/"):
        target = f"/{target}"
    if not host or scheme not in (*DEFAULT_PORTS, "ws+unix"):
        raise ValueError(f"{url!r} is not ws://HOST/PATH, wss://HOST/PATH or ws+unix:FILE:/PATH")
    # A space or a line break would end the request target or the request line.
    if not all("!" <= character <= "~" for character in target):
        raise ValueError(f"{url!r} has characters that must be percent-encoded, such as %20")
    return WebSocketURL(scheme, host, port, target)
