"""Names of people that a trusted proxy has signed in (single sign-on)."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from chatd.access.trusted_networks import TrustedNetwork, is_trusted, parse_host
from chatd.model import InvalidName, normalize_name
from wsproto_min import HandshakeError, Request


class ProxyNames:
    """Reader of the header in which trusted proxies give the name of a person.

    Args:
        header: Name of the header, None if proxies give no names.
        trusted: Networks of the trusted proxies.
    """

    def __init__(self, header: str | None, trusted: Sequence[TrustedNetwork]) -> None:
        self._header = header
        self._trusted = trusted

    def name(self, request: Request, address: str) -> str | None:
        """Return the name in a request, None without one or if no trusted proxy has sent it.

        Args:
            request: The request.
            address: Address from which the connection came.

        Raises:
            HandshakeError: 403 if the name breaks a rule.
        """
        if self._header is None:
            return None
        host = parse_host(address)
        if host is None or not is_trusted(host, self._trusted):
            return None
        value = request.headers.get(self._header)
        if value is None:
            return None
        try:
            # HTTP has Latin-1 in headers; proxies send UTF-8.
            return normalize_name(value.encode("latin-1").decode())
        except (UnicodeError, InvalidName) as error:
            reason = f"header {self._header}: invalid name: {error}"
            raise HandshakeError(HTTPStatus.FORBIDDEN, reason) from None
