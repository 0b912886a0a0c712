"""The ledger: accepted work and its state, a table of the catalogue file."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Final

import apsw

from ragdock.adapters.stores.sqlite.connections import Database, fetch
from ragdock.adapters.stores.sqlite.owners import Owners
from ragdock.errors import NotFoundError
from ragdock.types import Job, JobKind, JobState, Upload

__all__ = ["Ledger"]

MAX_ATTEMPTS: Final = 5
KEEP_FINISHED: Final = 100_000

_COLUMNS: Final = (
    "l.id, l.collection_id, c.name, l.document_id, l.kind, l.state, l.filename, l.media_type, "
    "l.size_bytes, l.sha256, l.metadata, l.attempt, l.outcome, l.error_code, l.error, "
    "l.created_at, l.updated_at"
)
_FROM: Final = "FROM ledger l JOIN collections c ON c.id = l.collection_id"
_OPEN: Final = "('pending', 'processing')"


class Ledger:
    """Reads and writes ledger rows; every method is one transaction or one read."""

    def __init__(self, catalogue: Database, owners: Owners) -> None:
        self._catalogue = catalogue
        self._owners = owners

    def add(
        self, collection_id: str, uploads: Sequence[Upload], unchanged: Sequence[bool]
    ) -> tuple[Job, ...]:
        """One row an upload, in one transaction; content is kept until the job is finished.

        `unchanged` uploads become finished rows; one equal to the newest open row of its document
        answers that row.
        """
        with self._catalogue.write() as connection:
            ids = [
                self._add_one(connection, collection_id, upload, same)
                for upload, same in zip(uploads, unchanged, strict=True)
            ]
            self._trim(connection, ids[-1] if ids else 0)
            return tuple(self._read_one(connection, job_id) for job_id in ids)

    def _add_one(
        self, connection: apsw.Connection, collection_id: str, upload: Upload, unchanged: bool
    ) -> int:
        metadata = json.dumps(upload.metadata, sort_keys=True)
        newest = fetch(
            connection,
            f"SELECT id, kind, sha256, filename, metadata FROM ledger WHERE collection_id = ? "
            f"AND document_id = ? AND state IN {_OPEN} ORDER BY id DESC LIMIT 1",
            (collection_id, upload.document_id),
        )
        if newest:
            same = (JobKind.INDEX, upload.sha256, upload.filename, metadata)
            if newest[0][1:] == same:
                return int(newest[0][0])
            unchanged = False  # A later write is on its way, so this one isn't a no-op.
        now = time.time()
        state = JobState.DONE if unchanged else JobState.PENDING
        connection.execute(
            "INSERT INTO ledger (collection_id, document_id, kind, state, filename, media_type, "
            "size_bytes, sha256, metadata, outcome, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                collection_id,
                upload.document_id,
                JobKind.INDEX.value,
                state.value,
                upload.filename,
                upload.media_type,
                len(upload.content),
                upload.sha256,
                metadata,
                "unchanged" if unchanged else None,
                now,
                now,
            ),
        )
        job_id = connection.last_insert_rowid()
        if not unchanged:
            connection.execute(
                "INSERT INTO contents (job_id, content) VALUES (?, ?)", (job_id, upload.content)
            )
        return job_id

    @staticmethod
    def _trim(connection: apsw.Connection, newest: int) -> None:
        if newest > KEEP_FINISHED and newest % 100 == 0:
            connection.execute(
                f"DELETE FROM ledger WHERE id < ? AND state NOT IN {_OPEN}",
                (newest - KEEP_FINISHED,),
            )

    def add_delete(self, collection_id: str, document_id: str) -> int:
        """A row that asks for the document's removal; its unfinished index jobs are cancelled."""
        now = time.time()
        with self._catalogue.write() as connection:
            open_jobs = fetch(
                connection,
                f"UPDATE ledger SET state = 'cancelled', outcome = 'deleted', owner = NULL, "
                f"updated_at = ? WHERE collection_id = ? AND document_id = ? "
                f"AND kind = 'index' AND state IN {_OPEN} RETURNING id",
                (now, collection_id, document_id),
            )
            for (job_id,) in open_jobs:
                connection.execute("DELETE FROM contents WHERE job_id = ?", (job_id,))
            connection.execute(
                "INSERT INTO ledger (collection_id, document_id, kind, state, filename, "
                "media_type, size_bytes, sha256, metadata, created_at, updated_at) "
                "VALUES (?, ?, 'delete', 'pending', '', '', 0, '', '{}', ?, ?)",
                (collection_id, document_id, now, now),
            )
            return connection.last_insert_rowid()

    def pending_deletes(self) -> tuple[Job, ...]:
        """Removals that a crash left undone."""
        rows = self._catalogue.query(
            f"SELECT {_COLUMNS} {_FROM} WHERE l.state = 'pending' AND l.kind = 'delete' "
            "ORDER BY l.id"
        )
        return tuple(map(_job, rows))

    def claim(self, owner: str, limit: int, lease_seconds: float) -> tuple[Job, ...]:
        """Pending jobs, oldest first, at most one a document; poison ones are parked as failed."""
        now = time.time()
        if not self._has_claimable(now):
            return ()
        self._owners.hold(owner)
        with self._catalogue.write() as connection:
            self._take_back(connection, now)
            rows = fetch(
                connection,
                f"SELECT l.id FROM ledger l WHERE l.state = 'pending' AND l.kind = 'index' "
                f"AND l.not_before <= ? AND NOT EXISTS (SELECT 1 FROM ledger o "
                f"WHERE o.collection_id = l.collection_id AND o.document_id = l.document_id "
                f"AND o.id < l.id AND o.state IN {_OPEN}) ORDER BY l.id LIMIT ?",
                (now, limit),
            )
            for (job_id,) in rows:
                connection.execute(
                    "UPDATE ledger SET state = 'processing', owner = ?, lease_until = ?, "
                    "attempt = attempt + 1, updated_at = ? WHERE id = ?",
                    (owner, now + lease_seconds, now, job_id),
                )
            return tuple(self._read_one(connection, job_id) for (job_id,) in rows)

    def _has_claimable(self, now: float) -> bool:
        rows = self._catalogue.query(
            "SELECT (SELECT 1 FROM ledger WHERE state = 'pending' AND kind = 'index' "
            "AND not_before <= ? LIMIT 1), "
            "(SELECT group_concat(DISTINCT owner) FROM ledger WHERE state = 'processing'), "
            "(SELECT min(lease_until) FROM ledger WHERE state = 'processing')",
            (now,),
        )
        pending, owners, oldest_lease = rows[0]
        if pending or (oldest_lease is not None and oldest_lease < now):
            return True
        return any(self._owners.is_dead(owner) for owner in (owners or "").split(",") if owner)

    def _take_back(self, connection: apsw.Connection, now: float) -> None:
        """Free what dead or silent owners hold; a job that keeps killing its owner is parked."""
        owners = fetch(connection, "SELECT DISTINCT owner FROM ledger WHERE state = 'processing'")
        dead = [owner for (owner,) in owners if owner and self._owners.is_dead(owner)]
        connection.execute(
            "UPDATE ledger SET state = CASE WHEN attempt >= ? THEN 'failed' ELSE 'pending' END, "
            "error_code = CASE WHEN attempt >= ? THEN 'poison' END, "
            "error = CASE WHEN attempt >= ? THEN 'The worker died or hung on this document in "
            "every attempt.' END, owner = NULL, updated_at = ? "
            "WHERE state = 'processing' AND (lease_until < ? OR owner IN "
            "(SELECT value FROM json_each(?)))",
            (MAX_ATTEMPTS, MAX_ATTEMPTS, MAX_ATTEMPTS, now, now, json.dumps(dead)),
        )

    def renew(self, owner: str, job_ids: Sequence[int], lease_seconds: float) -> None:
        """Prolong leases."""
        with self._catalogue.write() as connection:
            connection.execute(
                "UPDATE ledger SET lease_until = ? WHERE owner = ? AND state = 'processing' "
                "AND id IN (SELECT value FROM json_each(?))",
                (time.time() + lease_seconds, owner, json.dumps(list(job_ids))),
            )

    def release(self, owner: str) -> None:
        """Give claimed jobs back uncounted."""
        with self._catalogue.write() as connection:
            connection.execute(
                "UPDATE ledger SET state = 'pending', owner = NULL, attempt = attempt - 1, "
                "updated_at = ? WHERE owner = ? AND state = 'processing'",
                (time.time(), owner),
            )

    def finish(self, job_id: int, outcome: str) -> Job:
        """Mark an open job done and drop its content; a cancelled one stays cancelled."""
        with self._catalogue.write() as connection:
            connection.execute(
                f"UPDATE ledger SET state = 'done', outcome = ?, owner = NULL, error_code = NULL, "
                f"error = NULL, updated_at = ? WHERE id = ? AND state IN {_OPEN}",
                (outcome, time.time(), job_id),
            )
            connection.execute("DELETE FROM contents WHERE job_id = ?", (job_id,))
            return self._read_one(connection, job_id)

    def fail(self, job: Job, code: str, reason: str, *, retry_after_seconds: float | None) -> Job:
        """Pending again after the pause, or failed for good."""
        now = time.time()
        final = retry_after_seconds is None or job.attempt >= MAX_ATTEMPTS
        with self._catalogue.write() as connection:
            connection.execute(
                "UPDATE ledger SET state = ?, error_code = ?, error = ?, not_before = ?, "
                "owner = NULL, updated_at = ? WHERE id = ? AND state = 'processing'",
                (
                    JobState.FAILED.value if final else JobState.PENDING.value,
                    code,
                    reason,
                    now + (retry_after_seconds or 0.0),
                    now,
                    job.id,
                ),
            )
            if final:
                connection.execute("DELETE FROM contents WHERE job_id = ?", (job.id,))
            return self._read_one(connection, job.id)

    def content(self, job_id: int) -> bytes:
        """The bytes of an unfinished job."""
        rows = self._catalogue.query("SELECT content FROM contents WHERE job_id = ?", (job_id,))
        if not rows:
            raise NotFoundError(f"Job {job_id} is finished; its upload is gone.")
        return bytes(rows[0][0])

    def job(self, job_id: int) -> Job:
        """One row."""
        rows = self._catalogue.query(f"SELECT {_COLUMNS} {_FROM} WHERE l.id = ?", (job_id,))
        if not rows:
            raise NotFoundError(f"There is no job {job_id}.", field="path.job_id")
        return _job(rows[0])

    def jobs(
        self,
        *,
        collection_id: str | None,
        states: Sequence[JobState],
        document_id: str | None,
        before: int | None,
        limit: int,
    ) -> tuple[Job, ...]:
        """Rows, newest first."""
        tests, bindings = ["1"], []
        for sql, value in (
            ("l.collection_id = ?", collection_id),
            ("l.document_id = ?", document_id),
            ("l.id < ?", before),
        ):
            if value is not None:
                tests.append(sql)
                bindings.append(value)
        if states:
            tests.append("l.state IN (SELECT value FROM json_each(?))")
            bindings.append(json.dumps([state.value for state in states]))
        rows = self._catalogue.query(
            f"SELECT {_COLUMNS} {_FROM} WHERE {' AND '.join(tests)} ORDER BY l.id DESC LIMIT ?",
            (*bindings, limit),
        )
        return tuple(map(_job, rows))

    def depth(self) -> dict[JobState, int]:
        """Counts of the states that want attention."""
        rows = self._catalogue.query(
            "SELECT state, count(*) FROM ledger WHERE state IN ('pending', 'processing', 'failed') "
            "GROUP BY state"
        )
        counts = dict.fromkeys((JobState.PENDING, JobState.PROCESSING, JobState.FAILED), 0)
        counts.update({JobState(state): count for state, count in rows})
        return counts

    @staticmethod
    def _read_one(connection: apsw.Connection, job_id: int) -> Job:
        rows = fetch(connection, f"SELECT {_COLUMNS} {_FROM} WHERE l.id = ?", (job_id,))
        if not rows:
            raise NotFoundError(f"There is no job {job_id}.", field="path.job_id")
        return _job(rows[0])


def _job(row: tuple[Any, ...]) -> Job:
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
    )
