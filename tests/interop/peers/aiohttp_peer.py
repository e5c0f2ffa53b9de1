"""A peer with `aiohttp`."""

from __future__ import annotations

import asyncio
import ssl

from aiohttp import ClientSession, ClientWebSocketResponse, WSMessage, WSMsgType, web

from tests.interop import peer_program as program

MAX_SIZE = 8 << 20
WebSocket = web.WebSocketResponse | ClientWebSocketResponse


async def talk(socket: WebSocket) -> None:
    while (message := await socket.receive()).type not in (WSMsgType.CLOSED, WSMsgType.ERROR):
        if message.type is WSMsgType.CLOSE:
            # An empty Close frame has the code 0 here.
            program.say_closed(message.data or 1005, message.extra)
            return
        await answer(socket, message)
    program.say_closed(socket.close_code, "")


async def answer(socket: WebSocket, message: WSMessage) -> None:
    match message.type, *program.command(message.data):
        case WSMsgType.PING, *_:
            await socket.pong(message.data)
        case WSMsgType.BINARY, *_:
            await socket.send_bytes(message.data)
        case _, "", _:
            await socket.send_str(message.data)
        case _, "protocol", _:
            server = isinstance(socket, web.WebSocketResponse)
            await socket.send_str((socket.ws_protocol if server else socket.protocol) or "")
        case _, "compressed", _:
            await socket.send_str("yes" if socket.compress else "no")
        case _, "ping", payload:
            await socket.ping(payload.encode())
            pong = await socket.receive()
            assert (pong.type, pong.data) == (WSMsgType.PONG, payload.encode())
            await socket.send_str(f"pong {payload}")
        case _, "close", argument:
            code, reason = program.close_arguments(argument)
            await socket.close(code=code, message=reason.encode())
        case _, name, _:
            program.unknown(name)


async def handle(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(protocols=["coffee"], autoping=False, max_msg_size=MAX_SIZE)
    await socket.prepare(request)
    await talk(socket)
    return socket


async def main() -> None:
    role, rest = program.arguments("aiohttp")
    if role == "client":
        context = ssl.create_default_context(cafile=rest[1]) if rest[1:] else True
        async with (
            ClientSession() as session,
            session.ws_connect(
                rest[0],
                ssl=context,
                protocols=["tea", "coffee"],
                compress=15,
                autoping=False,
                max_msg_size=MAX_SIZE,
            ) as socket,
        ):
            await talk(socket)
        return
    context = None
    if rest[1:]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*rest[1:])
    application = web.Application()
    application.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(rest[0]), ssl_context=context).start()
    program.say_ready()
    await asyncio.Event().wait()


asyncio.run(main())
