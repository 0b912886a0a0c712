"""What the ledger can be asked."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ragdock.adapters.stores.sqlite.connections import Database
from ragdock.adapters.stores.sqlite.ledger_rows import COLUMNS, FROM, OPEN, job_of, open_members
from ragdock.errors import job_not_found
from ragdock.types import Job, JobKind, JobState

__all__ = ["LedgerReads"]


class LedgerReads:
    """The reads; every method is one statement."""

    def __init__(self, catalogue: Database) -> None:
        self._catalogue = catalogue

    def knows(self, collection_id: str, document_id: str) -> bool:
        """Whether the document's newest row is an upload that is unfinished or failed."""
        rows = self._catalogue.query(
            "SELECT kind, state FROM ledger WHERE collection_id = ? AND document_id = ? "
            "ORDER BY id DESC LIMIT 1",
            (collection_id, document_id),
        )
        return rows in (
            [(JobKind.INDEX, JobState.PENDING)],
            [(JobKind.INDEX, JobState.PROCESSING)],
            [(JobKind.INDEX, JobState.FAILED)],
        )

    def open_members(self, collection_id: str, archive_id: str) -> set[str]:
        """The files of an archive that are unfinished or failed."""
        with self._catalogue.read() as connection:
            return open_members(connection, collection_id, archive_id)

    def pending_deletes(self) -> tuple[Job, ...]:
        """Removals that a crash left undone."""
        rows = self._catalogue.query(
            f"SELECT {COLUMNS} {FROM} WHERE l.state = 'pending' AND l.kind = 'delete' ORDER BY l.id"
        )
        return tuple(map(job_of, rows))

    def job(self, job_id: int) -> Job:
        """One row."""
        rows = self._catalogue.query(f"SELECT {COLUMNS} {FROM} WHERE l.id = ?", (job_id,))
        if not rows:
            raise job_not_found()
        return job_of(rows[0])

    def last_change(self) -> int:
        """The number of the latest change."""
        return int(self._catalogue.query("SELECT value FROM counters WHERE name = 'change'")[0][0])

    def changes(
        self, after: int, collection_ids: Sequence[str] | None, limit: int
    ) -> tuple[Job, ...]:
        """Rows that changed since, each once, as they are now, in the order of their changes."""
        rows = self._catalogue.query(
            f"SELECT {COLUMNS} {FROM} WHERE l.change > ? "
            "AND (? IS NULL OR l.collection_id IN (SELECT value FROM json_each(?))) "
            "ORDER BY l.change LIMIT ?",
            (
                after,
                *2 * (json.dumps(collection_ids) if collection_ids is not None else None,),
                limit,
            ),
        )
        return tuple(map(job_of, rows))

    def jobs(
        self,
        *,
        collection_id: str | None,
        states: Sequence[JobState],
        document_id: str | None,
        parent: int | None,
        before: int | None,
        limit: int,
    ) -> tuple[Job, ...]:
        """Rows, newest first."""
        tests, bindings = ["1"], []
        for sql, value in (
            ("l.collection_id = ?", collection_id),
            ("l.document_id = ?", document_id),
            ("l.parent = ?", parent),
            ("l.id < ?", before),
        ):
            if value is not None:
                tests.append(sql)
                bindings.append(value)
        if states:
            tests.append("l.state IN (SELECT value FROM json_each(?))")
            bindings.append(json.dumps([state.value for state in states]))
        rows = self._catalogue.query(
            f"SELECT {COLUMNS} {FROM} WHERE {' AND '.join(tests)} ORDER BY l.id DESC LIMIT ?",
            (*bindings, limit),
        )
        return tuple(map(job_of, rows))

    def unsettled(self, collection_id: str, after: str, limit: int) -> tuple[Job, ...]:
        """Documents' newest rows where those are uploads that are unfinished or failed."""
        # By state: such rows are few beside the finished ones, which the other index would read.
        rows = self._catalogue.query(
            f"SELECT {COLUMNS} FROM ledger l INDEXED BY ledger_by_state "
            "JOIN collections c ON c.id = l.collection_id "
            "WHERE l.state IN ('pending', 'processing', 'failed') AND l.collection_id = ? "
            "AND l.document_id > ? AND l.kind = 'index' AND NOT EXISTS (SELECT 1 FROM ledger n "
            "WHERE n.collection_id = l.collection_id AND n.document_id = l.document_id "
            "AND n.id > l.id) ORDER BY l.document_id LIMIT ?",
            (collection_id, after, limit),
        )
        return tuple(map(job_of, rows))

    def depth(self) -> dict[JobState, int]:
        """Counts of the states that want attention."""
        rows = self._catalogue.query(
            "SELECT state, count(*) FROM ledger WHERE state IN ('pending', 'processing', 'failed') "
            "GROUP BY state"
        )
        counts = dict.fromkeys((JobState.PENDING, JobState.PROCESSING, JobState.FAILED), 0)
        counts.update({JobState(state): count for state, count in rows})
        return counts

    def oldest(self, state: JobState) -> float | None:
        """When the first row in that state was made."""
        rows = self._catalogue.query(
            "SELECT created_at FROM ledger WHERE state = ? ORDER BY id LIMIT 1", (state.value,)
        )
        return float(rows[0][0]) if rows else None

    def is_open(self, job_id: int) -> bool:
        """Whether the job is known and unfinished."""
        sql = f"SELECT 1 FROM ledger WHERE id = ? AND state IN {OPEN}"
        return bool(self._catalogue.query(sql, (job_id,)))

    def open_bytes(self) -> int:
        """How much the unfinished uploads are together."""
        rows = self._catalogue.query(
            f"SELECT coalesce(sum(size_bytes), 0) FROM ledger WHERE state IN {OPEN}"
        )
        return int(rows[0][0])
