"""What the services need from the world, as Protocols; `tests/contracts` says what they mean.

Everything here is synchronous and safe to call from several threads: the HTTP layer runs it in a
bounded thread pool, never on the event loop. No word of SQLite, ONNX or Redis belongs here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Generator as Steps
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from ragdock.core.filters import Filter
from ragdock.core.gcra import Limit
from ragdock.core.gcra import Verdict as Granted
from ragdock.types import (
    ApiKey,
    Chunk,
    Collection,
    Content,
    DenseResult,
    Document,
    FetchedFile,
    Hit,
    Job,
    JobStage,
    JobState,
    Member,
    ParsedDocument,
    ScoredChunk,
    SpooledFile,
    Upload,
    Vector,
    Vectors,
    Verdict,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "AuditLog",
    "Build",
    "Cache",
    "Embedder",
    "Fetcher",
    "Generator",
    "Keeper",
    "KeyStore",
    "Metrics",
    "Parser",
    "RateLimiter",
    "Reader",
    "Spool",
    "Store",
    "StoreCopy",
    "Transfer",
]


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
        before: int | None = None,
        limit: int = 100,
    ) -> tuple[Job, ...]:
        """Rows of the ledger, newest first, with ids below `before`."""
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
        """Remove a document and cancel its unfinished work; gone when this returns."""
        ...

    # Search
    def reader(self, collection: str) -> AbstractContextManager[Reader]:
        """Open a consistent view; keep it short."""
        ...


class Build(Protocol):
    """A collection's next index, made beside the live one, which goes on being read and written.

    It holds documents by version; what it has stays when it is closed or killed.
    """

    def counts(self) -> tuple[int, int, int]:
        """Documents and characters of the collection, and characters of what the build lacks."""
        ...

    def lacking(self, after: str | None = None, limit: int = 100) -> tuple[Document, ...]:
        """Documents whose current version the build doesn't have, by id, with ids above `after`."""
        ...

    def parts(self, document: Document) -> Iterator[ParsedDocument]:
        """The document as it was committed; `NotFoundError` when that version is gone."""
        ...

    def stage(
        self, document: Document, parsed: ParsedDocument, chunks: Sequence[Chunk], vectors: Vectors
    ) -> None:
        """Write a part of a large document."""
        ...

    def commit(
        self, document: Document, parsed: ParsedDocument, chunks: Sequence[Chunk], vectors: Vectors
    ) -> None:
        """Write a document, or its last part."""
        ...

    def remove_gone(self) -> int:
        """Remove documents that were deleted since they were built; how many it were."""
        ...

    def settle(self) -> None:
        """Do now what of the switch can be done before it."""
        ...

    def note(self, percent: int) -> None:
        """Tell everybody how far it is."""
        ...

    def locked(self) -> AbstractContextManager[Callable[[], None]]:
        """Hold writers up as long as the block runs; yields what makes the build the index.

        That takes effect, for every process at once, when the block ends well. Raises
        `NotFoundError` when the collection was dropped.
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Transfer(Protocol):
    """Whole documents out of a store and into one, past the ledger's queue."""

    def exported(self, collection: str) -> Iterator[tuple[Document, Iterator[Content]]]:
        """Each document with its parts, to be read before the next document is asked for."""
        ...

    def imported(self, collection: str, document: Document, contents: Iterator[Content]) -> bool:
        """Put a document in place of its earlier version; False when it is there as it is."""
        ...


class StoreCopy(Protocol):
    """A store's files as of now, which fit together though others write meanwhile."""

    @property
    def size_bytes(self) -> int:
        """About how much it will be."""
        ...

    def members(self) -> Iterator[Member]:
        """Every file; each is to be read before the next is asked for."""
        ...

    def notes(self) -> dict[str, Any]:
        """What `Keeper.settle` needs, and counts, as JSON; complete after the last member."""
        ...


class Keeper(Protocol):
    """A store as a whole: copied, put back, checked; needs no open `Store`."""

    def copy(self, scratch: Path) -> StoreCopy:
        """Copy what there is; `scratch` has room for the largest file. Stops no writer."""
        ...

    def is_member(self, name: str) -> bool:
        """Whether a copy of this store may hold a file of that name."""
        ...

    def adopt(self, *, force: bool) -> AbstractContextManager[tuple[Path, list[Path]]]:
        """Yield a place for a copy's files, and a list for where the old store went.

        What is there when the block ends well is the store from then on; on an exception nothing
        has changed. Raises `ConflictError` while the store is in use, or when there is one already
        and not `force`.
        """
        ...

    def settle(self, staging: Path, notes: Mapping[str, Any]) -> None:
        """Make the files of a copy one store, unlike every state that caches may know."""
        ...

    def verify(self, *, quick: bool, progress: Callable[[str, int, int], None]) -> Verdict:
        """Check everything, beside a server too; `quick` leaves texts and vectors unread.

        `progress` is told what is looked at, how many documents are done, and of how many.
        """
        ...


class KeyStore(Protocol):
    """API keys, durable and shared by all processes; rows are revoked, never removed."""

    def add(self, key: ApiKey) -> None:
        """Keep a key; `ConflictError` when a key that isn't revoked has its name or id."""
        ...

    def all(self) -> tuple[ApiKey, ...]:
        """All keys, revoked ones too, oldest first."""
        ...

    def revoke(self, key_id: str, at: float) -> None:
        """From now on it opens nothing, in no process; harmless when repeated."""
        ...

    def touch(self, used: Mapping[str, float]) -> None:
        """Note when keys were last used, by id; an earlier time than the known one is ignored."""
        ...

    def peek(self, key_id: str) -> ApiKey | None:
        """One key as of now, in microseconds and without waiting: the event loop may call this."""
        ...

    def peek_count(self) -> int:
        """How many keys were ever made; for the event loop as well."""
        ...

    def close(self) -> None:
        """Release everything."""
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


class Embedder(Protocol):
    """Text to unit vectors. Deterministic: a text's vector depends on nothing but the text."""

    @property
    def id(self) -> str:
        """Names weights and processing; two embedders with the same id agree on vectors."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    @property
    def max_tokens(self) -> int:
        """Tokens beyond this are cut off."""
        ...

    def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Vectors:
        """(len(texts), dim) float32, unit rows. Urgent work (a query) goes before bulk work.

        Raises `EmbedderError` when the embedder fails or its queue is full.
        """
        ...

    def n_tokens(self, text: str) -> int:
        """Tokens of the text, special ones not counted (an estimate where the model is remote)."""
        ...

    def familiarity(self, text: str) -> float:
        """0..1: how well the model knows this text's language; 1.0 when it can't tell."""
        ...

    def ping(self) -> None:
        """Return when the embedder can embed."""
        ...

    def close(self) -> None:
        """Release threads and memory."""
        ...


class Cache(Protocol):
    """A key-value store that may lose anything at any moment; never raises on get or set."""

    def get(self, key: str) -> bytes | None:
        """The value, or None: absent, expired or unreachable."""
        ...

    def peek(self, key: str) -> bytes | None:
        """The value if it is in this process, else None; never waits, so the event loop may ask."""
        ...

    def set(self, key: str, value: bytes, ttl_seconds: int) -> None:
        """Keep the value for at most `ttl_seconds`, if possible."""
        ...

    def ping(self) -> None:
        """Return when reachable, raise `CacheError` when not (has its own short deadline)."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...


class Generator(Protocol):
    """Writes an answer from passages, citing them as [1]..[n] in the order given."""

    @property
    def id(self) -> str:
        """Names the model; part of the answer and, with `PROMPT_ID`, of cache keys."""
        ...

    def generate(self, question: str, passages: Sequence[Hit]) -> str:
        """The whole answer text with [n] markers; raises `GeneratorError`."""
        ...

    def stream(self, question: str, passages: Sequence[Hit]) -> Steps[str, None, None]:
        """The answer text in pieces; raises `GeneratorError`, also after some pieces."""
        ...

    def ping(self) -> None:
        """Return when reachable, raise `GeneratorError` when not (short deadline)."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...


class Parser(Protocol):
    """Bytes to text with structure."""

    def parts(
        self, content: BinaryIO, filename: str, media_type: str
    ) -> Steps[ParsedDocument, None, None]:
        """The document in parts (one, when it is small), each as soon as it is read.

        Raises `DocumentError`, also after some parts, when the bytes can't become text. Bounded in
        time and memory; closing the generator ends the work.
        """
        ...

    def close(self) -> None:
        """End child processes."""
        ...


class RateLimiter(Protocol):
    """Counts requests, for all who share it; never raises."""

    @property
    def instant(self) -> bool:
        """Whether `take` would answer without waiting, so that the event loop may call it."""
        ...

    def take(self, limit: Limit, wanted: int = 1) -> Granted:
        """Grant up to `wanted` requests to the limit's holder."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...


class AuditLog(Protocol):
    """Where it is recorded who did what."""

    def write(self, record: Mapping[str, object]) -> None:
        """Append one record, which holds what JSON can; raises `OSError` when that fails."""
        ...

    def close(self) -> None:
        """Release files."""
        ...


class Fetcher(Protocol):
    """Content from URLs that strangers name."""

    def fetch(self, url: str, write: Callable[[bytes], None], deadline: float) -> FetchedFile:
        """Hand the content to `write` by `deadline` (monotonic clock); raises `FetchError`."""
        ...


class Metrics(Protocol):
    """Numbers for an operator; names and labels are those of the adapters' table."""

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        ...

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Record a duration."""
        ...

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a current value."""
        ...

    def render(self) -> bytes:
        """All of them, as an exposition text."""
        ...
