"""A peer with `websockets`."""

from __future__ import annotations

import asyncio
import ssl

from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from tests.interop import peer_program as program

MAX_SIZE = 8 << 20


async def talk(connection: Connection) -> None:
    try:
        async for message in connection:
            await answer(connection, message)
    except ConnectionClosed:
        pass
    await connection.wait_closed()
    received = connection.protocol.close_rcvd
    program.say_closed(received and received.code, received and received.reason)


async def answer(connection: Connection, message: str | bytes) -> None:
    match program.command(message):
        case "", _:
            await connection.send(message)
        case "protocol", _:
            await connection.send(connection.subprotocol or "")
        case "compressed", _:
            await connection.send("yes" if connection.protocol.extensions else "no")
        case "fragments", text:
            await connection.send(program.thirds(text))
        case "ping", payload:
            await (await connection.ping(payload.encode()))
            await connection.send(f"pong {payload}")
        case "close", argument:
            await connection.close(*program.close_arguments(argument))
        case name, _:
            program.unknown(name)


async def main() -> None:
    role, rest = program.arguments("websockets")
    if role == "client":
        context = ssl.create_default_context(cafile=rest[1]) if rest[1:] else None
        async with connect(
            rest[0],
            ssl=context,
            subprotocols=["tea", "coffee"],
            max_size=MAX_SIZE,
            ping_interval=None,
            proxy=None,
        ) as connection:
            await talk(connection)
        return
    context = None
    if rest[1:]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*rest[1:])
    server = await serve(
        talk,
        "127.0.0.1",
        int(rest[0]),
        ssl=context,
        subprotocols=["coffee"],
        select_subprotocol=lambda _, offered: "coffee" if "coffee" in offered else None,
        max_size=MAX_SIZE,
        ping_interval=None,
    )
    program.say_ready()
    await server.serve_forever()


asyncio.run(main())
