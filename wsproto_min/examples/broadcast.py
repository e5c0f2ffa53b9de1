"""Broadcast server: sends each message to every other client.

Start the server, connect two clients from other terminals, and type lines:

    python -m wsproto_min.examples.broadcast 9001
    python -m wsproto_min connect ws://127.0.0.1:9001/

A `Group` encodes a message once for all members. The server joins the frames of one
event-loop iteration, so that many messages cost each member a single write.
"""

from __future__ import annotations

import sys
from contextlib import suppress

from wsproto_min import Peer, Server


def build_server() -> Server:
    """Return a server with one group; every open connection is a member."""

    def on_open(peer: Peer) -> None:
        group.add(peer)  # a closed peer leaves its groups by itself

    def on_message(peer: Peer, message: str | bytes) -> None:
        group.send(message, sender=peer)

    server = Server(on_message=on_message, on_open=on_open)
    group = server.group()
    return server


def main() -> None:
    """Serve on the port of the first argument (default: 9001) until Ctrl-C."""
    server = build_server()
    host, port = server.listen("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 9001)
    print(f"broadcast server at ws://{host}:{port}/", flush=True)
    with suppress(KeyboardInterrupt):
        server.run()


if __name__ == "__main__":
    main()
