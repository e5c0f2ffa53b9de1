"""The opening handshake on both sides: RFC 6455, section 4.

`accept` judges a client's request as section 4.2 demands and gives the answer
that opens the connection; `upgrade_request` and `validate_response` are the
client's half (section 4.1). The HTTP below it is in `http`, what follows the
handshake in `connection`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from wsproto_min import deflate as permessage_deflate
from wsproto_min.deflate import DeflateParameters, Parameters
from wsproto_min.errors import HandshakeError
from wsproto_min.http import Headers, Request, Response, bad_request, encode_head, is_token

# Section 1.3.
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# Section 4.1, item 9.
VERSION = "13"
# Section 4.2.1, item 5: 16 bytes in base64.
_KEY = re.compile("[A-Za-z0-9+/]{22}==")
# Section 11.3: these stand in requests and in answers.
_PROTOCOL = "Sec-WebSocket-Protocol"
_EXTENSIONS = "Sec-WebSocket-Extensions"


def accept_key(key: str) -> str:
    """Return the proof that a server read the client's key (section 4.2.2, item 5.4).

    >>> accept_key("dGhlIHNhbXBsZSBub25jZQ==")
    's3pPLMBiTxaQ9kYGzzhZRbK+xOo='
    """
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


@dataclass(frozen=True, slots=True)
class NegotiatedOptions:
    """What the two ends agreed on beyond the protocol itself."""

    subprotocol: str | None = None
    compression: DeflateParameters | None = None


def accept(
    request: Request,
    *,
    subprotocols: Sequence[str] = (),
    compression: DeflateParameters | None = None,
) -> Response:
    """Judge an opening handshake (section 4.2.1); return the 101 answer (4.2.2).

    `subprotocols` are those the server speaks, the preferred one first;
    `deflate` what it wishes of compression, None to decline all offers.

    Raises `HandshakeError` with the sentence that was broken: 405 for another
    method than GET, 426 for another version than 13, else 400.
    """
    headers = request.headers
    if request.method != "GET":
        raise HandshakeError(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "a WebSocket handshake must use the method GET",
            [("Allow", "GET")],
        )
    if request.version != "HTTP/1.1":
        raise bad_request("a WebSocket handshake needs HTTP/1.1")
    if headers.get("Host") is None:
        raise bad_request("header Host is missing")
    if not headers.has_token("Upgrade", "websocket"):
        raise bad_request("header Upgrade must include 'websocket'")
    if not headers.has_token("Connection", "upgrade"):
        raise bad_request("header Connection must include 'Upgrade'")
    if headers.get("Sec-WebSocket-Version") != VERSION:
        raise HandshakeError(
            HTTPStatus.UPGRADE_REQUIRED,
            f"header Sec-WebSocket-Version must be {VERSION}",
            [("Upgrade", "websocket"), ("Sec-WebSocket-Version", VERSION)],
        )
    key = headers.get("Sec-WebSocket-Key")
    if key is None:
        raise bad_request("header Sec-WebSocket-Key is missing")
    if not _KEY.fullmatch(key):
        raise bad_request("header Sec-WebSocket-Key must be 16 bytes in base64")

    answer = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_key(key)),
    ]
    offered = headers.tokens(_PROTOCOL)
    chosen = next((name for name in subprotocols if name in offered), None)
    if chosen is not None:
        answer.append((_PROTOCOL, chosen))
    for name, parameters in parse_extensions(headers):
        if name == permessage_deflate.NAME and compression is not None:
            agreed = compression.answer(parameters)
            if agreed is not None:
                answer.append((_EXTENSIONS, agreed.encode()))
                break
    return Response(HTTPStatus.SWITCHING_PROTOCOLS, answer)


def agreement(response: Response) -> NegotiatedOptions:
    """Return what a server's own 101 answer says was agreed."""
    headers = Headers(response.headers)
    compression = None
    for name, parameters in parse_extensions(headers):
        if name == permessage_deflate.NAME:
            compression = DeflateParameters().check(parameters)
    return NegotiatedOptions(headers.get(_PROTOCOL), compression)


def upgrade_request(
    host: str,
    target: str,
    key: str,
    *,
    subprotocols: Sequence[str] = (),
    compression: DeflateParameters | None = None,
    headers: Sequence[tuple[str, str]] = (),
) -> bytes:
    """Return the bytes of a client's opening handshake (section 4.1).

    `host` is the value of the Host header, `key` 16 random bytes in base64.
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
    if compression is not None:
        fields.append((_EXTENSIONS, compression.offer()))
    return encode_head(f"GET {target} HTTP/1.1", [*fields, *headers])


def validate_response(
    status: int,
    headers: Headers,
    key: str,
    *,
    subprotocols: Sequence[str] = (),
    compression: DeflateParameters | None = None,
) -> NegotiatedOptions:
    """Judge the server's answer (section 4.1); return what it agreed to of the offers.

    Raises `HandshakeError` with the sentence that was broken.
    """

    def require(condition: bool, rule: str) -> None:
        if not condition:
            raise HandshakeError(status, f"{rule} (RFC 6455, 4.1)", headers.fields)

    require(status == HTTPStatus.SWITCHING_PROTOCOLS, f"the server answered {status}")
    upgrade = [token.lower() for token in headers.tokens("Upgrade")]
    require(upgrade == ["websocket"], "the answer's Upgrade must be 'websocket'")
    require(
        headers.has_token("Connection", "upgrade"), "the answer's Connection must include 'Upgrade'"
    )
    require(
        headers.values("Sec-WebSocket-Accept") == [accept_key(key)],
        "the answer's Sec-WebSocket-Accept does not fit the key",
    )
    chosen = headers.values(_PROTOCOL)
    require(len(chosen) <= 1, "the server chose more than one subprotocol")
    require(
        not chosen or chosen[0] in subprotocols,
        "the server chose a subprotocol that was not offered",
    )
    agreed = None
    try:
        extensions = parse_extensions(headers)
    except HandshakeError as error:
        raise HandshakeError(status, error.reason, headers.fields) from None
    for name, parameters in extensions:
        require(
            name == permessage_deflate.NAME and compression is not None and agreed is None,
            f"the server uses an extension that was not offered: {name}",
        )
        agreed = None if compression is None else compression.check(parameters)
        require(agreed is not None, "the server's permessage-deflate does not fit the offer")
    return NegotiatedOptions(chosen[0] if chosen else None, agreed)


def parse_extensions(headers: Headers) -> list[tuple[str, Parameters]]:
    """Read Sec-WebSocket-Extensions (section 9.1): names with their parameters, in order.

    Raises `HandshakeError` 400 for what does not fit the section's grammar.
    """
    extensions: list[tuple[str, Parameters]] = []
    for item in headers.tokens(_EXTENSIONS):
        name, *parts = (part.strip(" \t") for part in item.split(";"))
        parameters: list[tuple[str, str | None]] = []
        for part in parts:
            key, equals, value = (half.strip(" \t") for half in part.partition("="))
            if value[:1] == value[-1:] == '"':
                # The quoted form must be a token too once it is unquoted, so no
                # comma or semicolon can have been cut in the middle of it.
                value = value[1:-1].replace("\\", "")
            if not is_token(key) or (equals and not is_token(value)):
                raise bad_request(f"extension {name[:50]!r} has an ill-formed parameter")
            parameters.append((key, value if equals else None))
        if not is_token(name):
            raise bad_request("header Sec-WebSocket-Extensions is ill-formed")
        extensions.append((name, parameters))
    return extensions
