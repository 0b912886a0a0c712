"""The collection files that are open: a bounded number, none closed while in use."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final

from ragdock.adapters.stores.sqlite.collection import CollectionFile
from ragdock.errors import StoreError

__all__ = ["OpenFiles"]

# An open file takes 2 descriptors, and 1 more for each reader at once: with 1,024 descriptors,
# the usual limit, some must go before a server with hundreds of collections runs out.
MAX_OPEN: Final = 64


class _Entry:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.file: CollectionFile | None = None
        self.n_users = 0
        self.unwanted = False


class OpenFiles:
    """Least recently used files are closed beyond `limit`; a file in use closes when it is free."""

    def __init__(self, open_file: Callable[[str], CollectionFile], limit: int = MAX_OPEN) -> None:
        self._open_file = open_file
        self._limit = limit
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._closed = False

    @contextmanager
    def using(self, collection_id: str) -> Iterator[CollectionFile]:
        """The file, opened when it is not, and kept open at least as long as the block."""
        with self._lock:
            if self._closed:
                raise StoreError("The store is closed.")
            entry = self._entries.setdefault(collection_id, _Entry())
            self._entries.move_to_end(collection_id)
            entry.n_users += 1
        try:
            with entry.lock:
                if entry.file is None:
                    entry.file = self._open_file(collection_id)
            yield entry.file
        finally:
            with self._lock:
                entry.n_users -= 1
                surplus = self._surplus()
                if entry.unwanted and not entry.n_users:
                    surplus.append(entry)
            _close(surplus)

    def discard(self, wanted: Callable[[str], bool]) -> None:
        """Close the files that are not wanted any more."""
        with self._lock:
            ids = [key for key in self._entries if not wanted(key)]
            idle = self._take_out(ids)
        _close(idle)

    def _surplus(self) -> list[_Entry]:
        n_surplus = len(self._entries) - self._limit
        if n_surplus <= 0:
            return []
        idle = [key for key, entry in self._entries.items() if not entry.n_users]
        return self._take_out(idle[:n_surplus])

    def _take_out(self, ids: Collection[str]) -> list[_Entry]:
        entries = [self._entries.pop(key) for key in ids]
        for entry in entries:
            entry.unwanted = True
        return [entry for entry in entries if not entry.n_users]

    def close(self) -> None:
        """Close every file; a reader that is still open ends with its own block."""
        with self._lock:
            self._closed = True
            entries = list(self._entries.values())
            self._entries.clear()
        _close(entries)


def _close(entries: Collection[_Entry]) -> None:
    for entry in entries:
        with entry.lock:
            if entry.file is not None:
                entry.file.close()
