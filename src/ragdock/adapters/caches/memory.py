"""A cache in this process: least recently used, bounded in bytes."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Final

from ragdock.ports import Measurement

__all__ = ["MemoryCache", "NullCache"]

ENTRY_OVERHEAD_BYTES: Final = 200


class MemoryCache:
    """`Cache` in memory; nothing larger than an eighth of the bound is kept."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """The value while it lives."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if entry[0] < time.monotonic():
                self._drop(key)
                return None
            self._entries.move_to_end(key)
            return entry[1]

    def peek(self, key: str) -> bytes | None:
        """The value while it lives: all of it is in this process."""
        return self.get(key)

    def set(self, key: str, value: bytes, ttl_seconds: int) -> None:
        """Keep the value, pushing out the least recently used."""
        if len(value) * 8 > self._max_bytes or ttl_seconds <= 0:
            return
        with self._lock:
            if key in self._entries:
                self._drop(key)
            self._entries[key] = (time.monotonic() + ttl_seconds, value)
            self._n_bytes += _size(key, value)
            while self._n_bytes > self._max_bytes:
                self._drop(next(iter(self._entries)))

    def _drop(self, key: str) -> None:
        _, value = self._entries.pop(key)
        self._n_bytes -= _size(key, value)

    def ping(self) -> None:
        """Always reachable."""

    def measure(self) -> tuple[Measurement, ...]:
        """Nothing: there is no server."""
        return ()

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._n_bytes = 0


class NullCache:
    """`Cache` that keeps nothing."""

    def get(self, key: str) -> bytes | None:  # noqa: ARG002 (the Protocol's signature)
        """Nothing."""
        return None

    def peek(self, key: str) -> bytes | None:  # noqa: ARG002 (the Protocol's signature)
        """Nothing."""
        return None

    def set(self, key: str, value: bytes, ttl_seconds: int) -> None:
        """Forget at once."""

    def ping(self) -> None:
        """Always reachable."""

    def measure(self) -> tuple[Measurement, ...]:
        """Nothing: there is no server."""
        return ()

    def close(self) -> None:
        """Nothing to release."""


def _size(key: str, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_OVERHEAD_BYTES
