"""`SqliteStore`: the embedded store.

A catalogue file (collections, ledger) and one file a collection. A transaction never spans two
files; instead each write carries its ledger number as version, the collection's file refuses older
versions than it has (tombstones included), and whatever a crash leaves between the two files is
done again, to the same effect.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import apsw

from ragdock.adapters.stores.sqlite.builds import Build, Workshop, discard_build, open_build
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
from ragdock.adapters.stores.sqlite.texts import StoredPart, text_pieces, to_document
from ragdock.adapters.stores.sqlite.transfer import exported, imported
from ragdock.errors import (
    ConfigurationError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    StoreError,
    collection_not_found,
)
from ragdock.ports import Reader, Spool
from ragdock.types import (
    Chunk,
    Collection,
    Content,
    Document,
    Job,
    JobStage,
    JobState,
    ParsedDocument,
    Upload,
    Vectors,
)

__all__ = ["SqliteStore"]

KEEP_FAILED_HOURS: Final = 168.0
PURGE_AFTER_COMMIT: Final = 256
MAX_ATTEMPTS: Final = 5
SECRET_BYTES: Final = 32
SWEEP_INDEXES_SECONDS: Final = 60.0
T = TypeVar("T")


class SqliteStore:
    """`Store` on SQLite files under one directory of a local disk."""

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
        _make_writable(self._files_directory)
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

    # Ledger

    def accept(self, collection: str, uploads: Sequence[Upload]) -> tuple[Job, ...]:
        """Make the uploads durable, all or none."""
        row = self._current(collection)
        self._indexes.require_read(row)
        with self._using(row) as file:
            same_as = [file.version_like(upload) for upload in uploads]
            with self._contents.on_disk(uploads) as ready:
                jobs = self._ledger.add(row.id, ready, same_as)
        self._contents.remove_discarded()
        return jobs

    def claim(self, owner: str, limit: int, lease_seconds: float) -> tuple[Job, ...]:
        """Finish what a crash left of deletions, then take up to `limit` jobs."""
        for job in self._ledger.pending_deletes():
            with suppress(NotFoundError):  # Its collection was dropped since.
                self._apply_delete(
                    self._current(job.collection, job.collection_id), job.document_id, job.id
                )
        return self._ledger.leases.claim(owner, limit, lease_seconds)

    def renew(self, owner: str, job_ids: Sequence[int], lease_seconds: float) -> None:
        """Prolong the leases that `owner` holds."""
        self._ledger.leases.renew(owner, job_ids, lease_seconds)

    def release(self, owner: str) -> None:
        """Give back what `owner` has claimed and not finished."""
        self._ledger.leases.release(owner)

    def spool(self) -> Spool:
        """A file in the store's directory to receive a large upload."""
        return self._contents.spool()

    def open_content(self, job_id: int) -> BinaryIO:
        """The upload of a job that is not done, as a real file at its start."""
        return self._contents.open(job_id)

    def queue_bytes(self) -> int:
        """How much the unfinished uploads are together."""
        return self._ledger.open_bytes()

    def stage(
        self, job: Job, parsed: ParsedDocument, chunks: Sequence[Chunk], vectors: Vectors
    ) -> None:
        """Write a part of a large document, hidden until the document is committed."""
        row = self._current(job.collection, job.collection_id)
        self._indexes.require_fitting(row)
        self._purger.mark(row.file)
        with self._using(row) as file:
            file.stage(job, parsed, chunks, vectors)

    def commit_document(
        self, job: Job, parsed: ParsedDocument, chunks: Sequence[Chunk], vectors: Vectors
    ) -> Job:
        """Replace the document's searchable version in one transaction; then the job is done."""
        # By id: a collection made anew under the same name is another one.
        row = self._current(job.collection, job.collection_id)
        self._indexes.require_fitting(row)
        outcome = self._write(row, lambda file: file.commit(job, parsed, chunks, vectors))
        if outcome == "refused":
            return self._ledger.withdrawn(job)
        finished = self._ledger.finish(job.id, outcome)
        # A little each time, so that it also gets done where there is never an idle moment.
        self._purger.run_one(row.file, PURGE_AFTER_COMMIT)
        self._contents.remove_discarded()
        return finished

    def fail(
        self,
        job: Job,
        code: str,
        reason: str,
        *,
        retry_after_seconds: float | None,
        counts: bool = True,
    ) -> Job:
        """Record a failure."""
        return self._ledger.fail(
            job, code, reason, retry_after_seconds=retry_after_seconds, counts=counts
        )

    def progress(self, job: Job, stage: JobStage, percent: int) -> None:
        """Note how far a job in work is."""
        self._ledger.progress(job, stage, percent)

    def retry(self, job_id: int) -> Job:
        """Make a failed or cancelled job pending again."""
        return self._ledger.retry(job_id)

    def cancel(self, job_id: int) -> Job:
        """Give up an unfinished job."""
        job = self._ledger.job(job_id)
        # Opened before the ledger is locked: opening may have to write to the ledger.
        place = self._current(job.collection, job.collection_id)
        return self._write(
            place,
            lambda file: self._ledger.cancel(
                job_id, lambda row, token: file.refuse(row.document_id, row.id, token)
            ),
        )

    def last_change(self) -> int:
        """The number of the ledger's latest change."""
        return self._ledger.last_change()

    def job_changes(
        self, after: int, *, collections: Sequence[str] | None = None, limit: int = 100
    ) -> tuple[Job, ...]:
        """Rows of the ledger that changed since, in the order of their changes."""
        ids = None
        if collections is not None:
            rows = self._catalogue.query(
                "SELECT id FROM collections WHERE name IN (SELECT value FROM json_each(?))",
                (json.dumps(list(collections)),),
            )
            ids = [row[0] for row in rows]
        return self._ledger.changes(after, ids, limit)

    def workers(self) -> tuple[str, ...]:
        """The workers that live, by name."""
        return self._owners.alive()

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
            collection_id=self._row(collection).id if collection is not None else None,
            states=states,
            document_id=document_id,
            before=before,
            limit=limit,
        )

    def unsettled(
        self, collection: str, *, after: str | None = None, limit: int = 100
    ) -> tuple[Job, ...]:
        """Newest rows that are index jobs not done, by document id."""
        return self._ledger.unsettled(self._row(collection).id, after or "", limit)

    def secret(self, name: str) -> bytes:
        """32 random bytes, the same for every process and for ever."""
        sql = "SELECT value FROM secrets WHERE name = ?"
        rows = self._catalogue.query(sql, (name,))
        if not rows:
            with self._catalogue.write() as connection:
                connection.execute(
                    "INSERT OR IGNORE INTO secrets VALUES (?, ?)",
                    (name, secrets.token_bytes(SECRET_BYTES)),
                )
            rows = self._catalogue.query(sql, (name,))
        return bytes(rows[0][0])

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

    def document_text(self, collection: str, document_id: str) -> Iterator[str]:
        """The text that offsets point into, a megabyte at a time."""
        row = self._row(collection)
        with self._using(row) as file:
            n, n_parts, _ = file.parts(document_id)
            first = file.part(n, 0)
        return chain.from_iterable(map(text_pieces, self._parts(row, n, n_parts, first)))

    def document_parts(self, collection: str, document_id: str) -> Iterator[ParsedDocument]:
        """The document as it was committed, part by part."""
        row = self._row(collection)
        with self._using(row) as file:
            n, n_parts, title = file.parts(document_id)
            first = file.part(n, 0)
        return (to_document(part, title) for part in self._parts(row, n, n_parts, first))

    def _parts(self, row: Place, n: int, n_parts: int, part: StoredPart) -> Iterator[StoredPart]:
        """A document's parts, each read when it is asked for; `part` is the first."""
        yield part
        for number in range(1, n_parts):
            with self._using(row) as file:
                part = file.part(n, number)
            yield part

    def delete_document(self, collection: str, document_id: str) -> None:
        """Remove a document and cancel its unfinished work."""
        row = self._current(collection)
        self._indexes.require_read(row)
        with self._using(row) as file:
            if not self._ledger.knows(row.id, document_id):
                file.document(document_id)
            version = self._ledger.add_delete(row.id, document_id)
        self._contents.remove_discarded()
        self._apply_delete(row, document_id, version)

    def _apply_delete(self, place: Place, document_id: str, version: int) -> None:
        # Whatever it is indexed with since: a deletion needs no embedder.
        while True:
            try:
                self._write(place, lambda file: file.delete(document_id, version))
                break
            except MovedError:
                place = self._current(place.name, place.id)
        self._purger.mark(place.file)
        self._ledger.finish(version, "deleted")

    def purge(self, limit: int) -> int:
        """Take hidden rows out for good, a few at a time."""
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + SWEEP_INDEXES_SECONDS
            self.remove_former()
        return self._purger.run(limit)

    # Whole documents

    def exported(self, collection: str) -> Iterator[tuple[Document, Iterator[Content]]]:
        """Each document with its parts."""
        place = self._current(collection)
        with self._using(place) as file:
            yield from exported(file, place.dim)

    def imported(self, collection: str, document: Document, contents: Iterator[Content]) -> bool:
        """Put a document in place of its earlier version."""
        place = self._current(collection)
        with self._using(place) as file:
            return imported(file, self._catalogue, place.id, document, contents)

    # Reindexing

    def rebuild(
        self, collection: str, fingerprint: str, dim: int, *, force: bool = False
    ) -> Build | None:
        """The index of a collection made anew beside the live one; None when it is so already."""
        return open_build(
            self._current(collection), fingerprint, dim, self._workshop(), force=force
        )

    def discard_build(self, collection: str) -> bool:
        """Remove an unfinished build; False when there is none."""
        return discard_build(self._current(collection), self._workshop())

    def _workshop(self) -> Workshop:
        return Workshop(
            catalogue=self._catalogue,
            indexes=self._indexes,
            owners=self._readers,
            path_of=self._path_of,
            remove_file=self._remove_file,
            open_file=self._collection_file,
            using=self._using,
        )

    def remove_former(self) -> None:
        """Remove the former indexes that nobody reads any more."""
        for file in self._indexes.unneeded():
            self._indexes.forget(file)
            self._remove_file(file)
        self._files.discard(self._indexes.files().__contains__)

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
