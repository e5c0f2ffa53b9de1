"""Limit on the message rate of one peer: a token bucket."""

from __future__ import annotations


class TokenBucket:
    """Token bucket that can go into debt: a caller takes first and waits afterwards.

    Args:
        rate: Tokens per second that the bucket gains, above 0.
        burst: Capacity in tokens. The bucket starts full.
        now: Time of the start, in seconds of any monotonic clock.
    """

    __slots__ = ("_burst", "_rate", "_tokens", "_updated_at")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._updated_at = now

    def take(self, now: float) -> float:
        """Take one token at the time `now`.

        Returns:
            Seconds to wait before the next action; 0.0 if the bucket had the token.
        """
        refilled = self._tokens + (now - self._updated_at) * self._rate
        self._tokens = min(self._burst, refilled) - 1
        self._updated_at = now
        return max(0.0, -self._tokens / self._rate)
