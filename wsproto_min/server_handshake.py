"""The server's side of the opening handshake (RFC 6455, section 4.2).

`accept` checks a client's request and makes the response 101. `ServerHandshake` reads the request,
lets a function decide about it, and has the bytes of the response.
"""

import re
from collections.abc import Callable, Collection, Sequence
from http import HTTPStatus
from typing import NamedTuple

from wsproto_min.connection import Connection, Role
from wsproto_min.deflate import DEFAULT_COMPRESSION_THRESHOLD, DeflateParameters
from wsproto_min.errors import HandshakeError
from wsproto_min.extensions import Extension, accept_offers
from wsproto_min.handshake import (
    EXTENSIONS_HEADER,
    PROTOCOL_HEADER,
    VERSION,
    HandshakeResult,
    NegotiatedOptions,
    accept_key,
    all_extensions,
    negotiated_options,
    parse_extensions,
)
from wsproto_min.http import Request, Response, bad_request, error_response
from wsproto_min.http_reader import HeadReader, body_size, parse_request
from wsproto_min.messages import DEFAULT_MAX_MESSAGE_SIZE

# Section 4.2.1, item 5: 16 bytes in base64.
_KEY = re.compile("[A-Za-z0-9+/]{22}==")
# RFC 9110, section 10.1.1.
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Acceptance(NamedTuple):
    """A server's decision to open a connection: the response 101 and the negotiated options."""

    response: Response
    options: NegotiatedOptions


class Deferred:
    """A server's decision to answer a request later, with `ServerHandshake.decide`."""


def accept(
    request: Request,
    *,
    subprotocols: Sequence[str] = (),
    origins: Collection[str] | None = None,
    compression: DeflateParameters | None = DeflateParameters.NO_CONTEXT_TAKEOVER,
    headers: Sequence[tuple[str, str]] = (),
    extensions: Sequence[Extension] = (),
) -> Acceptance:
    """Check an opening handshake (section 4.2.1) and return the acceptance (section 4.2.2).

    Args:
        request: The client's request.
        subprotocols: Subprotocols of the server, the preferred one first.
        origins: Sites whose pages may connect, such as "https://example.org"; None for all.
            A client without an Origin header, which is no browser, may always connect.
        compression: The server's configuration of permessage-deflate; None declines all offers.
        headers: Further headers of the response, as pairs of name and value.
        extensions: The server's further extensions.

    Raises:
        HandshakeError: Status 405: the method is not GET. Status 426: the version is not 13.
            Status 403: the request comes from a page of a site that `origins` does not have.
            Status 400: another requirement is not met.

    """
    fields = request.headers
    if request.method != "GET":
        raise HandshakeError(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "a WebSocket handshake must use the method GET",
            [("Allow", "GET")],
        )
    if request.version != "HTTP/1.1":
        raise bad_request("a WebSocket handshake needs HTTP/1.1")
    if fields.get("Host") is None:
        raise bad_request("header Host is missing")
    # The server would read a body as frames.
    if "Transfer-Encoding" in fields or fields.get("Content-Length") not in (None, "0"):
        raise bad_request("a WebSocket handshake must not have a body")
    if not fields.has_token("Upgrade", "websocket"):
        raise bad_request("header Upgrade must include 'websocket'")
    if not fields.has_token("Connection", "upgrade"):
        raise bad_request("header Connection must include 'Upgrade'")
    if fields.get("Sec-WebSocket-Version") != VERSION:
        raise HandshakeError(
            HTTPStatus.UPGRADE_REQUIRED,
            f"header Sec-WebSocket-Version must be {VERSION}",
            [("Upgrade", "websocket"), ("Sec-WebSocket-Version", VERSION)],
        )
    key = fields.get("Sec-WebSocket-Key")
    if key is None:
        raise bad_request("header Sec-WebSocket-Key is missing")
    if not _KEY.fullmatch(key):
        raise bad_request("header Sec-WebSocket-Key must be 16 bytes in base64")

    if origins is not None:
        _check_origin(fields.get("Origin"), origins)

    pairs = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_key(key)),
    ]
    offered = fields.tokens(PROTOCOL_HEADER)
    subprotocol = next((name for name in subprotocols if name in offered), None)
    if subprotocol is not None:
        pairs.append((PROTOCOL_HEADER, subprotocol))
    negotiated = accept_offers(parse_extensions(fields), all_extensions(compression, extensions))
    if negotiated:
        value = ", ".join([extension.to_header() for extension in negotiated])
        pairs.append((EXTENSIONS_HEADER, value))
    response = Response(HTTPStatus.SWITCHING_PROTOCOLS, [*pairs, *headers])
    return Acceptance(response, negotiated_options(subprotocol, negotiated))


def _check_origin(origin: str | None, origins: Collection[str]) -> None:
    """Refuse the pages of other sites (section 4.2.2, item 4)."""
    if origin is not None and origin.lower() not in [site.lower().rstrip("/") for site in origins]:
        reason = f"header Origin: pages of {origin!r} may not connect"
        raise HandshakeError(HTTPStatus.FORBIDDEN, reason)


class ServerHandshake:
    """The server's side of an opening handshake, without I/O.

    Args:
        respond: Decides about each request instead of `accept`: returns an `Acceptance` to open
            the connection, a `Response` to answer a plain HTTP request, or a `Deferred` to
            leave this to `decide`. May raise `HandshakeError` to refuse.
        subprotocols: As for `accept`; without effect if `respond` is given.
        origins: As for `accept`; without effect if `respond` is given.
        compression: As for `accept`; without effect if `respond` is given.
        max_message_size: As for `Connection`.
        max_fragments: As for `Connection`.
        compression_threshold: As for `Connection`.
        extensions: As for `accept`; without effect if `respond` is given.
        max_body_size: Largest body in bytes of a plain HTTP request, which `respond` receives
            together with its body. 0 reads no bodies and checks none of their headers.

    Attributes:
        request: The request once its head is complete, or None.
        is_deferred: True once `respond` has returned a `Deferred`.

    """

    __slots__ = (
        "_body_size",
        "_compression_threshold",
        "_decision",
        "_eof_received",
        "_max_body_size",
        "_max_fragments",
        "_max_message_size",
        "_reader",
        "_respond",
        "_unsent",
        "is_deferred",
        "request",
    )

    def __init__(
        self,
        respond: Callable[[Request], Response | Acceptance | Deferred] | None = None,
        *,
        subprotocols: Sequence[str] = (),
        origins: Collection[str] | None = None,
        compression: DeflateParameters | None = DeflateParameters.NO_CONTEXT_TAKEOVER,
        max_message_size: int | None = DEFAULT_MAX_MESSAGE_SIZE,
        max_fragments: int | None = None,
        compression_threshold: int = DEFAULT_COMPRESSION_THRESHOLD,
        extensions: Sequence[Extension] = (),
        max_body_size: int = 0,
    ) -> None:
        self._respond = respond or (
            lambda request: accept(
                request,
                subprotocols=subprotocols,
                origins=origins,
                compression=compression,
                extensions=extensions,
            )
        )
        self._max_message_size = max_message_size
        self._max_fragments = max_fragments
        self._compression_threshold = compression_threshold
        self._max_body_size = max_body_size
        self._reader = HeadReader(is_request=True)
        self._eof_received = False
        self._unsent = b""
        self._body_size = 0
        self._decision: Response | Acceptance | HandshakeError | None = None
        self.request: Request | None = None
        self.is_deferred: bool = False

    @property
    def unfinished_size(self) -> int:
        """Bytes of memory for the body and for received data, about."""
        body = b"" if self.request is None else self.request.body
        return self._reader.size + len(body)

    def receive_data(self, data: bytes) -> None:
        """Store received bytes for `next_result`."""
        self._reader.receive_data(data)

    def receive_eof(self) -> None:
        """Record the end of the client's stream."""
        self._eof_received = True

    def next_result(self) -> HandshakeResult | None:
        """Return the outcome, or None if more data is needed. There is one outcome.

        Exceptions of `respond` other than `HandshakeError` pass through.

        Raises:
            TypeError: `respond` returned an object of another type.
            ValueError: The response of `respond` cannot be sent.

        """
        try:
            if self._decision is None and not self._ask():
                return None
            decision = self._decision
            if isinstance(decision, HandshakeError):
                raise decision
        except HandshakeError as error:
            return self.refuse(error)
        request = self.request
        assert request is not None
        if isinstance(decision, Response):
            if decision.status == HTTPStatus.SWITCHING_PROTOCOLS:
                raise ValueError("response: status 101 by itself; return accept(...) instead")
            self._unsent = decision.encode(head_only=request.method == "HEAD")
            return HandshakeResult(request, decision)
        if not isinstance(decision, Acceptance):
            kind = type(decision).__name__
            raise TypeError(f"response: is {kind}; return an Acceptance, Response or Deferred")
        self._unsent = decision.response.encode()
        connection = Connection(
            Role.SERVER,
            max_message_size=self._max_message_size,
            max_fragments=self._max_fragments,
            compression=decision.options.compression,
            compression_threshold=self._compression_threshold,
            extensions=decision.options.extensions,
        )
        return HandshakeResult(
            request,
            decision.response,
            None,
            connection,
            decision.options,
            self._reader.trailing_data,
        )

    def _ask(self) -> bool:
        """Let `respond` decide about the request; return False if there is no decision yet."""
        if self.is_deferred or not self._read_request():
            return False
        assert self.request is not None
        self.is_deferred = True  # `respond` may call `decide` itself
        decision = self._respond(self.request)
        if isinstance(decision, Deferred):
            return self._decision is not None
        self.is_deferred = False
        self._decision = decision
        return True

    def _read_request(self) -> bool:
        """Read the request with its body; return False if more data is needed."""
        request = self.request
        if request is None:
            head = self._reader.next_head()
            if head is None:
                if self._eof_received:
                    raise bad_request("the request ended within its head")
                return False
            request = self.request = parse_request(head)
            if self._max_body_size and not request.wants_websocket:
                self._body_size = body_size(request, self._max_body_size)
                # RFC 9110, section 10.1.1: 100 is superfluous if the body has begun.
                if self._body_size and not self._reader.size and "Expect" in request.headers:
                    self._unsent = _CONTINUE
        if self._body_size:
            body = self._reader.next_body(self._body_size)
            if body is None:
                if self._eof_received:
                    raise bad_request("the request ended within its body")
                return False
            self.request = request._replace(body=body)
        return True

    def decide(self, decision: Response | Acceptance | HandshakeError) -> None:
        """Decide about a request for which `respond` returned a `Deferred`.

        The next call of `next_result` returns the outcome. Only the first decision counts.
        """
        if self.is_deferred and self._decision is None:
            self._decision = decision

    def refuse(self, error: HandshakeError) -> HandshakeResult:
        """Return the outcome of a refused handshake; its response goes to `data_to_send`."""
        # The traceback would keep the caller's objects alive.
        error.__context__ = None
        error = error.with_traceback(None)
        request, response = self.request, error_response(error)
        head_only = request is not None and request.method == "HEAD"
        self._unsent = response.encode(head_only=head_only)
        return HandshakeResult(request, response, error)

    def data_to_send(self) -> bytes:
        """Return the encoded response, once; while a body is awaited, perhaps a response 100."""
        data, self._unsent = self._unsent, b""
        return data
