"""Fuzz target: opening handshakes for a server, for a client and for chatd.

The first byte of an input chooses request or response, the second the size of chunks,
the rest is the received data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chatd.access.origin import OriginPolicy
from chatd.access.trusted_networks import client_address, parse_network
from chatd.model import is_room_name
from chatd.page import room_of
from tests.fuzz.splits import chunks_of
from wsproto_min.client_handshake import validate_response
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import HandshakeError
from wsproto_min.handshake import NegotiatedOptions, accept_key
from wsproto_min.http import Request, Response, error_response
from wsproto_min.http_reader import HeadReader, parse_request, parse_response
from wsproto_min.server_handshake import accept

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
SUBPROTOCOLS = ("chat.v1", "chat")
STATUSES = {400, 403, 404, 405, 426, 431}
PROXIES = [parse_network("unix"), parse_network("10.0.0.0/8"), parse_network("fd00::/8")]
POLICY = OriginPolicy(hosts=["chat.example.org"], origins=["https://example.net"])


def check(data: bytes) -> None:
    """Raise `AssertionError` for a wrong outcome; let undocumented exceptions pass."""
    is_response = bool(data[:1]) and data[0] & 1 == 1
    size = 1 + data[1] if len(data) > 1 else 1
    received = data[2:]
    try:
        head, trailing = read_head([received])
    except HandshakeError as error:
        assert error.status == 431
        return
    assert read_head(chunks_of(received, size)) == (head, trailing)
    if head is None:
        return
    if is_response:
        check_response(head)
    else:
        check_request(head)


def read_head(chunks: Sequence[bytes]) -> tuple[bytes | None, bytes]:
    """Return the head in the chunks, None if it is incomplete, and the bytes after it."""
    reader = HeadReader()
    for number, chunk in enumerate(chunks, 1):
        reader.receive_data(chunk)
        head = reader.next_head()
        if head is not None:
            return head, reader.trailing_data + b"".join(chunks[number:])
    return None, b""


def check_request(head: bytes) -> None:
    """Respond to a request as chatd does; check that a client reads the same response."""
    try:
        request = parse_request(head)
        check_chat(request)
        acceptance = accept(
            request, subprotocols=SUBPROTOCOLS, compression=DeflateParameters.NO_CONTEXT_TAKEOVER
        )
    except HandshakeError as error:
        assert error.status in STATUSES
        response = error_response(error)
        received = read_back(response)
        assert received.status == error.status
        # Content of the request must not inject a header into the response.
        assert len(received.headers) == len(response.headers) + 2
        return
    key = request.headers.get("Sec-WebSocket-Key")
    assert key is not None
    negotiated = validate_response(
        read_back(acceptance.response),
        key,
        subprotocols=SUBPROTOCOLS,
        compression=DeflateParameters.DEFAULT,
    )
    assert negotiated == acceptance.options


def check_chat(request: Request) -> None:
    """Evaluate a request as chatd does: address, origin and room."""
    address = client_address("unix", request.headers, PROXIES)
    assert address == "unix" or "%" not in address
    POLICY.check(request)
    assert is_room_name(room_of(request))


def read_back(response: Response) -> Response:
    """Return the head of an encoded response, as a client parses it."""
    head, body = read_head([response.encode()])
    assert head is not None
    assert body == response.body
    return parse_response(head)


def check_response(head: bytes) -> None:
    """Validate a response as a client does, with compression offered and without."""
    try:
        response = parse_response(head)
    except HandshakeError as error:
        assert error.status == 0
        return
    for compression in (None, DeflateParameters.DEFAULT, DeflateParameters.NO_CONTEXT_TAKEOVER):
        try:
            negotiated = validate_response(
                response, KEY, subprotocols=SUBPROTOCOLS, compression=compression
            )
        except HandshakeError as error:
            assert error.status == response.status
            assert error.headers == response.headers
            continue
        assert isinstance(negotiated, NegotiatedOptions)
        assert response.status == 101
        assert negotiated.subprotocol in (None, *SUBPROTOCOLS)
        assert compression is not None or negotiated.compression is None


REQUEST = (
    "GET /r/tea?x=y HTTP/1.1",
    "Host: 127.0.0.1:8765",
    "Upgrade: websocket",
    "Connection: keep-alive, Upgrade",
    f"Sec-WebSocket-Key: {KEY}",
    "Sec-WebSocket-Version: 13",
)
RESPONSE = (
    "HTTP/1.1 101 Switching Protocols",
    "Upgrade: websocket",
    "Connection: Upgrade",
    f"Sec-WebSocket-Accept: {accept_key(KEY)}",
)
EXTENSIONS = (
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits",
    'permessage-deflate; server_max_window_bits="9"; client_max_window_bits=10',
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    "x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=8",
)
OPTIONAL_HEADERS = (
    "Sec-WebSocket-Protocol: chat, chat.v1",
    "Origin: http://127.0.0.1:8765",
    "Origin: null",
    "Origin: https://example.net",
    "X-Forwarded-For: 203.0.113.7, 10.0.0.2",
    "X-Forwarded-For: 2001:db8::1, fd00::1%eth0, ::ffff:10.0.0.1",
    "Host: chat.example.org",
)


def seeds() -> Iterator[bytes]:
    """Yield valid handshakes, each with one header more, and each with one line less."""
    offers = [f"Sec-WebSocket-Extensions: {extension}" for extension in EXTENSIONS]
    for number, lines, additions in (
        (0, REQUEST, [*offers, *OPTIONAL_HEADERS]),
        (1, RESPONSE, [*offers, "Sec-WebSocket-Protocol: chat"]),
    ):
        variants = [lines, *([*lines, line] for line in additions)]
        variants += [[line for line in lines if line is not omitted] for omitted in lines]
        for variant in variants:
            yield bytes((number, 7)) + "\r\n".join([*variant, "", ""]).encode()
    yield b"\0\xff" + "\r\n".join([*REQUEST, *["A: b"] * 95, "", ""]).encode()
    yield b"\0\0GET / HTTP/1.0\r\nHost: [::1]:80\r\n\r\nrest"
