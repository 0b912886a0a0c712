"""What the embedded store is made of: its files, and its collections as a whole."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

import apsw

from ragdock.adapters.stores.sqlite.clock import Clock, SystemClock
from ragdock.adapters.stores.sqlite.collection import CollectionFile
from ragdock.adapters.stores.sqlite.connections import Database, require_safe_sqlite
from ragdock.adapters.stores.sqlite.contents import Contents, disk_errors
from ragdock.adapters.stores.sqlite.files import OpenFiles
from ragdock.adapters.stores.sqlite.indexes import Indexes, MovedError, Place
from ragdock.adapters.stores.sqlite.ledger import Ledger
from ragdock.adapters.stores.sqlite.migrations import CATALOGUE
from ragdock.adapters.stores.sqlite.owners import Owners
from ragdock.adapters.stores.sqlite.peek import Peeker
from ragdock.adapters.stores.sqlite.purging import Purger
from ragdock.adapters.stores.sqlite.residence import Residence
from ragdock.adapters.stores.sqlite.writable import make_writable
from ragdock.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    StoreError,
    collection_not_found,
)
from ragdock.types import (
    Collection,
)

__all__ = ["StoreFiles"]

KEEP_FAILED_HOURS: Final = 168.0
T = TypeVar("T")


class StoreFiles:
    """The catalogue, the collections' files, and who uses them."""

    def __init__(
        self,
        directory: Path,
        *,
        max_attempts: int = 5,
        keep_failed_hours: float = KEEP_FAILED_HOURS,
        clock: Clock | None = None,
    ) -> None:
        """Open or create; raises `ConfigurationError` when the directory can't be written.

        Uploads of failed and cancelled jobs are kept for a retry for `keep_failed_hours`; a job is
        failed after `max_attempts` that its document may be to blame for. `clock` is for tests.
        """
        require_safe_sqlite()
        self._directory = directory
        self._files_directory = directory / "collections"
        make_writable(self._files_directory, directory)
        self._residence = Residence(directory)
        try:
            self._catalogue = Database(directory / "catalogue.db", CATALOGUE, cache_mb=4)
        except BaseException:
            self._residence.close()
            raise
        self._owners = Owners(directory / "owners")
        self._ledger = Ledger(
            self._catalogue, self._owners, clock or SystemClock(), max_attempts=max_attempts
        )
        self._contents = Contents(
            self._catalogue, directory / "contents", keep_failed_hours=keep_failed_hours
        )
        self._peeker = Peeker(directory / "catalogue.db", self._path_of)
        self._files = OpenFiles(self._open_file)
        self._readers = Owners(directory / "readers")
        self._indexes = Indexes(self._catalogue, self._readers)
        self._next_sweep = 0.0
        self._purger = Purger(self._files, self._contents, self._paths, self._ledger.is_open)
        self._remove_orphans()
        self._contents.sweep()

    def prefer(self, fingerprint: str) -> None:
        """Say what this process embeds and cuts with, before it reads or works.

        A collection that is indexed with another embedder since is read from its former index as
        long as such a process lives, and not written; work for it is left to others.
        """
        self._indexes.prefer(fingerprint)
        self._peeker.fingerprint = fingerprint
        self._ledger.leases.fingerprint = fingerprint

    def close(self) -> None:
        """Close every file."""
        self._peeker.close()
        self._files.close()
        self._contents.close()
        self._catalogue.close()
        self._owners.close()
        self._readers.close()
        self._residence.close()

    def ping(self) -> None:
        """Read the catalogue and test that the disk takes a byte."""
        self._catalogue.query("SELECT count(*) FROM collections")
        probe = self._directory / f".ping-{os.getpid()}-{threading.get_ident()}"
        with disk_errors():
            probe.write_bytes(b"1")
            probe.unlink()

    # Collections

    def create_collection(self, name: str, fingerprint: str, dim: int) -> Collection:
        """Make an empty collection."""
        collection_id = uuid.uuid4().hex
        row = Place(collection_id, name, fingerprint, dim, time.time(), collection_id)
        try:
            # The file is made under the catalogue's lock, so that a file without a row is surely
            # what a crash left.
            with self._catalogue.write() as connection:
                connection.execute(
                    "INSERT INTO collections (id, name, fingerprint, dim, created_at) "
                    "VALUES (?, ?, ?, ?, ?)",
                    row[:5],
                )
                self._collection_file(row, create=True).close()
        except StoreError as exc:
            self._remove_file(collection_id)
            if isinstance(exc.__cause__, apsw.ConstraintError):
                raise ConflictError(
                    f"Collection {name!r} exists already.", field="body.name"
                ) from exc
            raise
        with self._using(row) as file:
            return file.info()

    def collection(self, name: str) -> Collection:
        """One collection, as of now."""
        row = self._row(name)
        with self._using(row) as file:
            return replace(file.info(), reindex_percent=self._indexes.percents().get(row.id))

    def collections(self) -> tuple[Collection, ...]:
        """All collections by name."""
        # What other processes dropped keeps its disk space until nobody has it open.
        self._files.discard(self._indexes.files().__contains__)
        found = []
        percents = self._indexes.percents()
        for current in self._indexes.all():
            try:
                with self._using(self._indexes.readable(current)) as file:
                    info = replace(file.info(), reindex_percent=percents.get(current.id))
                    found.append(info)
            except NotFoundError:
                continue  # Dropped since the catalogue was read.
        return tuple(found)

    def drop_collection(self, name: str) -> None:
        """Remove a collection with all its documents and its ledger rows."""
        collection_id = self._row(name).id
        with self._catalogue.write() as connection:
            files = self._indexes.files_of(collection_id)
            connection.execute("DELETE FROM collections WHERE id = ?", (collection_id,))
        self._files.discard(lambda key: key not in files)
        self._peeker.forget()
        for file in files:
            self._remove_file(file)
        self._contents.remove_discarded()
        self._catalogue.give_back_space()

    def state_key(self, name: str) -> str:
        """Collection id, generation, and what tells two histories of the same generation apart."""
        row = self._row(name)
        with self._using(row) as file:
            return file.state_key()

    def peek_state_key(self, name: str) -> str | None:
        """The state key when it can be told without waiting, else None."""
        return self._peeker.state_key(name)

    def _row(self, name: str, collection_id: str | None = None) -> Place:
        """The collection of that name (and id, if one is given), with the file to read."""
        return self._indexes.readable(self._current(name, collection_id))

    def _current(self, name: str, collection_id: str | None = None) -> Place:
        """The same with its current file, which is the one to write."""
        place = self._indexes.current(name)
        if place is None:
            raise collection_not_found(name)
        if collection_id not in (None, place.id):
            raise NotFoundError(
                f"Collection {name!r} was dropped and made anew.",
                field="collection",
                code="collection_not_found",
            )
        return place

    def _paths(self) -> Iterator[tuple[str, Path]]:
        for place in self._indexes.all():
            yield place.file, self._path_of(place.file)

    def _path_of(self, file: str) -> Path:
        return self._files_directory / f"{file}.db"

    @contextmanager
    def _using(self, place: Place) -> Iterator[CollectionFile]:
        """The collection's file; whatever goes wrong because it was dropped is `NotFoundError`."""
        with ExitStack() as stack:
            try:
                try:
                    file = stack.enter_context(self._files.using(place.file))
                except (StoreError, IntegrityError):
                    now = self._row(place.name, place.id)
                    if now.file == place.file:
                        raise
                    # It was reindexed since it was looked up, and the former file is gone.
                    file = stack.enter_context(self._files.using(now.file))
                yield file
            except (StoreError, IntegrityError):
                self._row(place.name, place.id)
                raise

    def _write(self, place: Place, act: Callable[[CollectionFile], T]) -> T:
        """Write to the collection's current file, also when that changes meanwhile."""
        while True:
            try:
                with self._using(place) as file:
                    return act(file)
            except MovedError:
                now = self._current(place.name, place.id)
                if now.file == place.file or now.fingerprint != place.fingerprint:
                    raise
                place = now

    def _open_file(self, file: str) -> CollectionFile:
        place = self._indexes.of_file(file)
        if place is None:
            raise StoreError("The collection's file is gone.")
        opened = self._collection_file(place, create=False)
        self._ledger.raise_floor(opened.last_version())
        return opened

    def _collection_file(self, place: Place, *, create: bool) -> CollectionFile:
        return CollectionFile(
            self._path_of(place.file),
            name=place.name,
            collection_id=place.id,
            fingerprint=place.fingerprint,
            dim=place.dim,
            created_at=place.created_at,
            create=create,
            guard=lambda: self._indexes.require_current(place.id, place.file),
        )

    def _remove_orphans(self) -> None:
        """Remove the files of collections that a crash left half made or half dropped."""
        if not self._orphans():
            return
        with self._catalogue.write():
            for collection_id in self._orphans():
                self._remove_file(collection_id)

    def _orphans(self) -> set[str]:
        names = {path.name.split(".")[0] for path in self._files_directory.iterdir()}
        return {
            name for name in names - self._indexes.files() if re.fullmatch("[0-9a-f]{32}", name)
        }

    def _remove_file(self, collection_id: str) -> None:
        base = self._files_directory / collection_id
        for suffix in (".db", ".db-wal", ".db-shm"):
            with suppress(OSError):  # The next start tries again.
                base.with_suffix(suffix).unlink(missing_ok=True)
        shutil.rmtree(base.with_suffix(".shared"), ignore_errors=True)
