"""`/v1/search` and `/v1/ask`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from fastapi import Request, Response
from starlette.responses import StreamingResponse

from ragdock.api.auth import guarded_router, requires
from ragdock.api.bodies import json_body, json_schema, parse_json
from ragdock.api.deps import state_of, wants_fresh
from ragdock.api.problems import problem, problem_of, problem_responses
from ragdock.api.schemas import AskAnswer, AskRequest, SearchRequest, SearchResult
from ragdock.core.filters import parse_filter
from ragdock.core.keys import normalised
from ragdock.errors import InputError, RagdockError
from ragdock.services.answer import Delta, Reset, StreamEvent
from ragdock.services.answer import Final as Whole
from ragdock.services.retrieve import Query
from ragdock.settings import Settings
from ragdock.types import Right

__all__ = ["router"]

_PROBLEMS: Final = problem_responses(400, 404, 409, 413, 415, 422, 503)
_EVENT: Final = {
    "type": "object",
    "description": "One event of the stream; its data is a JSON text.",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["delta", "reset", "done", "error"]},
        "data": {"type": "string"},
    },
}
_CACHE_HEADER: Final = {
    "X-Cache": {"schema": {"type": "string"}, "description": "hit, miss or bypass"}
}

_LINE_ENDS: Final = {end: f"\\u{end:04x}" for end in (0x85, 0x2028, 0x2029)}

log = logging.getLogger(__name__)

router = guarded_router("/v1", tags=["search"])


@router.post(
    "/search",
    response_model=SearchResult,
    responses={200: {"headers": _CACHE_HEADER}, **_PROBLEMS},
    openapi_extra={"requestBody": {"required": True, "content": json_schema(SearchRequest)}},
)
@requires(Right.READ)
async def search(request: Request) -> Response:
    """The passages that fit the query best, with the scores that explain their order."""
    start = time.perf_counter()
    services, gate = state_of(request)
    body = parse_json(await json_body(request), SearchRequest)
    query = Query(
        text=_checked(body.query, "query", services.settings),
        collection=body.collection,
        top_k=body.top_k or services.settings.top_k,
        mode=body.mode,
        where=parse_filter(body.filters, field="body.filters"),
    )
    head = {"query": body.query, "collection": body.collection, "mode": body.mode}
    fresh = wants_fresh(request)
    known = None if fresh else services.retriever.peek(query)
    if known is not None:
        return _response(head, known, "hit", start)
    value, cache = await gate.run(services.retriever.search, query, bypass=fresh)
    return _response(head, value, cache, start)


@router.post(
    "/ask",
    response_model=AskAnswer,
    responses={
        200: {
            "headers": _CACHE_HEADER,
            "content": {"text/event-stream": {"schema": _EVENT}},
            "description": "The answer; with `stream`, server-sent events delta, reset, done, "
            "error, where done carries the same object.",
        },
        **_PROBLEMS,
    },
    openapi_extra={"requestBody": {"required": True, "content": json_schema(AskRequest)}},
)
@requires(Right.READ)
async def ask(request: Request) -> Response:
    """An answer from the collection's documents, with the citations that prove it."""
    start = time.perf_counter()
    services, gate = state_of(request)
    body = parse_json(await json_body(request), AskRequest)
    query = Query(
        text=_checked(body.question, "question", services.settings),
        collection=body.collection,
        top_k=body.top_k or services.settings.top_k,
        where=parse_filter(body.filters, field="body.filters"),
    )
    head = {"question": body.question, "collection": body.collection}
    fresh = wants_fresh(request)
    if body.stream:
        steps = await gate.stream(lambda: services.answerer.stream(query, bypass=fresh))
        # What fails before the first word is an HTTP status, not an event in a stream.
        first = await anext(steps)
        return StreamingResponse(
            _events(first, steps, head, start),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no"},
        )
    # What is in this process is answered here: the way into a thread and back costs twice as much.
    known = None if fresh else services.answerer.peek(query)
    if known is not None:
        return _response(head, known, "hit", start)
    value, cache = await gate.run(services.answerer.ask, query, bypass=fresh)
    return _response(head, value, cache, start)


async def _events(
    first: StreamEvent, steps: AsyncGenerator[StreamEvent], head: dict[str, Any], start: float
) -> AsyncIterator[bytes]:
    try:
        # Closed with the connection, so that nobody generates for a client that left.
        async with aclosing(steps):
            yield _event_of(first, head, start)
            async for step in steps:
                yield _event_of(step, head, start)
    except RagdockError as exc:
        yield _event("error", bytes(problem_of(exc).body).decode())
    except Exception:
        log.exception("a streamed answer failed unexpectedly")
        failed = problem(500, "internal", "The server failed; the log has the cause.")
        yield _event("error", bytes(failed.body).decode())


def _event_of(step: StreamEvent, head: dict[str, Any], start: float) -> bytes:
    match step:
        case Delta(text=text):
            return _event("delta", json.dumps({"text": text}))
        case Reset(reason=reason):
            return _event("reset", json.dumps({"reason": reason}))
        case Whole(value=value, cache=cache):
            return _event("done", _merged(head, value, cache, start).decode())


def _event(name: str, data: str) -> bytes:
    # JSON holds no raw line breaks, so one data line is enough. Some clients (`splitlines`) also
    # end lines at these three, which a document could use to begin an event of its own.
    return f"event: {name}\ndata: {data.translate(_LINE_ENDS)}\n\n".encode()


def _checked(text: str, field: str, settings: Settings) -> str:
    if len(text) > settings.max_question_chars:
        raise InputError(
            f"{field} has {len(text)} characters; at most {settings.max_question_chars} are "
            "allowed (RAG_MAX_QUESTION_CHARS).",
            field=f"body.{field}",
            code="question_too_long" if field == "question" else "query_too_long",
        )
    # Computed from what the cache key is made of, so that equal keys are equal answers.
    meant = normalised(text.replace("\x00", " "))
    if not meant:
        raise InputError(f"{field} holds no text.", field=f"body.{field}")
    return meant


def _response(head: dict[str, Any], value: bytes, cache: str, start: float) -> Response:
    return Response(
        _merged(head, value, cache, start),
        media_type="application/json",
        headers={"X-Cache": cache},
    )


_STAGES: Final = b',"stages":'
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _merged(head: dict[str, Any], value: bytes, cache: str, start: float) -> bytes:
    """Join the request's echo, the kept JSON object and this request's timings, as text.

    The kept object ends in `"stages"`, the computation's timings, which a hit didn't spend; it is
    never parsed again, which would cost more than the rest of a cached answer.
    """
    body, _, stages = value.rpartition(_STAGES)
    total = round((time.perf_counter() - start) * 1000, 3)
    timings = json.loads(stages[:-1]) if cache != "hit" else {}
    timings["total"] = total
    prefix = _encode(head)[:-1].encode("utf-8", "backslashreplace")
    tail = _encode({"cache": cache, "timings_ms": timings})[1:].encode()
    return prefix + b"," + body[1:] + b"," + tail
