"""Rivals: other Python WebSocket libraries that do the same task as ours.

Only this module imports them, and only when they run. `python -m
tests.benchmarks.rivals websockets chat` serves a chat room: each text message goes to
every peer except its sender, by the fastest interface of the library. With `echo` it
goes back to its sender. Pings and compression are off. `hub` and `hub-sqlite` serve no
echo, and expect texts of under 126 bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sqlite3
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tests.benchmarks.measure import Absent
from tests.benchmarks.servers import INSTALL


def require(package: str) -> str:
    """Return the name and version of a package; raise `Absent` without it."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        raise Absent(INSTALL) from None


def websockets_has_c() -> bool:
    """Return True if websockets masks with its C extension."""
    from websockets import frames, utils

    return vars(frames)["apply_mask"] is not utils.apply_mask


def parse_with_websockets(chunks: Iterable[bytes]) -> list[bytes]:
    """Return the messages that the sans-I/O protocol of websockets parses.

    The caller of the protocol joins fragments.
    """
    require("websockets")
    from websockets.frames import Frame
    from websockets.protocol import OPEN
    from websockets.server import ServerProtocol

    protocol = ServerProtocol(state=OPEN)
    messages: list[bytes] = []
    fragments: list[bytes | bytearray | memoryview] = []
    for chunk in chunks:
        protocol.receive_data(chunk)
        for event in protocol.events_received():
            if isinstance(event, Frame):
                fragments.append(event.data)
                if event.fin:
                    messages.append(b"".join(fragments))
                    fragments.clear()
    return messages


def parse_with_wsproto(chunks: Iterable[bytes]) -> list[bytes]:
    """Return the messages that wsproto parses; the caller of wsproto joins fragments."""
    require("wsproto")
    from wsproto.connection import Connection, ConnectionType
    from wsproto.events import BytesMessage

    connection = Connection(ConnectionType.SERVER)
    messages: list[bytes] = []
    fragments: list[bytes | bytearray] = []
    for chunk in chunks:
        connection.receive_data(chunk)
        for event in connection.events():
            if isinstance(event, BytesMessage):
                fragments.append(event.data)
                if event.message_finished:
                    messages.append(b"".join(fragments))
                    fragments.clear()
    return messages


def serve_websockets(task: str) -> None:
    """Serve with the asyncio server of websockets and its `broadcast`."""
    import uvloop
    from websockets.asyncio.server import ServerConnection, broadcast, serve
    from websockets.exceptions import ConnectionClosed

    room: set[ServerConnection] = set()

    async def chat(connection: ServerConnection) -> None:
        room.add(connection)
        try:
            async for message in connection:
                if task == "echo":
                    await connection.send(message)
                else:
                    broadcast((peer for peer in room if peer is not connection), message)
        except ConnectionClosed:
            pass  # the client ends without closing handshakes
        finally:
            room.discard(connection)

    async def main() -> None:
        async with serve(chat, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
            _announce(next(iter(server.sockets)).getsockname()[1])
            await server.serve_forever()

    uvloop.run(main())


def serve_picows(task: str) -> None:
    """Serve with picows, which is written in Cython."""
    import picows
    import uvloop

    room: set[picows.WSTransport] = set()

    class Listener(picows.WSListener):
        def on_ws_connected(self, transport: picows.WSTransport) -> None:
            room.add(transport)

        def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
            room.discard(transport)

        def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
            message = frame.get_payload_as_bytes()
            if task == "echo":
                transport.send(frame.msg_type, message)
                return
            for peer in room:
                if peer is not transport:
                    peer.send(frame.msg_type, message)

    async def main() -> None:
        server = await picows.ws_create_server(lambda _: Listener(), "127.0.0.1", 0)
        _announce(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


def serve_hub(_task: str, *, durable: bool = False) -> None:
    """Serve with picows, but write once per peer and loop iteration, as chatd does.

    With `durable`, an SQLite file gets the messages of an iteration in one transaction
    before they are written. The file has the journal mode of chatd's store.
    """
    import picows
    import uvloop

    room: set[picows.WSTransport] = set()
    pending: list[tuple[picows.WSTransport, bytes]] = []
    stored = 0
    if durable:
        database = sqlite3.connect("hub.db", isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(
            "CREATE TABLE messages (room TEXT, id INTEGER, time TEXT, name TEXT, text TEXT,"
            " PRIMARY KEY (room, id)) STRICT, WITHOUT ROWID"
        )

    def store() -> None:
        nonlocal stored
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        rows = [
            ("lobby", stored + number, moment, "guest", text.decode())
            for number, (_, text) in enumerate(pending)
        ]
        database.execute("BEGIN")
        database.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?)", rows)
        database.execute("COMMIT")
        stored += len(rows)

    def flush() -> None:
        if durable:
            store()
        frames = [(sender, bytes((0x81, len(text))) + text) for sender, text in pending]
        pending.clear()
        everything = b"".join([frame for _, frame in frames])
        senders = {sender for sender, _ in frames}
        for peer in room:
            data = everything
            if peer in senders:
                data = b"".join([frame for sender, frame in frames if sender is not peer])
            if data:
                peer.underlying_transport.write(data)

    class Listener(picows.WSListener):
        def on_ws_connected(self, transport: picows.WSTransport) -> None:
            room.add(transport)

        def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
            room.discard(transport)

        def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
            if not pending:
                asyncio.get_running_loop().call_soon(flush)
            pending.append((transport, frame.get_payload_as_bytes()))

    async def main() -> None:
        server = await picows.ws_create_server(lambda _: Listener(), "127.0.0.1", 0)
        _announce(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


def serve_aiohttp(task: str) -> None:
    """Serve with aiohttp."""
    import uvloop
    from aiohttp import web

    room: set[web.WebSocketResponse] = set()

    async def chat(request: web.Request) -> web.WebSocketResponse:
        own = web.WebSocketResponse(compress=False)
        await own.prepare(request)
        room.add(own)
        try:
            async for message in own:
                for peer in [own] if task == "echo" else list(room):
                    if task == "echo" or peer is not own:
                        await peer.send_str(message.data)
        except ConnectionError:
            pass  # the client ends without closing handshakes
        finally:
            room.discard(own)
        return own

    async def main() -> None:
        app = web.Application()
        app.add_routes([web.get("/", chat)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        _announce(runner.addresses[0][1])
        await asyncio.Event().wait()

    uvloop.run(main())


def serve_socketify(task: str) -> None:
    """Serve with uWebSockets, which is written in C++, and its publish."""
    from socketify import App
    from socketify.native import lib

    def on_message(peer: Any, message: str, opcode: int) -> None:
        if task == "echo":
            peer.send(message, opcode)
            return
        # This is ws.publish of uWebSockets; socketify's own publish includes the sender.
        data = message.encode()
        lib.uws_ws_publish_with_options(0, peer.ws, b"room", 4, data, len(data), int(opcode), False)

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    app = App()
    behavior = {
        "open": lambda peer: peer.subscribe("room"),
        "message": on_message,
        "compression": 0,
        "idle_timeout": 0,
        "max_backpressure": 64 << 20,  # above it, messages to a slow peer are dropped
    }
    app.ws("/*", behavior)
    app.listen({"host": "127.0.0.1", "port": port}, lambda _: _announce(port))
    app.run()


def _announce(port: int) -> None:
    print(f"ready: ws://127.0.0.1:{port}/", flush=True)


SERVERS: dict[str, Callable[[str], None]] = {
    "websockets": serve_websockets,
    "picows": serve_picows,
    "hub": serve_hub,
    "hub-sqlite": partial(serve_hub, durable=True),
    "aiohttp": serve_aiohttp,
    "socketify": serve_socketify,
}


def main() -> None:
    """Serve with the rival of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.rivals")
    parser.add_argument("rival", choices=SERVERS)
    parser.add_argument("task", choices=("chat", "echo"))
    options = parser.parse_args()
    SERVERS[options.rival](options.task)


if __name__ == "__main__":
    main()
