"""Our client against the servers of other libraries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from tests.interop.certificate import Certificate
from tests.interop.messages import CLOSES, MESSAGES
from tests.interop.rivals import REFUSAL, RIVALS, Rival, TheirServer, their_server
from tests.support import PATIENCE
from wsproto_min.codes import Opcode
from wsproto_min.connection import Close, Role
from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import ConnectionClosed, HandshakeError
from wsproto_min.frames import FrameDecoder
from wsproto_min.net.client import Client, connect

OFFERS: dict[str, DeflateParameters | None] = {
    "default": DeflateParameters.DEFAULT,
    "none": None,
    "no context takeover": DeflateParameters.NO_CONTEXT_TAKEOVER,
    "no server context takeover": DeflateParameters(server_no_context_takeover=True),
    "no client context takeover": DeflateParameters(client_no_context_takeover=True),
    "small windows": DeflateParameters(server_max_window_bits=9, client_max_window_bits=9),
    "small server window": DeflateParameters(server_max_window_bits=9),
    "small client window": DeflateParameters(client_max_window_bits=8),
}


class FrameCounter:
    """A trace that counts fragments and records the use of compression by each sender."""

    def __init__(self) -> None:
        self._decoders = {
            Role.CLIENT: FrameDecoder(masked=True, rsv1_allowed=True),
            Role.SERVER: FrameDecoder(masked=False, rsv1_allowed=True),
        }
        self.compressed = {Role.CLIENT: False, Role.SERVER: False}
        self.fragments = 0

    def __call__(self, sender: Role, data: bytes) -> None:
        if data.startswith((b"GET ", b"HTTP/")):
            return  # a head of the handshake; each comes in a call of its own
        decoder = self._decoders[sender]
        decoder.receive_data(data)
        while (frame := decoder.next_frame()) is not None:
            self.compressed[sender] |= frame.rsv1
            self.fragments += frame.opcode is Opcode.CONTINUATION


class Theirs:
    """A rival's server, and our client's settings for it."""

    def __init__(self, server: TheirServer, certificate: Certificate | None) -> None:
        self.server = server
        self.context = None if certificate is None else certificate.client_context()

    def connect(
        self,
        path: str,
        compression: DeflateParameters | None = DeflateParameters.DEFAULT,
        trace: FrameCounter | None = None,
    ) -> Client:
        return connect(
            self.server.url(path),
            compression=compression,
            compression_threshold=0,
            ssl_context=self.context,
            trace=trace,
        )


SETTINGS = [
    pytest.param((rival, compression, tls), id=f"{rival.name}, {compression}, {tls or 'plain'}")
    for rival in RIVALS
    for compression in rival.servers
    for tls in ("", "TLS")
]


def where(condition: Callable[[Rival, str, str], object]) -> pytest.MarkDecorator:
    """Run a test only in the settings that meet `condition`."""
    chosen = [
        each for each in SETTINGS if condition(*cast("tuple[Rival, str, str]", each.values[0]))
    ]
    return pytest.mark.parametrize("setting", chosen, indirect=True)


@pytest.fixture(scope="module", params=SETTINGS)
def setting(request: pytest.FixtureRequest) -> tuple[Rival, str, str]:
    setting: tuple[Rival, str, str] = request.param
    setting[0].need()
    return setting


@pytest.fixture(scope="module")
def theirs(request: pytest.FixtureRequest, setting: tuple[Rival, str, str]) -> Iterator[Theirs]:
    rival, compression, tls = setting
    certificate = request.getfixturevalue("certificate") if tls else None
    context = None if certificate is None else certificate.server_context()
    with their_server(rival, compression, context) as server:
        yield Theirs(server, certificate)


@pytest.mark.parametrize("offer", OFFERS)
def test_client_receives_the_echo_of_every_message(
    theirs: Theirs, setting: tuple[Rival, str, str], offer: str
) -> None:
    trace = FrameCounter()
    expected = OFFERS[offer] is not None and setting[1] != "no compression"
    with theirs.connect("/echo", OFFERS[offer], trace=trace) as client:
        assert client.recv(PATIENCE) == f"None {expected}"
        for name, message in MESSAGES.items():
            client.send(message)
            assert client.recv(PATIENCE) == message, name
    assert trace.compressed == {Role.CLIENT: expected, Role.SERVER: expected}


@where(lambda rival, compression, tls: rival.sends_fragments)
def test_client_assembles_fragments_of_a_server(theirs: Theirs) -> None:
    trace = FrameCounter()
    with theirs.connect("/fragments", trace=trace) as client:
        client.recv(PATIENCE)
        for message in ("日本語" * 5, bytes(range(256)), "x" * 70_000):
            trace.fragments = 0
            client.send(message)
            assert client.recv(PATIENCE) == message
            assert trace.fragments >= 2


def test_server_receives_code_and_reason_and_answers(
    theirs: Theirs, setting: tuple[Rival, str, str]
) -> None:
    for code, reason in [*CLOSES, (1005, "")]:  # 1005: a Close frame without a code
        client = theirs.connect("/closing")
        client.recv(PATIENCE)
        client.close(code, reason)
        assert theirs.server.closed.get(timeout=PATIENCE) == Close(code, reason)
        assert client.connection.close_received is not None
        reply = code if setting[0].echoes_codes else 1000
        assert client.connection.close_received.code == reply


def test_client_receives_code_and_reason(theirs: Theirs) -> None:
    for code, reason in CLOSES:
        with theirs.connect("/close") as client:
            client.recv(PATIENCE)
            client.send(f"{code} {reason}")
            with pytest.raises(ConnectionClosed) as caught:
                client.recv(PATIENCE)
        assert (caught.value.code, caught.value.reason) == (code, reason)


def test_client_raises_a_refusal_with_status_and_first_line(theirs: Theirs) -> None:
    before = time.monotonic()
    for path in ("/nowhere", "/nowhere/chunked"):
        with pytest.raises(HandshakeError, match=f": {REFUSAL}$") as caught:
            theirs.connect(path)
        assert caught.value.status == 404
    # The client does not wait until the server closes its keep-alive connection.
    assert time.monotonic() - before < PATIENCE / 2
