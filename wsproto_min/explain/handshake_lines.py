"""The opening handshake explained line by line: RFC 6455, section 4.

What a head means and whether it opens a connection is for `http` and `handshake`
to say; this adds what each line is there for.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from wsproto_min.deflate import NAME, DeflateParameters
from wsproto_min.errors import HandshakeError
from wsproto_min.explain.verdict import Verdict, refused
from wsproto_min.handshake import (
    GUID,
    accept,
    accept_key,
    agreement,
    parse_extensions,
    validate_response,
)
from wsproto_min.http import Headers, Request, Response, parse_request, parse_response

_REQUEST_LINE = "method, target and version: GET and HTTP/1.1 (4.1, items 1 to 3)"
_STATUS_LINE = "101 is a yes, any other status a no (4.2.2, item 5.1)"
_OTHER = "not part of the handshake"

_IN_REQUEST = {
    "host": "the server that is meant (4.1, item 4)",
    "upgrade": "must include 'websocket' (4.1, item 5)",
    "connection": "must include 'Upgrade' (4.1, item 6)",
    "sec-websocket-key": "16 random bytes in base64, fresh each time (4.1, item 7)",
    "origin": "where the page comes from; browsers add it (4.1, item 8)",
    "sec-websocket-version": "must be 13 (4.1, item 9)",
    "sec-websocket-protocol": "the subprotocols offered, the best first (4.1, item 10)",
    "sec-websocket-extensions": "the extensions offered (4.1, item 11; 9.1)",
}
_IN_RESPONSE = {
    "upgrade": "must be 'websocket' (4.2.2, item 5.2)",
    "connection": "must include 'Upgrade' (4.2.2, item 5.3)",
    "sec-websocket-accept": "the proof that the key was read (4.2.2, item 5.4)",
    "sec-websocket-protocol": "the one subprotocol that was chosen (4.2.2, item 5.5)",
    "sec-websocket-extensions": "the extensions agreed on (4.2.2, item 5.6)",
}


@dataclass(frozen=True, slots=True)
class AcceptKey:
    """How the accept key comes about (section 4.2.2, item 5.4)."""

    key: str

    @property
    def nonce(self) -> bytes:
        """The 16 random bytes that the key stands for."""
        return base64.b64decode(self.key)

    @property
    def joined(self) -> str:
        """The key with the protocol's own GUID behind it."""
        return self.key + GUID.decode()

    @property
    def digest(self) -> bytes:
        """The SHA-1 of that."""
        return hashlib.sha1(self.joined.encode()).digest()

    @property
    def accept(self) -> str:
        """The digest in base64, as `handshake` has it.

        >>> AcceptKey("dGhlIHNhbXBsZSBub25jZQ==").accept
        's3pPLMBiTxaQ9kYGzzhZRbK+xOo='
        """
        return accept_key(self.key)


@dataclass(frozen=True, slots=True)
class Head:
    """A head that was seen: its lines, each with its meaning.

    `notes` say what follows from it, `verdict` is None if it is as it must be.
    """

    kind: str
    offset: int
    size: int
    lines: tuple[tuple[str, str], ...]
    accept_key: AcceptKey | None
    notes: tuple[str, ...]
    verdict: Verdict | None


class HandshakeContext:
    """What the heads of both directions have settled so far.

    `deflate` is what is agreed of compression; a response may change it.
    """

    def __init__(self, compression: DeflateParameters | None = None) -> None:
        self.compression = compression
        self._request: Request | None = None

    def read_request(self, head: bytes, offset: int) -> Head:
        """Explain a client's request, as a server that agrees to all offers judges it."""

        def judge() -> None:
            request = parse_request(head)
            offered = request.headers.tokens("Sec-WebSocket-Protocol")
            accept(request, subprotocols=offered, compression=DeflateParameters.DEFAULT)
            self._request = request

        verdict = _judged(judge, offset, by_server=True)
        lines = _lines(head, _REQUEST_LINE, _IN_REQUEST)
        key = None if self._request is None else self._request.headers.get("Sec-WebSocket-Key")
        derived = None if key is None else AcceptKey(key)
        return Head("request", offset, len(head) + 4, lines, derived, (), verdict)

    def read_response(self, head: bytes, offset: int) -> Head:
        """Explain a server's answer, as the client judges it that made the request."""
        notes: list[str] = []

        def judge() -> None:
            status, headers = parse_response(head)
            key, offered, compression = "", headers.tokens("Sec-WebSocket-Protocol"), True
            if self._request is not None:
                asked = self._request.headers
                key = asked.get("Sec-WebSocket-Key") or ""
                offered = asked.tokens("Sec-WebSocket-Protocol")
                compression = any(name == NAME for name, _ in parse_extensions(asked))
            elif len(headers.values("Sec-WebSocket-Accept")) == 1:
                # Whatever key it was made from; only its absence can be told.
                notes.append("whether the accept key fits, only the request could tell")
                headers = _with_accept(headers, accept_key(key))
            ours = DeflateParameters.DEFAULT if compression else None
            validate_response(status, headers, key, subprotocols=offered, compression=ours)
            self.compression = agreement(Response(status, headers.fields)).compression
            with_deflate = "no" if self.compression is None else self.compression.encode()
            notes.append(f"compression: {with_deflate}")

        verdict = _judged(judge, offset, by_server=False)
        lines = _lines(head, _STATUS_LINE, _IN_RESPONSE)
        return Head("response", offset, len(head) + 4, lines, None, tuple(notes), verdict)


def _judged(judge: Callable[[], None], offset: int, *, by_server: bool) -> Verdict | None:
    try:
        judge()
    except HandshakeError as error:
        return refused(error, offset, by_server=by_server)
    return None


def _lines(head: bytes, first: str, meanings: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Return each line of a head, good or bad, with its meaning."""
    start, *fields = head.decode("latin-1").split("\r\n")
    lines = [(start, first)]
    for line in fields:
        lines.append((line, meanings.get(line.partition(":")[0].lower(), _OTHER)))
    return tuple(lines)


def _with_accept(headers: Headers, accept: str) -> Headers:
    """Return `headers` with another accept key."""
    name = "sec-websocket-accept"
    return Headers([(field, accept if field == name else value) for field, value in headers.fields])
