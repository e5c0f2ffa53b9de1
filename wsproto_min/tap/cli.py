"""The command `python -m wsproto_min tap`: its options and its exit status."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from contextlib import ExitStack

from wsproto_min.explain.captures.reader import MAX_CAPTURE_SIZE
from wsproto_min.explain.output import output_style
from wsproto_min.tap.events import Observer, TapEvent
from wsproto_min.tap.options import UsageError, create, listening, trust, upstream_url
from wsproto_min.tap.output import Output
from wsproto_min.tap.printer import Printer
from wsproto_min.tap.proxy import HOST, Proxy
from wsproto_min.tap.recording import Recording
from wsproto_min.tap.upstream import Upstream
from wsproto_min.tap.web import WebPage

LISTEN_PORT = 8766
WEB_PORT = 8767
STOP_GRACE = 0.5
"""Seconds for open pages to close their WebSocket at the end."""
OUTPUT_GRACE = 1.0
"""Seconds for a reader of standard output to take the last lines at the end."""
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


def run(options: argparse.Namespace) -> int:
    """Run the tap until SIGINT or SIGTERM, and return the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # an old terminal may lack a character
    try:
        with ExitStack() as stack:
            tap = _Tap(options, stack)
            status = tap.run()
    except UsageError as error:
        print(f"wsproto_min: {error}", file=sys.stderr)
        return _USAGE
    if tap.output_is_stuck:
        # The thread holds the lock of standard output, which the interpreter needs at its end.
        os._exit(status)
    return status


class _Tap:
    """The parts of one tap: the proxy, its observers and the recording.

    Args:
        options: The options of the command.
        stack: Closes the proxy and the capture file.

    Attributes:
        output_is_stuck: True if a reader of standard output has stopped reading, after `run`.

    """

    def __init__(self, options: argparse.Namespace, stack: ExitStack) -> None:
        self.output_is_stuck: bool = False
        self._options = options
        self._status = 0
        upstream = Upstream(options.url, upstream_url(options.url), trust(options))
        self._page = WebPage(options.url)
        # Also without --web, `Server.run` drives the loop of the proxy, with its signals.
        self._server = self._page.server
        self._observers: list[Observer] = []
        self._proxy = Proxy(self._server.loop, upstream, self._observe)
        stack.callback(self._proxy.close)
        port = listening(self._proxy.listen, options.listen, "--listen")
        if upstream.url.host in _LOCAL_NAMES and upstream.url.port == port:
            raise UsageError(f"{options.url}: the tap has this address; use another --listen PORT")
        self._page.address = f"http://{HOST}:{port}{upstream.url.target}"
        self._lines = [f"tap at {self._page.address} for {options.url}"]
        if options.web is not None:
            web_port = listening(self._page.listen, options.web, "--web")
            self._lines.append(f"page at http://{HOST}:{web_port}/")
            self._observers.append(self._page)
        file = stack.enter_context(create(options.save)) if options.save is not None else None
        # From here on no error of usage is possible, so the thread of the output may start.
        self._output = Output(self._stop)
        self._observers.append(Printer(self._output, output_style(), brief=options.brief))
        if file is not None:
            self._proxy.recording = Recording(
                file, self._on_recording_failed, self._on_recording_large
            )

    def run(self) -> int:
        """Print the addresses, and run until a signal."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stop())
        self._output.write("\n".join(self._lines))
        self._server.run()
        self.output_is_stuck = not self._output.close(OUTPUT_GRACE)
        if self._output.error is not None:
            return _on_output_failed(self._output.error)
        return self._status

    def _stop(self) -> None:
        """End the tap, and its recording. Any thread and signal handlers may call this."""
        self._server.loop.call_soon_threadsafe(self._proxy.close)
        self._server.stop(STOP_GRACE)

    def _observe(self, event: TapEvent) -> None:
        for observer in self._observers:
            observer(event)

    def _on_recording_failed(self, error: OSError) -> None:
        self._status = 1
        self._output.write_error(
            f"wsproto_min: cannot write {self._options.save}: {error.strerror};"
            " the recording ends here"
        )

    def _on_recording_large(self) -> None:
        self._output.write_error(
            f"wsproto_min: warning: {self._options.save} is larger than"
            f" {MAX_CAPTURE_SIZE >> 20} MiB, so explain --file refuses it;"
            " start a new recording for explain"
        )


def _on_output_failed(error: OSError) -> int:
    """Return the exit status after standard output has failed."""
    # At exit Python flushes standard output again and would report a second error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return _PIPE_CLOSED
    print(f"wsproto_min: standard output: {error.strerror}", file=sys.stderr)
    return _USAGE
