"""The interactive client of `python -m wsproto_min connect`.

Lines from standard input go out as text messages, messages that arrive are
printed. What comes from the network is escaped before it reaches the terminal.
"""

from __future__ import annotations

import os
import sys
from selectors import EVENT_READ, SelectSelector

from wsproto_min.connection import Role
from wsproto_min.errors import ConnectionClosed, ProtocolError
from wsproto_min.explain.dissector import Dissector
from wsproto_min.explain.handshake_lines import HandshakeContext
from wsproto_min.explain.render_text import trace
from wsproto_min.explain.style import printable
from wsproto_min.net.client import Client

READ_SIZE = 1 << 16


class Tracer:
    """Prints the handshake and every frame both ways, as `explain` would in short."""

    def __init__(self) -> None:
        opening = HandshakeContext()
        self._dissectors = {
            # How much the server takes is not known.
            Role.CLIENT: Dissector(Role.CLIENT, opening=opening, max_message_size=1 << 40),
            Role.SERVER: Dissector(Role.SERVER, opening=opening),
        }

    def __call__(self, sender: Role, data: bytes) -> None:
        """Explain bytes that `sender` sent."""
        arrow = ">" if sender is Role.CLIENT else "<"
        for seen in self._dissectors[sender].receive_data(data):
            for line in trace(seen):
                print(f"{arrow} {line}", flush=True)


def converse(client: Client, standard_input: int) -> int:
    """Send lines and print messages until either side ends; return the exit status.

    The end of input closes with 1000; what arrives before the server closes too
    is still printed.
    """
    unfinished = b""
    # Linux's epoll, the default, takes neither a file nor /dev/null.
    with client, SelectSelector() as selector:
        selector.register(client, EVENT_READ)
        selector.register(standard_input, EVENT_READ)
        try:
            while True:
                print_messages(client)
                if any(key.fd == standard_input for key, _ in selector.select()):
                    data = os.read(standard_input, READ_SIZE)
                    *lines, unfinished = (unfinished + data).split(b"\n")
                    if unfinished and not data:  # the last line, without its end
                        lines.append(unfinished)
                    for line in lines:
                        client.send(line.decode("utf-8", "replace"))
                    if not data:
                        client.close()
        except (ConnectionClosed, ProtocolError) as error:
            print(f"closed: {printable(str(error))}", file=sys.stderr)
            return 0 if isinstance(error, ConnectionClosed) else 1


def print_messages(client: Client) -> None:
    """Print every message that is here, and wait for none."""
    while True:
        try:
            message = client.recv(timeout=0)
        except TimeoutError:
            return
        if isinstance(message, bytes):
            print(f"(binary, {len(message)} bytes) {message[:64].hex(' ')}", flush=True)
        else:
            print(printable(message), flush=True)
