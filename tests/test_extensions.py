"""The interface of extensions, with a second extension beside permessage-deflate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import pytest

from wsproto_min import rules
from wsproto_min.client_handshake import ClientHandshake
from wsproto_min.codes import Opcode
from wsproto_min.connection import Close, Connection, Event, Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import ProtocolError
from wsproto_min.extensions import Extension, Parameters
from wsproto_min.frames import RSV1, RSV2, RSV3, encode_frame
from wsproto_min.handshake import HandshakeResult
from wsproto_min.http_reader import parse_request
from wsproto_min.server_handshake import ServerHandshake, accept

MASK = bytes.fromhex("37fa213d")


class UpperCase:
    """An extension that sends text in upper case, and marks it with RSV2."""

    name = "x-upper-case"
    rsv = RSV2
    keeps_context = False
    has_more = False

    def to_offer(self) -> str:
        return self.name

    def accept_offer(self, offered: Parameters) -> Self | None:
        return None if offered else self

    to_header, validate_response = to_offer, accept_offer

    def encoder(self, *, server: bool) -> Self:
        return self

    def decoder(self, *, server: bool) -> Callable[[], UpperCase]:
        return UpperCase

    def begin(self, opcode: Opcode, size: int) -> Self | None:
        return self if opcode is Opcode.TEXT else None

    def encode(self, data: bytes, *, last: bool) -> bytes:
        return data.upper()

    def decode(self, data: bytes, limit: int, *, last: bool) -> tuple[bytes, ProtocolError | None]:
        return data[: limit + 1], None


class SameBit(UpperCase):
    name = "x-same-bit"


def negotiate(
    offered: Sequence[Extension],
    configured: Sequence[Extension],
    *,
    compression: DeflateParameters | None = DeflateParameters.NO_CONTEXT_TAKEOVER,
) -> tuple[HandshakeResult, HandshakeResult]:
    """Return the outcome of a handshake for the server and for the client."""
    client = ClientHandshake("a", "/", compression=compression, extensions=offered)
    server = ServerHandshake(extensions=configured)
    server.receive_data(client.data_to_send())
    accepted = server.next_result()
    client.receive_data(server.data_to_send())
    result = client.next_result()
    assert accepted is not None
    assert result is not None
    return accepted, result


def connections(
    offered: Sequence[Extension], configured: Sequence[Extension], **options: Any
) -> tuple[Connection, Connection]:
    accepted, result = negotiate(offered, configured, **options)
    assert accepted.connection is not None
    assert result.connection is not None
    return accepted.connection, result.connection


def events(connection: Connection, data: bytes) -> list[Event]:
    connection.receive_data(data)
    return list(iter(connection.next_event, None))


@pytest.mark.parametrize("compression", [None, DeflateParameters.NO_CONTEXT_TAKEOVER])
def test_extension_changes_the_messages_it_accepts(compression: DeflateParameters | None) -> None:
    accepted, result = negotiate([UpperCase()], [UpperCase()], compression=compression)
    assert [extension.name for extension in accepted.options.extensions] == ["x-upper-case"]
    assert [extension.name for extension in result.options.extensions] == ["x-upper-case"]
    server, client = accepted.connection, result.connection
    assert server is not None
    assert client is not None
    server.send("Hello")
    data = server.data_to_send()
    assert data.hex(" ") == "a1 05 48 45 4c 4c 4f"  # FIN, RSV2, TEXT; 5 bytes; HELLO
    assert events(client, data) == ["HELLO"]
    server.send(b"Hello")  # binary messages stay as they are
    assert server.data_to_send().hex(" ") == "82 05 48 65 6c 6c 6f"
    client.send_fragment("Hel")
    client.send_fragment("lo", last=True)
    assert events(server, client.data_to_send()) == ["HELLO"]


def test_extension_behind_compression_gets_small_messages() -> None:
    server, client = connections([UpperCase()], [UpperCase()])
    server.send("a" * 1000)  # at least the compression threshold
    compressed = server.data_to_send()
    assert compressed[0] == 0xC1  # FIN, RSV1, TEXT
    assert events(client, compressed) == ["a" * 1000]
    server.send("b" * 10)
    assert events(client, server.data_to_send()) == ["B" * 10]


def test_extension_keeps_the_context_of_compression() -> None:
    client = Connection(
        Role.CLIENT, compression=DeflateParameters.DEFAULT, extensions=[UpperCase()]
    )
    server = Connection(
        Role.SERVER, compression=DeflateParameters.DEFAULT, extensions=[UpperCase()]
    )
    for message in ("first " * 100, "small", "first " * 100, b"first " * 100):
        server.send(message)
        expected = "SMALL" if message == "small" else message
        assert events(client, server.data_to_send()) == [expected]


def test_compression_implements_the_interface() -> None:
    parameters = DeflateParameters.DEFAULT
    server = Connection(Role.SERVER, extensions=[parameters, UpperCase()])
    client = Connection(Role.CLIENT, compression=parameters, extensions=[UpperCase()])
    for sender, receiver in ((server, client), (client, server)):
        for _ in range(2):  # the second message refers to the first
            sender.send("Hello" * 100)
            assert events(receiver, sender.data_to_send()) == ["Hello" * 100]


def test_extension_not_offered_or_not_accepted_is_unused() -> None:
    for offered, configured in (([UpperCase()], []), ([], [UpperCase()])):
        server, client = connections(offered, configured)
        server.send("Hello")
        assert events(client, server.data_to_send()) == ["Hello"]


def test_extension_bit_without_negotiation_is_1002() -> None:
    connection = Connection(Role.SERVER, compression=DeflateParameters.DEFAULT)
    data = encode_frame(Opcode.TEXT, b"HELLO", rsv=RSV2, mask=MASK)
    (close,) = events(connection, data)
    assert isinstance(close, Close)
    assert close.code == 1002


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encode_frame(Opcode.TEXT, b"A", rsv=RSV1 | RSV2, mask=MASK), id="two bits"),
        pytest.param(encode_frame(Opcode.PING, b"", rsv=RSV2, mask=MASK), id="in a Ping"),
        pytest.param(
            encode_frame(Opcode.TEXT, b"A", fin=False, mask=MASK)
            + encode_frame(Opcode.CONTINUATION, b"A", rsv=RSV2, mask=MASK),
            id="in a continuation",
        ),
    ],
)
def test_extension_bit_where_it_is_forbidden_is_1002(data: bytes) -> None:
    for extensions in ([UpperCase()], []):
        connection = Connection(
            Role.SERVER, compression=DeflateParameters.DEFAULT, extensions=extensions
        )
        (close,) = events(connection, data)
        assert isinstance(close, Close)
        assert connection.error is not None
        assert (close.code, connection.error.rule) == (1002, rules.RESERVED_BIT)


def test_extension_output_counts_for_the_message_size() -> None:
    connection = Connection(Role.SERVER, max_message_size=4, extensions=[UpperCase()])
    (close,) = events(connection, encode_frame(Opcode.TEXT, b"HELLO", rsv=RSV2, mask=MASK))
    assert isinstance(close, Close)
    assert close.code == 1009


class Recorder(UpperCase):
    """An extension that records its sides and the messages that it may encode."""

    def __init__(self) -> None:
        self.sides: list[tuple[str, bool]] = []
        self.messages: list[tuple[Opcode, int]] = []

    def encoder(self, *, server: bool) -> Self:
        self.sides.append(("encoder", server))
        return self

    def decoder(self, *, server: bool) -> Callable[[], UpperCase]:
        self.sides.append(("decoder", server))
        return UpperCase

    def begin(self, opcode: Opcode, size: int) -> Self | None:
        self.messages.append((opcode, size))
        return super().begin(opcode, size)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("compression", [None, DeflateParameters.DEFAULT])
def test_extension_gets_its_side_and_all_messages_left(
    role: Role, compression: DeflateParameters | None
) -> None:
    recorder = Recorder()
    connection = Connection(
        role, compression=compression, compression_threshold=10, extensions=[recorder]
    )
    is_server = role is Role.SERVER
    assert recorder.sides == [("encoder", is_server), ("decoder", not is_server)]
    bits = []
    for message in ("", "a" * 9, b"", b"a" * 9, "a" * 10, b"a" * 11):
        connection.send(message)
        bits.append(connection.data_to_send()[0] & 0x70)
    small = [(Opcode.TEXT, 0), (Opcode.TEXT, 9), (Opcode.BINARY, 0), (Opcode.BINARY, 9)]
    if compression is None:
        assert recorder.messages == [*small, (Opcode.TEXT, 10), (Opcode.BINARY, 11)]
        assert bits == [RSV2, RSV2, 0, 0, RSV2, 0]
    else:
        assert recorder.messages == small
        assert bits == [RSV2, RSV2, 0, 0, RSV1, RSV1]


class Reverse(UpperCase):
    """An extension that sends text in reverse order."""

    def __init__(self, rsv: int = RSV2) -> None:
        self.rsv = rsv

    def decoder(self, *, server: bool) -> Callable[[], Reverse]:
        return Reverse

    def decode(self, data: bytes, limit: int, *, last: bool) -> tuple[bytes, ProtocolError | None]:
        return data[::-1], None


@pytest.mark.parametrize("rsv", [RSV1, RSV2, RSV3])
def test_extension_with_any_bit_decodes_its_messages(rsv: int) -> None:
    connection = Connection(Role.SERVER, extensions=[Reverse(rsv)])
    marked = encode_frame(Opcode.TEXT, b"olleH", rsv=rsv, mask=MASK)
    plain = encode_frame(Opcode.TEXT, b"olleH", mask=MASK)
    assert events(connection, marked + plain) == ["Hello", "olleH"]


def test_extensions_with_the_same_bit_are_not_combined() -> None:
    reason = "^extensions: two use the same RSV bit; negotiate one of them only$"
    with pytest.raises(ValueError, match=reason):
        Connection(Role.SERVER, extensions=[UpperCase(), SameBit()])
    accepted, _ = negotiate([SameBit(), UpperCase()], [UpperCase(), SameBit()])
    assert [extension.name for extension in accepted.options.extensions] == ["x-same-bit"]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("x-upper-case, x-same-bit", "the server uses two extensions with the same RSV bit"),
        ("x-upper-case; a=1", "the server's x-upper-case does not fit the offer"),
        (
            "x-upper-case, x-upper-case",
            "the server uses an extension that was not offered: x-upper-case",
        ),
    ],
)
def test_extensions_wrong_in_a_response_refuse_it(value: str, problem: str) -> None:
    client = ClientHandshake("a", "/", extensions=[UpperCase(), SameBit()])
    request = parse_request(client.data_to_send().removesuffix(b"\r\n\r\n"))
    headers = [("Sec-WebSocket-Extensions", value)]
    client.receive_data(accept(request, compression=None, headers=headers).response.encode())
    result = client.next_result()
    assert result is not None
    assert result.error is not None
    assert result.error.reason == f"{problem} (RFC 6455, 4.1)"
