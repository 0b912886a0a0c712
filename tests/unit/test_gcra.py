"""The rate algorithm: a burst, then a steady rate, and truthful times."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ragdock.core.gcra import WINDOW_SECONDS, Limit, take


def limit(per_minute: int) -> Limit:
    """A limit of that rate."""
    return Limit("key", "k", per_minute)


def test_a_minutes_requests_may_come_at_once_and_no_more() -> None:
    """Who was silent may send all of a minute's requests at the same instant."""
    tat = 0.0
    for left in range(59, -1, -1):
        tat, verdict = take(tat, 1000.0, limit(60), 1)
        assert (verdict.granted, verdict.remaining) == (1, left)
    tat, verdict = take(tat, 1000.0, limit(60), 1)
    assert verdict.granted == 0
    assert verdict.retry_seconds == 1.0
    assert verdict.reset_seconds == WINDOW_SECONDS


@given(
    per_minute=st.integers(1, 10_000_000),
    gaps=st.lists(st.floats(0, 30), min_size=1, max_size=60),
    wanted=st.integers(1, 50),
)
def test_never_more_than_burst_and_rate(per_minute: int, gaps: list[float], wanted: int) -> None:
    """Over any time the grants are at most a minute's plus what the rate gives in that time."""
    start = now = 1_700_000_000.0
    tat, granted = 0.0, 0
    for gap in gaps:
        now += gap
        tat, verdict = take(tat, now, limit(per_minute), wanted)
        granted += verdict.granted
        assert 0 <= verdict.granted <= wanted
        assert verdict.remaining >= 0
        # The clock's own resolution at this date is .2 microseconds.
        assert granted <= per_minute * (1 + (now - start) / WINDOW_SECONDS) * (1 + 1e-6) + 1


@given(per_minute=st.integers(1, 100_000), seconds=st.floats(0, 60))
def test_a_refusal_tells_the_truth(per_minute: int, seconds: float) -> None:
    """After `retry_seconds`, and not clearly earlier, one is granted."""
    tat, now = 0.0, 5000.0
    tat, _ = take(tat, now, limit(per_minute), per_minute)
    tat, refused = take(tat, now, limit(per_minute), 1)
    assert refused.granted == 0
    at = now + refused.retry_seconds
    assert take(tat, at + 1e-6, limit(per_minute), 1)[1].granted == 1
    assert take(tat, at - 1e-3 * refused.retry_seconds, limit(per_minute), 1)[1].granted == 0


def test_a_clock_that_was_set_back_locks_nobody_out() -> None:
    """A time in the far future counts as a full bucket, which a minute empties."""
    _, verdict = take(9e9, 1000.0, limit(60), 1)
    assert verdict.granted == 0
    assert verdict.retry_seconds <= 1.0
