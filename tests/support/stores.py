"""Shorthands for tests that write to a store and search it."""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ragdock.core.filters import parse_filter
from ragdock.ports import Spool, Store
from ragdock.types import Chunk, Job, Metadata, ParsedDocument, Upload, Vectors
from support.embedders import HashEmbedder

__all__ = [
    "DIM",
    "EMBEDDER",
    "claimed",
    "commit",
    "content",
    "found",
    "index",
    "memory_directory",
    "part_of",
    "purge_all",
    "put",
    "spooled",
    "stage_parts",
    "text_of",
    "upload",
]

DIM = 64
EMBEDDER = HashEmbedder(DIM)


def upload(document_id: str, text: str = "some text", **metadata: object) -> Upload:
    """An upload of a Markdown file named after the document."""
    content = text.encode()
    return Upload(
        document_id=document_id,
        filename=f"{document_id}.md",
        media_type="text/markdown",
        content=content,
        sha256=hashlib.sha256(content).hexdigest(),
        metadata=dict(metadata),  # type: ignore[arg-type]
    )


def spooled(document_id: str, spool: Spool) -> Upload:
    """An upload of what was written to the spool."""
    file = spool.finish()
    return Upload(document_id, f"{document_id}.md", "text/markdown", file, file.sha256)


def commit(
    store: Store,
    job: Job,
    text: str | None = None,
    *,
    chunks: Sequence[Chunk] | None = None,
    vectors: Vectors | None = None,
) -> Job:
    """Commit a claimed job: its content as text, a chunk a paragraph, hashed words as vectors."""
    text = content(store, job.id).decode() if text is None else text
    if chunks is None:
        chunks = _paragraphs(text)
    if vectors is None:
        vectors = EMBEDDER.embed([f"{chunk.context} {chunk.text}" for chunk in chunks])
    return store.commit_document(job, ParsedDocument(text, ()), chunks, vectors)


def content(store: Store, job_id: int) -> bytes:
    """The upload of a job."""
    with store.open_content(job_id) as file:
        return file.read()


def text_of(store: Store, document_id: str, collection: str = "c") -> str:
    """A document's whole text."""
    return "".join(store.document_text(collection, document_id))


def _paragraphs(text: str, start: int = 0) -> list[Chunk]:
    chunks = []
    for ordinal, part in enumerate(text.split("\n\n")):
        chunks.append(Chunk(ordinal, start, start + len(part), part))
        start += len(part) + 2
    return chunks


def claimed(store: Store, document_id: str, text: str | None = None) -> Job:
    """A job of a new upload, in work."""
    text = f"source {uuid.uuid4()}" if text is None else text
    store.accept("c", [upload(document_id, text)])
    (job,) = store.claim(f"worker-{os.getpid()}-{id(store)}", 1, 60.0)
    return job


def part_of(
    paragraphs: Sequence[str], start: int, *, last: bool = False
) -> tuple[ParsedDocument, list[Chunk], Vectors]:
    """A part that begins at the character `start`, and its chunks: one a paragraph."""
    text = "\n\n".join(paragraphs)
    vectors = EMBEDDER.embed(list(paragraphs))
    parsed = ParsedDocument(text if last else f"{text}\n\n", (), start=start)
    return parsed, _paragraphs(text, start), vectors


def stage_parts(
    store: Store, job: Job, parts: Sequence[Sequence[str]]
) -> tuple[ParsedDocument, list[Chunk], Vectors]:
    """Stage all parts but the last, which is answered."""
    start = 0
    for paragraphs in parts[:-1]:
        part = part_of(paragraphs, start)
        store.stage(job, *part)
        start += len(part[0].text)
    return part_of(parts[-1], start, last=True)


def purge_all(store: Store, limit: int = 1000) -> int:
    """Purge until nothing is left; how much it was."""
    total = 0
    while n := store.purge(limit):
        total += n
    return total


def index(store: Store) -> list[Job]:
    """Claim and commit all that is pending, under a name of the handle's own."""
    done = []
    while jobs := store.claim(f"worker-{os.getpid()}-{id(store)}", 100, 60.0):
        done += [commit(store, job) for job in jobs]
    return done


def put(
    store: Store, document_id: str, text: str, collection: str = "c", **metadata: object
) -> Job:
    """Upload and index one document."""
    (job,) = store.accept(collection, [upload(document_id, text, **metadata)])
    index(store)
    return store.job(job.id)


def found(
    store: Store,
    query: str,
    filters: Metadata | dict[str, object] | None = None,
    *,
    side: str = "lexical",
    collection: str = "c",
    limit: int = 10,
) -> list[str]:
    """Ids of the documents that one side finds, best first."""
    where = parse_filter(filters)
    with store.reader(collection) as reader:
        if side == "lexical":
            scored = reader.lexical(query, limit, where)
        else:
            scored = reader.dense(EMBEDDER.embed([query])[0], limit, where).hits
        hits = reader.hits([one.chunk_id for one in scored])
    return [hits[one.chunk_id].document_id for one in scored]


@contextmanager
def memory_directory() -> Iterator[Path]:
    """A directory that costs no disk writes, where the machine has one: fsync is most of a test."""
    shm = Path("/dev/shm")
    where = shm if shm.is_dir() and os.access(shm, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where, prefix="ragdock-test-") as name:
        yield Path(name)
