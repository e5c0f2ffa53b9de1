"""A peer with `wsproto`, which has no sockets; this program has a thread per connection."""

from __future__ import annotations

import socket
import ssl
import threading
from urllib.parse import urlsplit

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate
from wsproto.utilities import RemoteProtocolError

from tests.interop import peer_program as program


class Talk:
    def __init__(self, sock: socket.socket, connection: WSConnection) -> None:
        self.sock = sock
        self.connection = connection
        self.fragments: list[str] | list[bytes] = []
        self.subprotocol: str | None = None
        self.deflate = PerMessageDeflate()
        self.ended = False

    def send(self, event: Event) -> None:
        self.sock.sendall(self.connection.send(event))

    def run(self) -> None:
        with self.sock:
            while not self.ended:
                data = self.sock.recv(1 << 16)
                try:
                    self.connection.receive_data(data or None)
                except RemoteProtocolError as error:
                    if error.event_hint is not None:
                        self.send(error.event_hint)
                    self.ended = True
                for event in self.connection.events():
                    self.handle(event)
                if not data and not self.ended:
                    program.say_closed(1006, "")
                    return

    def handle(self, event: Event) -> None:
        match event:
            case Request():
                chosen = "coffee" if "coffee" in event.subprotocols else None
                self.subprotocol = chosen
                self.send(AcceptConnection(subprotocol=chosen, extensions=[self.deflate]))
            case AcceptConnection():
                self.subprotocol = event.subprotocol
            case Ping():
                self.send(event.response())
            case Pong():
                self.send(TextMessage(data=f"pong {bytes(event.payload).decode()}"))
            case CloseConnection():
                if self.connection.state.name == "REMOTE_CLOSING":
                    self.send(event.response())
                program.say_closed(event.code, event.reason)
                self.ended = True
            case Message():
                self.fragments.append(event.data)
                if event.message_finished:
                    empty = "" if isinstance(event, TextMessage) else b""
                    message = empty.join(self.fragments)
                    self.fragments = []
                    self.answer(message)

    def answer(self, message: str | bytes) -> None:
        match program.command(message):
            case "", _:
                kind = TextMessage if isinstance(message, str) else BytesMessage
                self.send(kind(data=message))
            case "protocol", _:
                self.send(TextMessage(data=self.subprotocol or ""))
            case "compressed", _:
                self.send(TextMessage(data="yes" if self.deflate.enabled() else "no"))
            case "fragments", argument:
                first, second, third = program.thirds(argument)
                self.send(TextMessage(data=first, message_finished=False))
                self.send(TextMessage(data=second, message_finished=False))
                self.send(TextMessage(data=third))
            case "ping", payload:
                self.send(Ping(payload=payload.encode()))
            case "close", argument:
                code, reason = program.close_arguments(argument)
                self.send(CloseConnection(code=code, reason=reason))
            case name, _:
                program.unknown(name)


def serve(sock: socket.socket, context: ssl.SSLContext | None) -> None:
    if context is not None:
        sock = context.wrap_socket(sock, server_side=True)
    Talk(sock, WSConnection(ConnectionType.SERVER)).run()


def main() -> None:
    role, rest = program.arguments("wsproto")
    if role == "client":
        url = urlsplit(rest[0])
        sock = socket.create_connection((url.hostname, url.port))
        if rest[1:]:
            context = ssl.create_default_context(cafile=rest[1])
            sock = context.wrap_socket(sock, server_hostname=url.hostname)
        talk = Talk(sock, WSConnection(ConnectionType.CLIENT))
        talk.send(
            Request(
                host=url.netloc,
                target=url.path,
                subprotocols=["tea", "coffee"],
                extensions=[talk.deflate],
            )
        )
        talk.run()
        return
    context = None
    if rest[1:]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*rest[1:])
    with socket.create_server(("127.0.0.1", int(rest[0]))) as listener:
        program.say_ready()
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=serve, args=(sock, context), daemon=True).start()


main()
