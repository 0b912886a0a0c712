"""`/v1/urls`: documents that the server fetches itself; off unless the operator turns it on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from fastapi import Query, Request, Response
from starlette.responses import JSONResponse

from ragdock.api.auditing import about
from ragdock.api.auth import guarded_router, requires
from ragdock.api.bodies import json_body, json_schema, parse_json
from ragdock.api.clock import request_clock
from ragdock.api.deps import CollectionQuery, GateOf, ServicesOf
from ragdock.api.gate import Gate
from ragdock.api.problems import problem, problem_responses
from ragdock.api.routes.documents import all_finished, waited
from ragdock.api.schemas import FetchedDocument, FetchedList, UrlsRequest
from ragdock.bootstrap import DEFAULT_COLLECTION
from ragdock.errors import FetchError
from ragdock.services.fetching import UrlBatch
from ragdock.types import Right, Upload

__all__ = ["FETCHES_AT_ONCE", "router"]

FETCHES_AT_ONCE: Final = 4
"""Each holds a place of its own gate, so that slow hosts can't starve searches."""
_SLACK_SECONDS: Final = 1.0

router = guarded_router("/v1/urls", tags=["documents"])

Fetched = Upload | FetchError


@router.post(
    "",
    status_code=202,
    response_model=FetchedList,
    responses={
        200: {"model": FetchedList, "description": "All are finished (with `wait`)."},
        202: {"model": FetchedList, "description": "Accepted: they survive a crash from here on."},
        **problem_responses(400, 403, 404, 409, 413, 415, 422, 503),
    },
    openapi_extra={"requestBody": {"required": True, "content": json_schema(UrlsRequest)}},
)
@requires(Right.WRITE)
async def add_urls(
    request: Request,
    services: ServicesOf,
    gate: GateOf,
    collection: CollectionQuery | None = None,
    wait: Annotated[bool, Query(description="Answer when the documents are searchable.")] = False,
) -> Response:
    """Fetch URLs and accept what they hold; those that fail are told one by one."""
    body = parse_json(await json_body(request), UrlsRequest)
    if services.urls is None:
        return problem(
            403,
            "fetch_disabled",
            "This server fetches no URLs (RAG_FETCH_URLS); fetch them yourself with "
            "`ragdock ingest URL`.",
        )
    name = collection or body.collection or DEFAULT_COLLECTION
    about(request, collection=name)
    # Before any byte is fetched: a wrong name is the caller's mistake, and fetching is work.
    await gate.run(services.store.collection, name)
    timeout_seconds = services.settings.fetch_timeout_seconds
    clock = request_clock.get()
    if clock is not None:
        # Fetching has a deadline of its own, and ends when the client leaves.
        clock.work(timeout_seconds)
        clock.watch()
    receipt = await gate.run(services.intake.open, 0)
    batch = services.urls.batch(body.metadata, time.monotonic() + timeout_seconds, receipt)
    try:
        fetched = await _fetch(request.app.state.fetch_gate, batch, body.urls, timeout_seconds)
        # Two URLs can't share an id: it holds a digest of the URL.
        uploads = {item.document_id: item for item in fetched.values() if isinstance(item, Upload)}
        if not uploads:
            return _all_failed(fetched)
        jobs = await gate.run(services.ingester.submit, name, list(uploads.values()))
    finally:
        # Also when the client has left, which cancels whatever is awaited here.
        await asyncio.shield(asyncio.to_thread(batch.close))
    if wait or body.wait:
        jobs = await waited(request, services, gate, jobs)
    by_id = {job.document_id: job for job in jobs}
    documents = [
        FetchedDocument.failed(url, found)
        if isinstance(found, FetchError)
        else FetchedDocument.of(url, by_id[found.document_id], services.ids)
        for url, found in fetched.items()
    ]
    answer = FetchedList(documents=documents)
    is_done = (wait or body.wait) and await all_finished(services, gate, jobs)
    status = 200 if is_done else 202
    return JSONResponse(answer.model_dump(mode="json"), status)


async def _fetch(
    gate: Gate, batch: UrlBatch, urls: Sequence[str], timeout_seconds: float
) -> dict[str, Fetched]:
    """What each URL came to, each once; all of them together have the time of one."""

    def read(url: str) -> Fetched:
        try:
            return batch.read(url)
        except FetchError as exc:
            return exc

    async def fetch(url: str) -> Fetched:
        try:
            async with asyncio.timeout(timeout_seconds + _SLACK_SECONDS):
                return await gate.run(read, url)
        except TimeoutError:
            return FetchError(
                "The server had no time for the URL (RAG_FETCH_TIMEOUT_SECONDS); retry later.",
                code="fetch_timeout",
            )

    distinct = list(dict.fromkeys(urls))
    return dict(zip(distinct, await asyncio.gather(*map(fetch, distinct)), strict=True))


def _all_failed(fetched: Mapping[str, Fetched]) -> Response:
    errors: list[Any] = [
        {"field": f"body.urls.{number}", "message": str(error)}
        for number, error in enumerate(fetched.values())
    ]
    first = next(iter(fetched.values()))
    assert isinstance(first, FetchError)
    return problem(422, first.code, str(first), errors=errors)
