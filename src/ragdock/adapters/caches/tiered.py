"""Two caches, the near one first."""

from __future__ import annotations

from typing import Final

from ragdock.ports import Cache, Measurement

__all__ = ["TieredCache"]

NEAR_TTL_SECONDS: Final = 300


class TieredCache:
    """`Cache` that asks `near`, then `far`, and keeps near what it found far.

    How long the far one will still keep a value is unknown here, so near it lives for at most
    `near_ttl_seconds` more.
    """

    def __init__(
        self, near: Cache, far: Cache, *, near_ttl_seconds: int = NEAR_TTL_SECONDS
    ) -> None:
        self._near = near
        self._far = far
        self._near_ttl_seconds = near_ttl_seconds

    def get(self, key: str) -> bytes | None:
        """The value from the nearest that has it."""
        value = self._near.get(key)
        if value is None:
            value = self._far.get(key)
            if value is not None:
                self._near.set(key, value, self._near_ttl_seconds)
        return value

    def peek(self, key: str) -> bytes | None:
        """The near one's value."""
        return self._near.peek(key)

    def set(self, key: str, value: bytes, ttl_seconds: int) -> None:
        """Keep it in both."""
        self._near.set(key, value, min(ttl_seconds, self._near_ttl_seconds))
        self._far.set(key, value, ttl_seconds)

    def ping(self) -> None:
        """As reachable as the far one."""
        self._far.ping()

    def measure(self) -> tuple[Measurement, ...]:
        """What the far one's server counts; the near one is this process's alone."""
        return self._far.measure()

    def close(self) -> None:
        """Close both."""
        self._near.close()
        self._far.close()
