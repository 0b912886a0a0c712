"""Documents out of a collection and into one, whole: text, structure, passages and vectors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import apsw
import numpy as np

from ragdock.adapters.stores.sqlite.collection import CollectionFile
from ragdock.adapters.stores.sqlite.connections import Database, fetch
from ragdock.adapters.stores.sqlite.ledger_rows import job_again, next_change
from ragdock.adapters.stores.sqlite.texts import StoredPart, to_document
from ragdock.errors import StoreError
from ragdock.types import Chunk, Content, Document, Job, JobKind, JobState, Upload

__all__ = ["exported", "imported"]

PAGE: Final = 100
_PASSAGES: Final = (
    'SELECT c.start, c."end", c.text, c.context, c.page, c.page_label, v.row FROM segments s '
    "JOIN chunks c ON c.id BETWEEN s.first_chunk AND s.last_chunk "
    "JOIN vectors16 v ON v.chunk = c.id "
    "WHERE s.document = ? AND c.start >= ? AND c.start < ? ORDER BY c.id"
)


def exported(file: CollectionFile, dim: int) -> Iterator[tuple[Document, Iterator[Content]]]:
    """Each document with its parts, which are to be read before the next document is asked for."""
    after: str | None = None
    while documents := file.documents(after, PAGE):
        for document in documents:
            with file.reading() as connection:
                rows = fetch(
                    connection,
                    "SELECT n, title FROM documents WHERE id = ? AND version = ?",
                    (document.id, document.version),
                )
                if rows:  # Else it was replaced or deleted since.
                    n, title = rows[0]
                    yield document, _contents(connection, n, title, dim)
        after = documents[-1].id


def _contents(connection: apsw.Connection, n: int, title: str, dim: int) -> Iterator[Content]:
    numbers = fetch(connection, "SELECT part FROM texts WHERE document = ? ORDER BY part", (n,))
    first_ordinal = 0
    for (number,) in numbers:
        (row,) = fetch(
            connection,
            "SELECT start, deflated, structure FROM texts WHERE document = ? AND part = ?",
            (n, number),
        )
        part = to_document(StoredPart(*row), title)
        rows = fetch(connection, _PASSAGES, (n, part.start, part.start + len(part.text)))
        chunks = tuple(
            Chunk(first_ordinal + i, start, end, text, context, page, label)
            for i, (start, end, text, context, page, label, _) in enumerate(rows)
        )
        first_ordinal += len(rows)
        vectors = np.frombuffer(b"".join(row[6] for row in rows), np.float16)
        yield part, chunks, vectors.reshape(len(rows), dim).astype(np.float32)


def imported(
    file: CollectionFile,
    catalogue: Database,
    collection_id: str,
    document: Document,
    contents: Iterator[Content],
) -> bool:
    """Put the document in place of its earlier version; False when it is there as it is.

    The collection's file is written first and the ledger after it, so a crash in between leaves
    a document that is whole, and that the next import finds unchanged.
    """
    upload = Upload(
        document.id, document.filename, document.media_type, b"", document.sha256, document.metadata
    )
    if file.version_like(upload) is not None:
        return False
    job = job_again(document, collection_id, _reserved(catalogue))
    content = next(contents)
    for following in contents:
        file.stage(job, *content)
        content = following
    outcome = file.commit(job, *content)
    if outcome != "indexed":
        raise StoreError(f"Document {document.id!r} was written by somebody else meanwhile.")
    _record(catalogue, job)
    return True


def _reserved(catalogue: Database) -> int:
    """A number of the ledger for a write that doesn't wait in it."""
    with catalogue.write() as connection:
        sql = "UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'ledger' RETURNING seq"
        rows = fetch(connection, sql)
        if not rows:
            connection.execute("INSERT INTO sqlite_sequence VALUES ('ledger', 1)")
        return int(rows[0][0]) if rows else 1


def _record(catalogue: Database, job: Job) -> None:
    now = time.time()
    values: dict[str, Any] = {
        "id": job.id,
        "collection_id": job.collection_id,
        "document_id": job.document_id,
        "kind": JobKind.INDEX.value,
        "state": JobState.DONE.value,
        "filename": job.filename,
        "media_type": job.media_type,
        "size_bytes": job.size_bytes,
        "sha256": job.sha256,
        "metadata": "{}",
        "outcome": "indexed",
        "percent": 100,
        "created_at": now,
        "updated_at": now,
    }
    with catalogue.write() as connection:
        values["change"] = next_change(connection)
        names = ", ".join(values)
        marks = ", ".join(f":{name}" for name in values)
        connection.execute(f"INSERT INTO ledger ({names}) VALUES ({marks})", values)
