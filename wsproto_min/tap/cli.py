"""The command `python -m wsproto_min tap`: its options and its exit status."""

from __future__ import annotations

import argparse
import io
import os
import signal
import ssl
import sys
from collections.abc import Callable
from contextlib import ExitStack

from wsproto_min.explain.output import output_style
from wsproto_min.net.url import DEFAULT_PORTS, WebSocketURL, parse_url
from wsproto_min.tap.events import Observer, TapEvent
from wsproto_min.tap.printer import Printer
from wsproto_min.tap.proxy import HOST, Proxy
from wsproto_min.tap.recording import Recording
from wsproto_min.tap.upstream import Upstream
from wsproto_min.tap.web import WebPage

LISTEN_PORT = 8766
WEB_PORT = 8767
STOP_GRACE = 0.5
"""Seconds for open pages to close their WebSocket at the end."""
_USAGE = 2
_PIPE_CLOSED = 141  # 128 + SIGPIPE, the status that shells report
_LOCAL_NAMES = ("127.0.0.1", "localhost")

_DESCRIPTION = """\
Pass connections on to a WebSocket server, and explain the handshake and every frame of both
directions. Clients connect to the tap instead of the server. Plain HTTP passes through, so a
browser can load a page through the tap."""
_EPILOG = """\
exit status: 0 after Ctrl-C or SIGTERM; 1 if FILE became unwritable; 2 for a usage error, for
example a port that is in use. The tap listens on 127.0.0.1 only."""


def add_tap(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to `parser`."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.add_argument("url", metavar="URL", help="the server: ws://HOST:PORT/ or wss://...")
    parser.add_argument(
        "--listen",
        type=_port,
        default=LISTEN_PORT,
        metavar="PORT",
        help="port of the tap; 0 selects a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--brief", action="store_true", help="print a few lines for each frame, without its figure"
    )
    parser.add_argument(
        "--web",
        type=_port,
        nargs="?",
        const=WEB_PORT,
        metavar="PORT",
        help=f"serve a page that shows the conversation live (default port: {WEB_PORT})",
    )
    parser.add_argument(
        "--save", metavar="FILE", help="record the WebSocket connections for explain --file"
    )
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument(
        "--ca", metavar="FILE", help="trust the CA certificates in this file (wss only)"
    )
    trust.add_argument(
        "--insecure",
        action="store_true",
        help="accept any certificate of the server, with a warning (wss only)",
    )
    parser.set_defaults(run=run)


def _port(text: str) -> int:
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; write the URL before --web")
    if not (text.isascii() and text.isdecimal() and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


class _UsageError(Exception):
    """An option cannot be used; the message says why."""


def run(options: argparse.Namespace) -> int:
    """Run the tap until SIGINT or SIGTERM, and return the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # an old terminal may lack a character
    try:
        with ExitStack() as stack:
            return _Tap(options, stack).run()
    except _UsageError as error:
        print(f"wsproto_min: {error}", file=sys.stderr)
        return _USAGE


class _Tap:
    """The parts of one tap: the proxy, its observers and the recording.

    Args:
        options: The options of the command.
        stack: Closes the capture file.

    """

    def __init__(self, options: argparse.Namespace, stack: ExitStack) -> None:
        self._options = options
        self._status = 0
        upstream = Upstream(options.url, _parse(options.url), _trust(options))
        self._page = WebPage(options.url)
        # Also without --web, `Server.run` drives the loop of the proxy, with its signals.
        self._server = self._page.server
        self._observers: list[Observer] = [Printer(output_style(), brief=options.brief)]
        self._proxy = Proxy(self._server.loop, upstream, self._observe)
        port = _listening(self._proxy.listen, options.listen)
        if upstream.url.host in _LOCAL_NAMES and upstream.url.port == port:
            raise _UsageError(f"{options.url}: the tap has this address; use another --listen PORT")
        self._page.address = f"http://{HOST}:{port}{upstream.url.target}"
        self._lines = [f"tap at {self._page.address} for {options.url}"]
        if options.web is not None:
            web_port = _listening(self._page.listen, options.web)
            self._lines.append(f"page at http://{HOST}:{web_port}/")
            self._observers.append(self._page)
        if options.save is not None:
            file = stack.enter_context(_create(options.save))
            self._proxy.recording = Recording(file, self._on_recording_failed)

    def run(self) -> int:
        """Print the addresses, and run until a signal."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stop())
        print("\n".join(self._lines), flush=True)
        self._server.run()
        return self._status

    def _stop(self) -> None:
        self._server.loop.call_soon_threadsafe(self._proxy.close)
        self._server.stop(STOP_GRACE)

    def _observe(self, event: TapEvent) -> None:
        """Show an event. Without standard output, stop: the recording is then complete."""
        for observer in list(self._observers):
            try:
                observer(event)
            except OSError as error:
                self._observers.remove(observer)
                self._status = _on_output_failed(error)
                self._stop()

    def _on_recording_failed(self, error: OSError) -> None:
        reason = f"{error.strerror}; the recording ends here"
        print(f"wsproto_min: cannot write {self._options.save}: {reason}", file=sys.stderr)
        self._status = 1


def _on_output_failed(error: OSError) -> int:
    """Return the exit status after standard output has failed."""
    # At exit Python flushes standard output again and would report a second error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return _PIPE_CLOSED
    print(f"wsproto_min: standard output: {error.strerror}", file=sys.stderr)
    return _USAGE


def _parse(url: str) -> WebSocketURL:
    try:
        parsed = parse_url(url)
    except ValueError as error:
        raise _UsageError(f"URL: {error}") from None
    if parsed.scheme not in DEFAULT_PORTS:
        raise _UsageError(f"URL: {url!r} is not ws://HOST/PATH or wss://HOST/PATH")
    return parsed


def _trust(options: argparse.Namespace) -> ssl.SSLContext:
    """Return the TLS configuration for the upstream."""
    try:
        context = ssl.create_default_context(cafile=options.ca)
    except OSError as error:
        reason = error.strerror or error
        raise _UsageError(f"cannot use {options.ca}: {reason}") from None
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        print(
            "wsproto_min: warning: --insecure accepts any certificate,"
            " so another server can read and change everything",
            file=sys.stderr,
        )
    return context


def _listening(listen: Callable[[int], int], port: int) -> int:
    try:
        return listen(port)
    except OSError as error:
        reason = error.strerror or error
        raise _UsageError(f"cannot listen on {HOST}:{port}: {reason}") from None


def _create(path: str) -> io.FileIO:
    try:
        return open(path, "wb", buffering=0)
    except OSError as error:
        raise _UsageError(f"cannot write {path}: {error.strerror}") from None
