"""The command line: `python -m wsproto_min connect | echo | explain | tap | quiz`."""

from __future__ import annotations

import argparse
import signal
import ssl
import sys
from collections.abc import Sequence

from wsproto_min.deflate import DEFAULT_COMPRESSION_THRESHOLD, DeflateParameters
from wsproto_min.errors import HandshakeError
from wsproto_min.explain.cli import add_explain
from wsproto_min.explain.live_trace import Tracer, run_interactive
from wsproto_min.explain.style import printable
from wsproto_min.http import Request, is_token
from wsproto_min.learn.cli import add_learn
from wsproto_min.messages import DEFAULT_MAX_MESSAGE_SIZE
from wsproto_min.net.client import connect
from wsproto_min.net.peer import Peer
from wsproto_min.net.server import Server
from wsproto_min.quiz.dialogue import add_quiz
from wsproto_min.server_handshake import Acceptance, accept
from wsproto_min.tap.cli import add_tap


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; None for those of the process.

    Returns:
        The exit status: 0, 1 if the connection or the server failed, 2 for a usage
        error, 130 after Ctrl-C. `connect` and `explain` have their own in their help texts.
    """
    parser = argparse.ArgumentParser(
        prog="python -m wsproto_min", description="Tools to try and to study WebSocket (RFC 6455)."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_connect(commands.add_parser("connect", help="send lines to a server, print its messages"))
    _add_echo(commands.add_parser("echo", help="run a server that sends every message back"))
    add_explain(commands.add_parser("explain", help="explain the bytes of frames and handshakes"))
    add_quiz(commands.add_parser("quiz", help="ask about frames, and explain the answers"))
    add_tap(commands.add_parser("tap", help="show the conversation of a client and a server"))
    add_learn(commands.add_parser("learn", help="build a server in steps, each with a checker"))
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT  # the convention of shells
    return status


def _add_connect(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Send each line of standard input as a text message, and print the messages that arrive."
        " At the end of the input, close the connection and print what still arrives."
    )
    parser.epilog = (
        "Exit status: 0 after a closing handshake, with any close code; 1 if the connection"
        " failed or was lost, or if the server broke a rule; 2 for a usage error; 130 after"
        " Ctrl-C."
    )
    parser.add_argument("url", help="ws://HOST:PORT/PATH, wss://... or ws+unix:FILE:/PATH")
    parser.add_argument(
        "--trace",
        action="store_true",
        help="explain the handshake and every frame in both directions",
    )
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        type=_header,
        metavar="'NAME: VALUE'",
        help="send this header, such as 'Authorization: Bearer TOKEN'; may be repeated",
    )
    parser.add_argument(
        "--subprotocol",
        action="append",
        default=[],
        metavar="NAME",
        help="offer this subprotocol; may be repeated",
    )
    parser.add_argument("--origin", help="send this Origin header")
    parser.add_argument(
        "--no-compression", action="store_true", help="do not offer permessage-deflate"
    )
    parser.add_argument(
        "--proxy",
        default=True,
        metavar="URL",
        help="use this proxy: http://[USER:PASSWORD@]HOST:PORT, socks5://... or socks5h://...;"
        " by default that of the environment, such as https_proxy",
    )
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument(
        "--ca", metavar="FILE", help="trust the CA certificates in this file (wss only)"
    )
    trust.add_argument(
        "--insecure",
        action="store_true",
        help="accept any certificate, with a warning (wss only)",
    )
    parser.set_defaults(run=_connect)


def _header(text: str) -> tuple[str, str]:
    """Return name and value of a header. Raises `ArgumentTypeError`."""
    name, colon, value = text.partition(":")
    if not colon or not is_token(name):
        raise argparse.ArgumentTypeError(f"{text!r}: not a header; write 'NAME: VALUE'")
    return name, value.strip()


def _connect(options: argparse.Namespace) -> int:
    """Run the interactive client; return 1 if the connection fails or is lost."""
    try:
        context = ssl.create_default_context(cafile=options.ca)
        if options.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            print(
                "wsproto_min: warning: --insecure accepts any certificate,"
                " so another server can read and change everything",
                file=sys.stderr,
            )
        client = connect(
            options.url,
            subprotocols=options.subprotocol,
            headers=options.header,
            origin=options.origin,
            compression=None if options.no_compression else DeflateParameters.DEFAULT,
            ssl_context=context,
            proxy=options.proxy,
            trace=Tracer() if options.trace else None,
        )
    except (ValueError, OSError, HandshakeError) as error:
        # The error may quote the server's response, which must not control the terminal.
        reason = printable(str(error))
        print(f"wsproto_min: cannot connect to {options.url}: {reason}", file=sys.stderr)
        return 1
    return run_interactive(client, sys.stdin.fileno())


def _add_echo(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=9001, help="TCP port; 0 selects a free one")
    parser.add_argument(
        "--max-message-size",
        type=int,
        default=DEFAULT_MAX_MESSAGE_SIZE,
        metavar="BYTES",
        help="maximum size of a received message",
    )
    parser.add_argument(
        "--compress-from",
        type=int,
        default=DEFAULT_COMPRESSION_THRESHOLD,
        metavar="BYTES",
        help="minimum size of a message that is compressed; 0 compresses every message",
    )
    parser.add_argument(
        "--tls-cert", metavar="FILE", help="serve wss with the certificate in this file"
    )
    parser.add_argument(
        "--tls-key", metavar="FILE", help="private key of the certificate, if in another file"
    )
    parser.set_defaults(run=_echo)


def _echo(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; return 2 if the certificate or the address is unusable."""
    server = Server(
        on_message=Peer.send,
        on_request=_accept,
        max_message_size=options.max_message_size,
        compression_threshold=options.compress_from,
        # The echo of the largest message must fit, also while an earlier echo waits.
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


def _accept(peer: Peer, request: Request) -> Acceptance:
    """Accept every handshake, with context takeover so that a conformance run tests it."""
    return accept(request, compression=DeflateParameters.DEFAULT)


if __name__ == "__main__":
    sys.exit(main())
