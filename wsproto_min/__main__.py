"""The command line: `python -m wsproto_min echo` serves what it is sent."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from wsproto_min.messages import DEFAULT_MAX_MESSAGE_SIZE
from wsproto_min.peer import Peer
from wsproto_min.server import Server


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m wsproto_min", description="RFC 6455 from scratch, to try and to learn from."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    echo = commands.add_parser(
        "echo",
        help="serve WebSocket and send every message back",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    echo.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    echo.add_argument("--port", type=int, default=9001, help="the TCP port; 0 picks a free one")
    echo.add_argument(
        "--max-message-size",
        type=int,
        default=DEFAULT_MAX_MESSAGE_SIZE,
        metavar="BYTES",
        help="the largest message to accept",
    )
    options = parser.parse_args(arguments)
    return serve_echo(options.host, options.port, options.max_message_size)


def serve_echo(host: str, port: int, max_message_size: int) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status, 2 if it cannot listen."""
    server = Server(
        on_message=_send_back,
        max_message_size=max_message_size,
        # One whole message must be able to wait for its reader.
        max_queue=2 * max_message_size + (4 << 20),
    )
    try:
        host, port = server.listen(host, port)
    except OSError as error:
        print(f"wsproto_min: cannot listen on {host}:{port}: {error.strerror}", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.stop())
    print(f"echo server at ws://{host}:{port}/", flush=True)
    server.run()
    return 0


def _send_back(peer: Peer, message: str | bytes) -> None:
    peer.send(message)


if __name__ == "__main__":
    sys.exit(main())
