"""Limit on a rate: a token bucket."""

from __future__ import annotations

import math


class TokenBucket:
    """Token bucket that can go into debt: a caller takes first and waits afterwards.

    Args:
        rate: Tokens per second that the bucket gains, above 0.
        burst: Capacity in tokens.
        now: Time of the start, in seconds of any monotonic clock.
        level: Tokens at the start; None for a full bucket.
        max_debt: Limit on the debt in tokens. A debt over the limit is forgiven.
    """

    __slots__ = ("_burst", "_max_debt", "_rate", "_tokens", "_updated_at")

    def __init__(
        self,
        rate: float,
        burst: float,
        now: float,
        *,
        level: float | None = None,
        max_debt: float = math.inf,
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._max_debt = max_debt
        self._tokens = burst if level is None else level
        self._updated_at = now

    def take(self, now: float, tokens: float = 1.0) -> float:
        """Take tokens at the time `now`.

        Returns:
            Seconds to wait before the next action; 0.0 if the bucket had the tokens.
        """
        # The hot path of every message, so without calls of the methods below.
        level = self._tokens + (now - self._updated_at) * self._rate
        if level > self._burst:
            level = self._burst
        level -= tokens
        self._updated_at = now
        if level >= 0:
            self._tokens = level
            return 0.0
        self._tokens = max(level, -self._max_debt)
        return -self._tokens / self._rate

    def is_exhausted(self, now: float, tokens: float) -> bool:
        """Return True if taking tokens would exceed the limit on the debt."""
        return self.level(now) - tokens < -self._max_debt

    def level(self, now: float) -> float:
        """Return the number of tokens at the time `now`, negative in debt."""
        return min(self._burst, self._tokens + (now - self._updated_at) * self._rate)

    def wait(self, now: float) -> float:
        """Return the seconds until the bucket is out of debt; 0.0 if it is already."""
        return max(0.0, -self.level(now) / self._rate)
