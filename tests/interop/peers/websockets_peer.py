"""A peer with `websockets`, or with another package that has its interface."""

from __future__ import annotations

import asyncio
import os
import ssl
from importlib import import_module
from typing import Any

from tests.interop import peer_program as program

NAME = os.environ.get("WEBSOCKETS_PACKAGE", "websockets")
MAX_SIZE = 8 << 20

connect = import_module(f"{NAME}.asyncio.client").connect
serve = import_module(f"{NAME}.asyncio.server").serve
ConnectionClosed = import_module(f"{NAME}.exceptions").ConnectionClosed
Connection = Any


async def talk(connection: Connection) -> None:
    try:
        async for message in connection:
            await answer(connection, message)
    except ConnectionClosed:
        pass
    await connection.wait_closed()
    program.say_closed(connection.close_code, connection.close_reason)


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
    role, rest = program.arguments(NAME.partition(".")[0])
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
