"""`SqliteStore`: the embedded store.

A catalogue file (collections, ledger) and one file a collection. A transaction never spans two
files; instead each write carries its ledger number as version, the collection's file refuses older
versions than it has (tombstones included), and whatever a crash leaves between the two files is
done again, to the same effect.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw

from ragdock.adapters.stores.sqlite.collection import CollectionFile
from ragdock.adapters.stores.sqlite.connections import Database, require_safe_sqlite
from ragdock.adapters.stores.sqlite.ledger import Ledger
from ragdock.adapters.stores.sqlite.migrations import CATALOGUE
from ragdock.adapters.stores.sqlite.owners import Owners
from ragdock.errors import ConfigurationError, ConflictError, NotFoundError, StoreError
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


class SqliteStore:
    """`Store` on SQLite files under one directory of a local disk."""

    def __init__(self, directory: Path) -> None:
        """Open or create; raises `ConfigurationError` when the directory can't be written."""
        require_safe_sqlite()
        self._directory = directory
        self._files_directory = directory / "collections"
        _make_writable(self._files_directory)
        self._catalogue = Database(directory / "catalogue.db", CATALOGUE, cache_mb=4)
        self._owners = Owners(directory / "owners")
        self._ledger = Ledger(self._catalogue, self._owners)
        self._files: dict[str, CollectionFile] = {}
        self._files_lock = threading.Lock()

    def close(self) -> None:
        """Close every file."""
        with self._files_lock:
            for file in self._files.values():
                file.close()
            self._files.clear()
        self._catalogue.close()
        self._owners.close()

    def ping(self) -> None:
        """Read the catalogue and test that the disk takes a byte."""
        self._catalogue.query("SELECT count(*) FROM collections")
        probe = self._directory / f".ping-{os.getpid()}-{threading.get_ident()}"
        try:
            probe.write_bytes(b"1")
            probe.unlink()
        except OSError as exc:
            raise StoreError("The data directory can't be written.", code="disk_full") from exc

    # Collections

    def create_collection(self, name: str, fingerprint: str, dim: int) -> Collection:
        """Make an empty collection."""
        collection_id = uuid.uuid4().hex
        created_at = time.time()
        row = (collection_id, name, fingerprint, dim, created_at)
        file = self._open_file(row)
        try:
            with self._catalogue.write() as connection:
                connection.execute("INSERT INTO collections VALUES (?, ?, ?, ?, ?)", row)
        except BaseException as exc:
            file.close()
            self._remove_file(collection_id)
            if isinstance(exc.__cause__, apsw.ConstraintError):
                raise ConflictError(
                    f"Collection {name!r} exists already.", field="body.name"
                ) from exc
            raise
        with self._files_lock:
            self._files[collection_id] = file
        return file.info()

    def collection(self, name: str) -> Collection:
        """One collection, as of now."""
        return self._file(name).info()

    def collections(self) -> tuple[Collection, ...]:
        """All collections by name."""
        rows = self._catalogue.query("SELECT name FROM collections ORDER BY name")
        found = []
        for (name,) in rows:
            try:
                found.append(self.collection(name))
            except NotFoundError:
                continue  # Dropped since the catalogue was read.
        return tuple(found)

    def drop_collection(self, name: str) -> None:
        """Remove a collection with all its documents and its ledger rows."""
        collection_id = self._row(name)[0]
        with self._catalogue.write() as connection:
            connection.execute("DELETE FROM collections WHERE id = ?", (collection_id,))
        with self._files_lock:
            file = self._files.pop(collection_id, None)
        if file is not None:
            file.close()
        self._remove_file(collection_id)

    def state_key(self, name: str) -> str:
        """`<collection id>:<generation>`."""
        row = self._row(name)
        return f"{row[0]}:{self._file_of(row).generation()}"

    def _row(self, name: str) -> tuple[str, str, str, int, float]:
        rows = self._catalogue.query(
            "SELECT id, name, fingerprint, dim, created_at FROM collections WHERE name = ?", (name,)
        )
        if not rows:
            raise NotFoundError(
                f"There is no collection {name!r}; create it with POST /v1/collections.",
                field="collection",
                code="collection_not_found",
            )
        return rows[0]  # type: ignore[no-any-return]

    def _file(self, name: str) -> CollectionFile:
        return self._file_of(self._row(name))

    def _file_of(self, row: tuple[str, str, str, int, float]) -> CollectionFile:
        file = self._files.get(row[0])
        if file is not None:
            return file
        with self._files_lock:
            if row[0] not in self._files:
                self._files[row[0]] = self._open_file(row)
            return self._files[row[0]]

    def _open_file(self, row: tuple[str, str, str, int, float]) -> CollectionFile:
        collection_id, name, fingerprint, dim, created_at = row
        return CollectionFile(
            self._files_directory / f"{collection_id}.db",
            name=name,
            collection_id=collection_id,
            fingerprint=fingerprint,
            dim=dim,
            created_at=created_at,
        )

    def _remove_file(self, collection_id: str) -> None:
        base = self._files_directory / collection_id
        for suffix in (".db", ".db-wal", ".db-shm"):
            base.with_suffix(suffix).unlink(missing_ok=True)
        shared = base.with_suffix(".shared")
        if shared.is_dir():
            for path in shared.iterdir():
                path.unlink(missing_ok=True)
            shared.rmdir()

    # Ledger

    def accept(self, collection: str, uploads: Sequence[Upload]) -> tuple[Job, ...]:
        """Make the uploads durable, all or none."""
        row = self._row(collection)
        file = self._file_of(row)
        unchanged = [
            file.has_version(
                upload.document_id,
                upload.filename,
                upload.sha256,
                json.dumps(upload.metadata, sort_keys=True),
            )
            for upload in uploads
        ]
        return self._ledger.add(row[0], uploads, unchanged)

    def claim(self, owner: str, limit: int, lease_seconds: float) -> tuple[Job, ...]:
        """Finish what a crash left of deletions, then take up to `limit` jobs."""
        for job in self._ledger.pending_deletes():
            self._apply_delete(job.collection, job.document_id, job.id)
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
        indexed = self._file(job.collection).replace(job, parsed, chunks, vectors)
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

    def queue_depth(self) -> dict[JobState, int]:
        """Counts of unfinished and failed rows."""
        return self._ledger.depth()

    # Documents

    def document(self, collection: str, document_id: str) -> Document:
        """One searchable document."""
        return self._file(collection).document(document_id)

    def documents(
        self, collection: str, *, after: str | None = None, limit: int = 100
    ) -> tuple[Document, ...]:
        """Searchable documents by id."""
        return self._file(collection).documents(after, limit)

    def document_text(self, collection: str, document_id: str) -> str:
        """The text that offsets point into."""
        return self._file(collection).text(document_id)

    def delete_document(self, collection: str, document_id: str) -> None:
        """Remove a document and cancel its unfinished work."""
        row = self._row(collection)
        if not self._ledger.jobs(
            collection_id=row[0],
            states=(JobState.PENDING, JobState.PROCESSING, JobState.FAILED),
            document_id=document_id,
            before=None,
            limit=1,
        ):
            self._file_of(row).document(document_id)
        version = self._ledger.add_delete(row[0], document_id)
        self._apply_delete(collection, document_id, version)

    def _apply_delete(self, collection: str, document_id: str, version: int) -> None:
        self._file(collection).delete(document_id, version)
        self._ledger.finish(version, "deleted")

    # Search

    @contextmanager
    def reader(self, collection: str) -> Iterator[Reader]:
        """A consistent view of one collection."""
        with self._file(collection).reader() as reader:
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
