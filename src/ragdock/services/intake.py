"""How much may come in: bytes that are received and wait, and memory for what is received."""

from __future__ import annotations

import threading
from typing import Final

from ragdock.errors import UnavailableError
from ragdock.ports import Metrics, Store

__all__ = ["Intake", "Receipt"]

RECEIVED_AT_ONCE: Final = 64
KEPT_BYTES: Final = 32 * 2**20
"""Small files of all requests that are kept in memory; beyond that, they go to the disk, too."""


class Intake:
    """Counts uploads while they come; safe to use from several threads."""

    def __init__(self, store: Store, metrics: Metrics, max_queue_mb: int) -> None:
        self._store = store
        self._metrics = metrics
        self._max_queue_mb = max_queue_mb
        self._lock = threading.Lock()
        self._n_open = 0
        self._receiving_bytes = 0
        self._kept_bytes = 0

    def require_room(self, n_bytes: int) -> None:
        """Raise `UnavailableError` (`queue_full`) unless so much fits beside what waits."""
        waiting = self._store.queue_bytes() + self._receiving_bytes
        # What is larger than the queue by itself gets in when the queue is empty.
        if waiting and waiting + n_bytes > self._max_queue_mb * 2**20:
            self._metrics.count("refused", reason="queue_full")
            # How much waits is no affair of a caller who may see but some of it.
            raise UnavailableError(
                "Too much is waiting to be processed (RAG_MAX_QUEUE_MB); retry later.",
                retry_after_seconds=10.0,
                code="queue_full",
            )

    def open(self, n_declared: int) -> Receipt:
        """Begin to receive a body of so many bytes (0 when it doesn't say); blocks."""
        self.require_room(n_declared)
        with self._lock:
            if self._n_open >= RECEIVED_AT_ONCE:
                self._metrics.count("refused", reason="bodies")
                raise UnavailableError(
                    "Too many uploads at once; retry shortly.", code="overloaded"
                )
            self._n_open += 1
            self._receiving_bytes += n_declared
        return Receipt(self, n_declared)

    def received(self) -> tuple[int, int, int]:
        """(bodies, bytes, bytes in memory) that are being received."""
        with self._lock:
            return self._n_open, self._receiving_bytes, self._kept_bytes

    def add(self, n_bytes: int, n_open: int = 0) -> None:
        """Count bytes that are being received, and bodies."""
        with self._lock:
            self._receiving_bytes += n_bytes
            self._n_open += n_open

    def keep(self, n_bytes: int) -> bool:
        """Count bytes that are kept in memory; False, and not counted, when there are too many."""
        with self._lock:
            if n_bytes > 0 and self._kept_bytes + n_bytes > KEPT_BYTES:
                return False
            self._kept_bytes += n_bytes
            return True


class Receipt:
    """One body that is being received; used by one task."""

    def __init__(self, intake: Intake, n_declared: int) -> None:
        self._intake = intake
        self._n_counted = n_declared
        self._n_received = 0

    def grow(self, n_bytes: int) -> None:
        """So many bytes more have come."""
        self._n_received += n_bytes
        if self._n_received > self._n_counted:
            self._intake.add(self._n_received - self._n_counted)
            self._n_counted = self._n_received

    def keep(self, n_bytes: int) -> bool:
        """Whether so many bytes may stay in memory; they are given back by `give_back`."""
        return self._intake.keep(n_bytes)

    def give_back(self, n_bytes: int) -> None:
        """Memory that was kept is free again."""
        self._intake.keep(-n_bytes)

    def close(self) -> None:
        """The body is received, or it is given up."""
        self._intake.add(-self._n_counted, -1)
        self._n_counted = 0
