"""The clients of other libraries against our servers."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from queue import Queue

import pytest
from _pytest.mark.structures import ParameterSet

from tests.interop.certificate import Certificate
from tests.interop.messages import CLOSES, MESSAGES
from tests.interop.rivals import RIVALS, SUBPROTOCOLS, Link, Rival, in_time
from tests.support import PATIENCE, daemon, poll, serving
from wsproto_min import (
    Acceptance,
    Close,
    DeflateParameters,
    Peer,
    Request,
    Server,
    accept,
)

COMPRESSIONS: dict[str, DeflateParameters | None] = {
    "default": DeflateParameters.DEFAULT,
    "none": None,
    "no context takeover": DeflateParameters.NO_CONTEXT_TAKEOVER,
    "small windows": DeflateParameters(server_max_window_bits=9, client_max_window_bits=9),
}


class Tls:
    """TLS contexts and options of both ends; all empty without a certificate."""

    def __init__(self, certificate: Certificate | None) -> None:
        self.scheme = "ws" if certificate is None else "wss"
        self.server = None if certificate is None else certificate.server_context()
        self.client = None if certificate is None else certificate.client_context()
        self.arguments: list[str] = []
        if certificate is not None:
            self.arguments = ["--tls-cert", str(certificate.certificate)]
            self.arguments += ["--tls-key", str(certificate.key)]


class Theirs:
    """A rival's client with its settings."""

    def __init__(self, rival: Rival, compression: str, context: ssl.SSLContext | None) -> None:
        self.compressed = compression != "no compression"
        self._rival = rival
        self._compression = compression
        self._context = context

    def connect(
        self, url: str, subprotocols: Sequence[str] = ()
    ) -> AbstractAsyncContextManager[Link]:
        return self._rival.connect(url, self._compression, self._context, subprotocols)


@pytest.fixture(scope="module", params=["", "TLS"], ids=["plain", "TLS"])
def tls(request: pytest.FixtureRequest) -> Tls:
    return Tls(request.getfixturevalue("certificate") if request.param else None)


@pytest.fixture(scope="module")
def echo(tls: Tls) -> Iterator[str]:
    """Yield the URL of an echo server process."""
    options = ["--port", "0", "--compress-from", "0", *tls.arguments]
    with daemon("wsproto_min", "echo", *options) as running:
        url = f"{tls.scheme}://127.0.0.1:{running.address[1]}/"
        assert url in running.line
        yield url
        assert running.stop() == (0, "")


def client_params(rivals: Sequence[Rival]) -> list[ParameterSet]:
    return [
        pytest.param((rival, compression), id=f"{rival.name}, {compression}")
        for rival in rivals
        for compression in rival.clients
    ]


CLIENTS = client_params(RIVALS)


@pytest.fixture(params=CLIENTS)
def theirs(request: pytest.FixtureRequest, tls: Tls) -> Theirs:
    rival, compression = request.param
    rival.need()
    return Theirs(rival, compression, tls.client)


def test_client_receives_the_echo_of_every_message(theirs: Theirs, echo: str) -> None:
    async def scenario() -> None:
        async with theirs.connect(echo) as link:
            assert link.compressed == theirs.compressed
            for name, message in MESSAGES.items():
                await link.send(message)
                assert await link.receive() == message, name

    in_time(scenario())


class Ours:
    """Our server in this process; `closed` queues the received Close frames."""

    def __init__(
        self, tls: Tls, compression: DeflateParameters | None = DeflateParameters.DEFAULT
    ) -> None:
        self.closed: Queue[Close | None] = Queue()
        self.peers: Queue[Peer] = Queue()
        self._compression = compression
        self.server = Server(
            on_request=self._on_request,
            on_open=self._on_open,
            on_message=self._on_message,
            on_close=self._on_close,
            compression_threshold=0,
        )
        host, port = self.server.listen("127.0.0.1", 0, tls.server)
        self.url = f"{tls.scheme}://{host}:{port}/"

    def _on_request(self, peer: Peer, request: Request) -> Acceptance:
        return accept(request, subprotocols=SUBPROTOCOLS, compression=self._compression)

    def _on_open(self, peer: Peer) -> None:
        self.peers.put(peer)

    def _on_message(self, peer: Peer, message: str | bytes) -> None:
        if isinstance(message, str) and message.startswith("close "):
            code, _, reason = message.removeprefix("close ").partition(" ")
            peer.close(int(code), reason)
        else:
            peer.send(message)

    def _on_close(self, peer: Peer) -> None:
        assert peer.connection is not None
        self.closed.put(peer.connection.close_received)


@contextmanager
def ours(
    tls: Tls, compression: DeflateParameters | None = DeflateParameters.DEFAULT
) -> Iterator[Ours]:
    server = Ours(tls, compression)
    with serving(server=server.server):
        yield server


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_messages_arrive_with_each_compression_of_the_server(
    theirs: Theirs, tls: Tls, compression: str
) -> None:
    messages: list[str | bytes] = ["first", "first", "", b"\0" * 100_000, "日本語" * 1000, "first"]

    async def scenario(url: str) -> None:
        async with theirs.connect(url) as link:
            assert link.compressed == (theirs.compressed and compression != "none")
            for message in messages:
                await link.send(message)
                assert await link.receive() == message

    with ours(tls, COMPRESSIONS[compression]) as server:
        in_time(scenario(server.url))


def test_server_chooses_a_subprotocol_of_the_offer(theirs: Theirs, tls: Tls) -> None:
    async def scenario(url: str) -> None:
        async with theirs.connect(url, ["water", "coffee"]) as link:
            assert link.subprotocol == "coffee"
        async with theirs.connect(url, ["water"]) as link:
            assert link.subprotocol is None

    with ours(tls) as server:
        in_time(scenario(server.url))
        peers = [server.peers.get(timeout=PATIENCE) for _ in range(2)]
        assert [peer.subprotocol for peer in peers] == ["coffee", None]


def test_server_receives_code_and_reason_of_a_client(theirs: Theirs, tls: Tls) -> None:
    async def scenario(url: str, code: int, reason: str) -> None:
        async with theirs.connect(url) as link:
            await link.close(code, reason)

    with ours(tls) as server:
        for code, reason in CLOSES:
            in_time(scenario(server.url, code, reason))
            assert server.closed.get(timeout=PATIENCE) == Close(code, reason)


def test_client_receives_code_and_reason_of_the_server(theirs: Theirs, tls: Tls) -> None:
    async def scenario(url: str, code: int, reason: str) -> None:
        async with theirs.connect(url) as link:
            await link.send(f"close {code} {reason}")
            assert await link.receive() == Close(code, reason)

    with ours(tls) as server:
        for code, reason in CLOSES:
            in_time(scenario(server.url, code, reason))
            poll(partial(lambda server: not server.peers, server.server), "the connection ends")
