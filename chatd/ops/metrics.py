"""What `/metrics` shows, and how: Prometheus's text exposition format, version 0.0.4.

What happens often is counted once for all that share it, a turn, a batch, a
message whoever gets it; what the peers know is summed up when it is asked for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate

from wsproto_min import CloseCode

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Seconds: a turn of one message takes about 0.0001, and from 0.1 up people notice.
BOUNDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


class Histogram:
    """Counts durations, in seconds, by their size."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count a duration."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds

    def lines(self, name: str) -> Iterator[str]:
        """Iterate over its samples; each bucket holds those before it, too."""
        totals = list(accumulate(self._counts))
        for bound, total in zip((*BOUNDS, "+Inf"), totals, strict=True):
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._sum}"
        yield f"{name}_count {totals[-1]}"


class Metrics:
    """What is counted while the chat runs."""

    __slots__ = ("closes", "commits", "delivered", "log_failures", "received", "refused", "turns")

    def __init__(self) -> None:
        self.received = 0  # messages
        self.delivered = 0  # messages, each once for everyone who got it
        self.log_failures = 0
        self.closes: Counter[tuple[str, ...]] = Counter()  # by code and by whom
        self.refused: Counter[tuple[str, ...]] = Counter()  # by status and reason
        self.turns = Histogram()
        self.commits = Histogram()

    def count_close(self, code: int, by: str) -> None:
        """Count the end of a connection; what peers make up shares a line."""
        # The registry, and the chat's own: else each code would be a time series.
        known = code in _KNOWN_CODES or (by == "server" and 4000 <= code <= 4999)
        self.closes[str(code) if known else "other", by] += 1


_KNOWN_CODES = frozenset(CloseCode)

Value = float | Histogram | Mapping[tuple[str, ...], float]
"""One number, a histogram, or numbers by the values of their labels."""


def exposition(families: Mapping[tuple[str, ...], tuple[str, Value]]) -> bytes:
    """Return families of samples as text; each has a name with labels, and help with a value.

    What ends in `_total` is a counter, any other number a gauge.

    >>> print(exposition({("eggs", "colour"): ("Eggs in the nest.", {("blue",): 3})}).decode())
    # HELP eggs Eggs in the nest.
    # TYPE eggs gauge
    eggs{colour="blue"} 3
    <BLANKLINE>
    """
    lines = []
    for (name, *labels), (meaning, value) in families.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        if isinstance(value, Histogram):
            kind = "histogram"
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
        if isinstance(value, Histogram):
            lines += value.lines(name)
        elif isinstance(value, Mapping):
            for values, number in sorted(value.items()):
                pairs = zip(labels, values, strict=True)
                inside = ",".join(f'{label}="{text}"' for label, text in pairs)
                lines.append(f"{name}{{{inside}}} {number}")
        else:
            lines.append(f"{name} {value}")
    return "\n".join([*lines, ""]).encode()
