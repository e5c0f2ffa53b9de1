"""WebSocket URLs: RFC 6455, section 3."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

DEFAULT_PORTS = {"ws": 80, "wss": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a WebSocket URL leads (section 3)."""

    scheme: str
    host: str  # of a Unix socket, its path
    port: int
    target: str

    @property
    def host_header(self) -> str:
        """The value of the Host header; the port only if it is not the scheme's own."""
        if self.scheme == "ws+unix":
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse_url(url: str) -> Address:
    """Return where `ws://HOST[:PORT]/PATH`, `wss://...` or `ws+unix:FILE:/PATH` leads.

    Raises `ValueError`, also for a fragment, which section 3 forbids.
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
            raise ValueError(f"{url!r} has a user in it; pass an Authorization header instead")
        host, port = parts.hostname or "", parts.port or DEFAULT_PORTS.get(scheme, 0)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
    if not target.startswith("/"):
        target = f"/{target}"
    if not host or scheme not in (*DEFAULT_PORTS, "ws+unix"):
        raise ValueError(f"{url!r} is not ws://HOST/PATH, wss://HOST/PATH or ws+unix:FILE:/PATH")
    # Anything else would end the request's first line, or its second word, too early.
    if not all("!" <= character <= "~" for character in target):
        raise ValueError(f"{url!r} has characters in it that must be percent-encoded")
    return Address(scheme, host, port, target)
