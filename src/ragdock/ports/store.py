"""The store, and how collections are read and written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, BinaryIO, Protocol

from ragdock.core.filters import Filter
from ragdock.types import (
    Chunk,
    Collection,
    DenseResult,
    Document,
    Hit,
    Job,
    JobStage,
    JobState,
    ParsedDocument,
    ScoredChunk,
    SpooledFile,
    Upload,
    Vector,
    Vectors,
)

if TYPE_CHECKING:
    pass

__all__ = ["Reader", "Spool", "Store"]


class Reader(Protocol):
    """One consistent view of one collection, at one generation."""

    @property
    def collection(self) -> Collection:
        """The collection as of this view."""
        ...

    def lexical(
        self, query: str, limit: int, where: Filter | None = None
    ) -> tuple[ScoredChunk, ...]:
        """Best chunks by BM25 over text and context, best first; () when no term is known."""
        ...

    def dense(self, vector: Vector, limit: int, where: Filter | None = None) -> DenseResult:
        """Nearest chunks by exact cosine, best first."""
        ...

    def hits(self, chunk_ids: Sequence[int]) -> dict[int, Hit]:
        """The passages by chunk id, scores unset (None, fused 0.0); unknown ids are left out."""
        ...


class Store(Protocol):
    """Durable truth: collections, documents, chunks, vectors and the ledger.

    Every method raises `StoreError` when the store can't be reached, and `NotFoundError` for an
    unknown collection or document.
    """

    def close(self) -> None:
        """Release everything; later calls raise `StoreError`."""
        ...

    def ping(self) -> None:
        """Return when the store can be read and written."""
        ...

    # Collections
    def create_collection(self, name: str, fingerprint: str, dim: int) -> Collection:
        """Make an empty collection; `ConflictError` when the name is taken."""
        ...

    def collection(self, name: str) -> Collection:
        """One collection, as of now."""
        ...

    def collections(self) -> tuple[Collection, ...]:
        """All collections by name."""
        ...

    def drop_collection(self, name: str) -> None:
        """Remove a collection with all its documents and its ledger rows."""
        ...

    def state_key(self, name: str) -> str:
        """Cheap; another one after every change of the collection, and after a restored backup."""
        ...

    def peek_state_key(self, name: str) -> str | None:
        """The state key if it can be told in microseconds, without waiting for anything, else None.

        The only method that may be called on the event loop.
        """
        ...

    # Ledger
    def accept(self, collection: str, uploads: Sequence[Upload]) -> tuple[Job, ...]:
        """Make the uploads durable, all or none: when this returns they survive a crash.

        An upload whose content, name and metadata equal the searchable version's (and that has no
        later write in the ledger) becomes a job that is `done` with outcome `unchanged`.
        """
        ...

    def claim(self, owner: str, limit: int, lease_seconds: float) -> tuple[Job, ...]:
        """Take up to `limit` pending or lease-expired jobs, oldest first, one per document."""
        ...

    def renew(self, owner: str, job_ids: Sequence[int], lease_seconds: float) -> None:
        """Prolong the leases that `owner` holds."""
        ...

    def release(self, owner: str) -> None:
        """Give back what `owner` has claimed and not finished, at once and uncounted."""
        ...

    def spool(self) -> Spool:
        """A place on the store's disk to receive a large upload, before it is accepted."""
        ...

    def open_content(self, job_id: int) -> BinaryIO:
        """The upload of a job that is not done, as a file at its start; the caller closes it.

        `NotFoundError` when the job is done, cancelled, or failed longer ago than uploads are kept.
        """
        ...

    def progress(self, job: Job, stage: JobStage, percent: int) -> None:
        """Note how far a job in work is; nothing when another worker has it by now.

        Called with (PARSE, 0) when the work begins: only what was begun can be to blame when the
        worker dies.
        """
        ...

    def retry(self, job_id: int) -> Job:
        """Make a failed or cancelled job pending again, its attempts counted anew.

        `ConflictError` in another state, when its upload is gone, or when a later write exists.
        """
        ...

    def cancel(self, job_id: int) -> Job:
        """Give up an unfinished job: what was searchable before stays. `ConflictError` if done."""
        ...

    def expand(self, job: Job, uploads: Iterable[Upload]) -> Job:
        """Accept the files of an archive with `job` as their parent; the job is done (`expanded`).

        All in one transaction, in which the uploads are taken one by one: they may be gone through
        again, and have to be at hand. Their document ids are `core.keys.member_id`s, and their
        metadata have `archive`. Files of an earlier version of the archive that are not among them
        are deleted, as is what was searchable under the archive's own id. `superseded` when a later
        write of the archive's document is done already; nothing happens when another worker has the
        job by now, or it was cancelled. Spools that no job owns then are the caller's to discard.
        """
        ...

    def stage(
        self, job: Job, parsed: ParsedDocument, chunks: Sequence[Chunk], vectors: Vectors
    ) -> None:
        """Write a part of a large document, which no search shows before `commit_document`.

        Parts come in order; one whose `start` is 0 discards what an earlier attempt staged.
        """
        ...

    def commit_document(
        self, job: Job, parsed: ParsedDocument, chunks: Sequence[Chunk], vectors: Vectors
    ) -> Job:
        """Replace the document's searchable version by this one in one transaction; job done.

        What is handed over is the whole document, or the last part after those that were staged.
        Idempotent. When a later write of the same document was committed already, nothing
        changes and the outcome is `superseded`. `vectors` is (len(chunks), dim).
        """
        ...

    def purge(self, limit: int) -> int:
        """Do away with up to `limit` chunks that no search shows any more; how many it were.

        For idle moments: it also removes uploads that were kept long enough, and whatever attempts
        that came to nothing left behind. 0 means that there is nothing left to do.
        """
        ...

    def fail(
        self,
        job: Job,
        code: str,
        reason: str,
        *,
        retry_after_seconds: float | None,
        counts: bool = True,
    ) -> Job:
        """Record a failure: pending again after a pause, or failed for good when that is None.

        The pause is at least `retry_after_seconds` and grows with the attempts, up to minutes.
        `counts` holds the attempt against the document, which is failed after too many of them;
        False is for the outage of a dependency, which may last as long as it likes.
        """
        ...

    def job(self, job_id: int) -> Job:
        """One row of the ledger."""
        ...

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
        """Rows of the ledger, newest first, with ids below `before`.

        `parent` is the job of an archive, whose files' rows are asked for.
        """
        ...

    def last_change(self) -> int:
        """The number of the ledger's latest change; `job_changes` goes on from there."""
        ...

    def job_changes(
        self, after: int, *, collections: Sequence[str] | None = None, limit: int = 100
    ) -> tuple[Job, ...]:
        """Jobs that changed since, each once and as it is now, by their `change`.

        Of those of `collections` that exist, or of all.
        """
        ...

    def workers(self) -> tuple[str, ...]:
        """The owners of claims that are alive, in whatever process."""
        ...

    def secret(self, name: str) -> bytes:
        """32 random bytes of that name: made once, the same for every process from then on."""
        ...

    def unsettled(
        self, collection: str, *, after: str | None = None, limit: int = 100
    ) -> tuple[Job, ...]:
        """Newest rows that are index jobs not done: one a document, by document id above `after`.

        Together with `documents` they are all that a collection knows.
        """
        ...

    def queue_depth(self) -> dict[JobState, int]:
        """How many rows of the ledger are in each unfinished or failed state."""
        ...

    def oldest(self, state: JobState) -> float | None:
        """When the oldest job in that state was accepted, seconds since the epoch; None: none."""
        ...

    def queue_bytes(self) -> int:
        """How much the uploads of unfinished jobs are together."""
        ...

    # Documents
    def document(self, collection: str, document_id: str) -> Document:
        """One searchable document."""
        ...

    def documents(
        self, collection: str, *, after: str | None = None, limit: int = 100
    ) -> tuple[Document, ...]:
        """Searchable documents by id, with ids above `after`."""
        ...

    def document_text(self, collection: str, document_id: str) -> Iterator[str]:
        """The text that offsets point into, in pieces of at most some megabytes.

        `NotFoundError` comes from the call, and from the iterator when the document is replaced or
        deleted while it is read.
        """
        ...

    def document_parts(self, collection: str, document_id: str) -> Iterator[ParsedDocument]:
        """The document as it was committed, part by part, with its structure.

        One that an earlier release stored has no structure but its paragraphs.
        """
        ...

    def delete_document(self, collection: str, document_id: str) -> None:
        """Remove a document and cancel its unfinished work; gone when this returns.

        The id of an archive stands for all its files.
        """
        ...

    # Search
    def reader(self, collection: str) -> AbstractContextManager[Reader]:
        """Open a consistent view; keep it short."""
        ...


class Spool(Protocol):
    """A file on the store's disk that is being written; remove it unless it is accepted."""

    def write(self, piece: bytes) -> None:
        """Append; raises `StoreError` (`disk_full`) when it doesn't fit."""
        ...

    def finish(self) -> SpooledFile:
        """Make it durable; it stays until it is accepted or discarded."""
        ...

    def discard(self) -> None:
        """Remove it, whatever its state, unless a job owns it; harmless when repeated."""
        ...
