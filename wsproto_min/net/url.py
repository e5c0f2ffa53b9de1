"""WebSocket URLs: RFC 6455, section 3."""

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

DEFAULT_PORTS: dict[str, int] = {"ws": 80, "wss": 443}
"""Port of each scheme if the URL names none."""

MAX_HOST_NAME = 253  # RFC 1035, section 2.3.4, as text
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
    def authority(self) -> str:
        """Host and port of the target for a proxy (RFC 9110, section 9.3.6)."""
        return f"{bracketed(self.host)}:{self.port}"

    @property
    def host_header(self) -> str:
        """Value of the Host header (section 4.1, item 4); omits the scheme's default port."""
        if self.scheme == "ws+unix":
            return "localhost"
        is_default = self.port == DEFAULT_PORTS[self.scheme]
        return bracketed(self.host) if is_default else self.authority


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
            host = to_a_labels(host)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
    if not target.startswith("/"):
        target = f"/{target}"
    if not host or scheme not in (*DEFAULT_PORTS, "ws+unix"):
        raise ValueError(f"{url!r} is not ws://HOST/PATH, wss://HOST/PATH or ws+unix:FILE:/PATH")
    # A space or a line break would end the request target or the request line.
    if not all("!" <= character <= "~" for character in target):
        raise ValueError(f"{url!r} has characters that must be percent-encoded, such as %20")
    return WebSocketURL(scheme, host, port, target)


def bracketed(host: str) -> str:
    """Return a host as URLs and headers show it: an IPv6 address in brackets, without zone.

    The zone has no meaning for another machine (RFC 6874, section 4).
    """
    return f"[{host.partition('%')[0]}]" if ":" in host else host


def to_a_labels(host: str) -> str:
    """Return a host name in ASCII. Raises `ValueError`."""
    name = unquote(host)
    try:
        encoded = name.encode("idna").decode().lower()
    except UnicodeError as error:
        reason = error.__cause__ or error
        raise ValueError(
            f"host {name!r}: not a valid name ({reason}); write its A-label form, xn--..."
        ) from None
    if len(encoded) > MAX_HOST_NAME:
        raise ValueError(f"host {name!r}: longer than {MAX_HOST_NAME} characters; shorten it")
    if not _HOST_NAME.fullmatch(encoded):
        raise ValueError(f"host {name!r}: contains a character that a host name must not have")
    return encoded
