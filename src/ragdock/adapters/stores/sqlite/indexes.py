"""Which file is a collection's index: the current one, former ones, and one that is being built.

`collections` names the current file; `indexes` has the others. A former index is kept for processes
that run the embedder it was made with and could do nothing with the current one: each says by a
lock what it runs (`readers`), so that the file goes when none is left, and never under a query.

Writes go to the current file only. Each asks, with the file's write lock in hand, whether it still
is the current one (`require_current`); the switch holds that lock, so no write falls in between.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from typing import Any, Final, NamedTuple

from ragdock.adapters.stores.sqlite.connections import Database, fetch
from ragdock.adapters.stores.sqlite.owners import Owners
from ragdock.core.fingerprints import same_vectors
from ragdock.errors import ConflictError, StoreError

__all__ = ["Indexes", "MovedError", "Place"]

# A query that has begun may still open the file that was current then; the longest takes minutes.
KEEP_FORMER_SECONDS: Final = 300.0


class Place(NamedTuple):
    """A collection with one of its files."""

    id: str
    name: str
    fingerprint: str
    dim: int
    created_at: float
    file: str


class MovedError(StoreError):
    """The file that was to be written is no longer the collection's current one."""

    code = "reindexed"


_CURRENT: Final = (
    "SELECT c.id, c.name, c.fingerprint, c.dim, c.created_at, coalesce(c.file, c.id) "
    "FROM collections c"
)
_OTHERS: Final = (
    "SELECT c.id, c.name, i.fingerprint, i.dim, c.created_at, i.file "
    "FROM indexes i JOIN collections c ON c.id = i.collection_id"
)


class Indexes:
    """The catalogue's knowledge of files."""

    def __init__(self, catalogue: Database, readers: Owners) -> None:
        self._catalogue = catalogue
        self._readers = readers
        self.fingerprint: str | None = None

    def prefer(self, fingerprint: str) -> None:
        """Say what this process runs: it reads, and writes, only what fits to that."""
        for name in self._readers.dead():
            self._readers.bury(name)
        self._readers.hold(f"{_digest(fingerprint)} {os.getpid()} {uuid.uuid4().hex[:8]}")
        self.fingerprint = fingerprint

    # Finding

    def current(self, name: str) -> Place | None:
        """The collection of that name with its current file."""
        return _one(self._catalogue.query(f"{_CURRENT} WHERE c.name = ?", (name,)))

    def all(self) -> list[Place]:
        """All collections with their current files, by name."""
        return [Place(*row) for row in self._catalogue.query(f"{_CURRENT} ORDER BY c.name")]

    def of_file(self, file: str) -> Place | None:
        """The collection that has that file, whatever for."""
        rows = self._catalogue.query(f"{_CURRENT} WHERE coalesce(c.file, c.id) = ?", (file,))
        return _one(rows or self._catalogue.query(f"{_OTHERS} WHERE i.file = ?", (file,)))

    def readable(self, current: Place) -> Place:
        """The place whose vectors this process can compare: the current one, if it is that."""
        wanted = self.fingerprint
        if wanted is None or same_vectors(current.fingerprint, wanted):
            return current
        rows = self._catalogue.query(
            f"{_OTHERS} WHERE c.id = ? AND i.retired_at IS NOT NULL ORDER BY i.retired_at DESC",
            (current.id,),
        )
        fitting = (Place(*row) for row in rows if same_vectors(row[2], wanted))
        return next(fitting, current)

    def files(self) -> set[str]:
        """Every file that has an owner."""
        rows = self._catalogue.query(
            "SELECT coalesce(file, id) FROM collections UNION SELECT file FROM indexes"
        )
        return {row[0] for row in rows}

    def files_of(self, collection_id: str) -> set[str]:
        """Every file of a collection."""
        rows = self._catalogue.query(
            "SELECT coalesce(file, id) FROM collections WHERE id = ? "
            "UNION SELECT file FROM indexes WHERE collection_id = ?",
            (collection_id, collection_id),
        )
        return {row[0] for row in rows}

    def percents(self) -> dict[str, int]:
        """How far the collections are that are being built anew, by id."""
        rows = self._catalogue.query(
            "SELECT collection_id, percent FROM indexes WHERE retired_at IS NULL"
        )
        return dict(rows)

    # Writing

    def require_current(self, collection_id: str, file: str) -> None:
        """Raise `MovedError` when the file isn't the one to write to (any more)."""
        rows = self._catalogue.query(
            "SELECT coalesce(file, id) FROM collections WHERE id = ?", (collection_id,)
        )
        if rows and rows[0][0] != file:
            raise MovedError("The collection has got a new index; retry.")

    def require_fitting(self, current: Place) -> None:
        """Raise `MovedError` when this process makes other vectors or passages than the index's."""
        if self.fingerprint not in (None, current.fingerprint):
            raise MovedError(
                f"Collection {current.name!r} is now indexed with {current.fingerprint!r}; "
                "a server with those settings goes on with this document.",
                retry_after_seconds=5.0,
            )

    def require_read(self, current: Place) -> None:
        """Raise `ConflictError` when this process can't read what it would write."""
        if self.readable(current).file != current.file:
            raise ConflictError(
                f"Collection {current.name!r} is now indexed with {current.fingerprint!r}; restart "
                "the server with those settings. Until then it answers from the former index and "
                "takes no writes.",
                field="collection",
                code="fingerprint_mismatch",
            )

    # Builds and former indexes

    def build(self, collection_id: str) -> tuple[str, str, int] | None:
        """The unfinished build: its file, fingerprint and dimension."""
        rows = self._catalogue.query(
            "SELECT file, fingerprint, dim FROM indexes "
            "WHERE collection_id = ? AND retired_at IS NULL",
            (collection_id,),
        )
        return rows[0] if rows else None

    def add_build(self, collection_id: str, file: str, fingerprint: str, dim: int) -> None:
        """Note a build, before its file is made."""
        with self._catalogue.write() as connection:
            connection.execute(
                "INSERT INTO indexes VALUES (?, ?, ?, ?, 0, ?, NULL)",
                (file, collection_id, fingerprint, dim, time.time()),
            )

    def note(self, file: str, percent: int) -> None:
        """How far a build is."""
        with self._catalogue.write(durable=False) as connection:
            connection.execute("UPDATE indexes SET percent = ? WHERE file = ?", (percent, file))

    def forget(self, file: str) -> None:
        """Let go of a build or of a former index; its file may be removed then."""
        with self._catalogue.write() as connection:
            connection.execute("DELETE FROM indexes WHERE file = ?", (file,))

    @staticmethod
    def switch(connection: Any, former: Place, file: str, fingerprint: str, dim: int) -> bool:
        """Make the build current, in a transaction of the catalogue; False when it was dropped."""
        changed = fetch(
            connection,
            "UPDATE collections SET file = ?, fingerprint = ?, dim = ? "
            "WHERE id = ? AND coalesce(file, id) = ? RETURNING id",
            (file, fingerprint, dim, former.id, former.file),
        )
        if not changed:
            return False
        connection.execute("DELETE FROM indexes WHERE file = ?", (file,))
        connection.execute(
            "INSERT INTO indexes VALUES (?, ?, ?, ?, 100, ?, ?)",
            (former.file, former.id, former.fingerprint, former.dim, time.time(), time.time()),
        )
        return True

    def unneeded(self) -> list[str]:
        """Files of former indexes that nobody reads any more."""
        rows = self._catalogue.query(
            "SELECT i.file, i.fingerprint, i.retired_at, c.fingerprint FROM indexes i "
            "JOIN collections c ON c.id = i.collection_id WHERE i.retired_at IS NOT NULL"
        )
        if not rows:
            return []
        running = {name.split()[0] for name in self._readers.alive()}
        now = time.time()
        return [
            file
            for file, fingerprint, retired_at, current in rows
            if abs(now - retired_at) >= KEEP_FORMER_SECONDS
            and (same_vectors(fingerprint, current) or _digest(fingerprint) not in running)
        ]


def _one(rows: list[Any]) -> Place | None:
    return Place(*rows[0]) if rows else None


def _digest(fingerprint: str) -> str:
    """Names the embedder of a fingerprint."""
    return hashlib.sha256(fingerprint.rsplit("/", 2)[0].encode()).hexdigest()[:16]
