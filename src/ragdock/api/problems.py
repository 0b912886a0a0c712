"""Errors as RFC 9457 problem details; the caller never sees exception text from inside."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match

from ragdock.api.schemas import Problem
from ragdock.errors import (
    ConflictError,
    DocumentError,
    ForbiddenError,
    GivenUpError,
    InputError,
    NotFoundError,
    RagdockError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
)
from ragdock.logs import request_id

__all__ = ["PROBLEM_JSON", "install_problem_handlers", "problem", "problem_responses"]

PROBLEM_JSON: Final = "application/problem+json"
MAX_SHOWN_CHARACTERS: Final = 80

log = logging.getLogger(__name__)

_STATUS: Final[tuple[tuple[type[RagdockError], int], ...]] = (
    (UnauthorizedError, 401),
    (ForbiddenError, 403),
    (NotFoundError, 404),
    (ConflictError, 409),
    (TooLargeError, 413),
    (InputError, 422),
    (DocumentError, 422),
    (UnavailableError, 503),
    (GivenUpError, 503),
)
_BY_CODE: Final = {
    "unsupported_media_type": 415,
    "invalid_json": 400,
    "invalid_form": 400,
    "rate_limited": 429,
}
_HTTP_CODES: Final = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
    503: "overloaded",
}


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    errors: list[dict[str, str]] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """A problem document; `code` is stable, `detail` is for people."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id.get(),
    }
    if errors:
        body["errors"] = errors
    return JSONResponse(body, status, headers=headers, media_type=PROBLEM_JSON)


def problem_of(exc: RagdockError) -> Response:
    """The problem that one of our errors is."""
    status = _BY_CODE.get(exc.code) or next(
        (status for kind, status in _STATUS if isinstance(exc, kind)), 500
    )
    if status == 500:
        log.error("request failed", exc_info=exc)
        return problem(500, "internal", "The server failed; the log has the cause.")
    headers = None
    if isinstance(exc, GivenUpError):
        headers = {"Retry-After": "1"}
    if isinstance(exc, UnavailableError):
        headers = {"Retry-After": str(max(1, math.ceil(exc.retry_after_seconds)))}
    if isinstance(exc, UnauthorizedError):
        headers = {"WWW-Authenticate": 'Bearer realm="ragdock"'}
    field = exc.field if isinstance(exc, InputError) else None
    errors = [{"field": field, "message": str(exc)}] if field else None
    return problem(status, exc.code, str(exc), errors=errors, headers=headers)


def install_problem_handlers(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Make every error of the app a problem document; `routes` are those that it serves."""

    @app.exception_handler(RagdockError)
    async def _ours(_: Request, exc: RagdockError) -> Response:
        return problem_of(exc)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, exc: RequestValidationError) -> Response:
        return invalid(exc.errors())

    @app.exception_handler(HTTPException)
    async def _http(request: Request, exc: HTTPException) -> Response:
        code = _HTTP_CODES.get(exc.status_code, "http_error")
        headers = dict(exc.headers or {})
        if exc.status_code == 405:
            # The router names the methods of the first route of this path, and not of all.
            headers["Allow"] = ", ".join(_methods(routes, request))
        return problem(exc.status_code, code, str(exc.detail), headers=headers or None)


def _methods(routes: Sequence[BaseRoute], request: Request) -> list[str]:
    found: set[str] = set()
    for route in routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return sorted(found)


def invalid(found: Any) -> Response:
    """400 for a body that is no JSON, else 422 with one entry a field."""
    errors = [_field_error(error) for error in found]
    if any(error["type"] == "json_invalid" for error in found):
        return problem(400, "invalid_json", "The body is not valid JSON.", errors=errors)
    detail = "; ".join(f"{error['field']}: {error['message']}" for error in errors[:3])
    return problem(422, "invalid_input", detail, errors=errors)


def _field_error(error: dict[str, Any]) -> dict[str, str]:
    if error["type"] == "json_invalid":
        # FastAPI hides the cause in the context, and puts the position where the field's name is.
        position = f" at character {error['loc'][1]}" if len(error["loc"]) > 1 else ""
        return {"field": "body", "message": f"{error['ctx']['error']}{position}"}
    field = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    value = error.get("input")
    if error["type"] != "missing" and isinstance(value, str | int | float | bool):
        shown = repr(value)
        if len(shown) > MAX_SHOWN_CHARACTERS:
            shown = shown[: MAX_SHOWN_CHARACTERS - 3] + "..."
        message = f"{message} (got {shown})"
    return {"field": field, "message": message}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for the problems that a route may answer."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {
                PROBLEM_JSON: {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}
            },
        }
        for status in statuses
    }
