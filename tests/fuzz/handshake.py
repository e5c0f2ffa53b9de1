"""Opening handshakes as a server and as a client reads them, and chatd's part in it.

The first byte chooses a request or a response, the second the size of the
pieces, the rest is what arrives.
"""

from __future__ import annotations

from collections.abc import Iterator

from chatd.access.origin import OriginPolicy
from chatd.access.trusted_networks import client_address, parse_proxy
from chatd.model import is_room_name
from chatd.page import room_of
from tests.fuzz import cut
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import HandshakeError
from wsproto_min.handshake import (
    NegotiatedOptions,
    accept,
    accept_key,
    agreement,
    validate_response,
)
from wsproto_min.http import (
    Headers,
    HeadReader,
    Request,
    Response,
    error_response,
    parse_request,
    parse_response,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
SUBPROTOCOLS = ("chat.v1", "chat")
STATUSES = {400, 403, 404, 405, 426, 431}
PROXIES = [parse_proxy("unix"), parse_proxy("10.0.0.0/8"), parse_proxy("fd00::/8")]
POLICY = OriginPolicy(hosts=["chat.example.org"], origins=["https://example.net"])


def check(data: bytes) -> None:
    """Raise `AssertionError` for an answer that should not be, anything undocumented as it is."""
    is_response = bool(data[:1]) and data[0] & 1 == 1
    size = 1 + data[1] if len(data) > 1 else 1
    received = data[2:]
    try:
        gathered = HeadReader().receive_data(received)
    except HandshakeError as error:
        assert error.status == 431
        return
    buffer = HeadReader()
    rest = cut(received, size)
    found = None
    while rest and found is None:
        found = buffer.receive_data(rest.pop(0))
    if gathered is None or found is None:
        assert gathered is found is None
        return
    assert (found[0], found[1] + b"".join(rest)) == gathered
    if is_response:
        check_answer(gathered[0])
    else:
        check_request(gathered[0])


def check_request(head: bytes) -> None:
    """Judge a request as chatd does; a client must take the answer as it is meant."""
    try:
        request = parse_request(head)
        check_chat(request)
        response = accept(
            request, subprotocols=SUBPROTOCOLS, compression=DeflateParameters.NO_CONTEXT_TAKEOVER
        )
    except HandshakeError as error:
        assert error.status in STATUSES
        answer = error_response(error)
        status, headers = read_back(answer)
        assert status == error.status
        # What the request holds must not make up a header of the answer.
        assert len(headers.fields) == len(answer.headers) + 2
        return
    status, headers = read_back(response)
    key = request.headers.get("Sec-WebSocket-Key")
    assert key is not None
    agreed = validate_response(
        status, headers, key, subprotocols=SUBPROTOCOLS, compression=DeflateParameters.DEFAULT
    )
    assert agreed == agreement(response)


def check_chat(request: Request) -> None:
    """Ask what chatd asks of a request: who, from where, to which room."""
    address = client_address("unix", request.headers, PROXIES)
    assert address == "unix" or "%" not in address
    POLICY.check(request)
    assert is_room_name(room_of(request))


def read_back(response: Response) -> tuple[int, Headers]:
    """Return what a client reads of an answer's bytes."""
    gathered = HeadReader().receive_data(response.encode())
    assert gathered is not None
    assert gathered[1] == response.body
    return parse_response(gathered[0])


def check_answer(head: bytes) -> None:
    """Judge an answer as a client does, with compression offered and without."""
    try:
        status, headers = parse_response(head)
    except HandshakeError as error:
        assert error.status == 0
        return
    for compression in (None, DeflateParameters.DEFAULT, DeflateParameters.NO_CONTEXT_TAKEOVER):
        try:
            agreed = validate_response(
                status, headers, KEY, subprotocols=SUBPROTOCOLS, compression=compression
            )
        except HandshakeError as error:
            assert error.status == status
            assert error.headers == headers.fields
            continue
        assert isinstance(agreed, NegotiatedOptions)
        assert status == 101
        assert agreed.subprotocol in (None, *SUBPROTOCOLS)
        assert compression is not None or agreed.compression is None


REQUEST = (
    "GET /r/tea?x=y HTTP/1.1",
    "Host: 127.0.0.1:8765",
    "Upgrade: websocket",
    "Connection: keep-alive, Upgrade",
    f"Sec-WebSocket-Key: {KEY}",
    "Sec-WebSocket-Version: 13",
)
ANSWER = (
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
MORE_OF_A_REQUEST = (
    "Sec-WebSocket-Protocol: chat, chat.v1",
    "Origin: http://127.0.0.1:8765",
    "Origin: null",
    "Origin: https://example.net",
    "X-Forwarded-For: 203.0.113.7, 10.0.0.2",
    "X-Forwarded-For: 2001:db8::1, fd00::1%eth0, ::ffff:10.0.0.1",
    "Host: chat.example.org",
)


def seeds() -> Iterator[bytes]:
    """Yield good handshakes, with each more header, and with each line left out."""
    offers = [f"Sec-WebSocket-Extensions: {extension}" for extension in EXTENSIONS]
    for number, lines, more in (
        (0, REQUEST, [*offers, *MORE_OF_A_REQUEST]),
        (1, ANSWER, [*offers, "Sec-WebSocket-Protocol: chat"]),
    ):
        variants = [lines, *([*lines, line] for line in more)]
        variants += [[line for line in lines if line is not left] for left in lines]
        for variant in variants:
            yield bytes((number, 7)) + "\r\n".join([*variant, "", ""]).encode()
    yield b"\0\xff" + "\r\n".join([*REQUEST, *["A: b"] * 95, "", ""]).encode()
    yield b"\0\0GET / HTTP/1.0\r\nHost: [::1]:80\r\n\r\nrest"
