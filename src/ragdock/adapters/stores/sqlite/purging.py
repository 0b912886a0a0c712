"""Housekeeping for idle moments: what is hidden, given up or kept long enough goes for good.

Each process follows up what it wrote itself; now and then it looks at every collection, for what
processes that died have left. Any number of processes may do so at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import apsw

from ragdock.adapters.stores.sqlite.contents import Contents
from ragdock.adapters.stores.sqlite.files import OpenFiles
from ragdock.errors import IntegrityError, NotFoundError, StoreError

__all__ = ["Purger"]

SWEEP_PAUSE_SECONDS: Final = 60.0
SCAN_PAUSE_SECONDS: Final = 600.0


class Purger:
    """Knows which collections may hold something to purge."""

    def __init__(
        self,
        files: OpenFiles,
        contents: Contents,
        paths: Callable[[], Iterable[tuple[str, Path]]],
        is_open: Callable[[int], bool],
    ) -> None:
        """`paths` lists the collections' ids and files, `is_open` tells of a job's number."""
        self._files = files
        self._contents = contents
        self._paths = paths
        self._is_open = is_open
        self._lock = threading.Lock()
        self._marked: set[str] = set()
        self._next_sweep = self._next_scan = 0.0

    def mark(self, collection_id: str) -> None:
        """Something was staged, replaced or deleted there."""
        with self._lock:
            self._marked.add(collection_id)

    def run(self, limit: int) -> int:
        """Purge up to `limit` rows; how many it were."""
        now = time.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_PAUSE_SECONDS
            self._contents.sweep()
        if now >= self._next_scan:
            self._next_scan = now + SCAN_PAUSE_SECONDS
            self._scan()
        with self._lock:
            marked = sorted(self._marked)
        n_purged = 0
        for collection_id in marked:
            n_purged += self.run_one(collection_id, limit - n_purged)
            if n_purged >= limit:
                break
        return n_purged

    def run_one(self, collection_id: str, limit: int) -> int:
        """Purge one collection."""
        with self._lock:
            self._marked.discard(collection_id)
        # One that was dropped since, or is damaged, has nothing to purge: others tell of that.
        with (
            suppress(NotFoundError, StoreError, IntegrityError),
            self._files.using(collection_id) as file,
        ):
            drafts = file.drafts()
            given_up = [document for document, version in drafts if not self._is_open(version)]
            for document in given_up:
                file.discard(document)
            n_purged = file.purge(limit)
            if n_purged >= limit or len(given_up) < len(drafts):
                self.mark(collection_id)
            return n_purged
        return 0

    def _scan(self) -> None:
        for collection_id, path in self._paths():
            if _may_hold_leftovers(path):
                self.mark(collection_id)


def _may_hold_leftovers(path: Path) -> bool:
    """Look without opening the collection: that would close another that is in use."""
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    except apsw.Error:
        return False
    try:
        rows = connection.execute(
            "SELECT EXISTS (SELECT 1 FROM dead) OR EXISTS (SELECT 1 FROM drafts)"
        ).fetchall()
        return bool(rows[0][0])
    except apsw.BusyError:
        return True
    except apsw.Error:
        return False  # A file that this release hasn't opened yet.
    finally:
        connection.close(True)
