"""chatd that measures its longest iteration: `python -m tests.load.measured_chatd OPTION...`.

The options are those of chatd. At SIGUSR1 the process prints the longest iteration since the
last SIGUSR1, in seconds. The figure is CPU time of the loop's thread, because other programs on
the machine prolong the elapsed time.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from chatd import app
from chatd.__main__ import main
from wsproto_min import Server


class MeasuredServer(Server):
    """A server that keeps the CPU time of its longest iteration."""

    def __init__(self, *, on_iteration_end: Callable[[float], None], **options: Any) -> None:
        super().__init__(on_iteration_end=self._measure, **options)
        self._observe = on_iteration_end
        self._longest = self._last = 0.0
        signal.signal(signal.SIGUSR1, self._report)

    def run(self) -> None:
        self._last = time.thread_time()
        super().run()

    def _measure(self, seconds: float) -> None:
        self._observe(seconds)
        now = time.thread_time()
        self._longest = max(self._longest, now - self._last)
        self._last = now

    def _report(self, *_: object) -> None:
        print(self._longest, flush=True)
        self._longest = 0.0


if __name__ == "__main__":
    with patch.object(app, "Server", MeasuredServer):
        sys.exit(main(sys.argv[1:]))
