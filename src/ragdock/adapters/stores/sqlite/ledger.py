"""The ledger: accepted work and its state, a table of the catalogue file.

Every change of a row takes the next number of one counter (`change`), so followers can ask for what
is new. `token` is the change by which a job was claimed or cancelled: what carries an older token
comes from a worker that has lost the job.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

import apsw

from ragdock.adapters.stores.sqlite.clock import Clock
from ragdock.adapters.stores.sqlite.connections import Database, fetch
from ragdock.adapters.stores.sqlite.contents import drop_settled, insert_content
from ragdock.adapters.stores.sqlite.leases import Leases, pause_seconds
from ragdock.adapters.stores.sqlite.ledger_reads import LedgerReads
from ragdock.adapters.stores.sqlite.ledger_rows import (
    OPEN,
    next_change,
    open_members,
    read_one,
)
from ragdock.adapters.stores.sqlite.owners import Owners
from ragdock.errors import ConflictError, NotFoundError
from ragdock.types import Job, JobKind, JobStage, JobState, Upload

__all__ = ["Deletion", "Ledger"]

KEEP_FINISHED: Final = 100_000
TRIM_BATCH: Final = 1_000

Deletion: TypeAlias = tuple[str, int]
"""A document's id, and the version below which nothing of it stays."""


class Ledger(LedgerReads):
    """Reads and writes ledger rows; every method is one transaction or one read."""

    def __init__(
        self,
        catalogue: Database,
        owners: Owners,
        clock: Clock,
        *,
        max_attempts: int,
    ) -> None:
        super().__init__(catalogue)
        self._owners = owners
        self._clock = clock
        self._max_attempts = max_attempts
        self.leases = Leases(catalogue, owners, clock, max_attempts=max_attempts)

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
        """One row an upload, in one transaction; content is kept until the job is finished.

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
            return tuple(read_one(connection, job_id) for job_id in ids)

    def _add_one(
        self, connection: apsw.Connection, collection_id: str, upload: Upload, same_as: int | None
    ) -> int:
        metadata = json.dumps(upload.metadata, sort_keys=True)
        key = (collection_id, upload.document_id)
        newest = fetch(
            connection,
            f"SELECT id, kind, sha256, filename, metadata FROM ledger WHERE collection_id = ? "
            f"AND document_id = ? AND state IN {OPEN} ORDER BY id DESC LIMIT 1",
            key,
        )
        asked = (JobKind.INDEX, upload.sha256, upload.filename, metadata)
        if newest and newest[0][1:] == asked:
            return int(newest[0][0])
        unchanged = same_as is not None and not fetch(
            connection,
            f"SELECT 1 FROM ledger WHERE collection_id = ? AND document_id = ? AND id > ? "
            f"AND (state IN {OPEN} OR outcome IN ('indexed', 'expanded', 'deleted')) LIMIT 1",
            (*key, same_as),
        )
        now = self._clock.wall()
        connection.execute(
            "INSERT INTO ledger (collection_id, document_id, kind, state, filename, media_type, "
            "size_bytes, sha256, metadata, outcome, change, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
                next_change(connection),
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
                f"DELETE FROM ledger WHERE id < ? AND state NOT IN {OPEN}",
                (oldest[1] - KEEP_FINISHED,),
            )

    def expand(
        self,
        job: Job,
        uploads: Iterable[Upload],
        same_as: Callable[[Upload], int | None],
        make_room: Callable[[], set[str]],
    ) -> tuple[Job, list[Deletion]]:
        """An archive's files as jobs, and the archive's own done; what is to be deleted then.

        `make_room()` removes what was searchable under the archive's own id and answers the
        searchable files of its earlier version. Nothing happens when the worker has lost the job.
        """
        with self._catalogue.write() as connection:
            if not self._holds(connection, job):
                return read_one(connection, job.id), []
            deletions: list[Deletion] = []
            outcome = "superseded"
            if not self._has_later(connection, job, ignore_open=True):
                kept = set()
                for upload in uploads:
                    member = self._add_one(connection, job.collection_id, upload, same_as(upload))
                    connection.execute(
                        "UPDATE ledger SET parent = ? WHERE id = ?", (job.id, member)
                    )
                    kept.add(upload.document_id)
                gone = make_room()
                gone |= open_members(connection, job.collection_id, job.document_id)
                deletions = self._add_deletes(connection, job.collection_id, gone - kept)
                outcome = "expanded"
            self._finish(connection, job.id, outcome)
            after = read_one(connection, job.id)
        self._owners.end(job.id)
        self._catalogue.give_back_space()
        return after, deletions

    def add_deletes(
        self, collection_id: str, document_ids: Iterable[str], archive_id: str
    ) -> list[Deletion]:
        """Rows that ask for removal; unfinished index jobs of the documents are cancelled.

        The files of that archive that are not searchable yet, or failed, are removed as well.
        """
        with self._catalogue.write() as connection:
            ids = {*document_ids, *open_members(connection, collection_id, archive_id)}
            deletions = self._add_deletes(connection, collection_id, ids)
        for _, version in deletions:
            self._owners.end(version)
        return deletions

    def _add_deletes(
        self, connection: apsw.Connection, collection_id: str, document_ids: Iterable[str]
    ) -> list[Deletion]:
        now = self._clock.wall()
        deletions = []
        for document_id in sorted(document_ids):
            open_jobs = fetch(
                connection,
                f"SELECT id FROM ledger WHERE collection_id = ? AND document_id = ? "
                f"AND kind = 'index' AND state IN {OPEN}",
                (collection_id, document_id),
            )
            for (job_id,) in open_jobs:
                self._withdraw(connection, job_id, "deleted")
            drop_settled(connection, collection_id, document_id)
            connection.execute(
                "INSERT INTO ledger (collection_id, document_id, kind, state, filename, "
                "media_type, size_bytes, sha256, metadata, change, created_at, updated_at) "
                "VALUES (?, ?, 'delete', 'pending', '', '', 0, '', '{}', ?, ?, ?)",
                (collection_id, document_id, next_change(connection), now, now),
            )
            deletions.append((document_id, connection.last_insert_rowid()))
        return deletions

    def finish_deletes(self, versions: Iterable[int]) -> None:
        """Mark removals done whose documents are gone."""
        with self._catalogue.write() as connection:
            for version in versions:
                self._finish(connection, version, "deleted")
        self._catalogue.give_back_space()

    def finish(self, job_id: int, outcome: str) -> Job:
        """Mark a job done whose content is searchable (or gone, for a removal); drop its upload.

        A cancelled one stays cancelled: its document was deleted since.
        """
        with self._catalogue.write() as connection:
            self._finish(connection, job_id, outcome)
            job = read_one(connection, job_id)
        self._owners.end(job_id)
        self._catalogue.give_back_space()
        return job

    def _finish(self, connection: apsw.Connection, job_id: int, outcome: str) -> None:
        connection.execute(
            "UPDATE ledger SET state = 'done', outcome = ?, owner = NULL, error_code = NULL, "
            "error = NULL, stage = NULL, percent = 100, retry_at = NULL, change = ?, "
            "updated_at = ? WHERE id = ? AND state IN ('pending', 'processing', 'failed')",
            (outcome, next_change(connection), self._clock.wall(), job_id),
        )
        connection.execute(
            "DELETE FROM contents WHERE job_id = (SELECT id FROM ledger "
            "WHERE id = ? AND state = 'done')",
            (job_id,),
        )

    def fail(
        self,
        job: Job,
        code: str,
        reason: str,
        *,
        retry_after_seconds: float | None,
        counts: bool = True,
    ) -> Job:
        """Pending again after the pause, or failed for good.

        `counts` holds the attempt against the document: after `max_attempts` such it is failed.
        """
        # First of all: should this fail too (a full disk), the document isn't to blame for it.
        self._owners.end(job.id)
        now = self._clock.wall()
        with self._catalogue.write() as connection:
            # The token is checked so that a worker that lost its lease can't fail its successor.
            held = fetch(
                connection,
                "SELECT faults FROM ledger WHERE id = ? AND state = 'processing' AND token = ?",
                (job.id, job.token),
            )
            if held:
                faults = held[0][0] + int(counts)
                final = retry_after_seconds is None or (counts and faults >= self._max_attempts)
                pause = 0.0 if final else pause_seconds(job.attempt, retry_after_seconds or 0.0)
                connection.execute(
                    "UPDATE ledger SET state = ?, error_code = ?, error = ?, faults = ?, "
                    "not_before = ?, clock = ?, retry_at = ?, owner = NULL, stage = NULL, "
                    "percent = 0, change = ?, updated_at = ? WHERE id = ?",
                    (
                        JobState.FAILED.value if final else JobState.PENDING.value,
                        code,
                        reason,
                        faults,
                        self._clock.steady() + pause,
                        self._clock.id,
                        None if final else now + pause,
                        next_change(connection),
                        now,
                        job.id,
                    ),
                )
            return read_one(connection, job.id)

    def progress(self, job: Job, stage: JobStage, percent: int) -> None:
        """Note how far a job in work is, and that its worker is at it."""
        if job.worker is not None:
            self._owners.begin(job.worker, job.id)
        if stage is JobStage.PARSE and percent <= 0:
            return  # As claimed: no write for what changes nothing.
        with self._catalogue.write() as connection:
            connection.execute(
                "UPDATE ledger SET stage = ?, percent = ?, change = ?, updated_at = ? "
                "WHERE id = ? AND state = 'processing' AND token = ? "
                "AND (stage IS NOT ? OR percent <> ?)",
                (
                    stage.value,
                    min(max(percent, 0), 100),
                    next_change(connection),
                    self._clock.wall(),
                    job.id,
                    job.token,
                    stage.value,
                    percent,
                ),
            )

    # Asked for by people

    def cancel(self, job_id: int, refuse: Callable[[Job, int], bool]) -> Job:
        """Give up an unfinished job; one that is cancelled already is answered as it is.

        `refuse(job, token)` makes the job's collection refuse commits of workers with that token or
        an older one, and answers False when the job's content is searchable already. It is called
        while no claim can be given, so afterwards nobody holds a token that would pass.
        """
        with self._catalogue.write() as connection:
            job = read_one(connection, job_id)
            if job.state is JobState.CANCELLED:
                return job
            if job.kind is not JobKind.INDEX or job.state not in (
                JobState.PENDING,
                JobState.PROCESSING,
            ):
                raise _finished(job)
            refused = refuse(job, next_change(connection))
            if refused:
                self._withdraw(connection, job_id, None)
            else:
                self._finish(connection, job_id, "indexed")
            job = read_one(connection, job_id)
        self._owners.end(job_id)
        if not refused:
            raise _finished(job)
        return job

    def withdrawn(self, job: Job) -> Job:
        """Complete a cancellation that a crash cut off between the two files."""
        with self._catalogue.write() as connection:
            if self._holds(connection, job):
                self._withdraw(connection, job.id, None)
            after = read_one(connection, job.id)
        self._owners.end(job.id)
        return after

    def _withdraw(self, connection: apsw.Connection, job_id: int, outcome: str | None) -> None:
        change = next_change(connection)
        connection.execute(
            "UPDATE ledger SET state = 'cancelled', outcome = ?, owner = NULL, stage = NULL, "
            "percent = 0, retry_at = NULL, token = ?, change = ?, updated_at = ? WHERE id = ?",
            (outcome, change, change, self._clock.wall(), job_id),
        )

    def retry(self, job_id: int) -> Job:
        """Make a failed or cancelled job pending again, its attempts counted anew."""
        with self._catalogue.write() as connection:
            job = read_one(connection, job_id)
            if job.kind is not JobKind.INDEX or job.state not in (
                JobState.FAILED,
                JobState.CANCELLED,
            ):
                raise ConflictError(
                    f"The job is {job.state.value}; only a failed or cancelled one can be retried.",
                    field="path.job_id",
                    code="job_not_retriable",
                )
            if not fetch(connection, "SELECT 1 FROM contents WHERE job_id = ?", (job_id,)):
                raise ConflictError(
                    "The job's upload is gone; send the document again.",
                    field="path.job_id",
                    code="upload_gone",
                )
            if self._has_later(connection, job):
                raise ConflictError(
                    "The document was written or deleted since; that is what counts.",
                    field="path.job_id",
                    code="superseded",
                )
            connection.execute(
                "UPDATE ledger SET state = 'pending', outcome = NULL, attempt = 0, faults = 0, "
                "not_before = 0, retry_at = NULL, error_code = NULL, error = NULL, stage = NULL, "
                "percent = 0, owner = NULL, change = ?, updated_at = ? WHERE id = ?",
                (next_change(connection), self._clock.wall(), job_id),
            )
            return read_one(connection, job_id)

    @staticmethod
    def _holds(connection: apsw.Connection, job: Job) -> bool:
        """Whether the worker that was given this job still has it."""
        sql = "SELECT 1 FROM ledger WHERE id = ? AND state = 'processing' AND token = ?"
        return bool(fetch(connection, sql, (job.id, job.token)))

    @staticmethod
    def _has_later(connection: apsw.Connection, job: Job, *, ignore_open: bool = False) -> bool:
        return bool(
            fetch(
                connection,
                f"SELECT 1 FROM ledger WHERE collection_id = ? AND document_id = ? AND id > ? "
                f"AND (? AND state IN {OPEN} "
                "OR outcome IN ('indexed', 'expanded', 'deleted', 'unchanged')) LIMIT 1",
                (job.collection_id, job.document_id, job.id, not ignore_open),
            )
        )


def _finished(job: Job) -> ConflictError:
    return ConflictError(
        f"The job is {job.state.value}; there is nothing left to cancel.",
        field="path.job_id",
        code="job_finished",
    )
