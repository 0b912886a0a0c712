"""One collection's file: documents, chunks, words and vectors."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import apsw
import numpy as np

from ragdock.adapters.stores.sqlite.blocks import Ranges
from ragdock.adapters.stores.sqlite.changes import (
    BATCH_CHUNKS,
    Outcome,
    Part,
    commit,
    delete_document,
    discard,
    refuse_commits,
    stage,
    stage_batch,
)
from ragdock.adapters.stores.sqlite.connections import Database, fetch
from ragdock.adapters.stores.sqlite.dense import DenseIndex
from ragdock.adapters.stores.sqlite.lexical import LexicalIndex
from ragdock.adapters.stores.sqlite.migrations import COLLECTION
from ragdock.adapters.stores.sqlite.segments import purge_step
from ragdock.adapters.stores.sqlite.texts import StoredPart
from ragdock.adapters.stores.sqlite.where import where_documents
from ragdock.core.filters import Filter
from ragdock.core.keys import is_member_of, members_prefix
from ragdock.errors import NotFoundError, StoreError
from ragdock.types import (
    Chunk,
    Collection,
    DenseResult,
    Document,
    Hit,
    Job,
    ParsedDocument,
    ScoredChunk,
    Upload,
    Vector,
    Vectors,
)

__all__ = ["STATE_KEY", "CollectionFile", "CollectionReader"]

MAX_RANGES: Final = 64
MAX_RANGES_BYTES: Final = 16 * 2**20

_DOCUMENT: Final = (
    "d.id, d.filename, d.media_type, d.title, d.size_bytes, d.sha256, d.version, d.n_characters, "
    "d.n_chunks, d.n_pages, d.metadata, d.created_at, d.updated_at"
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
        create: bool = False,
        guard: Callable[[], None] | None = None,
    ) -> None:
        """Open the file; `guard` is called in each write transaction and may refuse it."""
        self._name, self._id, self._fingerprint = name, collection_id, fingerprint
        self._created_at = created_at
        self._dim = dim
        self._database = Database(path, COLLECTION, cache_mb=8, create=create)
        self._database.guard = guard
        self._dense = DenseIndex(dim, path.with_suffix(".shared"))
        self._lexical = LexicalIndex()
        self._ranges = RangesCache()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def state_key(self) -> str:
        """Names the state of the collection: another one after each change, also in the past."""
        generation, stamp = self._database.query(STATE_KEY)[0]
        return f"{self._id}:{generation}:{stamp}"

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

    def last_version(self) -> int:
        """The highest ledger number that the file has seen."""
        return int(self._database.query("SELECT last_version FROM state")[0][0])

    @contextmanager
    def reading(self) -> Iterator[apsw.Connection]:
        """A read transaction."""
        with self._database.read() as connection:
            yield connection

    # Writing

    @contextmanager
    def locked(self) -> Iterator[apsw.Connection]:
        """A write transaction: nobody else writes to the file as long as the block runs."""
        with self._database.write() as connection:
            yield connection

    def stage(
        self, job: Job, parsed: ParsedDocument, chunks: Sequence[Chunk], vectors: Vectors
    ) -> None:
        """Write a part that nobody sees yet."""
        self._stage(Part(job, parsed, chunks, vectors, self._dim))

    def _stage(self, part: Part) -> int | None:
        # Nothing of this needs to survive a power cut before the commit, whose sync covers it.
        with self._database.write(durable=False) as connection:
            document = stage(connection, part)
        if document is not None:
            for batch in part.batches():
                with self._database.write(durable=False) as connection:
                    stage_batch(connection, document, batch)
        return document

    def commit(
        self, job: Job, parsed: ParsedDocument, chunks: Sequence[Chunk], vectors: Vectors
    ) -> Outcome:
        """Put the job's document in place of its earlier version, unless a later one is in."""
        part = Part(job, parsed, chunks, vectors, self._dim)
        staged = None if part.is_small else self._stage(part)
        with self._database.write() as connection:
            applied = commit(connection, part, staged)
        self._database.give_back_space()
        return applied

    def refuse(self, document_id: str, version: int, token: int) -> bool:
        """Refuse that version from workers with this token or older; False when it is in."""
        with self._database.write() as connection:
            return refuse_commits(connection, document_id, version, token)

    def drafts(self) -> list[tuple[int, int]]:
        """The number of each document that is being staged, and the job that it is for."""
        return self._database.query("SELECT document, version FROM drafts ORDER BY document")

    def discard(self, document: int) -> None:
        """Give up a document that is being staged."""
        with self._database.write() as connection:
            discard(connection, document)

    def purge(self, limit: int) -> int:
        """Take up to `limit` hidden rows out, in small transactions; how many it were."""
        n_purged = 0
        while n_purged < limit and self._database.query("SELECT 1 FROM dead LIMIT 1"):
            with self._database.write(durable=False) as connection:
                n_purged += purge_step(connection, min(BATCH_CHUNKS, limit - n_purged))
            self._database.give_back_space()
        return n_purged

    def delete(self, deletions: Iterable[tuple[str, int]]) -> None:
        """Remove each document older than the version, and refuse older writes from now."""
        with self._database.write() as connection:
            for document_id, version in deletions:
                delete_document(connection, document_id, version)
        self._database.give_back_space()

    # Reading

    def version_like(self, upload: Upload) -> int | None:
        """The searchable version, if it has just this upload's content, name and metadata."""
        rows = self._database.query(
            "SELECT version FROM documents "
            "WHERE id = ? AND filename = ? AND sha256 = ? AND metadata = ?",
            (
                upload.document_id,
                upload.filename,
                upload.sha256,
                json.dumps(upload.metadata, sort_keys=True),
            ),
        )
        return int(rows[0][0]) if rows else None

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

    def members(self, archive_id: str) -> set[str]:
        """The searchable files of an archive."""
        prefix = members_prefix(archive_id)
        # What an archive's file is called by its id, and says of itself in its metadata.
        rows = self._database.query(
            "SELECT id FROM documents WHERE id >= ? AND id < ? "
            "AND json_extract(metadata, '$.archive') IS NOT NULL",
            (prefix, f"{prefix}g"),
        )
        return {row[0] for row in rows if is_member_of(row[0], prefix)}

    def parts(self, document_id: str) -> tuple[int, int, str]:
        """A searchable document's number, how many parts its text has, and its title."""
        rows = self._database.query(
            "SELECT d.n, (SELECT count(*) FROM texts t WHERE t.document = d.n), d.title "
            "FROM documents d WHERE d.id = ?",
            (document_id,),
        )
        if not rows:
            raise _no_document(document_id, self._name)
        n, n_parts, title = rows[0]
        return n, n_parts, title

    def part(self, document: int, number: int) -> StoredPart:
        """One part of the document of that number; `NotFoundError` when it was replaced."""
        rows = self._database.query(
            "SELECT start, deflated, structure FROM texts WHERE document = ? AND part = ?",
            (document, number),
        )
        if not rows:
            raise NotFoundError(
                "The document was replaced or deleted while it was read.",
                code="document_not_found",
            )
        return StoredPart(*rows[0])

    @contextmanager
    def reader(self) -> Iterator[CollectionReader]:
        """A consistent view."""
        with self._database.read() as connection:
            reader = CollectionReader(self, connection, self._info(fetch(connection, _STATE)[0]))
            try:
                yield reader
            finally:
                reader.end()

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
        # By its words, not by its values: 1, 1.0 and true are equal in Python and not here.
        key = (generation, repr(where))
        ranges = self._ranges.get(key)
        if ranges is None:
            condition, bindings = where_documents(where)
            rows = fetch(
                connection,
                "SELECT s.first_chunk, s.last_chunk FROM documents d "
                "JOIN segments s ON s.document = d.n "
                f"WHERE {condition} ORDER BY s.first_chunk",
                bindings,
            )
            ranges = np.array(rows, np.int64).reshape(len(rows), 2)
            self._ranges.put(key, ranges)
        return ranges


class RangesCache:
    """What the latest filters let through, the least recently used going first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, str], Ranges] = OrderedDict()
        self._n_bytes = 0

    def get(self, key: tuple[int, str]) -> Ranges | None:
        """The ranges, if they are kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: tuple[int, str], ranges: Ranges) -> None:
        """Keep the ranges, and drop others beyond the limits."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = ranges
                self._n_bytes += ranges.nbytes
            while self._n_bytes > MAX_RANGES_BYTES or len(self._kept) > MAX_RANGES:
                self._n_bytes -= self._kept.popitem(last=False)[1].nbytes


class CollectionReader:
    """One read transaction of one collection."""

    def __init__(
        self, file: CollectionFile, connection: apsw.Connection, collection: Collection
    ) -> None:
        self._file = file
        self._open: apsw.Connection | None = connection
        self._collection = collection

    def end(self) -> None:
        """Let go of the connection, which another reader gets next."""
        self._open = None

    @property
    def _connection(self) -> apsw.Connection:
        if self._open is None:
            raise StoreError("The reader is closed; open another.")
        return self._open

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
            "d.metadata, c.page_label FROM chunks c JOIN documents d ON d.n = c.document "
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
                page_label=row[10],
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


STATE_KEY: Final = "SELECT generation, stamp FROM state"
_STATE: Final = "SELECT generation, n_documents, n_chunks FROM state"


def _no_document(document_id: str, collection: str) -> NotFoundError:
    return NotFoundError(
        f"There is no document {document_id!r} in collection {collection!r}.",
        field="path.document_id",
        code="document_not_found",
    )
