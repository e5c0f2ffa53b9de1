"""Our client talks to the servers of other libraries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from tests.interop.conftest import Certificate
from tests.interop.messages import CLOSES, MESSAGES
from tests.interop.rivals import REFUSAL, RIVALS, Rival, TheirServer, their_server
from tests.support import PATIENCE
from tests.support import Client as PlainClient
from wsproto_min.codes import Opcode
from wsproto_min.connection import Close, Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import ConnectionClosed, HandshakeError
from wsproto_min.frames import FrameDecoder, encode_frame
from wsproto_min.net.client import Client, connect

OFFERS: dict[str, DeflateParameters | None] = {
    "any": DeflateParameters.DEFAULT,
    "none": None,
    "without takeover": DeflateParameters.NO_CONTEXT_TAKEOVER,
    "server without takeover": DeflateParameters(server_no_context_takeover=True),
    "client without takeover": DeflateParameters(client_no_context_takeover=True),
    "small windows": DeflateParameters(server_max_window_bits=9, client_max_window_bits=9),
    "small server window": DeflateParameters(server_max_window_bits=9),
    "small client window": DeflateParameters(client_max_window_bits=8),
}


class Wire:
    """Remembers what went over the wire, and which of it was compressed."""

    def __init__(self) -> None:
        self._decoders = {
            Role.CLIENT: FrameDecoder(masked=True, rsv1_allowed=True),
            Role.SERVER: FrameDecoder(masked=False, rsv1_allowed=True),
        }
        self.compressed = {Role.CLIENT: False, Role.SERVER: False}
        self.fragments = 0

    def __call__(self, sender: Role, data: bytes) -> None:
        if data.startswith((b"GET ", b"HTTP/")):
            return  # the handshake, whose heads come by themselves
        decoder = self._decoders[sender]
        decoder.receive_data(data)
        while (frame := decoder.next_frame()) is not None:
            self.compressed[sender] |= frame.rsv1
            self.fragments += frame.opcode is Opcode.CONTINUATION


class Peers:
    """A server of theirs, and how our client gets there."""

    def __init__(self, server: TheirServer, certificate: Certificate | None) -> None:
        self.server = server
        self.context = None if certificate is None else certificate.of_client()

    def connect(
        self,
        path: str,
        compression: DeflateParameters | None = DeflateParameters.DEFAULT,
        subprotocols: tuple[str, ...] = (),
        wire: Wire | None = None,
    ) -> Client:
        return connect(
            self.server.url(path),
            compression=compression,
            compression_threshold=0,
            subprotocols=subprotocols,
            ssl_context=self.context,
            trace=wire,
        )


SETTINGS = [
    pytest.param((rival, compression, tls), id=f"{rival.name}, {compression}, {tls or 'plain'}")
    for rival in RIVALS
    for compression in rival.servers
    for tls in ("", "TLS")
]


def where(condition: Callable[[Rival, str, str], object]) -> pytest.MarkDecorator:
    """Run a test in some settings only."""
    some = [each for each in SETTINGS if condition(*cast("tuple[Rival, str, str]", each.values[0]))]
    return pytest.mark.parametrize("setting", some, indirect=True)


@pytest.fixture(scope="module", params=SETTINGS)
def setting(request: pytest.FixtureRequest) -> tuple[Rival, str, str]:
    setting: tuple[Rival, str, str] = request.param
    setting[0].need()
    return setting


@pytest.fixture(scope="module")
def peers(request: pytest.FixtureRequest, setting: tuple[Rival, str, str]) -> Iterator[Peers]:
    rival, compression, tls = setting
    certificate = request.getfixturevalue("certificate") if tls else None
    context = None if certificate is None else certificate.of_server()
    with their_server(rival, compression, context) as server:
        yield Peers(server, certificate)


@pytest.mark.parametrize("offer", OFFERS)
def test_every_message_comes_back_as_it_was_sent(
    peers: Peers, setting: tuple[Rival, str, str], offer: str
) -> None:
    wire = Wire()
    expected = OFFERS[offer] is not None and setting[1] != "without compression"
    with peers.connect("/echo", OFFERS[offer], wire=wire) as client:
        assert client.recv(PATIENCE) == f"None {expected}"
        for name, message in MESSAGES.items():
            client.send(message)
            assert client.recv(PATIENCE) == message, name
    assert wire.compressed == {Role.CLIENT: expected, Role.SERVER: expected}


def test_many_messages_on_their_way_at_once_keep_their_order(peers: Peers) -> None:
    messages = [f"message {number} " * number for number in range(100)]
    with peers.connect("/echo") as client:
        client.recv(PATIENCE)
        for message in messages:
            client.send(message)
        assert [client.recv(PATIENCE) for _ in messages] == messages


@where(lambda rival, compression, tls: rival.fragments)
def test_a_message_in_pieces_is_put_together(peers: Peers) -> None:
    wire = Wire()
    with peers.connect("/pieces", wire=wire) as client:
        client.recv(PATIENCE)
        for message in ("日本語" * 5, bytes(range(256)), "x" * 70_000):
            wire.fragments = 0
            client.send(message)
            assert client.recv(PATIENCE) == message
            assert wire.fragments >= 2


@where(lambda rival, compression, tls: not tls)
def test_our_frames_of_a_message_in_pieces_are_put_together(peers: Peers) -> None:
    with PlainClient(("127.0.0.1", peers.server.port), "/echo") as client:
        assert client.receive() == "None False"
        pieces = ["日本".encode()[:4], "日本".encode()[4:], b"", b"!"]
        for number, piece in enumerate(pieces):
            opcode = Opcode.CONTINUATION if number else Opcode.TEXT
            fin = number == len(pieces) - 1
            client.sock.sendall(encode_frame(opcode, piece, fin=fin, mask=b"\1\2\3\4"))
        assert client.receive() == "日本!"


def test_a_ping_of_ours_is_answered(peers: Peers) -> None:
    with peers.connect("/echo") as client:
        client.send("before")
        assert 0 < client.ping(PATIENCE) < PATIENCE
        assert [client.recv(PATIENCE) for _ in range(2)][1] == "before"


def test_a_ping_of_theirs_is_answered(peers: Peers) -> None:
    with peers.connect("/ping") as client:
        client.recv(PATIENCE)
        client.send("ping me")
        assert client.recv(PATIENCE) == "pong"


def test_the_server_chooses_a_subprotocol_of_those_we_offer(peers: Peers) -> None:
    with peers.connect("/echo", subprotocols=("water", "coffee")) as client:
        assert client.subprotocol == "coffee"
        assert str(client.recv(PATIENCE)).startswith("coffee ")


def test_our_codes_and_reasons_arrive_and_their_codes_come_back(
    peers: Peers, setting: tuple[Rival, str, str]
) -> None:
    for code, reason in [*CLOSES, (1005, "")]:  # 1005: a Close frame without a code
        client = peers.connect("/closing")
        client.recv(PATIENCE)
        client.close(code, reason)
        assert peers.server.closed.get(timeout=PATIENCE) == Close(code, reason)
        assert client.connection.close_received is not None
        answer = code if setting[0].echoes_codes else 1000
        assert client.connection.close_received.code == answer


def test_their_codes_and_reasons_arrive(peers: Peers) -> None:
    for code, reason in CLOSES:
        with peers.connect("/close") as client:
            client.recv(PATIENCE)
            client.send(f"{code} {reason}")
            with pytest.raises(ConnectionClosed) as caught:
                client.recv(PATIENCE)
        assert (caught.value.code, caught.value.reason) == (code, reason)


def test_a_refusal_is_told_at_once_with_its_status_and_first_line(peers: Peers) -> None:
    before = time.monotonic()
    for path in ("/nowhere", "/nowhere/chunked"):
        with pytest.raises(HandshakeError, match=f": {REFUSAL}$") as caught:
            peers.connect(path)
        assert caught.value.status == 404
    # Not only when the server gives up waiting for another request.
    assert time.monotonic() - before < PATIENCE / 2
