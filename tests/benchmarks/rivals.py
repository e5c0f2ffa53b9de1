"""The rivals: other Python WebSocket libraries, asked to do just what ours does.

Only here are they imported, and only when they run. `python -m
tests.benchmarks.rivals websockets` serves a chat room: each text message goes to
every peer but its sender, with the library's own way to broadcast.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from tests.benchmarks.measure import Absent

INSTALL = "not installed: pip install '.[bench]'"


def require(package: str) -> str:
    """Return the package's name and version; raises `Absent` without it."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        raise Absent(INSTALL) from None


def websockets_has_c() -> bool:
    """Return whether websockets masks with its C extension."""
    from websockets import frames, utils

    return vars(frames)["apply_mask"] is not utils.apply_mask


def parse_with_websockets(chunks: Iterable[bytes]) -> list[bytes]:
    """Return the messages that the sans-I/O protocol of websockets finds."""
    require("websockets")
    from websockets.frames import Frame
    from websockets.protocol import OPEN
    from websockets.server import ServerProtocol

    protocol = ServerProtocol(state=OPEN)
    messages: list[bytes] = []
    for chunk in chunks:
        protocol.receive_data(chunk)
        messages += [
            bytes(event.data) for event in protocol.events_received() if isinstance(event, Frame)
        ]
    return messages


def parse_with_wsproto(chunks: Iterable[bytes]) -> list[bytes]:
    """Return the messages that wsproto finds; it leaves it to its user to join the parts."""
    require("wsproto")
    from wsproto.connection import Connection, ConnectionType
    from wsproto.events import BytesMessage

    connection = Connection(ConnectionType.SERVER)
    messages: list[bytes] = []
    parts: list[bytes | bytearray] = []
    for chunk in chunks:
        connection.receive_data(chunk)
        for event in connection.events():
            if isinstance(event, BytesMessage):
                parts.append(event.data)
                if event.message_finished:
                    messages.append(b"".join(parts))
                    parts.clear()
    return messages


async def serve_websockets() -> None:
    """Serve one room with the asyncio server of websockets until the process is ended."""
    from websockets.asyncio.server import ServerConnection, broadcast, serve
    from websockets.exceptions import ConnectionClosed

    room: set[ServerConnection] = set()

    async def chat(connection: ServerConnection) -> None:
        room.add(connection)
        try:
            async for message in connection:
                broadcast((peer for peer in room if peer is not connection), message)
        except ConnectionClosed:
            pass  # the load client ends without closing handshakes
        finally:
            room.discard(connection)

    # Pings would add to the bytes that the load client counts.
    async with serve(chat, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(f"websockets is ready: ws://127.0.0.1:{port}/", flush=True)
        await server.serve_forever()


SERVERS = {"websockets": serve_websockets}


def main() -> None:
    """Serve with the rival that is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.rivals")
    parser.add_argument("rival", choices=SERVERS)
    asyncio.run(SERVERS[parser.parse_args().rival]())


if __name__ == "__main__":
    main()
