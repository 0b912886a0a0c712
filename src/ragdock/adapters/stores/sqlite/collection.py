"""One collection's file: documents, chunks, words and vectors."""

from __future__ import annotations

import json
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import apsw
import numpy as np

from ragdock.adapters.stores.sqlite.connections import Database, fetch
from ragdock.adapters.stores.sqlite.dense import DenseIndex, Ranges, quantise
from ragdock.adapters.stores.sqlite.lexical import LexicalIndex
from ragdock.adapters.stores.sqlite.migrations import COLLECTION
from ragdock.adapters.stores.sqlite.where import field_rows, where_documents
from ragdock.core.filters import Filter
from ragdock.core.terms import index_text
from ragdock.errors import NotFoundError
from ragdock.types import (
    Chunk,
    Collection,
    DenseResult,
    Document,
    Hit,
    Job,
    ParsedDocument,
    ScoredChunk,
    Vector,
    Vectors,
)

__all__ = ["CollectionFile", "CollectionReader"]

KEEP_REMOVALS: Final = 10_000
MAX_REMEMBERED_FILTERS: Final = 64

_DOCUMENT: Final = (
    "d.id, d.filename, d.media_type, d.title, d.size_bytes, d.sha256, d.version, d.n_characters, "
    "d.last_chunk - d.first_chunk + 1, d.n_pages, d.metadata, d.created_at, d.updated_at"
)


class CollectionFile:
    """Reads and writes one collection; knows nothing of the ledger but its job numbers."""

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        collection_id: str,
        fingerprint: str,
        dim: int,
        created_at: float,
    ) -> None:
        self._name, self._id, self._fingerprint = name, collection_id, fingerprint
        self._created_at = created_at
        self._database = Database(path, COLLECTION, cache_mb=16)
        self._dense = DenseIndex(dim, path.with_suffix(".shared"))
        self._lexical = LexicalIndex()
        self._ranges: OrderedDict[tuple[int, Filter], Ranges] = OrderedDict()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def generation(self) -> int:
        """How many changes the collection has seen."""
        return int(self._database.query("SELECT generation FROM state")[0][0])

    def info(self) -> Collection:
        """The collection as of now."""
        return self._info(self._database.query(_STATE)[0])

    def _info(self, state: tuple[Any, ...]) -> Collection:
        return Collection(
            id=self._id,
            name=self._name,
            generation=state[0],
            fingerprint=self._fingerprint,
            n_documents=state[1],
            n_chunks=state[2],
            created_at=self._created_at,
        )

    # Writing

    def replace(
        self, job: Job, parsed: ParsedDocument, chunks: Sequence[Chunk], vectors: Vectors
    ) -> bool:
        """Put the job's document in place of its earlier version; False when a later one is in."""
        rows8, scales = quantise(vectors)
        rows16 = vectors.astype(np.float16)
        words = [(index_text(chunk.text), index_text(chunk.context)) for chunk in chunks]
        deflated = zlib.compress(parsed.text.encode("utf-8", "surrogatepass"), 1)
        with self._database.write() as connection:
            if _latest_version(connection, job.document_id) >= job.id:
                return _version(connection, job.document_id) == job.id
            generation = _next_generation(connection)
            created_at = _remove(connection, job.document_id, generation) or job.created_at
            connection.execute("DELETE FROM tombstones WHERE document_id = ?", (job.document_id,))
            first = _next_chunk(connection)
            n = _insert_document(connection, job, parsed, first, len(chunks), created_at)
            connection.execute("INSERT INTO texts VALUES (?, ?)", (n, deflated))
            connection.executemany(
                "INSERT INTO fields VALUES (?, ?, ?, ?)",
                [(n, *row) for row in field_rows(job.metadata)],
            )
            ids = range(first, first + len(chunks))
            connection.executemany(
                "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (i, n, c.start, c.end, c.page, c.context, c.text)
                    for i, c in zip(ids, chunks, strict=True)
                ],
            )
            connection.executemany(
                "INSERT INTO words (rowid, text, context) VALUES (?, ?, ?)",
                [(i, *pair) for i, pair in zip(ids, words, strict=True)],
            )
            connection.executemany(
                "INSERT INTO vectors8 VALUES (?, ?, ?)",
                [(i, float(s), r.tobytes()) for i, s, r in zip(ids, scales, rows8, strict=True)],
            )
            connection.executemany(
                "INSERT INTO vectors16 VALUES (?, ?)",
                [(i, r.tobytes()) for i, r in zip(ids, rows16, strict=True)],
            )
            connection.execute(
                "UPDATE state SET n_documents = n_documents + 1, n_chunks = n_chunks + ?",
                (len(chunks),),
            )
            return True

    def delete(self, document_id: str, version: int) -> None:
        """Remove the document if it is older than `version`, and refuse older writes from now."""
        with self._database.write() as connection:
            if _latest_version(connection, document_id) >= version:
                return
            _remove(connection, document_id, _next_generation(connection))
            connection.execute(
                "INSERT INTO tombstones VALUES (?, ?) "
                "ON CONFLICT (document_id) DO UPDATE SET version = excluded.version",
                (document_id, version),
            )

    # Reading

    def has_version(self, document_id: str, filename: str, sha256: str, metadata: str) -> bool:
        """Whether the searchable version has just this content, name and metadata."""
        rows = self._database.query(
            "SELECT 1 FROM documents WHERE id = ? AND filename = ? AND sha256 = ? AND metadata = ?",
            (document_id, filename, sha256, metadata),
        )
        return bool(rows)

    def document(self, document_id: str) -> Document:
        """One searchable document."""
        rows = self._database.query(
            f"SELECT {_DOCUMENT} FROM documents d WHERE d.id = ?",
            (document_id,),
        )
        if not rows:
            raise _no_document(document_id, self._name)
        return self._document(rows[0])

    def documents(self, after: str | None, limit: int) -> tuple[Document, ...]:
        """Searchable documents by id."""
        rows = self._database.query(
            f"SELECT {_DOCUMENT} FROM documents d WHERE d.id > ? ORDER BY d.id LIMIT ?",
            (after or "", limit),
        )
        return tuple(map(self._document, rows))

    def text(self, document_id: str) -> str:
        """The text that offsets point into."""
        rows = self._database.query(
            "SELECT t.deflated FROM documents d JOIN texts t ON t.document = d.n WHERE d.id = ?",
            (document_id,),
        )
        if not rows:
            raise _no_document(document_id, self._name)
        return zlib.decompress(rows[0][0]).decode("utf-8", "surrogatepass")

    @contextmanager
    def reader(self) -> Iterator[CollectionReader]:
        """A consistent view."""
        with self._database.read() as connection:
            info = self._info(fetch(connection, _STATE)[0])
            yield CollectionReader(self, connection, info)

    def _document(self, row: tuple[Any, ...]) -> Document:
        return Document(
            id=row[0],
            collection=self._name,
            filename=row[1],
            media_type=row[2],
            title=row[3],
            size_bytes=row[4],
            sha256=row[5],
            version=row[6],
            n_characters=row[7],
            n_chunks=row[8],
            n_pages=row[9],
            metadata=json.loads(row[10]),
            created_at=row[11],
            updated_at=row[12],
        )

    def _allowed(
        self, connection: apsw.Connection, generation: int, where: Filter | None
    ) -> Ranges | None:
        if not where:
            return None
        key = (generation, where)
        ranges = self._ranges.get(key)
        if ranges is None:
            condition, bindings = where_documents(where)
            rows = fetch(
                connection,
                "SELECT d.first_chunk, d.last_chunk FROM documents d "
                f"WHERE d.last_chunk >= d.first_chunk AND {condition} ORDER BY d.first_chunk",
                bindings,
            )
            ranges = np.array(rows, np.int64).reshape(len(rows), 2)
            self._ranges[key] = ranges
            while len(self._ranges) > MAX_REMEMBERED_FILTERS:
                self._ranges.popitem(last=False)
        return ranges


class CollectionReader:
    """One read transaction of one collection."""

    def __init__(
        self, file: CollectionFile, connection: apsw.Connection, collection: Collection
    ) -> None:
        self._file = file
        self._connection = connection
        self._collection = collection

    @property
    def collection(self) -> Collection:
        """The collection as of this view."""
        return self._collection

    def lexical(
        self, query: str, limit: int, where: Filter | None = None
    ) -> tuple[ScoredChunk, ...]:
        """Best chunks by BM25."""
        return self._file._lexical.search(  # noqa: SLF001 (the reader is the file's other half)
            self._connection,
            self._collection.generation,
            self._collection.n_chunks,
            query,
            limit,
            where,
        )

    def dense(self, vector: Vector, limit: int, where: Filter | None = None) -> DenseResult:
        """Nearest chunks by exact cosine."""
        generation = self._collection.generation
        ranges = self._file._allowed(self._connection, generation, where)  # noqa: SLF001
        return self._file._dense.search(  # noqa: SLF001
            self._connection, generation, vector, limit, ranges
        )

    def hits(self, chunk_ids: Sequence[int]) -> dict[int, Hit]:
        """The passages by chunk id."""
        rows = fetch(
            self._connection,
            'SELECT c.id, d.id, d.filename, d.title, c.page, c.start, c."end", c.text, c.context, '
            "d.metadata FROM chunks c JOIN documents d ON d.n = c.document "
            "WHERE c.id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(chunk_ids)),),
        )
        return {
            row[0]: Hit(
                chunk_id=row[0],
                document_id=row[1],
                filename=row[2],
                title=row[3],
                page=row[4],
                start=row[5],
                end=row[6],
                text=row[7],
                context=row[8],
                metadata=json.loads(row[9]),
                lexical=None,
                dense=None,
                fused=0.0,
            )
            for row in rows
        }


_STATE: Final = "SELECT generation, n_documents, n_chunks FROM state"


def _no_document(document_id: str, collection: str) -> NotFoundError:
    return NotFoundError(
        f"There is no document {document_id!r} in collection {collection!r}.",
        field="path.document_id",
        code="document_not_found",
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


def _next_generation(connection: apsw.Connection) -> int:
    rows = fetch(connection, "UPDATE state SET generation = generation + 1 RETURNING generation")
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
    if generation % KEEP_REMOVALS == 0:
        floor = generation - KEEP_REMOVALS
        connection.execute("DELETE FROM removals WHERE generation <= ?", (floor,))
        connection.execute("UPDATE state SET removals_since = ?", (floor,))
