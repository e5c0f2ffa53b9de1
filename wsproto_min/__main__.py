"""The command line: `python -m wsproto_min connect | echo | explain`."""

from __future__ import annotations

import argparse
import signal
import ssl
import sys
from collections.abc import Sequence

from wsproto_min.deflate import DeflateParameters
from wsproto_min.errors import HandshakeError
from wsproto_min.explain.cli import add_explain
from wsproto_min.explain.live_trace import Tracer, converse
from wsproto_min.explain.style import printable
from wsproto_min.handshake import accept
from wsproto_min.http import Request, Response
from wsproto_min.messages import DEFAULT_MAX_MESSAGE_SIZE
from wsproto_min.net.client import connect
from wsproto_min.net.peer import Peer
from wsproto_min.net.server import Server


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m wsproto_min", description="RFC 6455 from scratch, to try and to learn from."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_connect(commands.add_parser("connect", help="talk to a server: lines out, messages in"))
    _add_echo(commands.add_parser("echo", help="serve, and send every message back"))
    add_explain(commands.add_parser("explain", help="say what the bytes of frames mean"))
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT  # as shells have it
    return status


def _add_connect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help="ws://HOST:PORT/PATH, wss://... or ws+unix:FILE:/PATH")
    parser.add_argument(
        "--trace", action="store_true", help="explain the handshake and every frame both ways"
    )
    parser.add_argument(
        "--subprotocol",
        action="append",
        default=[],
        metavar="NAME",
        help="offer this subprotocol; repeatable",
    )
    parser.add_argument("--origin", help="send this Origin header")
    parser.add_argument(
        "--no-compression", action="store_true", help="do not offer permessage-deflate"
    )
    parser.add_argument("--ca", metavar="FILE", help="trust this certificate, for wss")
    parser.set_defaults(run=_connect)


def _connect(options: argparse.Namespace) -> int:
    """Run the interactive client; return 1 if it cannot connect or the server errs."""
    try:
        client = connect(
            options.url,
            subprotocols=options.subprotocol,
            origin=options.origin,
            compression=None if options.no_compression else DeflateParameters.DEFAULT,
            ssl_context=ssl.create_default_context(cafile=options.ca),
            trace=Tracer() if options.trace else None,
        )
    except (ValueError, OSError, HandshakeError) as error:
        # A refusal quotes the server, whose words are not to steer the terminal.
        reason = printable(str(error))
        print(f"wsproto_min: cannot connect to {options.url}: {reason}", file=sys.stderr)
        return 1
    return converse(client, sys.stdin.fileno())


def _add_echo(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=9001, help="the TCP port; 0 picks a free one")
    parser.add_argument(
        "--max-message-size",
        type=int,
        default=DEFAULT_MAX_MESSAGE_SIZE,
        metavar="BYTES",
        help="the largest message to accept",
    )
    parser.add_argument(
        "--compress-from",
        type=int,
        default=0,
        metavar="BYTES",
        help="compress messages from this size up",
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="serve wss with this certificate")
    parser.add_argument("--tls-key", metavar="FILE", help="its key, if not in the same file")
    parser.set_defaults(run=_echo)


def _echo(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status, 2 if it cannot listen."""
    server = Server(
        on_message=Peer.send,
        # Contexts are taken over if the client has no objection: the most that
        # can be agreed, which is what a conformance run is to see.
        on_request=_accept_all,
        max_message_size=options.max_message_size,
        compression_threshold=options.compress_from,
        # One whole message must be able to wait for its reader.
        write_buffer_limit=2 * options.max_message_size + (4 << 20),
    )
    context = None
    try:
        if options.tls_cert:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(options.tls_cert, options.tls_key)
    except OSError as error:
        reason = error.strerror or error
        print(f"wsproto_min: cannot use {options.tls_cert}: {reason}", file=sys.stderr)
        return 2
    try:
        host, port = server.listen(options.host, options.port, context)
    except OSError as error:
        reason = error.strerror or error
        where = f"{options.host}:{options.port}"
        print(f"wsproto_min: cannot listen on {where}: {reason}", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.stop())
    scheme = "wss" if options.tls_cert else "ws"
    print(f"echo server at {scheme}://{host}:{port}/", flush=True)
    server.run()
    return 0


def _accept_all(peer: Peer, request: Request) -> Response:
    return accept(request, compression=DeflateParameters.DEFAULT)


if __name__ == "__main__":
    sys.exit(main())
