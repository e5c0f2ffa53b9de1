"""Measures the time from sender to receiver: `python -m tests.load.latency_probe PORT`.

Prints "started" before the first message, and the times in seconds as JSON at SIGTERM.
"""

from __future__ import annotations

import json
import signal
import sys
import time

from tests.support import Client

# Seconds between two messages: rare enough to be no load.
PAUSE = 0.003


def main() -> None:
    running = True

    def stop(*_: object) -> None:
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, stop)
    address = ("127.0.0.1", int(sys.argv[1]))
    seconds = []
    with Client(address, "/r/probe") as sender, Client(address, "/r/probe") as receiver:
        print("started", flush=True)
        while running:
            start = time.perf_counter()
            sender.send("x" * 64)
            while receiver.receive() != "x" * 64:
                pass  # skip the server's Pings
            seconds.append(time.perf_counter() - start)
            time.sleep(PAUSE)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
