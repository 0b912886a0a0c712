"""Jobs as they travel over HTTP, and the ids that callers see."""

from __future__ import annotations

from typing import Literal

from ragdock.api.schemas import ErrorBody, Out, error_of, job_id, rfc3339
from ragdock.core.ids import PublicIds
from ragdock.types import Job, JobStage, JobState

__all__ = ["JobBody", "JobList", "change_id", "change_number", "job_number"]


class JobBody(Out):
    """A row of the ledger.

    `stage` and `percent` tell how far a job in work is; `next_attempt_at` is set while it waits for
    its next attempt, and `error` then says why. `parent_id` is the job of the archive that the file
    came in.
    """

    id: str
    collection: str
    document_id: str
    kind: Literal["index", "delete"]
    status: JobState
    stage: JobStage | None
    percent: int
    outcome: str | None
    filename: str
    size_bytes: int
    attempt: int
    next_attempt_at: str | None
    error: ErrorBody | None
    parent_id: str | None
    created_at: str
    updated_at: str

    @classmethod
    def of(cls, job: Job, ids: PublicIds) -> JobBody:
        """The body of a job."""
        return cls(
            id=job_id(ids, job.id),
            collection=job.collection,
            document_id=job.document_id,
            kind=job.kind.value,
            status=job.state,
            stage=job.stage,
            percent=job.percent,
            outcome=job.outcome,
            filename=job.filename,
            size_bytes=job.size_bytes,
            attempt=job.attempt,
            next_attempt_at=rfc3339(job.next_attempt_at) if job.next_attempt_at else None,
            error=error_of(job),
            parent_id=job_id(ids, job.parent_id) if job.parent_id else None,
            created_at=rfc3339(job.created_at),
            updated_at=rfc3339(job.updated_at),
        )


class JobList(Out):
    """A page of jobs; `next` is the `before` of the next page."""

    jobs: list[JobBody]
    next: str | None


def job_number(ids: PublicIds, text: str) -> int | None:
    """The number behind a job's id; None for what is no id of this server."""
    return ids.decode("job", text)


def change_id(ids: PublicIds, number: int) -> str:
    """A change's number as the id of an event."""
    return ids.encode("change", number)


def change_number(ids: PublicIds, text: str) -> int | None:
    """The number behind an event's id."""
    return ids.decode("change", text)
