"""Measures the time from sender to receiver: `python -m tests.load.latency_probe PORT PAIRS [CA]`.

PAIRS senders, each with a receiver in a room of its own, send in turn. They use TLS if CA is
the file with the server's certificate.

Prints "started" before the first message, and the times in seconds as JSON at SIGTERM.
"""

from __future__ import annotations

import json
import signal
import ssl
import sys
import time
from contextlib import ExitStack

from tests.support import Client

# Seconds between two messages of one sender: rare enough to be no load. With several senders,
# each stays below the default of --rate-limit.
PAUSE = 0.003
PAUSE_OF_PAIRS = 0.1


def main() -> None:
    running = True

    def stop(*_: object) -> None:
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, stop)
    address = ("127.0.0.1", int(sys.argv[1]))
    count = int(sys.argv[2])
    context = ssl.create_default_context(cafile=sys.argv[3]) if len(sys.argv) > 3 else None
    pause = PAUSE if count == 1 else PAUSE_OF_PAIRS / count
    seconds: list[float] = []
    with ExitStack() as stack:
        rooms = ["/r/probe", *(f"/r/probe-{number}" for number in range(1, count))]
        pairs = [
            (
                stack.enter_context(Client(address, room, ssl_context=context)),
                stack.enter_context(Client(address, room, ssl_context=context)),
            )
            for room in rooms
        ]
        print("started", flush=True)
        while running:
            sender, receiver = pairs[len(seconds) % count]
            start = time.perf_counter()
            sender.send("x" * 64)
            while receiver.receive() != "x" * 64:
                pass  # skip the server's Pings
            seconds.append(time.perf_counter() - start)
            time.sleep(pause)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
