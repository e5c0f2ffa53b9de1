"""The opening handshake: the parts that both sides share (RFC 6455, section 4).

`server_handshake.ServerHandshake` and `client_handshake.ClientHandshake` take received bytes and
return one `HandshakeResult`. It has the open `Connection`, or the error. HTTP itself is in modules
`http` and `http_reader`.

    >>> from wsproto_min.client_handshake import ClientHandshake
    >>> from wsproto_min.server_handshake import ServerHandshake
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
from collections.abc import Sequence
from typing import NamedTuple

from wsproto_min.connection import Connection
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import HandshakeError
from wsproto_min.extensions import Extension, Parameters
from wsproto_min.http import Headers, Request, Response, bad_request, is_token

# Section 1.3.
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# Section 4.1, item 9.
VERSION = "13"
# Sections 11.3.2 and 11.3.4: headers of requests and of responses.
EXTENSIONS_HEADER = "Sec-WebSocket-Extensions"
PROTOCOL_HEADER = "Sec-WebSocket-Protocol"


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


def all_extensions(
    compression: DeflateParameters | None, extensions: Sequence[Extension]
) -> list[Extension]:
    """Return permessage-deflate, unless it is None, and all other extensions."""
    return [*([] if compression is None else [compression]), *extensions]


def negotiated_options(subprotocol: str | None, negotiated: list[Extension]) -> NegotiatedOptions:
    """Return the negotiated options, with permessage-deflate apart."""
    compression, others = None, []
    for extension in negotiated:
        if isinstance(extension, DeflateParameters):
            compression = extension
        else:
            others.append(extension)
    return NegotiatedOptions(subprotocol, compression, tuple(others))


def parse_extensions(headers: Headers) -> list[tuple[str, Parameters]]:
    """Parse the header Sec-WebSocket-Extensions (section 9.1).

    Returns:
        Names of extensions with their parameters, in order.

    Raises:
        HandshakeError: Status 400: the header does not follow the grammar.

    """
    extensions: list[tuple[str, Parameters]] = []
    for item in headers.tokens(EXTENSIONS_HEADER):
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
