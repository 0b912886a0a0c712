"""Rate limits of this process alone, in memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from ragdock.core.gcra import Limit, Verdict, take

__all__ = ["MemoryLimiter"]

MAX_HOLDERS: Final = 50_000
"""About 10 MB. Who is forgotten beyond that was silent for longer than 50,000 others."""


class MemoryLimiter:
    """`RateLimiter` that counts for its own process: with n processes up to n times the limit."""

    def __init__(
        self, *, max_holders: int = MAX_HOLDERS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_holders = max_holders
        self._clock = clock
        self._lock = threading.Lock()
        self._tats: OrderedDict[tuple[str, str], float] = OrderedDict()

    @property
    def instant(self) -> bool:
        """Always: nothing is waited for."""
        return True

    def take(self, limit: Limit, wanted: int = 1) -> Verdict:
        """Grant up to `wanted` requests."""
        now = self._clock()
        with self._lock:
            key = (limit.name, limit.holder)
            tat, verdict = take(self._tats.get(key, now), now, limit, wanted)
            self._keep(key, tat)
        return verdict

    def learn(self, limit: Limit, verdict: Verdict) -> None:
        """Go on from what another limiter said."""
        with self._lock:
            self._keep((limit.name, limit.holder), self._clock() + verdict.reset_seconds)

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._tats.clear()

    def _keep(self, key: tuple[str, str], tat: float) -> None:
        self._tats[key] = tat
        self._tats.move_to_end(key)
        while len(self._tats) > self._max_holders:
            self._tats.popitem(last=False)
