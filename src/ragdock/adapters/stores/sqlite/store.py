"""`SqliteStore`: the embedded store.

A catalogue file (collections, ledger) and one file a collection. A transaction never spans two
files; instead each write carries its ledger number as version, the collection's file refuses older
versions than it has (tombstones included), and whatever a crash leaves between the two files is
done again, to the same effect.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeAlias

import apsw

from ragdock.adapters.stores.sqlite.collection import CollectionFile
from ragdock.adapters.stores.sqlite.connections import Database, require_safe_sqlite
from ragdock.adapters.stores.sqlite.files import OpenFiles
from ragdock.adapters.stores.sqlite.ledger import Ledger
from ragdock.adapters.stores.sqlite.migrations import CATALOGUE
from ragdock.adapters.stores.sqlite.owners import Owners
from ragdock.adapters.stores.sqlite.peek import Peeker
from ragdock.adapters.stores.sqlite.residence import Residence
from ragdock.errors import (
    ConfigurationError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    StoreError,
)
from ragdock.ports import Reader
from ragdock.types import (
    Chunk,
    Collection,
    Document,
    Job,
    JobState,
    ParsedDocument,
    Upload,
    Vectors,
)

__all__ = ["SqliteStore"]

_Row: TypeAlias = tuple[str, str, str, int, float]
_ROW: Final = "id, name, fingerprint, dim, created_at"


class SqliteStore:
    """`Store` on SQLite files under one directory of a local disk."""

    def __init__(self, directory: Path) -> None:
        """Open or create; raises `ConfigurationError` when the directory can't be written."""
        require_safe_sqlite()
        self._directory = directory
        self._files_directory = directory / "collections"
        _make_writable(self._files_directory)
        self._residence = Residence(directory)
        try:
            self._catalogue = Database(directory / "catalogue.db", CATALOGUE, cache_mb=4)
        except BaseException:
            self._residence.close()
            raise
        self._owners = Owners(directory / "owners")
        self._ledger = Ledger(self._catalogue, self._owners)
        self._peeker = Peeker(directory / "catalogue.db", self._path_of)
        self._files = OpenFiles(self._open_file)
        self._remove_orphans()

    def close(self) -> None:
        """Close every file."""
        self._peeker.close()
        self._files.close()
        self._catalogue.close()
        self._owners.close()
        self._residence.close()

    def ping(self) -> None:
        """Read the catalogue and test that the disk takes a byte."""
        self._catalogue.query("SELECT count(*) FROM collections")
        probe = self._directory / f".ping-{os.getpid()}-{threading.get_ident()}"
        try:
            probe.write_bytes(b"1")
            probe.unlink()
        except OSError as exc:
            full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
            raise StoreError(
                "The store's disk is full; free space and retry."
                if full
                else "The data directory can't be written.",
                retry_after_seconds=30.0,
                code="disk_full" if full else None,
            ) from exc

    # Collections

    def create_collection(self, name: str, fingerprint: str, dim: int) -> Collection:
        """Make an empty collection."""
        collection_id = uuid.uuid4().hex
        row = (collection_id, name, fingerprint, dim, time.time())
        try:
            # The file is made under the catalogue's lock, so that a file without a row is surely
            # what a crash left.
            with self._catalogue.write() as connection:
                connection.execute("INSERT INTO collections VALUES (?, ?, ?, ?, ?)", row)
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
        with self._using(self._row(name)) as file:
            return file.info()

    def collections(self) -> tuple[Collection, ...]:
        """All collections by name."""
        rows = self._catalogue.query(f"SELECT {_ROW} FROM collections ORDER BY name")
        ids = {row[0] for row in rows}
        # What other processes dropped keeps its disk space until nobody has it open.
        self._files.discard(ids.__contains__)
        found = []
        for row in rows:
            try:
                with self._using(row) as file:
                    found.append(file.info())
            except NotFoundError:
                continue  # Dropped since the catalogue was read.
        return tuple(found)

    def drop_collection(self, name: str) -> None:
        """Remove a collection with all its documents and its ledger rows."""
        collection_id = self._row(name)[0]
        with self._catalogue.write() as connection:
            connection.execute("DELETE FROM collections WHERE id = ?", (collection_id,))
        self._files.discard(lambda key: key != collection_id)
        self._peeker.forget()
        self._remove_file(collection_id)
        self._catalogue.give_back_space()

    def state_key(self, name: str) -> str:
        """Collection id, generation, and what tells two histories of the same generation apart."""
        row = self._row(name)
        with self._using(row) as file:
            return file.state_key()

    def peek_state_key(self, name: str) -> str | None:
        """The state key when it can be told without waiting, else None."""
        return self._peeker.state_key(name)

    def _row(self, name: str, collection_id: str | None = None) -> _Row:
        """The collection of that name, which must be the one of that id, if one is given."""
        rows: list[_Row] = self._catalogue.query(
            f"SELECT {_ROW} FROM collections WHERE name = ?", (name,)
        )
        if rows and collection_id in (None, rows[0][0]):
            return rows[0]
        raise NotFoundError(
            f"Collection {name!r} was dropped and made anew."
            if rows
            else f"There is no collection {name!r}; create it with POST /v1/collections.",
            field="collection",
            code="collection_not_found",
        )

    def _path_of(self, collection_id: str) -> Path:
        return self._files_directory / f"{collection_id}.db"

    @contextmanager
    def _using(self, row: _Row) -> Iterator[CollectionFile]:
        """The collection's file; whatever goes wrong because it was dropped is `NotFoundError`."""
        try:
            with self._files.using(row[0]) as file:
                yield file
        except (StoreError, IntegrityError):
            self._row(row[1], row[0])
            raise

    def _open_file(self, collection_id: str) -> CollectionFile:
        rows = self._catalogue.query(
            f"SELECT {_ROW} FROM collections WHERE id = ?", (collection_id,)
        )
        if not rows:
            raise StoreError("The collection's file is gone.")
        file = self._collection_file(rows[0], create=False)
        self._ledger.raise_floor(file.last_version())
        return file

    def _collection_file(self, row: _Row, *, create: bool) -> CollectionFile:
        collection_id, name, fingerprint, dim, created_at = row
        return CollectionFile(
            self._path_of(collection_id),
            name=name,
            collection_id=collection_id,
            fingerprint=fingerprint,
            dim=dim,
            created_at=created_at,
            create=create,
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
        known = {row[0] for row in self._catalogue.query("SELECT id FROM collections")}
        return {name for name in names - known if re.fullmatch("[0-9a-f]{32}", name)}

    def _remove_file(self, collection_id: str) -> None:
        base = self._files_directory / collection_id
        for suffix in (".db", ".db-wal", ".db-shm"):
            with suppress(OSError):  # The next start tries again.
                base.with_suffix(suffix).unlink(missing_ok=True)
        shutil.rmtree(base.with_suffix(".shared"), ignore_errors=True)

    # Ledger

    def accept(self, collection: str, uploads: Sequence[Upload]) -> tuple[Job, ...]:
        """Make the uploads durable, all or none."""
        row = self._row(collection)
        with self._using(row) as file:
            same_as = [file.version_like(upload) for upload in uploads]
            return self._ledger.add(row[0], uploads, same_as)

    def claim(self, owner: str, limit: int, lease_seconds: float) -> tuple[Job, ...]:
        """Finish what a crash left of deletions, then take up to `limit` jobs."""
        for job in self._ledger.pending_deletes():
            with suppress(NotFoundError):  # Its collection was dropped since.
                self._apply_delete(
                    self._row(job.collection, job.collection_id), job.document_id, job.id
                )
        return self._ledger.claim(owner, limit, lease_seconds)

    def renew(self, owner: str, job_ids: Sequence[int], lease_seconds: float) -> None:
        """Prolong the leases that `owner` holds."""
        self._ledger.renew(owner, job_ids, lease_seconds)

    def release(self, owner: str) -> None:
        """Give back what `owner` has claimed and not finished."""
        self._ledger.release(owner)

    def content(self, job_id: int) -> bytes:
        """The uploaded bytes of a job that is not finished."""
        return self._ledger.content(job_id)

    def commit_document(
        self, job: Job, parsed: ParsedDocument, chunks: Sequence[Chunk], vectors: Vectors
    ) -> Job:
        """Replace the document's searchable version in one transaction; then the job is done."""
        # By id: a collection made anew under the same name is another one.
        with self._using(self._row(job.collection, job.collection_id)) as file:
            indexed = file.replace(job, parsed, chunks, vectors)
        return self._ledger.finish(job.id, "indexed" if indexed else "superseded")

    def fail(self, job: Job, code: str, reason: str, *, retry_after_seconds: float | None) -> Job:
        """Record a failure."""
        return self._ledger.fail(job, code, reason, retry_after_seconds=retry_after_seconds)

    def job(self, job_id: int) -> Job:
        """One row of the ledger."""
        return self._ledger.job(job_id)

    def jobs(
        self,
        *,
        collection: str | None = None,
        states: Sequence[JobState] = (),
        document_id: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> tuple[Job, ...]:
        """Rows of the ledger, newest first."""
        return self._ledger.jobs(
            collection_id=self._row(collection)[0] if collection is not None else None,
            states=states,
            document_id=document_id,
            before=before,
            limit=limit,
        )

    def unsettled(
        self, collection: str, *, after: str | None = None, limit: int = 100
    ) -> tuple[Job, ...]:
        """Newest rows that are index jobs not done, by document id."""
        return self._ledger.unsettled(self._row(collection)[0], after or "", limit)

    def queue_depth(self) -> dict[JobState, int]:
        """Counts of unfinished and failed rows."""
        return self._ledger.depth()

    # Documents

    def document(self, collection: str, document_id: str) -> Document:
        """One searchable document."""
        with self._using(self._row(collection)) as file:
            return file.document(document_id)

    def documents(
        self, collection: str, *, after: str | None = None, limit: int = 100
    ) -> tuple[Document, ...]:
        """Searchable documents by id."""
        with self._using(self._row(collection)) as file:
            return file.documents(after, limit)

    def document_text(self, collection: str, document_id: str) -> str:
        """The text that offsets point into."""
        with self._using(self._row(collection)) as file:
            return file.text(document_id)

    def delete_document(self, collection: str, document_id: str) -> None:
        """Remove a document and cancel its unfinished work."""
        row = self._row(collection)
        with self._using(row) as file:
            if not self._ledger.knows(row[0], document_id):
                file.document(document_id)
            version = self._ledger.add_delete(row[0], document_id)
        self._apply_delete(row, document_id, version)

    def _apply_delete(self, row: _Row, document_id: str, version: int) -> None:
        with self._using(row) as file:
            file.delete(document_id, version)
        self._ledger.finish(version, "deleted")

    # Search

    @contextmanager
    def reader(self, collection: str) -> Iterator[Reader]:
        """A consistent view of one collection."""
        with self._using(self._row(collection)) as file, file.reader() as reader:
            yield reader


def _make_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as exc:
        root = directory.parent
        raise ConfigurationError(
            f"RAG_DATA_DIR={str(root)!r} can't be written by user {os.getuid()}: "
            f"{os.strerror(exc.errno or 0)}. On the host run `sudo chown -R {os.getuid()} "
            f"<that directory>`, or set USER_ID in .env to the directory's owner."
        ) from exc
