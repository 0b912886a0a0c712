"""What is true of the whole deployment, measured when somebody asks.

A counter is a process's own, and all processes' together are the truth. The depth of the queue or
the room on the disk isn't: whoever answers measures it anew, and nobody remembers what it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final

from ragdock.errors import RagdockError
from ragdock.ports import Measurement, Store
from ragdock.services.readiness import Report
from ragdock.types import JobState

__all__ = ["Vitals"]

STATUSES: Final = ("ok", "degraded", "unavailable")


class Vitals:
    """Measures the store, its queue, and what else it is given; what fails is left out."""

    def __init__(
        self,
        store: Store,
        *sources: Callable[[], Iterable[Measurement]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._sources = (self._queue, self._oldest, self._collections, *sources)
        self._clock = clock

    def measure(self, report: Report) -> list[Measurement]:
        """All values now, the health among them."""
        found = [
            Measurement("health", float(report.status == status), {"status": status})
            for status in STATUSES
        ]
        for source in self._sources:
            with suppress(RagdockError):
                found += source()
        return found

    def _queue(self) -> Iterator[Measurement]:
        for state, n_documents in self._store.queue_depth().items():
            yield Measurement("queue", float(n_documents), {"state": state.value})
        yield Measurement("queue_bytes", float(self._store.queue_bytes()))

    def _oldest(self) -> Iterator[Measurement]:
        now = self._clock()
        for state in (JobState.PENDING, JobState.PROCESSING):
            accepted_at = self._store.oldest(state)
            # A wall clock may be set back; an age below zero would be nonsense.
            age_seconds = 0.0 if accepted_at is None else max(0.0, now - accepted_at)
            yield Measurement("queue_oldest", age_seconds, {"state": state.value})

    def _collections(self) -> Iterator[Measurement]:
        collections = self._store.collections()
        yield Measurement("documents", float(sum(each.n_documents for each in collections)))
        yield Measurement("chunks", float(sum(each.n_chunks for each in collections)))
