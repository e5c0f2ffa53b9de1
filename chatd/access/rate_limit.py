"""How fast one peer may speak: a token bucket."""

from __future__ import annotations


class TokenBucket:
    """Grows by `rate` tokens a second up to `burst`; what is taken may be owed."""

    __slots__ = ("_burst", "_rate", "_time", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._time = now

    def take(self, now: float) -> float:
        """Take one token at `now` (seconds); return the seconds until it is there."""
        grown = self._tokens + (now - self._time) * self._rate
        self._tokens = min(self._burst, grown) - 1
        self._time = now
        return max(0.0, -self._tokens / self._rate)
