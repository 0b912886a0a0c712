"""What a write does inside its transaction: one document in, its earlier version out."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import apsw
import numpy as np

from ragdock.adapters.stores.sqlite.connections import fetch
from ragdock.adapters.stores.sqlite.dense import quantise
from ragdock.adapters.stores.sqlite.where import field_rows
from ragdock.core.terms import index_text
from ragdock.errors import DocumentError, IntegrityError
from ragdock.types import Chunk, Job, ParsedDocument, Vectors

__all__ = ["Change", "Outcome", "delete_document", "refuse_commits"]

KEEP_REMOVALS: Final = 10_000
KEEP_REFUSED: Final = 1_000_000

Outcome: TypeAlias = Literal["indexed", "superseded", "refused"]


class Change:
    """A document made ready for the tables; all work that needs no lock happens here.

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
        self._job, self._parsed, self._chunks = job, parsed, chunks
        self._rows8, self._scales = quantise(vectors)
        self._rows16 = vectors.astype(np.float16)
        self._words = [(index_text(chunk.text), index_text(chunk.context)) for chunk in chunks]
        try:
            self._deflated = zlib.compress(parsed.text.encode(), 1)
            for text in (parsed.title, *(chunk.context for chunk in chunks)):
                text.encode()
        except UnicodeEncodeError as exc:
            raise DocumentError(
                "The document's text holds half a surrogate pair, which UTF-8 can't say."
            ) from exc

    def apply(self, connection: apsw.Connection) -> Outcome:
        """Put the document in place of its earlier version, unless a later one is in.

        Refused when the job was cancelled after this worker got it.
        """
        job = self._job
        if _latest_version(connection, job.document_id) >= job.id:
            searchable = _version(connection, job.document_id) == job.id
            return "indexed" if searchable else "superseded"
        if _is_refused(connection, job):
            return "refused"
        generation = _next_generation(connection, job.id)
        created_at = _remove(connection, job.document_id, generation) or job.created_at
        connection.execute("DELETE FROM tombstones WHERE document_id = ?", (job.document_id,))
        first = _next_chunk(connection)
        n = _insert_document(connection, job, self._parsed, first, len(self._chunks), created_at)
        connection.execute("INSERT INTO texts VALUES (?, ?)", (n, self._deflated))
        connection.executemany(
            "INSERT INTO fields VALUES (?, ?, ?, ?)",
            [(n, *row) for row in field_rows(job.metadata)],
        )
        self._insert_chunks(connection, n, range(first, first + len(self._chunks)))
        connection.execute(
            "UPDATE state SET n_documents = n_documents + 1, n_chunks = n_chunks + ?",
            (len(self._chunks),),
        )
        return "indexed"

    def _insert_chunks(self, connection: apsw.Connection, n: int, ids: range) -> None:
        connection.executemany(
            "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (i, n, c.start, c.end, c.page, c.context, c.text)
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


def delete_document(connection: apsw.Connection, document_id: str, version: int) -> None:
    """Remove the document if it is older than `version`, and refuse older writes from now."""
    if _latest_version(connection, document_id) >= version:
        return
    if _version(connection, document_id):
        _remove(connection, document_id, _next_generation(connection, version))
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
    return True


def _is_refused(connection: apsw.Connection, job: Job) -> bool:
    return bool(
        fetch(
            connection,
            "SELECT 1 FROM refused WHERE version = ? AND token >= ?",
            (job.id, job.token),
        )
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
    connection: apsw.Connection,
    job: Job,
    parsed: ParsedDocument,
    first_chunk: int,
    n_chunks: int,
    created_at: float,
) -> int:
    connection.execute(
        "INSERT INTO documents (id, filename, media_type, title, size_bytes, sha256, version, "
        "n_characters, n_pages, metadata, created_at, updated_at, first_chunk, last_chunk) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            job.document_id,
            job.filename,
            job.media_type,
            parsed.title,
            job.size_bytes,
            job.sha256,
            job.id,
            len(parsed.text),
            len(parsed.pages),
            json.dumps(job.metadata, sort_keys=True),
            created_at,
            time.time(),
            first_chunk,
            first_chunk + n_chunks - 1,
        ),
    )
    return connection.last_insert_rowid()


def _remove(connection: apsw.Connection, document_id: str, generation: int) -> float | None:
    """Delete a document's rows; its creation time, or None when there was none."""
    rows = fetch(
        connection,
        "DELETE FROM documents WHERE id = ? RETURNING n, first_chunk, last_chunk, created_at",
        (document_id,),
    )
    if not rows:
        return None
    n, first, last, created_at = rows[0]
    connection.execute("DELETE FROM texts WHERE document = ?", (n,))
    connection.execute("DELETE FROM fields WHERE document = ?", (n,))
    for table, column in (
        ("words", "rowid"),
        ("chunks", "id"),
        ("vectors8", "chunk"),
        ("vectors16", "chunk"),
    ):
        connection.execute(
            f"DELETE FROM {table} WHERE {column} BETWEEN ? AND ?",
            (first, last),
        )
    if last >= first:
        connection.execute("INSERT INTO removals VALUES (?, ?, ?)", (generation, first, last))
        _trim_removals(connection, generation)
    connection.execute(
        "UPDATE state SET n_documents = n_documents - 1, n_chunks = n_chunks - ?",
        (last - first + 1,),
    )
    return float(created_at)


def _trim_removals(connection: apsw.Connection, generation: int) -> None:
    """Forget old removals; a process that missed them reads all vectors anew."""
    if generation % (KEEP_REMOVALS // 10) == 0:
        floor = generation - KEEP_REMOVALS
        connection.execute("DELETE FROM removals WHERE generation <= ?", (floor,))
        connection.execute("UPDATE state SET removals_since = max(removals_since, ?)", (floor,))
