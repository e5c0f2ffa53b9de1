"""A peer with `autobahn` on Twisted."""

from __future__ import annotations

from pathlib import Path

from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
    connectWS,
    listenWS,
)
from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateOfferAccept,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)
from twisted.internet import reactor, ssl

from tests.interop import peer_program as program


class Echo:
    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N802, N803
        match program.command(payload if isBinary else payload.decode()):
            case "", _:
                self.sendMessage(payload, isBinary)
            case "protocol", _:
                self.sendMessage((self.websocket_protocol_in_use or "").encode())
            case "compressed", _:
                self.sendMessage(b"yes" if self.websocket_extensions_in_use else b"no")
            case "fragments", argument:
                self.beginMessage()
                for part in program.thirds(argument):
                    self.sendMessageFrame(part.encode())
                self.endMessage()
            case "ping", argument:
                self.sendPing(argument.encode())
            case "close", argument:
                self.sendClose(*program.close_arguments(argument))
            case name, _:
                program.unknown(name)

    def onPong(self, payload: bytes) -> None:  # noqa: N802
        self.sendMessage(b"pong " + payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: N802, N803
        if wasClean and code is None:
            code = 1005
        program.say_closed(code, self.remoteCloseReason)


class Server(Echo, WebSocketServerProtocol):
    def onConnect(self, request: object) -> str | None:  # noqa: N802
        return "coffee" if "coffee" in request.protocols else None


class Client(Echo, WebSocketClientProtocol):
    def connectionLost(self, reason: object) -> None:  # noqa: N802
        super().connectionLost(reason)
        reactor.stop()


def accept_offer(offers: list[object]) -> object:
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer):
            return PerMessageDeflateOfferAccept(offer)
    return None


def accept_response(response: object) -> object:
    if isinstance(response, PerMessageDeflateResponse):
        return PerMessageDeflateResponseAccept(response)
    return None


def main() -> None:
    role, rest = program.arguments("autobahn")
    if role == "client":
        factory = WebSocketClientFactory(rest[0], protocols=["tea", "coffee"])
        factory.protocol = Client
        factory.setProtocolOptions(
            perMessageCompressionOffers=[PerMessageDeflateOffer()],
            perMessageCompressionAccept=accept_response,
        )
        context = None
        if rest[1:]:
            authority = ssl.Certificate.loadPEM(Path(rest[1]).read_bytes())
            context = ssl.optionsForClientTLS("127.0.0.1", trustRoot=authority)
        connectWS(factory, context)
    else:
        scheme = "wss" if rest[1:] else "ws"
        factory = WebSocketServerFactory(f"{scheme}://127.0.0.1:{rest[0]}", protocols=["coffee"])
        factory.protocol = Server
        factory.setProtocolOptions(perMessageCompressionAccept=accept_offer)
        context = None
        if rest[1:]:
            context = ssl.DefaultOpenSSLContextFactory(rest[2], rest[1])
        listenWS(factory, context, interface="127.0.0.1")
        program.say_ready()
    reactor.run()


main()
