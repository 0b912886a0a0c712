"""The nouns that the layers exchange: frozen, without behaviour beyond what their data implies.

All offsets are code points into the document's text, half open: `text[start:end]`. The text of a
plain-text format is the file as decoded (without a byte-order mark); of others, what was extracted,
as `GET /v1/documents/{id}/text` answers it. All times are UTC, in seconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    # Parser children need the nouns and not NumPy, which costs them 100 ms and 25 MB each.
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Answer",
    "ApiKey",
    "Block",
    "BlockKind",
    "Bounds",
    "Chunk",
    "Citation",
    "Collection",
    "Content",
    "DenseResult",
    "Document",
    "FetchedFile",
    "Hit",
    "Int8Matrix",
    "Job",
    "JobKind",
    "JobStage",
    "JobState",
    "KeptAnswer",
    "Metadata",
    "MetadataValue",
    "PageSpan",
    "ParsedDocument",
    "Principal",
    "Right",
    "ScoredChunk",
    "SearchMode",
    "SpooledFile",
    "Upload",
    "Vector",
    "Vectors",
]

MetadataValue: TypeAlias = str | int | float | bool | list[str]
Metadata: TypeAlias = dict[str, MetadataValue]

Vector: TypeAlias = "NDArray[np.float32]"
"""Shape (dim,), float32, unit norm."""
Vectors: TypeAlias = "NDArray[np.float32]"
"""Shape (n, dim), float32, rows of unit norm."""
Int8Matrix: TypeAlias = "NDArray[np.int8]"
"""Shape (n, dim), int8: a unit row times 127 / max(abs(row)), rounded."""

SearchMode: TypeAlias = Literal["hybrid", "lexical", "dense"]


class BlockKind(StrEnum):
    """What a stretch of a document is, so that the chunker can cut between and not through."""

    HEADING = "heading"
    PARAGRAPH = "paragraph"
    LIST = "list"
    TABLE = "table"
    CODE = "code"
    RECORD = "record"


@dataclass(frozen=True, slots=True)
class Block:
    """One structural unit of a document: `text[start:end]`; `level` is 1-6 for headings, else 0.

    `label` is the heading's text as a reader would say it (no markup), a table's header row, the
    first line of a definition in code, or the names of a record's fields; it becomes context of the
    chunks below it.
    """

    start: int
    end: int
    kind: BlockKind
    level: int = 0
    label: str = ""


@dataclass(frozen=True, slots=True)
class PageSpan:
    """Page `number` (1-based) covers `text[start:end]`.

    `label` is the page's own name ("iv", "A-3") where it isn't the number's digits, else empty.
    """

    number: int
    start: int
    end: int
    label: str = ""


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """A document as text: blocks and pages ascend and do not overlap; gaps are white space.

    A large document comes in parts. A part's blocks and pages count from the part's own first
    character, which is the document's character `start`; the parts' texts, joined, are the
    document's text. The title is the first part's. `done` tells about how much of the document
    has been read with this part (0 to 1). `n_scanned` is how many pages since the part before hold
    pictures and no text.
    """

    text: str
    blocks: tuple[Block, ...]
    pages: tuple[PageSpan, ...] = ()
    title: str = ""
    start: int = 0
    done: float = 1.0
    n_scanned: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage: always `text == document.text[start:end]`.

    `context` (title, heading path, table header) is embedded and indexed with the text, and is
    never part of a quotation. `page` is the page on which the passage starts, if there are pages,
    and `page_label` that page's label.
    """

    ordinal: int
    start: int
    end: int
    text: str
    context: str = ""
    page: int | None = None
    page_label: str = ""


@dataclass(frozen=True, slots=True)
class Collection:
    """A set of documents with one embedding fingerprint; `generation` counts its changes.

    `reindex_percent` tells how far another index is that is being built beside it, if there is one.
    """

    id: str
    name: str
    generation: int
    fingerprint: str
    n_documents: int
    n_chunks: int
    created_at: float
    reindex_percent: int | None = None


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """What a URL's content is; `page` is the URL without its query, which may hold secrets.

    `media_type` is the declared one, or empty. `document_id` is the same for the same URL.
    """

    document_id: str
    page: str
    filename: str
    media_type: str


@dataclass(frozen=True, slots=True)
class SpooledFile:
    """Bytes on the store's disk that no job owns yet; `Store.accept` takes them over."""

    path: Path
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one archive may unpack to, and what of that other archives in it have used up."""

    max_files: int
    max_bytes: int
    used_files: int = 0
    used_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Upload:
    """What a caller hands in: one document's bytes and what is known of them."""

    document_id: str
    filename: str
    media_type: str
    content: bytes | SpooledFile
    sha256: str
    metadata: Metadata = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """How much it is."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.size_bytes


@dataclass(frozen=True, slots=True)
class Document:
    """A searchable document; `version` is the ledger number of the write that made it."""

    id: str
    collection: str
    filename: str
    media_type: str
    title: str
    size_bytes: int
    sha256: str
    version: int
    n_characters: int
    n_chunks: int
    n_pages: int
    metadata: Metadata
    created_at: float
    updated_at: float


Content: TypeAlias = "tuple[ParsedDocument, tuple[Chunk, ...], Vectors]"
"""A part of a document with its passages and their vectors, (n_chunks, dim)."""


class JobStage(StrEnum):
    """What a job in work is at; `percent` says how far the whole job is."""

    PARSE = "parse"
    EMBED = "embed"
    COMMIT = "commit"


class Right(StrEnum):
    """What a key may do; `admin` holds the others, of which none holds another.

    `metrics` is an operator's: `/metrics`, and nothing of anybody's documents.
    """

    READ = "read"
    WRITE = "write"
    METRICS = "metrics"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a key, or anybody where no key is needed.

    `collections` is None for all of them. `rate_per_minute` is None for the server's default.
    """

    key_id: str
    name: str
    rights: frozenset[Right]
    collections: frozenset[str] | None = None
    rate_per_minute: int | None = None

    def may(self, right: Right) -> bool:
        """Whether it has the right."""
        return right in self.rights or Right.ADMIN in self.rights

    def sees(self, collection: str) -> bool:
        """Whether the collection exists for it."""
        return self.collections is None or collection in self.collections


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key: never its secret, only the secret's SHA-256.

    `collections` is None for all of them, `expires_at` for never; `last_used_at` is right to a
    minute or two.
    """

    id: str
    name: str
    hash: bytes = field(repr=False)
    rights: frozenset[Right]
    collections: frozenset[str] | None = None
    rate_per_minute: int | None = None
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None

    def is_valid(self, now: float) -> bool:
        """Whether it opens anything at that time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class JobKind(StrEnum):
    """What a row of the ledger asks for."""

    INDEX = "index"
    DELETE = "delete"


class JobState(StrEnum):
    """Where a row of the ledger stands."""

    PENDING = "pending"
    PROCESSING = "processing"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Job:
    """A row of the ledger: accepted work and its state. `id` ascends in order of acceptance.

    `outcome` of a done job is `indexed`, `unchanged` (same content, nothing to do), `superseded`
    (a later write of the same document won), `deleted`, or `expanded` (an archive whose files are
    jobs of their own, with this one as `parent_id`). `stage`, `percent` (0-100) and `worker` tell
    of a job in work, `next_attempt_at` of one that waits for its next attempt. `token` grows with
    each claim, so that the store can tell a worker that has lost the job. `change` numbers the
    ledger's changes, of which this is the job's latest.
    """

    id: int
    collection_id: str
    collection: str
    document_id: str
    kind: JobKind
    state: JobState
    filename: str
    media_type: str
    size_bytes: int
    sha256: str
    metadata: Metadata
    attempt: int
    outcome: str | None
    error_code: str | None
    error: str | None
    created_at: float
    updated_at: float
    stage: JobStage | None = None
    percent: int = 0
    next_attempt_at: float | None = None
    worker: str | None = None
    parent_id: int | None = None
    token: int = 0
    change: int = 0


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """The first answer to a write with an idempotency key; `request` is the request's digest."""

    request: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class ScoredChunk:
    """A chunk's id with one side's score: BM25 (larger is better) or cosine."""

    chunk_id: int
    score: float


@dataclass(frozen=True, slots=True)
class DenseResult:
    """The nearest chunks, best first, and `baseline`: the mean cosine of the query's top 1,000."""

    hits: tuple[ScoredChunk, ...]
    baseline: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found, with the scores that explain its place (None: not found by that side)."""

    chunk_id: int
    document_id: str
    filename: str
    title: str
    page: int | None
    page_label: str
    start: int
    end: int
    text: str
    context: str
    metadata: Metadata
    lexical: float | None
    dense: float | None
    fused: float


@dataclass(frozen=True, slots=True)
class Citation:
    """Evidence: `quote == document.text[start:end]`. `marker` is the [n] in the answer."""

    marker: int
    document_id: str
    filename: str
    page: int | None
    page_label: str
    start: int
    end: int
    quote: str
    score: float


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and its evidence.

    `generator` names what wrote it (`extractive`, or `openai:<model>`); `fallback_reason` is set
    when the LLM failed and the extractive answer stands in. `grounded` is true when at least one
    citation was checked against the sources, false for "I don't know".
    """

    text: str
    citations: tuple[Citation, ...]
    grounded: bool
    generator: str
    fallback_reason: str | None = None
