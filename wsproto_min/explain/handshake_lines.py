"""Line-by-line explanation of the opening handshake (RFC 6455, section 4).

Modules `http` and `handshake` parse and check each head. This module adds the purpose of each
line.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from wsproto_min.client_handshake import is_interim, validate_response
from wsproto_min.connection import Role
from wsproto_min.deflate import NAME, DeflateParameters
from wsproto_min.errors import HandshakeError
from wsproto_min.explain.verdict import Verdict, refused
from wsproto_min.handshake import GUID, accept_key, parse_extensions
from wsproto_min.http import Headers, Request, Response
from wsproto_min.http_reader import parse_request, parse_response
from wsproto_min.server_handshake import accept

_REQUEST_LINE = "method, target and version: GET and HTTP/1.1 (4.1, items 1 to 3)"
_STATUS_LINE = "101 accepts the handshake, any other status refuses it (4.2.2, item 5.1)"
_INTERIM_LINE = "an interim response; the final one follows (RFC 9110, 15.2)"
_OTHER = "not part of the handshake"

_IN_REQUEST = {
    "host": "the server's name (4.1, item 4)",
    "upgrade": "must include 'websocket' (4.1, item 5)",
    "connection": "must include 'Upgrade' (4.1, item 6)",
    "sec-websocket-key": "16 random bytes in base64, fresh for each request (4.1, item 7)",
    "origin": "the web page's origin, added by browsers (4.1, item 8)",
    "sec-websocket-version": "must be 13 (4.1, item 9)",
    "sec-websocket-protocol": "the subprotocols offered, in order of preference (4.1, item 10)",
    "sec-websocket-extensions": "the extensions offered (4.1, item 11; 9.1)",
}
_IN_RESPONSE = {
    "upgrade": "must be 'websocket' (4.2.2, item 5.2)",
    "connection": "must include 'Upgrade' (4.2.2, item 5.3)",
    "sec-websocket-accept": "proves that the server read the key (4.2.2, item 5.4)",
    "sec-websocket-protocol": "the subprotocol that the server chose (4.2.2, item 5.5)",
    "sec-websocket-extensions": "the extensions in use (4.2.2, item 5.6)",
}


@dataclass(frozen=True, slots=True)
class AcceptKey:
    """The steps from the request's key to the response's accept key (section 4.2.2, item 5.4)."""

    key: str

    @property
    def nonce(self) -> bytes:
        """The 16 random bytes that the key encodes."""
        return base64.b64decode(self.key)

    @property
    def joined(self) -> str:
        """The key, followed by the GUID of RFC 6455."""
        return self.key + GUID.decode()

    @property
    def digest(self) -> bytes:
        """The SHA-1 digest of `joined`."""
        return hashlib.sha1(self.joined.encode()).digest()

    @property
    def accept(self) -> str:
        """The digest in base64.

        >>> AcceptKey("dGhlIHNhbXBsZSBub25jZQ==").accept
        's3pPLMBiTxaQ9kYGzzhZRbK+xOo='
        """
        return accept_key(self.key)


@dataclass(frozen=True, slots=True)
class HandshakeLines:
    """The head of a request or response, explained line by line.

    Attributes:
        kind: "request", "response" or "interim response".
        offset: Index of the head's first byte in the capture.
        size: The head's size in bytes, with its empty line.
        lines: Pairs of a line's text and its meaning.
        accept_key: The accept key that a valid request leads to.
        notes: Consequences of a response, such as the negotiated compression.
        verdict: None if the head is valid.

    """

    kind: str
    offset: int
    size: int
    lines: tuple[tuple[str, str], ...]
    accept_key: AcceptKey | None
    notes: tuple[str, ...]
    verdict: Verdict | None


class HandshakeContext:
    """State of one connection. The dissectors of both directions share it.

    Attributes:
        compression: The negotiated compression. A response may change it.
        assumes_compression: True if `compression` is the client's offer, without a response.
        closed_by: The ends whose Close frame is in the capture so far.

    """

    def __init__(self, compression: DeflateParameters | None = None) -> None:
        self.compression = compression
        self.assumes_compression: bool = False
        self.closed_by: set[Role] = set()
        self._request: Request | None = None
        self._answered = False

    def assume_response(self) -> None:
        """Assume that the server accepts the offer of compression, if there is no response.

        A capture of the client's bytes alone has no response.
        """
        if self._answered or self._request is None or self.compression is not None:
            return
        if _offers_compression(self._request.headers):
            self.compression = DeflateParameters.DEFAULT
            self.assumes_compression = True

    def explain_request(self, head: bytes, offset: int) -> HandshakeLines:
        """Explain a client's request and check it like a server that accepts all offers."""

        def check() -> None:
            request = parse_request(head)
            offered = request.headers.tokens("Sec-WebSocket-Protocol")
            accept(request, subprotocols=offered, compression=DeflateParameters.DEFAULT)
            self._request = request

        verdict = _verdict(check, offset, by_server=True)
        lines = _explain_lines(head, _REQUEST_LINE, _IN_REQUEST)
        key = None if self._request is None else self._request.headers.get("Sec-WebSocket-Key")
        steps = None if key is None else AcceptKey(key)
        return HandshakeLines("request", offset, len(head) + 4, lines, steps, (), verdict)

    def explain_response(self, head: bytes, offset: int) -> HandshakeLines:
        """Explain a server's response and check it like the client that sent the request.

        Without the request, the check assumes that the client offered the server's choices.
        """
        notes: list[str] = []
        kind, first = "response", _STATUS_LINE

        def check() -> None:
            nonlocal kind, first
            response = parse_response(head)
            if is_interim(response):
                kind, first = "interim response", _INTERIM_LINE
                return
            self._answered = True
            headers = Headers(response.headers)
            key, offered, compression = "", headers.tokens("Sec-WebSocket-Protocol"), True
            if self._request is not None:
                asked = self._request.headers
                key = asked.get("Sec-WebSocket-Key") or ""
                offered = asked.tokens("Sec-WebSocket-Protocol")
                compression = _offers_compression(asked)
            elif len(headers.values("Sec-WebSocket-Accept")) == 1:
                notes.append("accept key: not checked, because the request is not in the capture")
                response = _with_accept_key(response, accept_key(key))
            ours = DeflateParameters.DEFAULT if compression else None
            options = validate_response(response, key, subprotocols=offered, compression=ours)
            self.compression = options.compression
            in_use = "no" if options.compression is None else options.compression.to_header()
            notes.append(f"compression: {in_use}")

        verdict = _verdict(check, offset, by_server=False)
        lines = _explain_lines(head, first, _IN_RESPONSE)
        return HandshakeLines(kind, offset, len(head) + 4, lines, None, tuple(notes), verdict)


def _offers_compression(headers: Headers) -> bool:
    return any(name == NAME for name, _ in parse_extensions(headers))


def _verdict(check: Callable[[], None], offset: int, *, by_server: bool) -> Verdict | None:
    """Return the verdict if `check` raises `HandshakeError`, else None."""
    try:
        check()
    except HandshakeError as error:
        return refused(error, offset, by_server=by_server)
    return None


def _explain_lines(
    head: bytes, first: str, meanings: dict[str, str]
) -> tuple[tuple[str, str], ...]:
    """Return each line of a head with its meaning. The lines may be invalid."""
    start, *fields = head.decode("latin-1").split("\r\n")
    lines = [(start, first)]
    for line in fields:
        lines.append((line, meanings.get(line.partition(":")[0].lower(), _OTHER)))
    return tuple(lines)


def _with_accept_key(response: Response, accept: str) -> Response:
    name = "sec-websocket-accept"
    headers = [(field, accept if field == name else value) for field, value in response.headers]
    return response._replace(headers=headers)
