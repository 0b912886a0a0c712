"""Data as the first release left it: schemas m001, written the way that release wrote."""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import apsw
import numpy as np

from ragdock.adapters.stores.sqlite import migrations
from ragdock.adapters.stores.sqlite.connections import Database
from ragdock.adapters.stores.sqlite.dense import quantise
from ragdock.adapters.stores.sqlite.where import field_rows
from ragdock.core.terms import index_text
from ragdock.types import Metadata, Upload
from support.stores import DIM, EMBEDDER, upload

__all__ = ["write_first_release"]


def write_first_release(
    directory: Path,
    documents: Mapping[str, tuple[str, Metadata]],
    waiting: Sequence[Upload] = (),
    *,
    gaps: bool = True,
) -> None:
    """A data directory with the collection `c`: searchable documents, and uploads that wait.

    `gaps` leaves holes in the chunk ids and a log of removals, as replaced documents do.
    """
    (directory / "collections").mkdir(parents=True)
    collection_id = uuid.uuid4().hex
    catalogue = Database(directory / "catalogue.db", migrations.CATALOGUE[:1])
    file = Database(directory / "collections" / f"{collection_id}.db", migrations.COLLECTION[:1])
    with catalogue.write() as connection:
        connection.execute(
            "INSERT INTO collections VALUES (?, 'c', 'f', ?, 1.0)", (collection_id, DIM)
        )
        for name, (text, metadata) in documents.items():
            one = upload(name, text, **metadata)
            _insert_job(connection, collection_id, one, "done", "indexed")
        for one in waiting:
            job_id = _insert_job(connection, collection_id, one, "pending", None)
            connection.execute("INSERT INTO contents VALUES (?, ?)", (job_id, one.content))
    with file.write() as connection:
        for version, (name, (text, metadata)) in enumerate(documents.items(), start=1):
            _insert_document(connection, version, upload(name, text, **metadata), text)
            if gaps:
                _insert_document(connection, 1000 + version, upload("gone"), "gone\n\ntoo")
                _remove(connection, "gone")
        connection.execute("UPDATE state SET last_version = ?", (len(documents),))
    catalogue.close()
    file.close()


def _insert_job(
    connection: apsw.Connection, collection_id: str, one: Upload, state: str, outcome: str | None
) -> int:
    connection.execute(
        "INSERT INTO ledger (collection_id, document_id, kind, state, filename, media_type, "
        "size_bytes, sha256, metadata, outcome, created_at, updated_at) "
        "VALUES (?, ?, 'index', ?, ?, ?, ?, ?, ?, ?, 1.0, 2.0)",
        (
            collection_id,
            one.document_id,
            state,
            one.filename,
            one.media_type,
            one.size_bytes,
            one.sha256,
            json.dumps(one.metadata, sort_keys=True),
            outcome,
        ),
    )
    return connection.last_insert_rowid()


def _insert_document(connection: apsw.Connection, version: int, one: Upload, text: str) -> None:
    rows = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'chunks'").fetchall()
    first = rows[0][0] + 1 if rows else 1
    pieces = text.split("\n\n")
    connection.execute(
        "INSERT INTO documents (id, filename, media_type, title, size_bytes, sha256, version, "
        "n_characters, n_pages, metadata, created_at, updated_at, first_chunk, last_chunk) "
        "VALUES (?, ?, ?, 'Title', ?, ?, ?, ?, 0, ?, 3.0, 4.0, ?, ?)",
        (
            one.document_id,
            one.filename,
            one.media_type,
            one.size_bytes,
            one.sha256,
            version,
            len(text),
            json.dumps(one.metadata, sort_keys=True),
            first,
            first + len(pieces) - 1,
        ),
    )
    n = connection.last_insert_rowid()
    connection.execute("INSERT INTO texts VALUES (?, ?)", (n, zlib.compress(text.encode(), 1)))
    connection.executemany(
        "INSERT INTO fields VALUES (?, ?, ?, ?)", [(n, *row) for row in field_rows(one.metadata)]
    )
    start = 0
    vectors = EMBEDDER.embed(pieces)
    rows8, scales = quantise(vectors)
    for chunk, piece in enumerate(pieces, start=first):
        connection.execute(
            "INSERT INTO chunks VALUES (?, ?, ?, ?, NULL, '', ?)",
            (chunk, n, start, start + len(piece), piece),
        )
        connection.execute(
            "INSERT INTO words (rowid, text, context) VALUES (?, ?, '')", (chunk, index_text(piece))
        )
        at = chunk - first
        connection.execute(
            "INSERT INTO vectors8 VALUES (?, ?, ?)", (chunk, float(scales[at]), rows8[at].tobytes())
        )
        row16 = vectors[at].astype(np.float16).tobytes()
        connection.execute("INSERT INTO vectors16 VALUES (?, ?)", (chunk, row16))
        start += len(piece) + 2
    connection.execute(
        "UPDATE state SET generation = generation + 1, n_documents = n_documents + 1, "
        "n_chunks = n_chunks + ?",
        (len(pieces),),
    )


def _remove(connection: apsw.Connection, document_id: str) -> None:
    ((n, first, last),) = connection.execute(
        "DELETE FROM documents WHERE id = ? RETURNING n, first_chunk, last_chunk", (document_id,)
    ).fetchall()
    connection.execute("DELETE FROM texts WHERE document = ?", (n,))
    connection.execute("DELETE FROM fields WHERE document = ?", (n,))
    for table, column in (
        ("words", "rowid"),
        ("chunks", "id"),
        ("vectors8", "chunk"),
        ("vectors16", "chunk"),
    ):
        connection.execute(f"DELETE FROM {table} WHERE {column} BETWEEN ? AND ?", (first, last))
    connection.execute(
        "UPDATE state SET generation = generation + 1, n_documents = n_documents - 1, "
        "n_chunks = n_chunks - ?",
        (last - first + 1,),
    )
    connection.execute("INSERT INTO removals SELECT generation, ?, ? FROM state", (first, last))
