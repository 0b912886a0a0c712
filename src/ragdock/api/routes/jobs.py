"""`/v1/jobs`: the ledger of accepted work."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from ragdock.api.auth import guarded_router, requires
from ragdock.api.deps import GateOf, ServicesOf
from ragdock.api.fields import NAME
from ragdock.api.problems import problem_responses
from ragdock.api.schemas import JobBody, JobList
from ragdock.types import JobState, Right

__all__ = ["router"]

LARGEST_ID = 2**63 - 1

router = guarded_router("/v1/jobs", tags=["jobs"])


@router.get("", responses=problem_responses(404, 422, 503))
@requires(Right.READ)
async def list_jobs(
    services: ServicesOf,
    gate: GateOf,
    collection: Annotated[str | None, Query(pattern=NAME)] = None,
    status: JobState | None = None,
    before: Annotated[int | None, Query(ge=1, le=LARGEST_ID)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> JobList:
    """Jobs, newest first."""
    found = await gate.run(
        services.store.jobs,
        collection=collection,
        states=(status,) if status else (),
        before=before,
        limit=limit + 1,
    )
    page = found[:limit]
    return JobList(
        jobs=[JobBody.of(job) for job in page],
        next=page[-1].id if len(found) > limit else None,
    )


@router.get("/{job_id}", responses=problem_responses(404, 422, 503))
@requires(Right.READ)
async def get_job(
    job_id: Annotated[int, Path(ge=1, le=LARGEST_ID)], services: ServicesOf, gate: GateOf
) -> JobBody:
    """One job."""
    return JobBody.of(await gate.run(services.store.job, job_id))
