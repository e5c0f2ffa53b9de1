"""Client that delivers every line of its input, also across lost connections.

Run it against an echo server, then stop and restart that server while you type:

    python -m wsproto_min echo --port 9001
    python -m wsproto_min.examples.reconnecting_client ws://127.0.0.1:9001/

The client sends a line and a Ping. The Pong proves that the server has received both.
Without the Pong, the client reconnects and sends the line again. So every line arrives at
least once and in order; a line may arrive twice.
"""

import logging
import sys
from contextlib import closing, suppress

from wsproto_min import Client, ConnectionClosed, ProtocolError, reconnect


def deliver(client: Client, message: str) -> bool:
    """Send `message`; return True if the server has received it."""
    with suppress(TimeoutError, ConnectionClosed, ProtocolError):
        client.send(message)
        client.ping()
        return True
    return False


def received(client: Client) -> list[str | bytes]:
    """Return the messages that have arrived."""
    messages = []
    with suppress(TimeoutError, ConnectionClosed, ProtocolError):
        while True:
            messages.append(client.recv(timeout=0))
    return messages


def main() -> None:
    """Deliver the lines of standard input to the URL of the first argument."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)  # to standard error
    with closing(reconnect(sys.argv[1], close_timeout=1.0)) as clients:
        client = next(clients)
        for line in sys.stdin:
            while not deliver(client, line.rstrip("\n")):
                client = next(clients)
            for message in received(client):
                print(message, flush=True)


if __name__ == "__main__":
    main()
