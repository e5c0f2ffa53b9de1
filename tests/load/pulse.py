"""`python -m tests.load.pulse PORT` measures messages from one to another until SIGTERM."""

from __future__ import annotations

import json
import signal
import sys
import time

from tests.support import Client

# Seconds between two messages; so few that they are no load.
PAUSE = 0.003


def main() -> None:
    running = True

    def stop(*_: object) -> None:
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, stop)
    address = ("127.0.0.1", int(sys.argv[1]))
    seconds = []
    with Client(address, "/r/pulse") as speaker, Client(address, "/r/pulse") as listener:
        print("begun", flush=True)
        while running:
            begin = time.perf_counter()
            speaker.send("x" * 64)
            while listener.receive() != "x" * 64:
                pass  # a Ping of the server
            seconds.append(time.perf_counter() - begin)
            time.sleep(PAUSE)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
