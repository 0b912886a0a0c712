"""What every `RateLimiter` must do."""

from __future__ import annotations

import threading
import time

from ragdock.core.gcra import Limit
from ragdock.ports import RateLimiter


class LimiterContract:
    """Subclass it with a `limiter` fixture."""

    def test_a_burst_then_refusals_with_a_time(self, limiter: RateLimiter) -> None:
        """A minute's requests are granted at once; then none, and the wait is told truthfully."""
        limit = Limit("key", "burst", 120)
        start = time.monotonic()
        verdicts = [limiter.take(limit) for _ in range(125)]
        refilled = (time.monotonic() - start) * 120 / 60
        assert 120 <= sum(v.granted for v in verdicts) <= 121 + refilled
        # However long that took: all that has come back is taken before the last one is refused.
        refused = limiter.take(limit)
        while refused.granted:
            refused = limiter.take(limit)
        assert refused.granted == refused.remaining == 0
        assert 0.0 < refused.retry_seconds <= 0.51
        assert 59.0 < refused.reset_seconds <= 60.0
        time.sleep(refused.retry_seconds + 0.01)
        assert limiter.take(limit).granted == 1

    def test_what_is_taken_in_advance_is_counted(self, limiter: RateLimiter) -> None:
        """Several at once are granted as far as they fit."""
        limit = Limit("key", "several", 10)
        assert limiter.take(limit, 4).granted == 4
        verdict = limiter.take(limit, 40)
        assert (verdict.granted, verdict.remaining) == (6, 0)

    def test_holders_and_policies_are_counted_apart(self, limiter: RateLimiter) -> None:
        """Another holder, or the same one under another policy, has its own count."""
        assert limiter.take(Limit("key", "a", 1)).granted == 1
        assert limiter.take(Limit("key", "a", 1)).granted == 0
        assert limiter.take(Limit("key", "b", 1)).granted == 1
        assert limiter.take(Limit("address", "a", 1)).granted == 1

    def test_threads_get_exactly_the_limit(self, limiter: RateLimiter) -> None:
        """Eight threads at once are granted no more than one after the other."""
        limit = Limit("key", "threads", 100)
        granted = []

        def ask() -> None:
            granted.extend(limiter.take(limit).granted for _ in range(25))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 100 <= sum(granted) <= 101 + (time.monotonic() - start) * 100 / 60

    def test_high_rates_are_exact(self, limiter: RateLimiter) -> None:
        """Ten million a minute, the largest setting, is no rounding error."""
        verdict = limiter.take(Limit("key", "high", 10_000_000), 10_000_000)
        assert verdict.granted == 10_000_000
        odd = limiter.take(Limit("key", "odd", 7), 100)
        assert odd.granted == 7
