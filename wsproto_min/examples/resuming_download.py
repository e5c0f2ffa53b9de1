"""Download that continues across lost connections, also after a restart of the client.

Serve a file, and download it into another one. Stop and restart the server meanwhile:

    python -m wsproto_min.examples.resuming_download serve FILE 9001
    python -m wsproto_min.examples.resuming_download ws://127.0.0.1:9001/ COPY

The client sends the number of bytes that it has. The server answers with the bytes after them,
and with an empty message at the end of the file. So a new connection continues where the old one
was lost, and neither side holds more than CHUNK_SIZE bytes.
"""

from __future__ import annotations

import logging
import re
import sys
from contextlib import closing, suppress
from pathlib import Path

from wsproto_min import CloseCode, Peer, Server, WebSocketError, reconnect

CHUNK_SIZE = 1 << 16


def build_server(path: Path) -> Server:
    """Return a server that answers an offset with the bytes of the file from there."""

    def on_message(peer: Peer, message: str | bytes) -> None:
        if not isinstance(message, str) or not re.fullmatch("[0-9]{1,15}", message):
            peer.close(CloseCode.POLICY_VIOLATION, "send an offset in decimal")
            return
        with path.open("rb") as file:
            file.seek(int(message))
            peer.send(file.read(CHUNK_SIZE))

    return Server(on_message=on_message)


def download(url: str, path: Path) -> None:
    """Append the bytes after the end of `path` to it, until the server has no more."""
    with path.open("ab") as file, closing(reconnect(url, max_delay=5.0)) as clients:
        for client in clients:
            with suppress(WebSocketError, TimeoutError):
                while True:
                    client.send(str(file.tell()))
                    chunk = client.recv(timeout=30.0)
                    if not isinstance(chunk, bytes):
                        sys.exit(f"{url}: sent text; is this a server of this program?")
                    if not chunk:
                        return
                    file.write(chunk)


def main() -> None:
    """Serve a file, or download one."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)  # to standard error
    if sys.argv[1] != "serve":
        download(sys.argv[1], Path(sys.argv[2]))
        return
    server = build_server(Path(sys.argv[2]))
    host, port = server.listen("127.0.0.1", int(sys.argv[3]) if sys.argv[3:] else 9001)
    print(f"download server at ws://{host}:{port}/", flush=True)
    with suppress(KeyboardInterrupt):
        server.run()


if __name__ == "__main__":
    main()
