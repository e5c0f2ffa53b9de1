"""WebSocket URLs: RFC 6455, section 3."""

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

DEFAULT_PORTS: dict[str, int] = {"ws": 80, "wss": 443}
"""Port of each scheme if the URL names none."""

# RFC 3986, section 3.2.2, without the percent sign, because the host is decoded before.
_HOST_NAME = re.compile("[-._~!$&'()*+,;=0-9a-z]+")


class WebSocketURL(NamedTuple):
    """Parts of a WebSocket URL (section 3).

    Attributes:
        scheme: `ws`, `wss` or `ws+unix`, in lower case.
        host: Host name (in A-label form, RFC 5890) or IP address; for `ws+unix`, the path of
            the Unix socket.
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
        # RFC 6874, section 4: the zone of an IPv6 address has no meaning for the server.
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse_url(url: str) -> WebSocketURL:
    """Parse `ws://HOST[:PORT]/PATH`, `wss://HOST[:PORT]/PATH` or `ws+unix:FILE:/PATH`.

    An internationalized host name is converted to A-labels (`xn--...`) by the rules of
    IDNA 2003, those of Python's codec `idna`.

    Raises:
        ValueError: The URL has another form, user information, a fragment (section 3
            forbids it), a character that must be percent-encoded or an invalid host name.
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
        if host and ":" not in host:
            host = _to_a_labels(host)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
    if not target.startswith("/"):
        target = f"/{target}"
    if not host or scheme not in (*DEFAULT_PORTS, "ws+unix"):
        raise ValueError(f"{url!r} is not ws://HOST/PATH, wss://HOST/PATH or ws+unix:FILE:/PATH")
    # A space or a line break would end the request target or the request line.
    if not all("!" <= character <= "~" for character in target):
        raise ValueError(f"{url!r} has characters that must be percent-encoded, such as %20")
    return WebSocketURL(scheme, host, port, target)


def _to_a_labels(host: str) -> str:
    """Return a host name in ASCII. Raises `ValueError`."""
    name = unquote(host)
    try:
        encoded = name.encode("idna").decode().lower()
    except UnicodeError as error:
        reason = error.__cause__ or error
        raise ValueError(
            f"host {name!r}: not a valid name ({reason}); write its A-label form, xn--..."
        ) from None
    if not _HOST_NAME.fullmatch(encoded):
        raise ValueError(f"host {name!r}: contains a character that a host name must not have")
    return encoded
