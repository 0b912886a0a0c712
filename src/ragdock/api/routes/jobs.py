"""`/v1/jobs`: the ledger of accepted work: list, show, follow, retry, cancel."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Annotated, Any, Final

from fastapi import Header, Path, Query, Request, Response
from starlette.responses import StreamingResponse

from ragdock.api.auth import guarded_router, requires
from ragdock.api.deps import CollectionQuery, GateOf, ServicesOf
from ragdock.api.feed import Feed, received
from ragdock.api.fields import DOCUMENT_ID, NAME
from ragdock.api.gate import Gate
from ragdock.api.job_schemas import JobBody, JobList, change_id, change_number, job_number
from ragdock.api.problems import problem_responses
from ragdock.api.schemas import job_id
from ragdock.bootstrap import DEFAULT_COLLECTION, Services
from ragdock.core.ids import PublicIds
from ragdock.errors import NotFoundError, job_not_found
from ragdock.types import Job, JobState, Right

__all__ = ["router"]

MAX_ID_CHARACTERS: Final = 64
REPLAYED_CHANGES: Final = 1_000
FINISHED: Final = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)
_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Server-sent events; `event` is `job`, the data a job.",
        "content": {
            "text/event-stream": {
                "schema": {
                    "type": "object",
                    "required": ["id", "event", "data"],
                    "properties": {
                        "id": {"type": "string"},
                        "event": {"enum": ["job"]},
                        "data": {"type": "string"},
                    },
                }
            }
        },
    },
    **problem_responses(404, 422, 503),
}
_CHANGED: Final = problem_responses(404, 409, 422, 503)

router = guarded_router("/v1/jobs", tags=["jobs"])

JobId = Annotated[str, Path(max_length=MAX_ID_CHARACTERS, description="The job's id.")]
LastEventId = Annotated[
    str | None,
    Header(max_length=MAX_ID_CHARACTERS, description="Go on behind this event (EventSource does)."),
]


@router.get("", responses=problem_responses(404, 422, 503))
@requires(Right.READ)
async def list_jobs(
    services: ServicesOf,
    gate: GateOf,
    collection: Annotated[str | None, Query(pattern=NAME)] = None,
    status: JobState | None = None,
    document_id: Annotated[str | None, Query(pattern=DOCUMENT_ID)] = None,
    parent_id: Annotated[
        str | None,
        Query(max_length=MAX_ID_CHARACTERS, description="An archive's job: those of its files."),
    ] = None,
    before: Annotated[str | None, Query(max_length=MAX_ID_CHARACTERS)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> JobList:
    """Jobs, newest first."""

    # No job has the number 0: what is no id has no files.
    parent = None if parent_id is None else job_number(services.ids, parent_id) or 0

    def read() -> JobList:
        found = services.store.jobs(
            collection=collection,
            states=(status,) if status else (),
            document_id=document_id,
            parent=parent,
            before=_before(services.ids, before),
            limit=limit + 1,
        )
        page = found[:limit]
        return JobList(
            jobs=[JobBody.of(job, services.ids) for job in page],
            next=job_id(services.ids, page[-1].id) if len(found) > limit else None,
        )

    return await gate.run(read)


@router.get("/events", response_class=StreamingResponse, responses=_STREAM)
@requires(Right.READ)
async def follow_jobs(
    request: Request,
    services: ServicesOf,
    gate: GateOf,
    collection: CollectionQuery = DEFAULT_COLLECTION,
    last_event_id: LastEventId = None,
) -> Response:
    """Every change of a collection's jobs from now on, as server-sent events."""
    found = await gate.run(services.store.collection, collection)
    after = change_number(services.ids, last_event_id or "")

    def missed() -> list[Job]:
        if after is None:
            return []
        return list(
            services.store.job_changes(after, collections=[collection], limit=REPLAYED_CHANGES)
        )

    def exists() -> bool:
        try:
            return services.store.collection(collection).id == found.id
        except NotFoundError:
            return False

    stream = _Stream(request.app.state.feed, gate, services.ids, exists)
    return await stream.respond(lambda job: job.collection_id == found.id, missed, ends=False)


@router.get("/{job_id}", responses=problem_responses(404, 422, 503))
@requires(Right.READ)
async def get_job(job_id: JobId, services: ServicesOf, gate: GateOf) -> JobBody:
    """One job."""
    number = _number(services, job_id)
    return JobBody.of(await gate.run(services.store.job, number), services.ids)


@router.get(
    "/{job_id}/events",
    response_class=StreamingResponse,
    responses=_STREAM | {204: {"description": "It is finished, and you know it."}},
)
@requires(Right.READ)
async def follow_job(
    job_id: JobId,
    request: Request,
    services: ServicesOf,
    gate: GateOf,
    last_event_id: LastEventId = None,
) -> Response:
    """The job as it is and whenever it changes, as server-sent events, until it is finished."""
    number = _number(services, job_id)
    job = await gate.run(services.store.job, number)
    after = change_number(services.ids, last_event_id or "")
    if job.state in FINISHED and after is not None and after >= job.change:
        # What tells EventSource not to come back: HTML, section 9.2.3.
        return Response(status_code=204)

    def current() -> list[Job]:
        now = services.store.job(number)
        return [now] if after is None or now.change > after else []

    def exists() -> bool:
        try:
            return bool(services.store.job(number))
        except NotFoundError:
            return False

    stream = _Stream(request.app.state.feed, gate, services.ids, exists)
    return await stream.respond(lambda job: job.id == number, current, ends=True)


@router.post("/{job_id}/retry", status_code=202, responses=_CHANGED)
@requires(Right.WRITE)
async def retry_job(job_id: JobId, services: ServicesOf, gate: GateOf) -> JobBody:
    """Have a failed or cancelled job done again, with as many attempts as a new one."""
    number = _number(services, job_id)
    job = await gate.run(services.store.retry, number)
    services.ingester.wake()
    return JobBody.of(job, services.ids)


@router.post("/{job_id}/cancel", status_code=202, responses=_CHANGED)
@requires(Right.WRITE)
async def cancel_job(job_id: JobId, services: ServicesOf, gate: GateOf) -> JobBody:
    """Give up an unfinished job; from here on its content is never searchable."""
    number = _number(services, job_id)
    return JobBody.of(await gate.run(services.store.cancel, number), services.ids)


def _number(services: Services, text: str) -> int:
    number = job_number(services.ids, text)
    if not number:
        raise job_not_found()
    return number


def _before(ids: PublicIds, text: str | None) -> int | None:
    if text is None:
        return None
    number = job_number(ids, text)
    if number is None:
        raise NotFoundError("`before` is no `next` of a page of jobs.", field="query.before")
    return number


class _Stream:
    """One listener's answer."""

    def __init__(self, feed: Feed, gate: Gate, ids: PublicIds, exists: Callable[[], bool]) -> None:
        self._feed = feed
        self._gate = gate
        self._ids = ids
        self._exists = exists

    async def respond(
        self, wants: Callable[[Job], bool], before: Callable[[], list[Job]], *, ends: bool
    ) -> StreamingResponse:
        """Listen first and read what was `before` then, so that nothing falls in between."""
        with ExitStack() as stack:
            queue = stack.enter_context(self._feed.listening(wants))
            first = await self._gate.run(before)
            opened = stack.pop_all()
        events = self._events(first, received(queue), opened, ends=ends)
        return StreamingResponse(
            events,
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def _events(
        self,
        first: list[Job],
        following: AsyncIterator[Job | None],
        opened: ExitStack,
        *,
        ends: bool,
    ) -> AsyncIterator[str]:
        told = 0
        with opened:
            yield ": listening\n\n"
            for job in first:
                told = job.change
                yield self._event(job)
                if ends and job.state in FINISHED:
                    return
            async for change in following:
                if change is None:
                    if not await self._gate.run(self._exists):
                        return
                    yield ": still here\n\n"
                elif change.change > told:
                    yield self._event(change)
                    if ends and change.state in FINISHED:
                        return

    def _event(self, job: Job) -> str:
        body = JobBody.of(job, self._ids).model_dump(mode="json")
        data = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        return f"id: {change_id(self._ids, job.change)}\nevent: job\ndata: {data}\n\n"
