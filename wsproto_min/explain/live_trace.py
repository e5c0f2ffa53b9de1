"""The interactive client of `python -m wsproto_min connect`, and its trace.

Sends lines of standard input as text messages and prints the messages that arrive.
Escapes everything from the network before it reaches the terminal.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from selectors import EVENT_READ, SelectSelector

from wsproto_min.codes import CloseCode
from wsproto_min.connection import Role
from wsproto_min.errors import ConnectionClosed, ProtocolError
from wsproto_min.explain.dissector import Dissector
from wsproto_min.explain.handshake_lines import HandshakeContext
from wsproto_min.explain.render_text import render_brief
from wsproto_min.explain.style import printable
from wsproto_min.net.client import Client

READ_SIZE = 1 << 16
MAX_BINARY_SHOWN = 64
"""Number of bytes of a binary message that are printed."""


class Tracer:
    """Printer of the handshake and of every frame in both directions.

    An instance is the `trace` argument of `connect`.
    """

    def __init__(self) -> None:
        context = HandshakeContext()
        self._dissectors = {
            # The server's message size limit is unknown, so use a practically infinite one.
            Role.CLIENT: Dissector(Role.CLIENT, context=context, max_message_size=1 << 40),
            Role.SERVER: Dissector(Role.SERVER, context=context),
        }

    def __call__(self, sender: Role, data: bytes) -> None:
        """Explain the heads and frames that `data` from `sender` completes."""
        arrow = ">" if sender is Role.CLIENT else "<"
        dissector = self._dissectors[sender]
        dissector.receive_data(data)
        while (event := dissector.next_event()) is not None:
            for line in render_brief(event):
                print(f"{arrow} {line}", flush=True)


def run_interactive(client: Client, standard_input: int) -> int:
    """Send lines and print messages until the connection is closed.

    At the end of input, close with 1000 and print the messages that still arrive.

    Args:
        client: An open connection. This function closes it.
        standard_input: File descriptor to read lines from.

    Returns:
        The exit status: 0 after a closing handshake; 1 if the connection was lost or the
        server broke a rule.
    """
    incomplete_line = b""
    # SelectSelector, because epoll rejects regular files and /dev/null.
    with client, _selectable(standard_input) as source, SelectSelector() as selector:
        selector.register(client, EVENT_READ)
        selector.register(source, EVENT_READ)
        try:
            while True:
                print_received(client)
                if any(key.fileobj == source for key, _ in selector.select()):
                    data = _read(source)
                    *lines, incomplete_line = (incomplete_line + data).split(b"\n")
                    if incomplete_line and not data:
                        lines.append(incomplete_line)
                    for line in lines:
                        client.send(line.decode("utf-8", "replace"))
                    if not data:
                        client.close()
        except (ConnectionClosed, ProtocolError) as error:
            print(f"closed: {printable(str(error))}", file=sys.stderr)
            is_lost = isinstance(error, ProtocolError) or error.code == CloseCode.ABNORMAL_CLOSURE
            return 1 if is_lost else 0


@contextmanager
def _selectable(descriptor: int) -> Iterator[int | socket.socket]:
    """Yield the descriptor or, on Windows, a socket with the same bytes.

    On Windows, select() takes sockets only. So a thread reads the descriptor there, and ends
    with the process.
    """
    try:
        select.select([descriptor], [], [], 0)
    except OSError:
        ours, theirs = socket.socketpair()
        threading.Thread(target=_forward, args=[descriptor, theirs], daemon=True).start()
        with ours:
            yield ours
    else:
        yield descriptor


def _read(source: int | socket.socket) -> bytes:
    return os.read(source, READ_SIZE) if isinstance(source, int) else source.recv(READ_SIZE)


def _forward(descriptor: int, sock: socket.socket) -> None:
    """Send the bytes of a descriptor until its end, or until the other socket is closed."""
    with sock, suppress(OSError):
        while data := os.read(descriptor, READ_SIZE):
            sock.sendall(data)


def print_received(client: Client) -> None:
    """Print every message that has arrived, without waiting for more.

    Raises:
        ConnectionClosed: The connection is closed.
        ProtocolError: The server broke a rule.
    """
    while True:
        try:
            message = client.recv(timeout=0)
        except TimeoutError:
            return
        if isinstance(message, bytes):
            start = message[:MAX_BINARY_SHOWN].hex(" ")
            print(f"(binary, {len(message)} bytes) {start}", flush=True)
        else:
            print(printable(message), flush=True)
