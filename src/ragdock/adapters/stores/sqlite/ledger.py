"""The ledger: accepted work and its state, a table of the catalogue file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import apsw

from ragdock.adapters.stores.sqlite.connections import Database, fetch
from ragdock.adapters.stores.sqlite.contents import drop_settled, insert_content
from ragdock.adapters.stores.sqlite.owners import Owners
from ragdock.errors import NotFoundError
from ragdock.types import Job, JobKind, JobState, Upload

__all__ = ["Ledger"]

MAX_ATTEMPTS: Final = 5
KEEP_FINISHED: Final = 100_000
TRIM_BATCH: Final = 1_000
_POISON: Final = "The worker died or hung on this document in every attempt."

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

    def raise_floor(self, version: int) -> None:
        """Number new rows above `version` (a restored catalogue may be older than its files)."""
        if self._last_number(self._catalogue.query) >= version:
            return
        with self._catalogue.write() as connection:
            if self._last_number(lambda sql: fetch(connection, sql)) < version:
                connection.execute("DELETE FROM sqlite_sequence WHERE name = 'ledger'")
                connection.execute("INSERT INTO sqlite_sequence VALUES ('ledger', ?)", (version,))

    @staticmethod
    def _last_number(query: Callable[[str], list[Any]]) -> int:
        rows = query("SELECT seq FROM sqlite_sequence WHERE name = 'ledger'")
        return int(rows[0][0]) if rows else 0

    def add(
        self, collection_id: str, uploads: Sequence[Upload], same_as: Sequence[int | None]
    ) -> tuple[Job, ...]:
        """One row an upload, in one transaction; content is kept until the job is done.

        `same_as` holds the searchable version that an upload equals, if any: without a later write
        it becomes a finished row. One equal to the newest open row of its document answers that.
        """
        with self._catalogue.write() as connection:
            if not fetch(connection, "SELECT 1 FROM collections WHERE id = ?", (collection_id,)):
                raise NotFoundError(
                    "The collection was dropped meanwhile.",
                    field="collection",
                    code="collection_not_found",
                )
            ids = [
                self._add_one(connection, collection_id, upload, version)
                for upload, version in zip(uploads, same_as, strict=True)
            ]
            self._trim(connection)
            return tuple(self._read_one(connection, job_id) for job_id in ids)

    def _add_one(
        self, connection: apsw.Connection, collection_id: str, upload: Upload, same_as: int | None
    ) -> int:
        metadata = json.dumps(upload.metadata, sort_keys=True)
        key = (collection_id, upload.document_id)
        newest = fetch(
            connection,
            f"SELECT id, kind, sha256, filename, metadata FROM ledger WHERE collection_id = ? "
            f"AND document_id = ? AND state IN {_OPEN} ORDER BY id DESC LIMIT 1",
            key,
        )
        asked = (JobKind.INDEX, upload.sha256, upload.filename, metadata)
        if newest and newest[0][1:] == asked:
            return int(newest[0][0])
        unchanged = same_as is not None and not fetch(
            connection,
            f"SELECT 1 FROM ledger WHERE collection_id = ? AND document_id = ? AND id > ? "
            f"AND (state IN {_OPEN} OR outcome IN ('indexed', 'deleted')) LIMIT 1",
            (*key, same_as),
        )
        now = time.time()
        connection.execute(
            "INSERT INTO ledger (collection_id, document_id, kind, state, filename, media_type, "
            "size_bytes, sha256, metadata, outcome, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *key,
                JobKind.INDEX.value,
                JobState.DONE.value if unchanged else JobState.PENDING.value,
                upload.filename,
                upload.media_type,
                upload.size_bytes,
                upload.sha256,
                metadata,
                "unchanged" if unchanged else None,
                now,
                now,
            ),
        )
        job_id = connection.last_insert_rowid()
        drop_settled(connection, *key)
        if not unchanged:
            insert_content(connection, job_id, upload.content)
        return job_id

    @staticmethod
    def _trim(connection: apsw.Connection) -> None:
        """Forget the oldest finished rows, in batches; versions in the collections stay."""
        oldest = fetch(connection, "SELECT min(id), max(id) FROM ledger")[0]
        if oldest[0] is not None and oldest[1] - oldest[0] > KEEP_FINISHED + TRIM_BATCH:
            connection.execute(
                f"DELETE FROM ledger WHERE id < ? AND state NOT IN {_OPEN}",
                (oldest[1] - KEEP_FINISHED,),
            )

    def add_delete(self, collection_id: str, document_id: str) -> int:
        """A row that asks for the document's removal; its unfinished index jobs are cancelled."""
        now = time.time()
        with self._catalogue.write() as connection:
            connection.execute(
                f"UPDATE ledger SET state = 'cancelled', outcome = 'deleted', owner = NULL, "
                f"updated_at = ? WHERE collection_id = ? AND document_id = ? "
                f"AND kind = 'index' AND state IN {_OPEN}",
                (now, collection_id, document_id),
            )
            drop_settled(connection, collection_id, document_id)
            connection.execute(
                "INSERT INTO ledger (collection_id, document_id, kind, state, filename, "
                "media_type, size_bytes, sha256, metadata, created_at, updated_at) "
                "VALUES (?, ?, 'delete', 'pending', '', '', 0, '', '{}', ?, ?)",
                (collection_id, document_id, now, now),
            )
            return connection.last_insert_rowid()

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
            "(SELECT json_group_array(DISTINCT owner) FROM ledger WHERE state = 'processing'), "
            "(SELECT min(lease_until) FROM ledger WHERE state = 'processing')",
            (now,),
        )
        pending, owners, oldest_lease = rows[0]
        if pending or (oldest_lease is not None and oldest_lease < now):
            return True
        return any(self._owners.is_dead(owner) for owner in json.loads(owners) if owner)

    def _take_back(self, connection: apsw.Connection, now: float) -> None:
        """Free what dead or silent owners hold; a job that keeps killing its owner is parked."""
        owners = fetch(connection, "SELECT DISTINCT owner FROM ledger WHERE state = 'processing'")
        dead = [owner for (owner,) in owners if owner and self._owners.is_dead(owner)]
        lost = fetch(
            connection,
            "SELECT id, attempt FROM ledger WHERE state = 'processing' AND (lease_until < ? "
            "OR owner IN (SELECT value FROM json_each(?)))",
            (now, json.dumps(dead)),
        )
        for job_id, attempt in lost:
            if attempt < MAX_ATTEMPTS:
                connection.execute(
                    "UPDATE ledger SET state = 'pending', owner = NULL, updated_at = ? "
                    "WHERE id = ?",
                    (now, job_id),
                )
            else:
                connection.execute(
                    "UPDATE ledger SET state = 'failed', owner = NULL, updated_at = ?, "
                    "error_code = 'poison', error = ? WHERE id = ?",
                    (now, _POISON, job_id),
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
            job = self._read_one(connection, job_id)
            if job.state is JobState.DONE:
                connection.execute("DELETE FROM contents WHERE job_id = ?", (job_id,))
        self._catalogue.give_back_space()
        return job

    def fail(self, job: Job, code: str, reason: str, *, retry_after_seconds: float | None) -> Job:
        """Pending again after the pause, or failed for good."""
        now = time.time()
        final = retry_after_seconds is None or job.attempt >= MAX_ATTEMPTS
        with self._catalogue.write() as connection:
            # The attempt is checked so that a worker that lost its lease can't fail its successor.
            connection.execute(
                "UPDATE ledger SET state = ?, error_code = ?, error = ?, not_before = ?, "
                "owner = NULL, updated_at = ? WHERE id = ? AND state = 'processing' "
                "AND attempt = ?",
                (
                    JobState.FAILED.value if final else JobState.PENDING.value,
                    code,
                    reason,
                    now + (retry_after_seconds or 0.0),
                    now,
                    job.id,
                    job.attempt,
                ),
            )
            return self._read_one(connection, job.id)

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

    def unsettled(self, collection_id: str, after: str, limit: int) -> tuple[Job, ...]:
        """Documents' newest rows where those are uploads that are unfinished or failed."""
        # By state: such rows are few beside the finished ones, which the other index would read.
        rows = self._catalogue.query(
            f"SELECT {_COLUMNS} FROM ledger l INDEXED BY ledger_by_state "
            "JOIN collections c ON c.id = l.collection_id "
            "WHERE l.state IN ('pending', 'processing', 'failed') AND l.collection_id = ? "
            "AND l.document_id > ? AND l.kind = 'index' AND NOT EXISTS (SELECT 1 FROM ledger n "
            "WHERE n.collection_id = l.collection_id AND n.document_id = l.document_id "
            "AND n.id > l.id) ORDER BY l.document_id LIMIT ?",
            (collection_id, after, limit),
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

    def is_open(self, job_id: int) -> bool:
        """Whether the job is known and unfinished."""
        sql = f"SELECT 1 FROM ledger WHERE id = ? AND state IN {_OPEN}"
        return bool(self._catalogue.query(sql, (job_id,)))

    def open_bytes(self) -> int:
        """How much the unfinished uploads are together."""
        rows = self._catalogue.query(
            f"SELECT coalesce(sum(size_bytes), 0) FROM ledger WHERE state IN {_OPEN}"
        )
        return int(rows[0][0])

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
