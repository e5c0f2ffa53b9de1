"""The command line: `python -m chatd` serves the chat and its page."""

from __future__ import annotations

import argparse
import errno
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from chatd.app import Chat


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without repeating the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status, 2 if it cannot start."""
    parser = _Parser(
        prog="chatd",
        description="A chat for everybody who opens its page.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=_port, default=8765, help="the port; 0 picks a free one")
    options = parser.parse_args(arguments)

    chat = Chat()
    try:
        host, port = chat.server.listen(options.host, options.port)
    except OSError as error:
        print(_explain(error, options.host, options.port), file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: chat.server.stop())
    print(f"chatd is ready: open {_url(host, port)} (Ctrl-C stops it)", flush=True)
    chat.server.run()
    return 0


def _explain(error: OSError, host: str, port: int) -> str:
    """Return one line on why listening failed and what to do."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"chatd: port {port} on {host} is taken, perhaps by another chatd;"
            " stop that or choose another with --port (0 picks a free one)"
        )
    if error.errno == errno.EACCES:
        return f"chatd: port {port} needs more rights; choose one from 1024 up with --port"
    return f"chatd: cannot listen on {host}: {error.strerror}; choose an address with --host"


def _url(host: str, port: int) -> str:
    """Return the page's address; the wildcard addresses are reached as this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


if __name__ == "__main__":
    sys.exit(main())
