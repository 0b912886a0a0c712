"""JSON bodies, read by Pydantic straight from the bytes.

FastAPI's own way parses with the standard library and validates the result: for a cached answer
that costs as much as all the rest.
"""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from ragdock.errors import InputError

__all__ = ["content_type", "json_body", "json_schema", "parse_json", "require_json"]

Model = TypeVar("Model", bound=BaseModel)


def content_type(request: Request) -> str:
    """The body's media type, in lower case, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_body(request: Request) -> bytes:
    """The body's bytes, when it says that it is JSON; else 415."""
    require_json(request)
    return await request.body()


def require_json(request: Request, *, or_files: bool = False) -> None:
    """Raise 415 unless the body says that it is JSON."""
    declared = content_type(request)
    if declared != "application/json":
        wanted = "application/json" + (" or multipart/form-data with files" if or_files else "")
        raise InputError(
            f"Content-Type {declared or '(none)'!r} is not accepted here; send {wanted}.",
            code="unsupported_media_type",
        )


def parse_json(raw: bytes, model: type[Model]) -> Model:
    """The body as a model; what is wrong with it is told as FastAPI would."""
    try:
        return model.model_validate_json(raw)
    except ValidationError as exc:
        raise RequestValidationError(
            [error | {"loc": ("body", *error["loc"])} for error in exc.errors()]
        ) from exc


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI's `content` of a JSON body."""
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
