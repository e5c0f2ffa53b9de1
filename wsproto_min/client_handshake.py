"""The client's side of the opening handshake (RFC 6455, section 4.1).

`upgrade_request` makes the request, and `validate_response` checks the server's response.
`ClientHandshake` does both on bytes.
"""

import base64
import os
from collections.abc import Sequence
from http import HTTPStatus

from wsproto_min.connection import Connection, Role
from wsproto_min.deflate import DEFAULT_COMPRESSION_THRESHOLD, DeflateParameters
from wsproto_min.errors import HandshakeError
from wsproto_min.extensions import Extension
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
from wsproto_min.http import Headers, Response, encode_head
from wsproto_min.http_reader import HeadReader, parse_response
from wsproto_min.messages import DEFAULT_MAX_MESSAGE_SIZE

# RFC 9110, section 15.2: a client reads any number of 1xx responses before the final one.
MAX_INTERIM_RESPONSES = 10


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
        fields.append((PROTOCOL_HEADER, ", ".join(subprotocols)))
    offers = [extension.to_offer() for extension in all_extensions(compression, extensions)]
    if offers:
        fields.append((EXTENSIONS_HEADER, ", ".join(offers)))
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
    chosen = headers.values(PROTOCOL_HEADER)
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
    offered = {extension.name: extension for extension in all_extensions(compression, extensions)}
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
    return negotiated_options(chosen[0] if chosen else None, negotiated)


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
