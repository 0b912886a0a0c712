"""Cached computations: one key, one computation at a time, nothing that fails is kept."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, cast

from ragdock.core.patience import require_patience
from ragdock.errors import GivenUpError
from ragdock.ports import Cache, Metrics

__all__ = ["CacheState", "JsonCache", "SingleFlight"]

T = TypeVar("T")
_LOOK_SECONDS: Final = 0.25
CacheState: TypeAlias = Literal["hit", "miss", "bypass"]


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.done = threading.Event()
        self.value: T | None = None
        self.error: Exception | None = None


class SingleFlight:
    """Callers of the same key at the same time share one computation."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[str, _Flight[Any]] = {}

    def do(self, key: str, compute: Callable[[], T]) -> tuple[T, bool]:
        """The value, and whether this caller computed it. The leader's error is everybody's.

        But not that the leader gave up, because its own caller had left: another leads then.
        """
        while True:
            with self._lock:
                flight = self._flights.get(key)
                if flight is None:
                    flight = self._flights[key] = _Flight()
                    break
            while not flight.done.wait(_LOOK_SECONDS):
                require_patience()
            if flight.error is None:
                return cast("T", flight.value), False
            if not isinstance(flight.error, GivenUpError):
                # Each follower asking anew would be the herd that this class is here to stop.
                raise flight.error
            require_patience()
        try:
            flight.value = compute()
        except Exception as exc:
            flight.error = exc
            raise
        finally:
            with self._lock:
                del self._flights[key]
            flight.done.set()
        return flight.value, True


class JsonCache:
    """JSON objects behind a `Cache`, counted by kind."""

    def __init__(self, cache: Cache, ttl_seconds: int, metrics: Metrics) -> None:
        self._cache = cache
        self._ttl_seconds = ttl_seconds
        self._metrics = metrics
        self._flights = SingleFlight()

    def load(self, kind: str, key: str) -> bytes | None:
        """The JSON text kept under the key."""
        if self._ttl_seconds == 0:
            return None
        value = self._cache.get(key)
        self._metrics.count("cache", kind=kind, result="miss" if value is None else "hit")
        return value

    def peek(self, kind: str, key: str) -> bytes | None:
        """The JSON text if it is in this process; only a hit is counted, for a look-up follows."""
        value = self._cache.peek(key) if self._ttl_seconds else None
        if value is not None:
            self._metrics.count("cache", kind=kind, result="hit")
        return value

    def save(self, key: str, value: bytes) -> None:
        """Keep a JSON text."""
        if self._ttl_seconds:
            self._cache.set(key, value, self._ttl_seconds)

    def get(
        self, kind: str, key: str, compute: Callable[[], tuple[bytes, bool]], *, bypass: bool
    ) -> tuple[bytes, CacheState]:
        """The JSON text under the key, computed when absent.

        `compute` answers the text and whether it may be kept. With `bypass` the cache is neither
        read nor shared, but what was computed is kept for others.
        """
        if bypass:
            return self._fill(key, compute), "bypass"
        value = self.load(kind, key)
        if value is not None:
            return value, "hit"
        return self._flights.do(key, lambda: self._fill(key, compute))[0], "miss"

    def _fill(self, key: str, compute: Callable[[], tuple[bytes, bool]]) -> bytes:
        value, keep = compute()
        if keep:
            self.save(key, value)
        return value


def dump(value: object) -> bytes:
    """Compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "backslashreplace"
    )
