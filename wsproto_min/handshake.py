"""The opening handshake of both sides (RFC 6455, section 4).

`ServerHandshake` and `ClientHandshake` take received bytes and return one `HandshakeResult`. It
has the open `Connection`, or the error. Below them, `accept` checks a client's request (section
4.2) and `validate_response` checks a server's response (section 4.1). HTTP itself is in module
`http`.

    >>> server = ServerHandshake()
    >>> client = ClientHandshake("example.com", "/chat")
    >>> server.receive_data(client.data_to_send())
    >>> server.next_result().connection
    <Connection server OPEN>
    >>> client.receive_data(server.data_to_send())
    >>> client.next_result().connection
    <Connection client OPEN>
"""

import base64
import hashlib
import os
import re
from collections.abc import Callable, Collection, Sequence
from http import HTTPStatus
from typing import NamedTuple

from wsproto_min.connection import Connection, Role
from wsproto_min.deflate import DEFAULT_COMPRESSION_THRESHOLD, DeflateParameters
from wsproto_min.errors import HandshakeError
from wsproto_min.extensions import Extension, Parameters, accept_offers
from wsproto_min.http import (
    Headers,
    HeadReader,
    Request,
    Response,
    bad_request,
    body_size,
    encode_head,
    error_response,
    is_token,
    parse_request,
    parse_response,
)
from wsproto_min.messages import DEFAULT_MAX_MESSAGE_SIZE

# Section 1.3.
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# Section 4.1, item 9.
VERSION = "13"
# RFC 9110, section 15.2: a client reads any number of 1xx responses before the final one.
MAX_INTERIM_RESPONSES = 10
# Section 4.2.1, item 5: 16 bytes in base64.
_KEY = re.compile("[A-Za-z0-9+/]{22}==")
# Sections 11.3.2 and 11.3.4: headers of requests and of responses.
_PROTOCOL = "Sec-WebSocket-Protocol"
_EXTENSIONS = "Sec-WebSocket-Extensions"
# RFC 9110, section 10.1.1.
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class NegotiatedOptions(NamedTuple):
    """Options that both sides agreed on.

    Attributes:
        subprotocol: The subprotocol, or None.
        compression: The parameters of permessage-deflate, or None.
        extensions: All other extensions.

    """

    subprotocol: str | None = None
    compression: DeflateParameters | None = None
    extensions: tuple[Extension, ...] = ()


class Acceptance(NamedTuple):
    """A server's decision to open a connection: the response 101 and the negotiated options."""

    response: Response
    options: NegotiatedOptions


class Deferred:
    """A server's decision to answer a request later, with `ServerHandshake.decide`."""


class HandshakeResult(NamedTuple):
    """The outcome of an opening handshake.

    Attributes:
        request: The client's request; None if it was malformed, and on a client.
        response: The server's response; None on a client that received no valid one.
        error: The reason for which there is no connection, or None. None as well if a server
            answered a plain HTTP request.
        connection: The open connection, or None.
        options: The negotiated options.
        trailing_data: Bytes received behind the head. Pass them to `connection.receive_data`.

    """

    request: Request | None = None
    response: Response | None = None
    error: HandshakeError | None = None
    connection: Connection | None = None
    options: NegotiatedOptions = NegotiatedOptions()
    trailing_data: bytes = b""

    @property
    def subprotocol(self) -> str | None:
        """The negotiated subprotocol, or None."""
        return self.options.subprotocol

    @property
    def compression(self) -> DeflateParameters | None:
        """The negotiated parameters of permessage-deflate, or None."""
        return self.options.compression


def accept_key(key: str) -> str:
    """Return the value of Sec-WebSocket-Accept for a client's key (section 4.2.2, item 5.4).

    >>> accept_key("dGhlIHNhbXBsZSBub25jZQ==")
    's3pPLMBiTxaQ9kYGzzhZRbK+xOo='
    """
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


# The server's side: section 4.2.


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
    offered = fields.tokens(_PROTOCOL)
    subprotocol = next((name for name in subprotocols if name in offered), None)
    if subprotocol is not None:
        pairs.append((_PROTOCOL, subprotocol))
    negotiated = accept_offers(parse_extensions(fields), _all_extensions(compression, extensions))
    if negotiated:
        value = ", ".join([extension.to_header() for extension in negotiated])
        pairs.append((_EXTENSIONS, value))
    response = Response(HTTPStatus.SWITCHING_PROTOCOLS, [*pairs, *headers])
    return Acceptance(response, _options(subprotocol, negotiated))


def _all_extensions(
    compression: DeflateParameters | None, extensions: Sequence[Extension]
) -> list[Extension]:
    """Return permessage-deflate, unless it is None, and all other extensions."""
    return [*([] if compression is None else [compression]), *extensions]


def _options(subprotocol: str | None, negotiated: list[Extension]) -> NegotiatedOptions:
    """Return the negotiated options, with permessage-deflate apart."""
    compression, others = None, []
    for extension in negotiated:
        if isinstance(extension, DeflateParameters):
            compression = extension
        else:
            others.append(extension)
    return NegotiatedOptions(subprotocol, compression, tuple(others))


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


# The client's side: section 4.1.


def upgrade_request(
    host: str,
    target: str,
    key: str,
    *,
    subprotocols: Sequence[str] = (),
    compression: DeflateParameters | None = None,
    headers: Sequence[tuple[str, str]] = (),
    extensions: Sequence[Extension] = (),
) -> bytes:
    """Return the bytes of a client's opening handshake (section 4.1).

    Args:
        host: The value of the header Host.
        target: The request target, such as "/chat".
        key: 16 random bytes in base64.
        subprotocols: Offered subprotocols, the preferred one first.
        compression: Offered parameters of permessage-deflate, or None for no offer.
        headers: Further headers, as pairs of name and value.
        extensions: Further extensions to offer.

    Raises:
        ValueError: An argument contains a control character.

    """
    fields = [
        ("Host", host),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", VERSION),
    ]
    if subprotocols:
        fields.append((_PROTOCOL, ", ".join(subprotocols)))
    offers = [extension.to_offer() for extension in _all_extensions(compression, extensions)]
    if offers:
        fields.append((_EXTENSIONS, ", ".join(offers)))
    return encode_head(f"GET {target} HTTP/1.1", [*fields, *headers])


def validate_response(
    response: Response,
    key: str,
    *,
    subprotocols: Sequence[str] = (),
    compression: DeflateParameters | None = None,
    extensions: Sequence[Extension] = (),
) -> NegotiatedOptions:
    """Check a server's response (section 4.1) and return the negotiated options.

    Args:
        response: The server's response.
        key: The key of the request.
        subprotocols: The offered subprotocols.
        compression: The offered parameters of permessage-deflate, or None.
        extensions: The further extensions that were offered.

    Raises:
        HandshakeError: The response breaks a rule of section 4.1. It has the response's status
            and headers.

    """
    headers = Headers(response.headers)

    def require(condition: bool, problem: str) -> None:
        if not condition:
            raise HandshakeError(response.status, f"{problem} (RFC 6455, 4.1)", headers.fields)

    require(
        response.status == HTTPStatus.SWITCHING_PROTOCOLS, f"the server answered {response.status}"
    )
    upgrade = [token.lower() for token in headers.tokens("Upgrade")]
    require(upgrade == ["websocket"], "the response's Upgrade must be 'websocket'")
    require(
        headers.has_token("Connection", "upgrade"),
        "the response's Connection must include 'Upgrade'",
    )
    require(
        headers.values("Sec-WebSocket-Accept") == [accept_key(key)],
        "the response's Sec-WebSocket-Accept does not fit the key",
    )
    chosen = headers.values(_PROTOCOL)
    require(len(chosen) <= 1, "the server chose more than one subprotocol")
    require(
        not chosen or chosen[0] in subprotocols,
        "the server chose a subprotocol that was not offered",
    )
    try:
        responses = parse_extensions(headers)
    except HandshakeError as error:
        raise HandshakeError(response.status, error.reason, headers.fields) from None
    negotiated: list[Extension] = []
    offered = {extension.name: extension for extension in _all_extensions(compression, extensions)}
    for name, parameters in responses:
        offer = offered.pop(name, None)  # the server may use an offer once
        require(offer is not None, f"the server uses an extension that was not offered: {name}")
        assert offer is not None
        accepted = offer.validate_response(parameters)
        require(accepted is not None, f"the server's {name} does not fit the offer")
        assert accepted is not None
        negotiated.append(accepted)
    used = {extension.rsv for extension in negotiated}
    require(len(used) == len(negotiated), "the server uses two extensions with the same RSV bit")
    return _options(chosen[0] if chosen else None, negotiated)


def is_interim(response: Response) -> bool:
    """Return True for a 1xx response, except 101: another one follows (RFC 9110, section 15.2)."""
    return response.status // 100 == 1 and response.status != HTTPStatus.SWITCHING_PROTOCOLS


class ClientHandshake:
    """The client's side of an opening handshake, without I/O.

    Args:
        host: The value of the header Host.
        target: The request target, such as "/chat".
        subprotocols: Offered subprotocols, the preferred one first.
        compression: Offered parameters of permessage-deflate, or None for no offer.
        headers: Further headers, as pairs of name and value.
        key: 16 bytes in base64; by default random, as section 4.1 demands.
        max_message_size: As for `Connection`.
        max_fragments: As for `Connection`.
        compression_threshold: As for `Connection`.
        extensions: Further extensions to offer.

    Raises:
        ValueError: An argument contains a control character.

    """

    def __init__(
        self,
        host: str,
        target: str,
        *,
        subprotocols: Sequence[str] = (),
        compression: DeflateParameters | None = DeflateParameters.DEFAULT,
        headers: Sequence[tuple[str, str]] = (),
        key: str | None = None,
        max_message_size: int | None = DEFAULT_MAX_MESSAGE_SIZE,
        max_fragments: int | None = None,
        compression_threshold: int = DEFAULT_COMPRESSION_THRESHOLD,
        extensions: Sequence[Extension] = (),
    ) -> None:
        self._key = key or base64.b64encode(os.urandom(16)).decode()
        self._subprotocols = subprotocols
        self._compression = compression
        self._extensions = extensions
        self._max_message_size = max_message_size
        self._max_fragments = max_fragments
        self._compression_threshold = compression_threshold
        self._reader = HeadReader()
        self._interim_responses = 0
        self._eof_received = False
        self._unsent = upgrade_request(
            host,
            target,
            self._key,
            subprotocols=subprotocols,
            compression=compression,
            headers=headers,
            extensions=extensions,
        )

    def data_to_send(self) -> bytes:
        """Return the encoded request, once."""
        data, self._unsent = self._unsent, b""
        return data

    def receive_data(self, data: bytes) -> None:
        """Store received bytes for `next_result`."""
        self._reader.receive_data(data)

    def receive_eof(self) -> None:
        """Record the end of the server's stream."""
        self._eof_received = True

    def next_result(self) -> HandshakeResult | None:
        """Return the outcome, or None if more data is needed. There is one outcome."""
        response = None
        try:
            response = self._next_final_response()
            if response is None:
                return None
            options = validate_response(
                response,
                self._key,
                subprotocols=self._subprotocols,
                compression=self._compression,
                extensions=self._extensions,
            )
        except HandshakeError as error:
            return HandshakeResult(
                response=response, error=error, trailing_data=self._reader.trailing_data
            )
        connection = Connection(
            Role.CLIENT,
            max_message_size=self._max_message_size,
            max_fragments=self._max_fragments,
            compression=options.compression,
            compression_threshold=self._compression_threshold,
            extensions=options.extensions,
        )
        return HandshakeResult(
            None, response, None, connection, options, self._reader.trailing_data
        )

    def _next_final_response(self) -> Response | None:
        """Return the first response that is not an interim one."""
        while (head := self._next_head()) is not None:
            response = parse_response(head)
            if not is_interim(response):
                return response
            self._interim_responses += 1
            if self._interim_responses > MAX_INTERIM_RESPONSES:
                reason = f"the server sent over {MAX_INTERIM_RESPONSES} interim responses"
                raise HandshakeError(0, reason)
            rest = self._reader.trailing_data
            self._reader = HeadReader()
            self._reader.receive_data(rest)
        return None

    def _next_head(self) -> bytes | None:
        try:
            head = self._reader.next_head()
        except HandshakeError:
            raise HandshakeError(0, "the head of the server's response is too long") from None
        if head is None and self._eof_received:
            raise HandshakeError(0, "the server closed the connection without a response")
        return head


def parse_extensions(headers: Headers) -> list[tuple[str, Parameters]]:
    """Parse the header Sec-WebSocket-Extensions (section 9.1).

    Returns:
        Names of extensions with their parameters, in order.

    Raises:
        HandshakeError: Status 400: the header does not follow the grammar.

    """
    extensions: list[tuple[str, Parameters]] = []
    for item in headers.tokens(_EXTENSIONS):
        name, *parts = (part.strip(" \t") for part in item.split(";"))
        parameters: list[tuple[str, str | None]] = []
        for part in parts:
            key, equals, value = (half.strip(" \t") for half in part.partition("="))
            if value[:1] == value[-1:] == '"':
                # A quoted value must be a token once it is unquoted, so it contains no comma and
                # no semicolon at which the header was split.
                value = value[1:-1].replace("\\", "")
            if not is_token(key) or (equals and not is_token(value)):
                raise bad_request(f"extension {name[:50]!r} has a malformed parameter")
            parameters.append((key, value if equals else None))
        if not is_token(name):
            raise bad_request("header Sec-WebSocket-Extensions is malformed")
        extensions.append((name, parameters))
    return extensions
