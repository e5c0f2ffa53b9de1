"""Echo server on asyncio, built on the protocol without I/O.

    python -m wsproto_min.examples.asyncio_echo 9001
    python -m wsproto_min connect ws://127.0.0.1:9001/

The example sets no time limits; `wsproto_min.Server` does.
"""

import asyncio
import sys
from contextlib import closing, suppress

from wsproto_min import State
from wsproto_min.server_handshake import ServerHandshake


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one client: the opening handshake, then every message back."""
    with suppress(ConnectionError), closing(writer):
        handshake = ServerHandshake()
        while (result := handshake.next_result()) is None:
            data = await reader.read(65536)
            handshake.receive_data(data) if data else handshake.receive_eof()
        writer.write(handshake.data_to_send())
        if connection := result.connection:
            connection.receive_data(result.trailing_data)
            while connection.state is not State.CLOSED:
                for event in iter(connection.next_event, None):
                    if isinstance(event, str | bytes):
                        connection.send(event)
                if data := connection.data_to_send():  # write() may not follow write_eof()
                    writer.write(data)
                if connection.eof_to_send:
                    writer.write_eof()
                await writer.drain()
                data = await reader.read(65536)
                connection.receive_data(data) if data else connection.receive_eof()


async def main() -> None:
    """Serve on the port of the first argument (default: 9001)."""
    port = int(sys.argv[1]) if sys.argv[1:] else 9001
    server = await asyncio.start_server(echo, "127.0.0.1", port)
    host, port = server.sockets[0].getsockname()
    print(f"asyncio echo server at ws://{host}:{port}/", flush=True)
    with closing(server):
        await asyncio.Event().wait()  # until Ctrl-C


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
