"""A peer with `tornado`."""

from __future__ import annotations

import asyncio
import ssl

from tornado.httpclient import HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.web import Application
from tornado.websocket import WebSocketClientConnection, WebSocketHandler, websocket_connect

from tests.interop import peer_program as program

MAX_SIZE = 8 << 20
pings: dict[object, list[str]] = {}  # payloads of the Pings without a Pong, per connection


def answer(connection: WebSocketHandler | WebSocketClientConnection, message: str | bytes) -> None:
    send = connection.write_message
    match program.command(message):
        case "", _:
            send(message, binary=isinstance(message, bytes))
        case "protocol", _:
            send(connection.selected_subprotocol or "")
        case "compressed", _:
            extensions = connection.headers.get("Sec-WebSocket-Extensions", "")
            send("yes" if "permessage-deflate" in extensions else "no")
        case "ping", payload:
            pings.setdefault(connection, []).append(payload)
            connection.ping(payload.encode())
        case "close", argument:
            connection.close(*program.close_arguments(argument))
        case name, _:
            program.unknown(name)


class Echo(WebSocketHandler):
    def get_compression_options(self) -> dict[str, int]:
        return {}

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return "coffee" if "coffee" in subprotocols else None

    def on_message(self, message: str | bytes) -> None:
        answer(self, message)

    def on_pong(self, data: bytes) -> None:
        if data.decode() in pings.get(self, ()):
            pings[self].remove(data.decode())
            self.write_message(f"pong {data.decode()}")

    def on_close(self) -> None:
        program.say_closed(self.close_code, self.close_reason)


async def main() -> None:
    role, rest = program.arguments("tornado")
    if role == "client":
        request = HTTPRequest(rest[0], ca_certs=rest[1] if rest[1:] else None)
        client = await websocket_connect(
            request,
            subprotocols=["tea", "coffee"],
            compression_options={},
            max_message_size=MAX_SIZE,
        )
        while (message := await client.read_message()) is not None:
            answer(client, message)
        program.say_closed(client.close_code, client.close_reason)
        return
    context = None
    if rest[1:]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*rest[1:])
    application = Application([("/.*", Echo)], websocket_max_message_size=MAX_SIZE)
    HTTPServer(application, ssl_options=context).listen(int(rest[0]), "127.0.0.1")
    program.say_ready()
    await asyncio.Event().wait()


asyncio.run(main())
