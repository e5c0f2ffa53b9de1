"""The opening handshake on both sides: RFC 6455, section 4.

`accept` judges a client's request as section 4.2 demands and gives the answer
that opens the connection; `upgrade_request` and `check_response` are the
client's half (section 4.1). The HTTP below it is in `http`, what follows the
handshake in `connection`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from http import HTTPStatus

from wsproto_min.errors import HandshakeError
from wsproto_min.http import Headers, Request, Response, bad_request, encode_head

# Section 1.3.
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# Section 4.1, item 9.
VERSION = "13"


def accept_key(key: str) -> str:
    """Return the proof that a server read the client's key (section 4.2.2, item 5.4).

    >>> accept_key("dGhlIHNhbXBsZSBub25jZQ==")
    's3pPLMBiTxaQ9kYGzzhZRbK+xOo='
    """
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


def accept(request: Request, *, subprotocols: Sequence[str] = ()) -> Response:
    """Judge an opening handshake (section 4.2.1); return the 101 answer (4.2.2).

    `subprotocols` are those the server speaks, the preferred one first.

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
    if not any(token.lower() == "websocket" for token in headers.tokens("Upgrade")):
        raise bad_request("header Upgrade must include 'websocket'")
    if not any(token.lower() == "upgrade" for token in headers.tokens("Connection")):
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
    try:
        nonce = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        nonce = b""
    if len(nonce) != 16:
        raise bad_request("header Sec-WebSocket-Key must be 16 bytes in base64")

    answer = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_key(key)),
    ]
    offered = headers.tokens("Sec-WebSocket-Protocol")
    chosen = next((name for name in subprotocols if name in offered), None)
    if chosen is not None:
        answer.append(("Sec-WebSocket-Protocol", chosen))
    return Response(HTTPStatus.SWITCHING_PROTOCOLS, answer)


def upgrade_request(
    host: str,
    target: str,
    key: str,
    *,
    subprotocols: Sequence[str] = (),
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
        fields.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
    return encode_head(f"GET {target} HTTP/1.1", [*fields, *headers])


def check_response(
    status: int, headers: Headers, key: str, *, subprotocols: Sequence[str] = ()
) -> str | None:
    """Judge the server's answer (section 4.1); return the subprotocol it chose.

    Raises `HandshakeError` with the sentence that was broken.
    """
    if status != HTTPStatus.SWITCHING_PROTOCOLS:
        raise HandshakeError(status, f"the server answered {status}", headers.fields)

    def require(condition: bool, rule: str) -> None:
        if not condition:
            raise HandshakeError(status, f"{rule} (RFC 6455, 4.1)", headers.fields)

    upgrade = [token.lower() for token in headers.tokens("Upgrade")]
    require(upgrade == ["websocket"], "the answer's Upgrade must be 'websocket'")
    connection = [token.lower() for token in headers.tokens("Connection")]
    require("upgrade" in connection, "the answer's Connection must include 'Upgrade'")
    require(
        headers.values("Sec-WebSocket-Accept") == [accept_key(key)],
        "the answer's Sec-WebSocket-Accept does not fit the key",
    )
    require(
        not headers.tokens("Sec-WebSocket-Extensions"),
        "the server uses an extension that was not offered",
    )
    chosen = headers.values("Sec-WebSocket-Protocol")
    require(len(chosen) <= 1, "the server chose more than one subprotocol")
    require(
        not chosen or chosen[0] in subprotocols,
        "the server chose a subprotocol that was not offered",
    )
    return chosen[0] if chosen else None
