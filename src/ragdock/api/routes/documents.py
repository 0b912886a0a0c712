"""`/v1/documents`: accept, replace, list, show, delete."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Annotated, Any, Final

from fastapi import Query, Request, Response
from pydantic import BaseModel, TypeAdapter
from starlette.responses import JSONResponse, StreamingResponse

from ragdock.api.auditing import about
from ragdock.api.auth import guarded_router, requires
from ragdock.api.bodies import json_schema
from ragdock.api.clock import request_clock
from ragdock.api.deps import CollectionQuery, DocumentId, GateOf, ServicesOf
from ragdock.api.fields import DOCUMENT_ID, MetadataObject
from ragdock.api.forms import too_many_files
from ragdock.api.gate import Gate
from ragdock.api.problems import problem, problem_responses
from ragdock.api.schemas import (
    Accepted,
    AcceptedList,
    DocumentBody,
    DocumentList,
    TextDocuments,
    TextReplacement,
)
from ragdock.api.uploads import (
    is_multipart,
    receive_form,
    receive_replacement,
    receive_texts,
)
from ragdock.bootstrap import DEFAULT_COLLECTION, Services
from ragdock.core.ids import PublicIds
from ragdock.core.keys import members_prefix
from ragdock.errors import InputError, NotFoundError, UnavailableError
from ragdock.settings import Settings
from ragdock.types import Document, Job, JobKind, JobState, Right, Upload

__all__ = ["all_finished", "router", "waited"]

_UNFINISHED: Final = (JobState.PENDING, JobState.PROCESSING)
_FIRST_LOOK_SECONDS: Final = 0.01
_LONGEST_PAUSE_SECONDS: Final = 0.2
_METADATA: Final = TypeAdapter(MetadataObject).json_schema()
_FILES: Final = {
    "type": "object",
    "additionalProperties": False,
    "required": ["file"],
    "properties": {
        "file": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1},
        "metadata": _METADATA | {"description": "A JSON object, for all files."},
        "id": {"type": "string", "pattern": DOCUMENT_ID, "description": "With one file only."},
    },
}
_FILE: Final = {
    "type": "object",
    "additionalProperties": False,
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "metadata": _METADATA | {"description": "A JSON object."},
    },
}

log = logging.getLogger(__name__)

router = guarded_router("/v1/documents", tags=["documents"])


def _body(json_model: type[BaseModel], form: dict[str, Any]) -> dict[str, Any]:
    return {
        "requestBody": {
            "required": True,
            "content": {
                **json_schema(json_model),
                "multipart/form-data": {"schema": form},
            },
        }
    }


_ACCEPTED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": AcceptedList, "description": "All are finished (with `wait`)."},
    202: {"model": AcceptedList, "description": "Accepted: they survive a crash from here on."},
    **problem_responses(400, 404, 409, 413, 415, 422, 503),
}
Wait = Annotated[
    bool, Query(description="Answer when the documents are searchable, those in archives too.")
]


@router.post(
    "",
    status_code=202,
    response_model=AcceptedList,
    responses=_ACCEPTED,
    openapi_extra=_body(TextDocuments, _FILES),
)
@requires(Right.WRITE)
async def add_documents(
    request: Request,
    services: ServicesOf,
    gate: GateOf,
    collection: CollectionQuery | None = None,
    wait: Wait = False,
) -> Response:
    """Accept files or texts, all or none; they are searchable soon after."""
    async with AsyncExitStack() as stack:
        if is_multipart(request):
            uploads = await stack.enter_async_context(receive_form(request, services, gate))
        else:
            texts = receive_texts(request, services, gate)
            body, uploads = await stack.enter_async_context(texts)
            collection = collection or body.collection
        _require_distinct(uploads, services.settings)
        jobs = await _accept(request, services, gate, collection or DEFAULT_COLLECTION, uploads)
    return await _answer(request, services, gate, jobs, wait=wait)


@router.put(
    "/{document_id}",
    status_code=202,
    response_model=AcceptedList,
    responses=_ACCEPTED,
    openapi_extra=_body(TextReplacement, _FILE),
)
@requires(Right.WRITE)
async def replace_document(
    document_id: DocumentId,
    request: Request,
    services: ServicesOf,
    gate: GateOf,
    collection: CollectionQuery = DEFAULT_COLLECTION,
    wait: Wait = False,
) -> Response:
    """Make this the document's content; the former version serves until the new one is whole."""
    if is_multipart(request):
        received = receive_form(request, services, gate, document_id=document_id)
    else:
        received = receive_replacement(request, services, gate, document_id)
    async with received as uploads:
        jobs = await _accept(request, services, gate, collection, uploads)
    return await _answer(request, services, gate, jobs, wait=wait)


@router.get("", responses=problem_responses(404, 422, 503))
@requires(Right.READ)
async def list_documents(
    services: ServicesOf,
    gate: GateOf,
    collection: CollectionQuery = DEFAULT_COLLECTION,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(max_length=200)] = None,
) -> DocumentList:
    """Documents by id, those that are not searchable (yet) included."""
    return await gate.run(_page, services, collection, limit, after)


@router.get("/{document_id}", responses=problem_responses(404, 422, 503))
@requires(Right.READ)
async def get_document(
    document_id: DocumentId,
    services: ServicesOf,
    gate: GateOf,
    collection: CollectionQuery = DEFAULT_COLLECTION,
) -> DocumentBody:
    """One document."""
    return await gate.run(_document, services, collection, document_id)


@router.get(
    "/{document_id}/text",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **problem_responses(404, 422, 503),
    },
)
@requires(Right.READ)
async def get_text(
    document_id: DocumentId,
    services: ServicesOf,
    gate: GateOf,
    collection: CollectionQuery = DEFAULT_COLLECTION,
) -> Response:
    """The text that the offsets of hits and citations point into (in code points)."""
    pieces = await gate.run(services.store.document_text, collection, document_id)
    first = await gate.run(next, pieces, "")

    async def body() -> AsyncGenerator[bytes]:
        # A piece is read when the one before it is sent, so a slow client holds up nobody.
        piece = first
        while piece:
            yield piece.encode("utf-8", "replace")
            piece = await gate.run(next, pieces, "")

    return StreamingResponse(body(), media_type="text/plain; charset=utf-8")


@router.delete("/{document_id}", status_code=204, responses=problem_responses(404, 422, 503))
@requires(Right.WRITE)
async def delete_document(
    document_id: DocumentId,
    services: ServicesOf,
    gate: GateOf,
    collection: CollectionQuery = DEFAULT_COLLECTION,
) -> Response:
    """Remove a document: when this answers, no search and no cached answer shows it any more."""
    await gate.run(services.store.delete_document, collection, document_id)
    return Response(status_code=204)


async def _accept(
    request: Request,
    services: Services,
    gate: GateOf,
    collection: str,
    uploads: Sequence[Upload],
) -> tuple[Job, ...]:
    about(request, collection=collection, documents=[u.document_id for u in uploads])
    if services.settings.log_content:
        log.info("received", extra={"filenames": [upload.filename for upload in uploads]})
    return await gate.run(services.ingester.submit, collection, uploads)


async def _answer(
    request: Request,
    services: Services,
    gate: GateOf,
    jobs: tuple[Job, ...],
    *,
    wait: bool,
) -> Response:
    if wait:
        jobs = await waited(request, services, gate, jobs)
    failed = [job for job in jobs if job.state is JobState.FAILED]
    if failed and len(failed) == len(jobs):
        return _all_failed(failed)
    body = AcceptedList(documents=[Accepted.of(job, services.ids) for job in jobs])
    is_done = wait and await all_finished(services, gate, jobs)
    return JSONResponse(body.model_dump(mode="json"), 200 if is_done else 202)


async def waited(
    request: Request, services: Services, gate: GateOf, jobs: tuple[Job, ...]
) -> tuple[Job, ...]:
    """The jobs once they are finished, or as they are when the time is over.

    Waiting holds no thread: those are for work. The documents are accepted, so whatever cuts the
    wait short (too many wait, the server stops) is a 202 and never an error.
    """
    state = request.app.state
    if state.n_waiting >= services.settings.max_waiting:
        return jobs
    state.n_waiting += 1
    pause_seconds = _FIRST_LOOK_SECONDS
    clock = request_clock.get()
    if clock is not None:
        clock.work(services.settings.wait_timeout_seconds)
        clock.watch()
    try:
        async with asyncio.timeout(services.settings.wait_timeout_seconds):
            while not await all_finished(services, gate, jobs):
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(pause_seconds * 1.5, _LONGEST_PAUSE_SECONDS)
                with suppress(UnavailableError):
                    jobs = await gate.run(services.ingester.current, jobs)
    except TimeoutError:
        log.debug("the wait for documents timed out")
    except asyncio.CancelledError:
        log.info("the server stops, or a client leaves, while it waits for documents")
    finally:
        state.n_waiting -= 1
    return jobs


async def all_finished(services: Services, gate: Gate, jobs: Sequence[Job]) -> bool:
    """Whether there is nothing to wait for, of the files in archives neither."""
    if any(job.state in _UNFINISHED for job in jobs):
        return False
    archives = [job for job in jobs if job.outcome == "expanded"]
    if not archives:
        return True

    def is_idle() -> bool:
        return not any(
            services.store.jobs(
                collection=job.collection, parent=job.id, states=_UNFINISHED, limit=1
            )
            for job in archives
        )

    try:
        return await gate.run(is_idle)
    except NotFoundError:  # The collection was dropped, and its work with it.
        return True
    except UnavailableError:
        return False


def _all_failed(jobs: Sequence[Job]) -> Response:
    errors = [{"field": job.filename, "message": job.error or ""} for job in jobs]
    return problem(422, jobs[0].error_code or "unreadable", jobs[0].error or "", errors=errors)


def _require_distinct(uploads: Sequence[Upload], settings: Settings) -> None:
    """Refuse two contents for one id; the very same document twice is one document."""
    if len(uploads) > settings.max_files:
        raise too_many_files(settings.max_files)
    seen: dict[str, Upload] = {}
    for upload in uploads:
        other = seen.setdefault(upload.document_id, upload)
        # Not `==`: equal hashes are equal contents, without comparing megabytes.
        if (other.sha256, other.filename, other.metadata) != (
            upload.sha256,
            upload.filename,
            upload.metadata,
        ):
            raise InputError(
                f"Two documents of the request have the id {upload.document_id!r}.",
                field="body",
                code="duplicate_id",
            )


def _document(services: Services, collection: str, document_id: str) -> DocumentBody:
    # The ledger first: what finishes between the two reads is in both, not in none.
    newest = services.store.jobs(collection=collection, document_id=document_id, limit=1)
    job = newest[0] if newest and _is_unsettled(newest[0]) else None
    try:
        return _settled(services.store.document(collection, document_id), job, services.ids)
    except NotFoundError:
        if newest and newest[0].outcome == "expanded":
            raise _expanded(document_id) from None
        if job is None:
            raise
        return DocumentBody.of_job(job, services.ids)


def _expanded(document_id: str) -> NotFoundError:
    return NotFoundError(
        f"{document_id!r} is an archive that was expanded: the documents in it have ids that begin "
        f"with {members_prefix(document_id)!r}.",
        field="path.document_id",
        code="expanded",
    )


def _page(services: Services, collection: str, limit: int, after: str | None) -> DocumentList:
    unsettled = services.store.unsettled(collection, after=after, limit=limit + 1)
    searchable = services.store.documents(collection, after=after, limit=limit + 1)
    jobs = {job.document_id: job for job in unsettled}
    ids = services.ids
    bodies = {job.document_id: DocumentBody.of_job(job, ids) for job in unsettled}
    bodies |= {
        document.id: _settled(document, jobs.get(document.id), ids) for document in searchable
    }
    # Each side holds its first limit + 1, so the first `limit` of both together are complete.
    ordered = [bodies[key] for key in sorted(bodies)]
    page = ordered[:limit]
    return DocumentList(documents=page, next=page[-1].id if len(ordered) > limit else None)


def _is_unsettled(job: Job) -> bool:
    return job.kind is JobKind.INDEX and job.state in (*_UNFINISHED, JobState.FAILED)


def _settled(document: Document, job: Job | None, ids: PublicIds) -> DocumentBody:
    """A searchable document, with the state of a later write if there is one."""
    later = job is not None and job.id > document.version
    return DocumentBody.of(document, job if later else None, ids)
