"""A cache in plain Redis, 6 or later, that never stands in the way.

Every call has a short deadline; after a failure calls are skipped for a growing pause (a circuit
breaker), so a dead or paused Redis costs one deadline now and then, not one a request. When Redis
answers again, the cache is simply back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ragdock.errors import CacheError
from ragdock.ports import Metrics

__all__ = ["RedisCache"]

T = TypeVar("T")
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 5.0
LOG_EVERY_SECONDS: Final = 60.0
MAX_CONNECTIONS: Final = 2048  # Above the largest number of request threads, which bounds them.
PROBE_KEY: Final = "rag:v1:probe"
PROBE_TTL_SECONDS: Final = 60

log = logging.getLogger(__name__)


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
    ) -> None:
        self._client = redis.Redis(
            host=host,
            port=port,
            password=password,
            db=db,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            max_connections=MAX_CONNECTIONS,
            retry=Retry(NoBackoff(), 0),
            client_name="ragdock",
        )
        self._metrics = metrics
        self._lock = threading.Lock()
        self._skip_until = 0.0
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._logged_at = -LOG_EVERY_SECONDS

    def get(self, key: str) -> bytes | None:
        """The value, or None: absent or unreachable."""
        value = self._guarded(lambda: self._client.get(key))
        return value if isinstance(value, bytes) else None

    def peek(self, key: str) -> bytes | None:  # noqa: ARG002 (the Protocol's signature)
        """Nothing: Redis is a network away."""
        return None

    def set(self, key: str, value: bytes, ttl_seconds: int) -> None:
        """Keep the value if Redis can be reached."""
        if ttl_seconds > 0:
            self._guarded(lambda: self._client.set(key, value, ex=ttl_seconds))

    def ping(self) -> None:
        """Have Redis keep a value, whatever the breaker thinks; an answer closes it.

        A full or read-only Redis answers PING, but as a cache it is of no use.
        """
        try:
            self._client.set(PROBE_KEY, b"1", ex=PROBE_TTL_SECONDS)
        except redis.ResponseError as exc:
            self._succeeded()
            raise CacheError(f"Redis keeps nothing ({_why(exc)}).") from exc
        except (redis.RedisError, OSError) as exc:
            self._failed(exc)
            raise CacheError(f"Redis doesn't answer ({_why(exc)}).") from exc
        self._succeeded()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _guarded(self, call: Callable[[], T]) -> T | None:
        if not self._may_try():
            return None
        try:
            value = call()
        except redis.ResponseError as exc:
            # It answers and refuses this (it is full, or a replica): the next call may succeed.
            self._count(exc)
            return None
        except (redis.RedisError, OSError) as exc:
            self._failed(exc)
            return None
        if self._skip_until:
            self._succeeded()
        return value

    def _may_try(self) -> bool:
        if not self._skip_until:
            return True
        with self._lock:
            now = time.monotonic()
            if now < self._skip_until:
                return False
            # One caller tries; the others don't wait out a deadline beside it.
            self._skip_until = now + self._pause_seconds
            return True

    def _failed(self, exc: Exception) -> None:
        with self._lock:
            self._skip_until = time.monotonic() + self._pause_seconds
            self._pause_seconds = min(self._pause_seconds * 2, LONGEST_PAUSE_SECONDS)
        self._count(exc)

    def _count(self, exc: Exception) -> None:
        self._metrics.count("cache_errors")
        with self._lock:
            now = time.monotonic()
            if now - self._logged_at < LOG_EVERY_SECONDS:
                return
            self._logged_at = now
        log.warning("redis fails, going on without it", extra={"why": _why(exc)})

    def _succeeded(self) -> None:
        with self._lock:
            recovered = self._skip_until > 0.0
            self._skip_until = 0.0
            self._pause_seconds = FIRST_PAUSE_SECONDS
        if recovered:
            log.info("redis is back")


def _why(exc: Exception) -> str:
    """A foreign error in a word that holds no address and no secret."""
    if isinstance(exc, redis.AuthenticationError | redis.exceptions.NoPermissionError):
        return "wrong or missing password, or no permission"
    if isinstance(exc, redis.OutOfMemoryError):
        return "it is full; set maxmemory-policy allkeys-lru"
    if isinstance(exc, redis.ReadOnlyError):
        return "it is a read-only replica"
    if isinstance(exc, redis.TimeoutError | TimeoutError):
        return "timeout"
    if isinstance(exc, redis.ConnectionError | OSError):
        return "no connection"
    return type(exc).__name__
