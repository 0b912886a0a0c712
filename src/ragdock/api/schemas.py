"""What travels over HTTP: strict on the way in, complete on the way out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from ragdock.api.fields import (
    MAX_URLS,
    DocumentId,
    FileName,
    FilterObject,
    MetadataObject,
    Name,
    Question,
    Text,
    TopK,
    Url,
)
from ragdock.core.ids import PublicIds
from ragdock.errors import FetchError
from ragdock.types import Collection, Document, Job, JobState

__all__ = [
    "Accepted",
    "AcceptedList",
    "AskAnswer",
    "AskRequest",
    "CollectionBody",
    "CollectionList",
    "CollectionRequest",
    "DocumentBody",
    "DocumentList",
    "ErrorBody",
    "FetchedDocument",
    "FetchedList",
    "HealthBody",
    "Out",
    "Problem",
    "SearchRequest",
    "SearchResult",
    "TextDocument",
    "TextDocuments",
    "UrlsRequest",
    "error_of",
    "job_id",
    "rfc3339",
]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Out(BaseModel):
    """What is answered: complete, and nothing else."""

    model_config = ConfigDict(extra="forbid")


class FieldError(Out):
    """What is wrong with one field."""

    field: str
    message: str


class Problem(Out):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str | None = None
    errors: list[FieldError] | None = None


class CollectionRequest(_In):
    """A collection to make."""

    name: Name


class ReindexBody(Out):
    """Another index that is being built beside the one that is searched."""

    percent: int


class CollectionBody(Out):
    """A collection; `reindex` is there while it is indexed anew."""

    name: str
    n_documents: int
    n_chunks: int
    generation: int
    fingerprint: str
    created_at: str
    reindex: ReindexBody | None = None

    @classmethod
    def of(cls, collection: Collection) -> CollectionBody:
        """The body of a collection."""
        return cls(
            name=collection.name,
            n_documents=collection.n_documents,
            n_chunks=collection.n_chunks,
            generation=collection.generation,
            fingerprint=collection.fingerprint,
            created_at=rfc3339(collection.created_at),
            reindex=None
            if collection.reindex_percent is None
            else ReindexBody(percent=collection.reindex_percent),
        )


class CollectionList(Out):
    """All collections."""

    collections: list[CollectionBody]


class TextDocument(_In):
    """A document given as text."""

    text: Text
    id: DocumentId | None = None
    filename: FileName | None = None
    metadata: MetadataObject = Field(default_factory=dict)


class TextReplacement(_In):
    """A document's new text."""

    text: Text
    filename: FileName | None = None
    metadata: MetadataObject = Field(default_factory=dict)


class TextDocuments(_In):
    """Documents given as text."""

    documents: Annotated[list[TextDocument], Field(min_length=1)]
    collection: Name | None = None


class ErrorBody(Out):
    """Why a document failed."""

    code: str
    message: str


class Accepted(Out):
    """A document that was accepted, and where its processing stands."""

    id: str
    filename: str
    status: JobState
    job_id: str
    outcome: str | None
    error: ErrorBody | None

    @classmethod
    def of(cls, job: Job, ids: PublicIds) -> Accepted:
        """The body of an index job."""
        return cls(
            id=job.document_id,
            filename=job.filename,
            status=job.state,
            job_id=job_id(ids, job.id),
            outcome=job.outcome,
            error=error_of(job),
        )


class AcceptedList(Out):
    """The documents of one request, in its order."""

    documents: list[Accepted]


class UrlsRequest(_In):
    """URLs to fetch; `metadata` is for all of them."""

    urls: Annotated[list[Url], Field(min_length=1, max_length=MAX_URLS)]
    collection: Name | None = None
    metadata: MetadataObject = Field(default_factory=dict)
    wait: bool = False


class FetchedDocument(Out):
    """A URL, and the document that it became; one that can't be fetched has no id and no job."""

    url: str
    id: str | None
    filename: str | None
    status: JobState
    job_id: str | None
    outcome: str | None
    error: ErrorBody | None

    @classmethod
    def of(cls, url: str, job: Job, ids: PublicIds) -> FetchedDocument:
        """The body of a URL's index job."""
        return cls(url=url, **Accepted.of(job, ids).model_dump())

    @classmethod
    def failed(cls, url: str, error: FetchError) -> FetchedDocument:
        """The body of a URL that can't be fetched."""
        return cls(
            url=url,
            id=None,
            filename=None,
            status=JobState.FAILED,
            job_id=None,
            outcome=None,
            error=ErrorBody(code=error.code, message=str(error)),
        )


class FetchedList(Out):
    """The URLs of one request, in its order, each once."""

    documents: list[FetchedDocument]


class DocumentBody(Out):
    """A document; `status` is its newest job's, counts are those of the searchable version.

    `version` is the id of the job that wrote the searchable version.
    """

    id: str
    collection: str
    filename: str
    media_type: str
    title: str
    status: JobState
    error: ErrorBody | None
    size_bytes: int
    sha256: str
    version: str | None
    n_characters: int
    n_chunks: int
    n_pages: int
    metadata: dict[str, Any]
    created_at: str
    updated_at: str
    job_id: str

    @classmethod
    def of(cls, document: Document, job: Job | None, ids: PublicIds) -> DocumentBody:
        """The body of a searchable document and its newest job."""
        return cls(
            id=document.id,
            collection=document.collection,
            filename=document.filename,
            media_type=document.media_type,
            title=document.title,
            status=job.state if job else JobState.DONE,
            error=error_of(job) if job else None,
            size_bytes=document.size_bytes,
            sha256=document.sha256,
            version=job_id(ids, document.version),
            n_characters=document.n_characters,
            n_chunks=document.n_chunks,
            n_pages=document.n_pages,
            metadata=document.metadata,
            created_at=rfc3339(document.created_at),
            updated_at=rfc3339(document.updated_at),
            job_id=job_id(ids, job.id if job else document.version),
        )

    @classmethod
    def of_job(cls, job: Job, ids: PublicIds) -> DocumentBody:
        """The body of a document that is not searchable (yet)."""
        return cls(
            id=job.document_id,
            collection=job.collection,
            filename=job.filename,
            media_type=job.media_type,
            title="",
            status=job.state,
            error=error_of(job),
            size_bytes=job.size_bytes,
            sha256=job.sha256,
            version=None,
            n_characters=0,
            n_chunks=0,
            n_pages=0,
            metadata=job.metadata,
            created_at=rfc3339(job.created_at),
            updated_at=rfc3339(job.updated_at),
            job_id=job_id(ids, job.id),
        )


class DocumentList(Out):
    """A page of documents; `next` is the `after` of the next page."""

    documents: list[DocumentBody]
    next: str | None


class SearchRequest(_In):
    """What to search for."""

    query: Annotated[Question, Field(examples=["when does the ferry leave"])]
    collection: Name = "default"
    top_k: TopK | None = None
    mode: Literal["hybrid", "lexical", "dense"] = "hybrid"
    filters: FilterObject | None = None


class AskRequest(_In):
    """What to answer."""

    question: Annotated[Question, Field(examples=["When does the last ferry leave?"])]
    collection: Name = "default"
    top_k: TopK | None = None
    filters: FilterObject | None = None
    stream: bool = False


class Scores(Out):
    """BM25, cosine and the fused score that ranks; null: not found by that side."""

    lexical: float | None
    dense: float | None
    fused: float


Page: TypeAlias = Annotated[
    int | None, Field(description="the page's number in the file, from 1; null without pages")
]
PageLabel: TypeAlias = Annotated[
    str | None,
    Field(
        description="the page's own name where it differs from its number; else null",
        examples=["iv"],
    ),
]


class HitBody(Out):
    """A passage: `text` is the document's text from `start` to `end`."""

    document_id: str
    filename: str
    title: str
    page: Page
    page_label: PageLabel
    start: int
    end: int
    text: str
    metadata: dict[str, Any]
    scores: Scores


class SearchResult(Out):
    """Passages, best first."""

    query: str
    collection: str
    mode: str
    hits: list[HitBody]
    cache: Literal["hit", "miss", "bypass"]
    timings_ms: dict[str, float]


class CitationBody(Out):
    """Evidence: `quote` is the document's text from `start` to `end`."""

    marker: int
    document_id: str
    filename: str
    page: Page
    page_label: PageLabel
    start: int
    end: int
    quote: str
    score: float


class AskAnswer(Out):
    """An answer with [n] markers and the citations they name."""

    question: str
    collection: str
    answer: str
    citations: list[CitationBody]
    grounded: bool
    generator: str
    fallback_reason: Literal["timeout", "http", "connection", "cut", "protocol", "busy"] | None
    cache: Literal["hit", "miss", "bypass"]
    timings_ms: dict[str, float]


class DependencyBody(Out):
    """One dependency's last check."""

    name: str
    status: Literal["ok", "down"]
    latency_ms: float
    required: bool
    detail: str | None


class HealthBody(Out):
    """Whether the server can serve, and how its dependencies are."""

    status: Literal["ok", "degraded", "unavailable"]
    version: str
    environment: str
    uptime_seconds: float
    dependencies: list[DependencyBody]
    queue: dict[str, int]


class StatusBody(Out):
    """One word."""

    status: str


def error_of(job: Job) -> ErrorBody | None:
    """Why it failed, or waits."""
    if job.error_code is None:
        return None
    return ErrorBody(code=job.error_code, message=job.error or "")


def rfc3339(seconds: float) -> str:
    """A time as RFC 3339 has it, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def job_id(ids: PublicIds, number: int) -> str:
    """A job's number as callers see it."""
    return ids.encode("job", number)
