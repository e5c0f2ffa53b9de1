"""The token bucket, with times that the tests choose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.access.rate_limit import TokenBucket


def test_bucket_grants_burst_at_once_and_then_makes_callers_wait() -> None:
    bucket = TokenBucket(20, 40, 100.0)
    waits = [bucket.take(100.0) for _ in range(44)]
    assert waits[:40] == [0.0] * 40
    assert waits[40:] == pytest.approx([0.05, 0.10, 0.15, 0.20])


def test_bucket_refills_with_time_up_to_the_burst() -> None:
    bucket = TokenBucket(20, 40, 0.0)
    for _ in range(40):
        bucket.take(0.0)
    assert [bucket.take(0.1) for _ in range(3)] == pytest.approx([0.0, 0.0, 0.05])
    assert [bucket.take(1000.0) for _ in range(41)] == pytest.approx([*([0.0] * 40), 0.05])


def test_bucket_supports_rates_below_one_token_a_second() -> None:
    bucket = TokenBucket(0.1, 0.2, 0.0)
    assert bucket.take(0.0) == pytest.approx(8.0)
    assert bucket.take(8.0) == pytest.approx(10.0)


def test_bucket_is_exhausted_once_taking_exceeds_the_limit() -> None:
    bucket = TokenBucket(1, 4, 0.0, max_debt=2)
    assert [bucket.is_exhausted(0.0, tokens) for tokens in (6, 7)] == [False, True]
    bucket.take(0.0, 5)
    assert [bucket.is_exhausted(0.0, 1), bucket.is_exhausted(0.0, 2)] == [False, True]
    assert not bucket.is_exhausted(1.0, 2)


@given(
    st.floats(0.5, 1000),
    st.lists(st.floats(0, 1), min_size=1, max_size=200),
)
def test_caller_that_waits_never_exceeds_rate_and_burst(rate: float, pauses: list[float]) -> None:
    burst = 2 * rate
    now, taken = 50.0, []
    bucket = TokenBucket(rate, burst, now)
    for pause in pauses:
        now += pause
        now += bucket.take(now)
        taken.append(now)
    for first in range(0, len(taken), 7):
        for last in range(first, len(taken), 5):
            allowed = burst + rate * (taken[last] - taken[first]) + 1
            assert last - first + 1 <= allowed + 1e-6, f"{first} to {last}: {allowed} allowed"
