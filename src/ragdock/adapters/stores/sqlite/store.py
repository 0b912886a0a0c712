"""`SqliteStore`: the embedded store.

A catalogue file (collections, ledger) and one file a collection. A transaction never spans two
files; instead each write carries its ledger number as version, the collection's file refuses older
versions than it has (tombstones included), and whatever a crash leaves between the two files is
done again, to the same effect.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import BinaryIO, Final

from ragdock.adapters.stores.sqlite.builds import Build, Workshop, discard_build, open_build
from ragdock.adapters.stores.sqlite.collection import CollectionFile
from ragdock.adapters.stores.sqlite.indexes import MovedError, Place
from ragdock.adapters.stores.sqlite.ledger import Deletion
from ragdock.adapters.stores.sqlite.rooms import StoreFiles
from ragdock.adapters.stores.sqlite.texts import StoredPart, text_pieces, to_document
from ragdock.adapters.stores.sqlite.transfer import exported, imported
from ragdock.errors import (
    NotFoundError,
)
from ragdock.ports import Reader, Spool
from ragdock.types import (
    Chunk,
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

PURGE_AFTER_COMMIT: Final = 256
SECRET_BYTES: Final = 32
SWEEP_INDEXES_SECONDS: Final = 60.0


class SqliteStore(StoreFiles):
    """`Store` on SQLite files under one directory of a local disk."""

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
        undone: dict[tuple[str, str], list[Deletion]] = {}
        for job in self._ledger.pending_deletes():
            of_collection = undone.setdefault((job.collection, job.collection_id), [])
            of_collection.append((job.document_id, job.id))
        for (name, collection_id), deletions in undone.items():
            with suppress(NotFoundError):  # The collection was dropped since.
                self._apply_deletes(self._current(name, collection_id), deletions)
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
        if outcome == "indexed":
            self._remove_members(row, job.document_id)
        finished = self._ledger.finish(job.id, outcome)
        # A little each time, so that it also gets done where there is never an idle moment.
        self._purger.run_one(row.file, PURGE_AFTER_COMMIT)
        self._contents.remove_discarded()
        return finished

    def _remove_members(self, place: Place, document_id: str) -> None:
        """Remove the files of the archive that the document was before."""
        with self._using(place) as file:
            gone = file.members(document_id)
        if gone or self._ledger.open_members(place.id, document_id):
            self._apply_deletes(place, self._ledger.add_deletes(place.id, gone, document_id))

    def expand(self, job: Job, uploads: Iterable[Upload]) -> Job:
        """Accept the files of an archive, whose job is done then."""
        place = self._current(job.collection, job.collection_id)

        def expand(file: CollectionFile) -> tuple[Job, list[Deletion]]:
            def make_room() -> set[str]:
                file.delete([(job.document_id, job.id)])
                return file.members(job.document_id)

            whole = map(self._contents.whole, uploads)
            return self._ledger.expand(job, whole, file.version_like, make_room)

        expanded, deletions = self._write(place, expand)
        if deletions:
            self._apply_deletes(place, deletions)
        self._purger.mark(place.file)
        self._contents.remove_discarded()
        return expanded

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
        parent: int | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> tuple[Job, ...]:
        """Rows of the ledger, newest first."""
        return self._ledger.jobs(
            collection_id=self._row(collection).id if collection is not None else None,
            states=states,
            document_id=document_id,
            parent=parent,
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

    def oldest(self, state: JobState) -> float | None:
        """When the oldest job in that state was accepted."""
        return self._ledger.oldest(state)

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
            members = file.members(document_id)
            is_known = members or self._ledger.open_members(row.id, document_id)
            if not is_known and not self._ledger.knows(row.id, document_id):
                file.document(document_id)
            ids = {document_id, *members}
            deletions = self._ledger.add_deletes(row.id, ids, archive_id=document_id)
        self._contents.remove_discarded()
        self._apply_deletes(row, deletions)

    def _apply_deletes(self, place: Place, deletions: Sequence[Deletion]) -> None:
        # Whatever it is indexed with since: a deletion needs no embedder.
        while True:
            try:
                self._write(place, lambda file: file.delete(deletions))
                break
            except MovedError:
                place = self._current(place.name, place.id)
        self._purger.mark(place.file)
        self._ledger.finish_deletes(version for _, version in deletions)

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
