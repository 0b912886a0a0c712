"""The nouns that the layers exchange: frozen, without behaviour beyond what their data implies.

All offsets are code points into the document's text, half open: `text[start:end]`. The text of a
plain-text format is the file as decoded (without a byte-order mark), so a citation's span, cut from
the source file, is the quoted text; for PDF, DOCX and HTML it is the extracted text, which
`GET /v1/documents/{id}/text` answers. All times are UTC, in seconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    # Parser children need the nouns and not NumPy, which costs them 100 ms and 25 MB each.
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Answer",
    "Block",
    "BlockKind",
    "Chunk",
    "Citation",
    "Collection",
    "DenseResult",
    "Document",
    "Hit",
    "Int8Matrix",
    "Job",
    "JobKind",
    "JobState",
    "Metadata",
    "MetadataValue",
    "PageSpan",
    "ParsedDocument",
    "ScoredChunk",
    "SearchMode",
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
    """Page `number` (1-based) covers `text[start:end]`."""

    number: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """A document as text: blocks and pages ascend and do not overlap; gaps are white space."""

    text: str
    blocks: tuple[Block, ...]
    pages: tuple[PageSpan, ...] = ()
    title: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage: always `text == document.text[start:end]`.

    `context` (title, heading path, table header) is embedded and indexed with the text, and is
    never part of a quotation. `page` is the page on which the passage starts, if there are pages.
    """

    ordinal: int
    start: int
    end: int
    text: str
    context: str = ""
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Collection:
    """A set of documents with one embedding fingerprint; `generation` counts its changes."""

    id: str
    name: str
    generation: int
    fingerprint: str
    n_documents: int
    n_chunks: int
    created_at: float


@dataclass(frozen=True, slots=True)
class Upload:
    """What a caller hands in: one document's bytes and what is known of them."""

    document_id: str
    filename: str
    media_type: str
    content: bytes
    sha256: str
    metadata: Metadata = field(default_factory=dict)


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
    (a later write of the same document won) or `deleted`.
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
