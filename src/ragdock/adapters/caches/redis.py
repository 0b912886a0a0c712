"""A cache in plain Redis, 6 or later, that never stands in the way.

Every call has a short deadline; after a failure calls are skipped for a growing pause (a circuit
breaker), so a dead or paused Redis costs one deadline now and then, not one a request. When Redis
answers again, the cache is simply back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import redis

from ragdock.adapters.caches.redis_info import of_info
from ragdock.adapters.redis_link import FAILURES, TRACED_AS, Breaker, connect, is_refusal, why
from ragdock.adapters.tracing.null import NullTracer
from ragdock.errors import CacheError
from ragdock.ports import Measurement, Metrics, Tracer

__all__ = ["RedisCache"]

T = TypeVar("T")
PROBE_KEY: Final = "rag:v1:probe"
PROBE_TTL_SECONDS: Final = 60


class RedisCache:
    """`Cache` on a Redis server; get and set never raise."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        password: str | None = None,
        db: int = 0,
        timeout_seconds: float = 0.25,
        metrics: Metrics,
        tracer: Tracer | None = None,
    ) -> None:
        self._client = connect(
            host, port, password=password, db=db, timeout_seconds=timeout_seconds
        )
        self._breaker = Breaker("going on without it")
        self._metrics = metrics
        self._db = db
        self._tracer = tracer or NullTracer()

    def get(self, key: str) -> bytes | None:
        """The value, or None: absent or unreachable."""
        value = self._guarded("GET", lambda: self._client.get(key))
        return value if isinstance(value, bytes) else None

    def peek(self, key: str) -> bytes | None:  # noqa: ARG002 (the Protocol's signature)
        """Nothing: Redis is a network away."""
        return None

    def set(self, key: str, value: bytes, ttl_seconds: int) -> None:
        """Keep the value if Redis can be reached."""
        if ttl_seconds > 0:
            self._guarded("SET", lambda: self._client.set(key, value, ex=ttl_seconds))

    def ping(self) -> None:
        """Have Redis keep a value, whatever the breaker thinks; an answer closes it.

        A full or read-only Redis answers PING, but as a cache it is of no use.
        """
        try:
            self._client.set(PROBE_KEY, b"1", ex=PROBE_TTL_SECONDS)
        except redis.ResponseError as exc:
            self._breaker.succeeded()
            raise CacheError(f"Redis keeps nothing ({why(exc)}).") from exc
        except FAILURES as exc:
            self._failed(exc)
            raise CacheError(f"Redis doesn't answer ({why(exc)}).") from exc
        self._breaker.succeeded()

    def measure(self) -> tuple[Measurement, ...]:
        """What Redis says of itself (INFO)."""
        info = self._guarded("INFO", self._client.info)
        return tuple(of_info(info, self._db)) if isinstance(info, dict) else ()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _guarded(self, command: str, call: Callable[[], T]) -> T | None:
        if not self._breaker.may_try():
            return None
        try:
            with self._tracer.step(f"redis {command}", TRACED_AS[command], kind="client"):
                value = call()
        except FAILURES as exc:
            if is_refusal(exc):
                self._metrics.count("cache_errors")
                self._breaker.tell(exc)
            else:
                self._failed(exc)
            return None
        self._breaker.succeeded()
        return value

    def _failed(self, exc: Exception) -> None:
        self._metrics.count("cache_errors")
        self._breaker.failed(exc)
