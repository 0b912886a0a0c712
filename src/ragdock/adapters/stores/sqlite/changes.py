"""What writes do inside their transactions: parts staged, documents in, earlier versions out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import apsw
import numpy as np

from ragdock.adapters.stores.sqlite.connections import fetch
from ragdock.adapters.stores.sqlite.dense import quantise
from ragdock.adapters.stores.sqlite.segments import make_live, put_away, record_segment
from ragdock.adapters.stores.sqlite.texts import to_stored
from ragdock.adapters.stores.sqlite.where import field_rows
from ragdock.core.terms import index_text
from ragdock.errors import DocumentError, IntegrityError, StoreError
from ragdock.types import Chunk, Job, ParsedDocument, Vectors

__all__ = [
    "BATCH_CHUNKS",
    "Outcome",
    "Part",
    "commit",
    "delete_document",
    "discard",
    "refuse_commits",
    "stage",
    "stage_batch",
]

# What one transaction writes at most: some 50 ms of the collection's write lock.
BATCH_CHUNKS: Final = 256
KEEP_REFUSED: Final = 1_000_000

Outcome: TypeAlias = Literal["indexed", "superseded", "refused"]


class Part:
    """A part of a document (or all of it) made ready; the work that needs no lock happens here.

    Raises `DocumentError` for text that UTF-8 can't say, `IntegrityError` for vectors that are not
    (n_chunks, dim) and finite.
    """

    def __init__(
        self,
        job: Job,
        parsed: ParsedDocument,
        chunks: Sequence[Chunk],
        vectors: Vectors,
        dim: int,
    ) -> None:
        if vectors.shape != (len(chunks), dim) or not np.isfinite(vectors).all():
            raise IntegrityError(
                f"Vectors of shape {vectors.shape} don't fit {len(chunks)} chunks of {dim} "
                "numbers, or aren't finite; was the embedder changed?"
            )
        self.job, self.parsed = job, parsed
        self._chunks, self._vectors = chunks, vectors
        self.stored = to_stored(parsed)
        try:
            for chunk in chunks:
                (chunk.context + chunk.page_label).encode()
        except UnicodeEncodeError as exc:
            raise DocumentError(
                "The document's text holds half a surrogate pair, which UTF-8 can't say."
            ) from exc

    @property
    def is_small(self) -> bool:
        """Whether one transaction may write it."""
        return len(self._chunks) <= BATCH_CHUNKS

    def batches(self) -> Iterator[_Batch]:
        """Its chunks, a transaction's worth at a time."""
        for start in range(0, len(self._chunks), BATCH_CHUNKS):
            piece = slice(start, start + BATCH_CHUNKS)
            yield _Batch(self._chunks[piece], self._vectors[piece])


class _Batch:
    """Chunks as rows of the tables."""

    def __init__(self, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        self._chunks = chunks
        self._rows8, self._scales = quantise(vectors)
        self._rows16 = vectors.astype(np.float16)
        self._words = [(index_text(chunk.text), index_text(chunk.context)) for chunk in chunks]

    def insert(self, connection: apsw.Connection, document: int, added: int | None) -> None:
        """Write the rows: hidden, or shown from the generation `added` on."""
        first = _next_chunk(connection)
        ids = range(first, first + len(self._chunks))
        connection.executemany(
            'INSERT INTO chunks (id, document, start, "end", page, context, text, page_label) '
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (i, document, c.start, c.end, c.page, c.context, c.text, c.page_label)
                for i, c in zip(ids, self._chunks, strict=True)
            ],
        )
        connection.executemany(
            "INSERT INTO words (rowid, text, context) VALUES (?, ?, ?)",
            [(i, *pair) for i, pair in zip(ids, self._words, strict=True)],
        )
        connection.executemany(
            "INSERT INTO vectors8 VALUES (?, ?, ?)",
            [
                (i, float(s), r.tobytes())
                for i, s, r in zip(ids, self._scales, self._rows8, strict=True)
            ],
        )
        connection.executemany(
            "INSERT INTO vectors16 VALUES (?, ?)",
            [(i, r.tobytes()) for i, r in zip(ids, self._rows16, strict=True)],
        )
        record_segment(connection, document, first, ids[-1], added)


@dataclass(frozen=True, slots=True)
class Draft:
    """A document whose parts are being written; `n` is its number among documents."""

    n: int
    title: str
    n_characters: int = 0
    n_parts: int = 0
    n_pages: int = 0
    last_page: int = 0


def stage(connection: apsw.Connection, part: Part) -> int | None:
    """Open the part's draft and write its text; None when nothing can come of the job any more."""
    job = part.job
    if _latest_version(connection, job.document_id) >= job.id or _is_refused(connection, job):
        return None
    draft = _with_text(connection, part, _draft_for(connection, part))
    connection.execute(
        "INSERT OR REPLACE INTO drafts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            draft.n,
            job.document_id,
            job.id,
            job.token,
            draft.title,
            draft.n_characters,
            draft.n_parts,
            draft.n_pages,
            draft.last_page,
        ),
    )
    return draft.n


def stage_batch(connection: apsw.Connection, document: int, batch: _Batch) -> None:
    """Write chunks of a staged part, unless the draft was discarded meanwhile."""
    if not fetch(connection, "SELECT 1 FROM drafts WHERE document = ?", (document,)):
        raise _lost()
    batch.insert(connection, document, None)


def commit(connection: apsw.Connection, part: Part, staged: int | None) -> Outcome:
    """Put the document in place of its earlier version, unless a later one is in.

    Refused when the job was cancelled after this worker got it. `staged` is the draft that holds
    the part's chunks already; otherwise they are written here.
    """
    job = part.job
    if _latest_version(connection, job.document_id) >= job.id:
        _discard_drafts(connection, job.document_id, job.id)
        searchable = _version(connection, job.document_id) == job.id
        return "indexed" if searchable else "superseded"
    if _is_refused(connection, job):
        return "refused"
    if staged is None:
        draft = _with_text(connection, part, _draft_for(connection, part))
    else:
        draft = _read_draft(connection, "document = ?", (staged,))
    generation = _next_generation(connection, job.id)
    created_at = _remove(connection, job.document_id, generation) or job.created_at
    connection.execute("DELETE FROM tombstones WHERE document_id = ?", (job.document_id,))
    if staged is None:
        for batch in part.batches():
            batch.insert(connection, draft.n, generation)
    n_chunks = make_live(connection, draft.n, generation)
    connection.execute("DELETE FROM drafts WHERE document = ?", (draft.n,))
    _discard_drafts(connection, job.document_id, job.id)
    _insert_document(connection, job, draft, n_chunks, created_at)
    connection.executemany(
        "INSERT INTO fields VALUES (?, ?, ?, ?)",
        [(draft.n, *row) for row in field_rows(job.metadata)],
    )
    connection.execute(
        "UPDATE state SET n_documents = n_documents + 1, n_chunks = n_chunks + ?", (n_chunks,)
    )
    return "indexed"


def delete_document(connection: apsw.Connection, document_id: str, version: int) -> None:
    """Remove the document if it is older than `version`, and refuse older writes from now."""
    if _latest_version(connection, document_id) >= version:
        return
    if _version(connection, document_id):
        _remove(connection, document_id, _next_generation(connection, version))
    _discard_drafts(connection, document_id, version)
    connection.execute(
        "INSERT INTO tombstones VALUES (?, ?) "
        "ON CONFLICT (document_id) DO UPDATE SET version = excluded.version",
        (document_id, version),
    )
    connection.execute("UPDATE state SET last_version = max(last_version, ?)", (version,))


def refuse_commits(connection: apsw.Connection, document_id: str, version: int, token: int) -> bool:
    """Refuse that version from workers with this token or an older one; False when it is in."""
    if _version(connection, document_id) == version:
        return False
    connection.execute(
        "INSERT INTO refused VALUES (?, ?) "
        "ON CONFLICT (version) DO UPDATE SET token = max(token, excluded.token)",
        (version, token),
    )
    connection.execute("DELETE FROM refused WHERE version < ?", (version - KEEP_REFUSED,))
    _discard_drafts(connection, document_id, version)
    return True


def _is_refused(connection: apsw.Connection, job: Job) -> bool:
    return bool(
        fetch(
            connection,
            "SELECT 1 FROM refused WHERE version = ? AND token >= ?",
            (job.id, job.token),
        )
    )


def discard(connection: apsw.Connection, document: int) -> None:
    """Give up a draft; its rows are purged later."""
    connection.execute("DELETE FROM drafts WHERE document = ?", (document,))
    if connection.changes():
        connection.execute("INSERT INTO dead VALUES (?)", (document,))


def _discard_drafts(connection: apsw.Connection, document_id: str, up_to_version: int) -> None:
    sql = "SELECT document FROM drafts WHERE document_id = ? AND version <= ?"
    for (document,) in fetch(connection, sql, (document_id, up_to_version)):
        discard(connection, document)


def _draft_for(connection: apsw.Connection, part: Part) -> Draft:
    """A new draft for a first part, the one under way for any other."""
    job = part.job
    if part.parsed.start == 0:
        _discard_drafts(connection, job.document_id, job.id)
        sql = "UPDATE state SET last_document = last_document + 1 RETURNING last_document"
        return Draft(fetch(connection, sql)[0][0], part.parsed.title)
    draft = _read_draft(connection, "version = ? AND token = ?", (job.id, job.token))
    if draft.n_characters != part.parsed.start:
        raise _lost()
    return draft


def _read_draft(connection: apsw.Connection, where: str, bindings: tuple[object, ...]) -> Draft:
    columns = "document, title, n_characters, n_parts, n_pages, last_page"
    rows = fetch(connection, f"SELECT {columns} FROM drafts WHERE {where}", bindings)
    if not rows:
        raise _lost()
    return Draft(*rows[0])


def _lost() -> StoreError:
    return StoreError(
        "What was staged of the document is gone: another attempt at it has begun.",
        code="staging_lost",
    )


def _with_text(connection: apsw.Connection, part: Part, draft: Draft) -> Draft:
    stored = part.stored
    connection.execute(
        "INSERT INTO texts VALUES (?, ?, ?, ?, ?)",
        (draft.n, draft.n_parts, stored.start, stored.deflated, stored.structure),
    )
    # A page that goes on in the next part is one page.
    pages = {page.number for page in part.parsed.pages if page.number != draft.last_page}
    return Draft(
        draft.n,
        draft.title,
        draft.n_characters + len(part.parsed.text),
        draft.n_parts + 1,
        draft.n_pages + len(pages),
        part.parsed.pages[-1].number if part.parsed.pages else draft.last_page,
    )


def _version(connection: apsw.Connection, document_id: str) -> int:
    rows = fetch(connection, "SELECT version FROM documents WHERE id = ?", (document_id,))
    return int(rows[0][0]) if rows else 0


def _latest_version(connection: apsw.Connection, document_id: str) -> int:
    rows = fetch(
        connection,
        "SELECT max(version) FROM (SELECT version FROM documents WHERE id = ? "
        "UNION ALL SELECT version FROM tombstones WHERE document_id = ?)",
        (document_id, document_id),
    )
    return int(rows[0][0] or 0)


def _next_generation(connection: apsw.Connection, version: int) -> int:
    rows = fetch(
        connection,
        "UPDATE state SET generation = generation + 1, last_version = max(last_version, ?), "
        "stamp = lower(hex(randomblob(8))) "
        "RETURNING generation",
        (version,),
    )
    return int(rows[0][0])


def _next_chunk(connection: apsw.Connection) -> int:
    rows = fetch(connection, "SELECT seq FROM sqlite_sequence WHERE name = 'chunks'")
    return int(rows[0][0]) + 1 if rows else 1


def _insert_document(
    connection: apsw.Connection, job: Job, draft: Draft, n_chunks: int, created_at: float
) -> None:
    connection.execute(
        "INSERT INTO documents (n, id, filename, media_type, title, size_bytes, sha256, version, "
        "n_characters, n_pages, metadata, created_at, updated_at, n_chunks) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            draft.n,
            job.document_id,
            job.filename,
            job.media_type,
            draft.title,
            job.size_bytes,
            job.sha256,
            job.id,
            draft.n_characters,
            draft.n_pages,
            json.dumps(job.metadata, sort_keys=True),
            created_at,
            time.time(),
            n_chunks,
        ),
    )


def _remove(connection: apsw.Connection, document_id: str, generation: int) -> float | None:
    """Take a document out of sight; its creation time, or None when there was none."""
    rows = fetch(
        connection,
        "DELETE FROM documents WHERE id = ? RETURNING n, n_chunks, created_at",
        (document_id,),
    )
    if not rows:
        return None
    n, n_chunks, created_at = rows[0]
    connection.execute("DELETE FROM fields WHERE document = ?", (n,))
    put_away(connection, n, n_chunks, generation)
    connection.execute(
        "UPDATE state SET n_documents = n_documents - 1, n_chunks = n_chunks - ?", (n_chunks,)
    )
    return float(created_at)
