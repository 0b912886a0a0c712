"""`/v1/documents`: accept, replace, list, show, delete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import JSONResponse

from ragdock.api.deps import CollectionQuery, DocumentId, GateOf, ServicesOf
from ragdock.api.problems import problem, problem_responses
from ragdock.api.schemas import (
    DOCUMENT_ID,
    Accepted,
    AcceptedList,
    DocumentBody,
    DocumentList,
    TextDocuments,
    TextReplacement,
)
from ragdock.api.uploads import read_json, read_multipart, require_one, text_upload
from ragdock.bootstrap import DEFAULT_COLLECTION, Services
from ragdock.errors import InputError, NotFoundError
from ragdock.types import Job, JobState, Upload

__all__ = ["router"]

_UNFINISHED: Final = (JobState.PENDING, JobState.PROCESSING, JobState.FAILED)
_FILES: Final = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1},
        "metadata": {"type": "string", "description": "A JSON object for all files."},
        "id": {"type": "string", "pattern": DOCUMENT_ID, "description": "With one file only."},
    },
}
_FILE: Final = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "metadata": {"type": "string", "description": "A JSON object."},
    },
}

router = APIRouter(prefix="/v1/documents", tags=["documents"])


def _body(json_model: type, form: dict[str, Any]) -> dict[str, Any]:
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": f"#/components/schemas/{json_model.__name__}"}
                },
                "multipart/form-data": {"schema": form},
            },
        }
    }


_ACCEPTED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": AcceptedList, "description": "All are finished (with `wait`)."},
    202: {"model": AcceptedList, "description": "Accepted: they survive a crash from here on."},
    **problem_responses(400, 404, 409, 413, 415, 422, 503),
}
Wait = Annotated[bool, Query(description="Answer when the documents are searchable.")]


@router.post(
    "",
    status_code=202,
    response_model=AcceptedList,
    responses=_ACCEPTED,
    openapi_extra=_body(TextDocuments, _FILES),
)
async def add_documents(
    request: Request,
    services: ServicesOf,
    gate: GateOf,
    collection: CollectionQuery | None = None,
    wait: Wait = False,
) -> Response:
    """Accept files or texts, all or none; they are searchable soon after."""
    content_type = request.headers.get("content-type", "")
    if content_type.startswith("multipart/form-data"):
        uploads = await read_multipart(request, services.settings, gate)
    else:
        body = await read_json(request, TextDocuments)
        uploads = [
            text_upload(
                document.text,
                services.settings,
                document_id=document.id,
                filename=document.filename,
                metadata=document.metadata,
                field=f"body.documents.{index}",
            )
            for index, document in enumerate(body.documents)
        ]
        collection = collection or body.collection
    _require_distinct(uploads, services)
    return await _accept(services, gate, collection or DEFAULT_COLLECTION, uploads, wait=wait)


@router.put(
    "/{document_id}",
    status_code=202,
    response_model=AcceptedList,
    responses=_ACCEPTED,
    openapi_extra=_body(TextReplacement, _FILE),
)
async def replace_document(
    document_id: DocumentId,
    request: Request,
    services: ServicesOf,
    gate: GateOf,
    collection: CollectionQuery = DEFAULT_COLLECTION,
    wait: Wait = False,
) -> Response:
    """Make this the document's content; the former version serves until the new one is whole."""
    content_type = request.headers.get("content-type", "")
    if content_type.startswith("multipart/form-data"):
        uploads = await read_multipart(request, services.settings, gate, document_id=document_id)
        require_one(uploads)
    else:
        body = await read_json(request, TextReplacement)
        uploads = [
            text_upload(
                body.text,
                services.settings,
                document_id=document_id,
                filename=body.filename,
                metadata=body.metadata,
                field="body",
            )
        ]
    return await _accept(services, gate, collection, uploads, wait=wait)


@router.get("", responses=problem_responses(404, 422, 503))
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
async def get_text(
    document_id: DocumentId,
    services: ServicesOf,
    gate: GateOf,
    collection: CollectionQuery = DEFAULT_COLLECTION,
) -> Response:
    """The text that the offsets of hits and citations point into (in code points)."""
    text = await gate.run(services.store.document_text, collection, document_id)
    return Response(text.encode("utf-8", "replace"), media_type="text/plain; charset=utf-8")


@router.delete("/{document_id}", status_code=204, responses=problem_responses(404, 422, 503))
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
    services: Services, gate: GateOf, collection: str, uploads: Sequence[Upload], *, wait: bool
) -> Response:
    jobs = await gate.run(services.ingester.submit, collection, uploads)
    if wait:
        jobs = await gate.run(services.ingester.wait, jobs, services.settings.wait_timeout_seconds)
    failed = [job for job in jobs if job.state is JobState.FAILED]
    if failed and len(failed) == len(jobs):
        return _all_failed(failed)
    body = AcceptedList(documents=[Accepted.of(job) for job in jobs])
    finished = all(job.state not in (JobState.PENDING, JobState.PROCESSING) for job in jobs)
    return JSONResponse(body.model_dump(mode="json"), 200 if wait and finished else 202)


def _all_failed(jobs: Sequence[Job]) -> Response:
    errors = [{"field": job.filename, "message": job.error or ""} for job in jobs]
    return problem(422, jobs[0].error_code or "unreadable", jobs[0].error or "", errors=errors)


def _require_distinct(uploads: Sequence[Upload], services: Services) -> None:
    limit = services.settings.max_files
    if len(uploads) > limit:
        raise InputError(
            f"{len(uploads)} documents in one request; at most {limit} are allowed "
            "(RAG_MAX_FILES).",
            field="body",
            code="too_many_files",
        )
    seen: dict[str, Upload] = {}
    for upload in uploads:
        other = seen.setdefault(upload.document_id, upload)
        if other is not upload and other.sha256 != upload.sha256:
            raise InputError(
                f"Two documents of the request have the id {upload.document_id!r}.",
                field="body",
                code="duplicate_id",
            )


def _document(services: Services, collection: str, document_id: str) -> DocumentBody:
    newest = services.store.jobs(collection=collection, document_id=document_id, limit=1)
    job = newest[0] if newest and newest[0].kind.value == "index" else None
    try:
        return DocumentBody.of(services.store.document(collection, document_id), job)
    except NotFoundError:
        if job is None or job.state not in _UNFINISHED:
            raise
        return DocumentBody.of_job(job)


def _page(services: Services, collection: str, limit: int, after: str | None) -> DocumentList:
    searchable = services.store.documents(collection, after=after, limit=limit + 1)
    bodies = {document.id: DocumentBody.of(document, None) for document in searchable}
    for job in services.store.jobs(collection=collection, states=_UNFINISHED, limit=10_000):
        if job.kind.value != "index" or job.document_id <= (after or ""):
            continue
        known = bodies.get(job.document_id)
        if known is None:
            bodies[job.document_id] = DocumentBody.of_job(job)
        elif known.version is not None and job.id > known.version:
            bodies[job.document_id] = known.model_copy(update={"status": job.state})
    ordered = [bodies[key] for key in sorted(bodies)]
    if len(searchable) > limit:
        # Beyond the last searchable one that was read, a searchable document may come before.
        ordered = [body for body in ordered if body.id <= searchable[-1].id]
    page = ordered[:limit]
    return DocumentList(documents=page, next=page[-1].id if len(ordered) > limit else None)
