"""Counters of the chat, and the text exposition format of Prometheus (version 0.0.4).

The chat updates a counter once per event loop iteration, batch or message. Refusals and
closes count per connection. Values that peers hold are summed only when a client reads
`/metrics`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate

from wsproto_min import CloseCode

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Upper bounds in seconds. People notice delays from 0.1 on.
BUCKET_BOUNDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


class Histogram:
    """Counts of durations in buckets."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKET_BOUNDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count a duration."""
        self._counts[bisect_left(BUCKET_BOUNDS, seconds)] += 1
        self._sum += seconds

    def samples(self, name: str) -> Iterator[str]:
        """Iterate over the sample lines; each bucket includes all smaller ones."""
        totals = list(accumulate(self._counts))
        for bound, total in zip((*BUCKET_BOUNDS, "+Inf"), totals, strict=True):
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._sum}"
        yield f"{name}_count {totals[-1]}"


class Metrics:
    """Counters of a running chat.

    Attributes:
        messages_received: Messages given to the store.
        messages_delivered: Deliveries; a message counts once for each receiver.
        store_failures: Failed operations of the message store.
        closes: Ends of open connections, by close code and closing side.
        refusals: Refused connections, by HTTP status and reason.
        iteration_seconds: Durations of event loop iterations.
        append_seconds: Durations of successful appends to the message store.
    """

    __slots__ = (
        "append_seconds",
        "closes",
        "iteration_seconds",
        "messages_delivered",
        "messages_received",
        "refusals",
        "store_failures",
    )

    def __init__(self) -> None:
        self.messages_received = 0
        self.messages_delivered = 0
        self.store_failures = 0
        self.closes: Counter[tuple[str, ...]] = Counter()
        self.refusals: Counter[tuple[str, ...]] = Counter()
        self.iteration_seconds = Histogram()
        self.append_seconds = Histogram()

    def count_close(self, code: int, closed_by: str) -> None:
        """Count the end of a connection.

        A peer can close with any of 2,000 codes, and each label is a time series. So all
        codes that are neither registered nor the server's own share the label `other`.

        Args:
            code: The close code.
            closed_by: `peer`, `server` or `lost`.
        """
        known = code in _REGISTERED_CODES or (closed_by == "server" and 4000 <= code <= 4999)
        self.closes[str(code) if known else "other", closed_by] += 1


_REGISTERED_CODES = frozenset(CloseCode)

Value = float | Histogram | Mapping[tuple[str, ...], float]
"""The value of a metric: a number, a histogram, or numbers by label values."""


def format_exposition(metrics: Mapping[tuple[str, ...], tuple[str, Value]]) -> bytes:
    """Return metrics in the exposition format.

    A name with the ending `_total` makes a metric a counter. Every other number is a gauge.

    >>> eggs = {("eggs", "colour"): ("Eggs in the nest.", {("blue",): 3})}
    >>> print(format_exposition(eggs).decode())
    # HELP eggs Eggs in the nest.
    # TYPE eggs gauge
    eggs{colour="blue"} 3
    <BLANKLINE>

    Args:
        metrics: Help text and value by the metric's name, which its label names follow.
    """
    lines = []
    for (name, *labels), (help_text, value) in metrics.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        if isinstance(value, Histogram):
            kind = "histogram"
        lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
        if isinstance(value, Histogram):
            lines += value.samples(name)
        elif isinstance(value, Mapping):
            for label_values, number in sorted(value.items()):
                pairs = zip(labels, label_values, strict=True)
                label_text = ",".join(f'{label}="{text}"' for label, text in pairs)
                lines.append(f"{name}{{{label_text}}} {number}")
        else:
            lines.append(f"{name} {value}")
    return "\n".join([*lines, ""]).encode()
