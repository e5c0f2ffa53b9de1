"""Client that delivers every line of its input, also across lost connections.

Run it against an echo server, then stop and restart that server while you type:

    python -m wsproto_min echo --port 9001
    python -m wsproto_min.examples.reconnecting_client ws://127.0.0.1:9001/

The client sends a line and a Ping. The Pong proves that the server has received both.
Without the Pong, the client reconnects and sends the line again. So every line arrives at
least once and in order; a line may arrive twice.
"""

import random
import sys
import time
from contextlib import suppress

from wsproto_min import Client, ConnectionClosed, HandshakeError, ProtocolError, connect

FIRST_DELAY = 0.1  # seconds; the upper limit doubles after each failure
MAX_DELAY = 30.0


class ReconnectingClient:
    """Sender that reconnects to `url` after a random delay."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Client | None = None
        self._failures = 0  # in a row

    def deliver(self, message: str) -> list[str | bytes]:
        """Send `message` until the server has received it; return the messages received.

        Raises:
            HandshakeError: The server refuses the connection with status 3xx or 4xx.
        """
        while True:
            try:
                if self._client is None:
                    self._client = connect(self._url, close_timeout=1.0)
                self._client.send(message)
                self._client.ping()
                self._failures = 0
                return received(self._client)
            except (OSError, HandshakeError, ConnectionClosed, ProtocolError) as error:
                if isinstance(error, HandshakeError) and 300 <= error.status < 500:
                    raise
                self.close()
                # Random delays keep many clients from reconnecting at the same moment.
                delay = random.uniform(0, min(MAX_DELAY, FIRST_DELAY * 2**self._failures))
                self._failures += 1
                print(f"{error}; connecting again in {delay:.1f} s", file=sys.stderr)
                time.sleep(delay)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._client is not None:
            self._client.close()
            self._client = None


def received(client: Client) -> list[str | bytes]:
    """Return the messages that have arrived."""
    messages = []
    with suppress(TimeoutError, ConnectionClosed, ProtocolError):
        while True:
            messages.append(client.recv(timeout=0))
    return messages


def main() -> None:
    """Deliver the lines of standard input to the URL of the first argument."""
    client = ReconnectingClient(sys.argv[1])
    for line in sys.stdin:
        for message in client.deliver(line.rstrip("\n")):
            print(message, flush=True)
    client.close()


if __name__ == "__main__":
    main()
