"""Echo server with one thread per client, built on the protocol without I/O.

    python -m wsproto_min.examples.threads_echo 9001
    python -m wsproto_min connect ws://127.0.0.1:9001/

The example sets no time limits; `wsproto_min.Server` does.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from threading import Thread

from wsproto_min import State
from wsproto_min.server_handshake import ServerHandshake


def echo(sock: socket.socket) -> None:
    """Serve one client: the opening handshake, then every message back."""
    with suppress(OSError), sock:
        handshake = ServerHandshake()
        while (result := handshake.next_result()) is None:
            data = sock.recv(65536)
            handshake.receive_data(data) if data else handshake.receive_eof()
        sock.sendall(handshake.data_to_send())
        if connection := result.connection:
            connection.receive_data(result.trailing_data)
            while connection.state is not State.CLOSED:
                for event in iter(connection.next_event, None):
                    if isinstance(event, str | bytes):
                        connection.send(event)
                sock.sendall(connection.data_to_send())
                if connection.eof_to_send:
                    sock.shutdown(socket.SHUT_WR)
                data = sock.recv(65536)
                connection.receive_data(data) if data else connection.receive_eof()


def main() -> None:
    """Serve on the port of the first argument (default: 9001) until Ctrl-C."""
    port = int(sys.argv[1]) if sys.argv[1:] else 9001
    with suppress(KeyboardInterrupt), socket.create_server(("127.0.0.1", port)) as listener:
        host, port = listener.getsockname()
        print(f"threaded echo server at ws://{host}:{port}/", flush=True)
        while True:
            sock, _ = listener.accept()
            Thread(target=echo, args=[sock], daemon=True).start()


if __name__ == "__main__":
    main()
