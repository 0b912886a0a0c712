"""What every use of Redis shares: the client's settings, a circuit breaker, errors in a word."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

__all__ = ["FAILURES", "TRACED_AS", "Breaker", "connect", "is_refusal", "why"]

FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 5.0
LOG_EVERY_SECONDS: Final = 60.0
MAX_CONNECTIONS: Final = 2048  # Above the largest number of request threads, which bounds them.
FAILURES: Final = (redis.RedisError, OSError)
TRACED_AS: Final = {
    command: {"db.system.name": "redis", "db.operation.name": command}
    for command in ("GET", "SET", "EVALSHA", "INFO")
}
"""A command's attributes in a trace; its key isn't among them."""

log = logging.getLogger(__name__)


def connect(
    host: str, port: int, *, password: str | None, db: int, timeout_seconds: float
) -> redis.Redis:
    """A client that never waits longer than the deadline and never tries twice."""
    return redis.Redis(
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


class Breaker:
    """Spares callers a server that fails: one of them tries now and then, the others don't wait.

    A dead server costs one deadline every half second to five seconds, whatever the load.
    """

    def __init__(self, consequence: str) -> None:
        self._consequence = consequence
        self._lock = threading.Lock()
        self._skip_until = 0.0
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._logged_at = -LOG_EVERY_SECONDS

    @property
    def is_open(self) -> bool:
        """Whether a call would be skipped now; takes no turn."""
        return bool(self._skip_until) and time.monotonic() < self._skip_until

    def may_try(self) -> bool:
        """Whether this caller should call."""
        if not self._skip_until:
            return True
        with self._lock:
            now = time.monotonic()
            if now < self._skip_until:
                return False
            # One caller tries; the others don't wait out a deadline beside it.
            self._skip_until = now + self._pause_seconds
            return True

    def failed(self, exc: Exception) -> None:
        """No answer: skip the next calls."""
        with self._lock:
            self._skip_until = time.monotonic() + self._pause_seconds
            self._pause_seconds = min(self._pause_seconds * 2, LONGEST_PAUSE_SECONDS)
        self.tell(exc)

    def tell(self, exc: Exception) -> None:
        """Log a failure, once a minute."""
        with self._lock:
            now = time.monotonic()
            if now - self._logged_at < LOG_EVERY_SECONDS:
                return
            self._logged_at = now
        log.warning("redis fails, %s", self._consequence, extra={"why": why(exc)})

    def succeeded(self) -> None:
        """An answer: call again as before."""
        if not self._skip_until:
            return
        with self._lock:
            recovered = self._skip_until > 0.0
            self._skip_until = 0.0
            self._pause_seconds = FIRST_PAUSE_SECONDS
        if recovered:
            log.info("redis is back")


def is_refusal(exc: Exception) -> bool:
    """Whether it answers and refuses (it is full, or a replica): the next call may succeed."""
    return isinstance(exc, redis.ResponseError)


def why(exc: Exception) -> str:
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
