"""The ledger's rows as jobs, and the counter that numbers their changes."""

from __future__ import annotations

import json
from typing import Any, Final

import apsw

from ragdock.adapters.stores.sqlite.connections import fetch
from ragdock.core.keys import is_member_of, members_prefix
from ragdock.errors import job_not_found
from ragdock.types import Document, Job, JobKind, JobStage, JobState

__all__ = [
    "COLUMNS",
    "FROM",
    "OPEN",
    "job_again",
    "job_of",
    "next_change",
    "open_members",
    "read_one",
]

COLUMNS: Final = (
    "l.id, l.collection_id, c.name, l.document_id, l.kind, l.state, l.filename, l.media_type, "
    "l.size_bytes, l.sha256, l.metadata, l.attempt, l.outcome, l.error_code, l.error, "
    "l.created_at, l.updated_at, l.stage, l.percent, l.retry_at, l.owner, l.parent, l.token, "
    "l.change"
)
FROM: Final = "FROM ledger l JOIN collections c ON c.id = l.collection_id"
OPEN: Final = "('pending', 'processing')"


def job_of(row: tuple[Any, ...]) -> Job:
    """The job that a row of `COLUMNS` is."""
    return Job(
        id=row[0],
        collection_id=row[1],
        collection=row[2],
        document_id=row[3],
        kind=JobKind(row[4]),
        state=JobState(row[5]),
        filename=row[6],
        media_type=row[7],
        size_bytes=row[8],
        sha256=row[9],
        metadata=json.loads(row[10]),
        attempt=row[11],
        outcome=row[12],
        error_code=row[13],
        error=row[14],
        created_at=row[15],
        updated_at=row[16],
        stage=JobStage(row[17]) if row[17] else None,
        percent=row[18],
        next_attempt_at=row[19],
        worker=row[20],
        parent_id=row[21],
        token=row[22],
        change=row[23],
    )


def read_one(connection: apsw.Connection, job_id: int) -> Job:
    """One job; `NotFoundError` when there is none."""
    rows = fetch(connection, f"SELECT {COLUMNS} {FROM} WHERE l.id = ?", (job_id,))
    if not rows:
        raise job_not_found()
    return job_of(rows[0])


def next_change(connection: apsw.Connection) -> int:
    """The next number of the one counter, in the transaction of the change that it numbers."""
    rows = fetch(
        connection, "UPDATE counters SET value = value + 1 WHERE name = 'change' RETURNING value"
    )
    return int(rows[0][0])


def open_members(connection: apsw.Connection, collection_id: str, archive_id: str) -> set[str]:
    """The files of an archive whose newest rows are uploads that are unfinished or failed."""
    prefix = members_prefix(archive_id)
    rows = fetch(
        connection,
        "SELECT DISTINCT l.document_id FROM ledger l WHERE l.collection_id = ? "
        "AND l.document_id >= ? AND l.document_id < ? AND l.kind = 'index' "
        "AND l.state IN ('pending', 'processing', 'failed') AND l.parent IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM ledger n WHERE n.collection_id = l.collection_id "
        "AND n.document_id = l.document_id AND n.id > l.id)",
        (collection_id, prefix, f"{prefix}g"),
    )
    return {row[0] for row in rows if is_member_of(row[0], prefix)}


def job_again(document: Document, collection_id: str, number: int) -> Job:
    """The job that would write the document as it is once more, past the ledger's queue.

    Whatever the collection's file refuses from a cancelled job's workers, this isn't one of them.
    """
    return Job(
        id=number,
        collection_id=collection_id,
        collection=document.collection,
        document_id=document.id,
        kind=JobKind.INDEX,
        state=JobState.PROCESSING,
        filename=document.filename,
        media_type=document.media_type,
        size_bytes=document.size_bytes,
        sha256=document.sha256,
        metadata=document.metadata,
        attempt=1,
        outcome=None,
        error_code=None,
        error=None,
        created_at=document.created_at,
        updated_at=document.updated_at,
        token=2**62,
    )
