"""From a request's body to uploads: checked, named, hashed; nothing stored yet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException

from ragdock.api.gate import Gate
from ragdock.api.schemas import DocumentId, MetadataObject
from ragdock.core.keys import document_id_of, sha256_hex
from ragdock.core.media import detect_media_type, safe_filename
from ragdock.errors import InputError, TooLargeError
from ragdock.settings import Settings
from ragdock.types import Metadata, Upload

__all__ = ["read_json", "read_multipart", "require_one", "text_upload"]

Model = TypeVar("Model", bound=BaseModel)
HEAD_BYTES: Final = 4096
MAX_FIELD_BYTES: Final = 64 * 1024
_METADATA: Final[TypeAdapter[Metadata]] = TypeAdapter(MetadataObject)
_DOCUMENT_ID: Final[TypeAdapter[str]] = TypeAdapter(DocumentId)


async def read_json(request: Request, model: type[Model]) -> Model:
    """The JSON body as a model; 415 for another type, 400 for no JSON, 422 for a wrong one."""
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type != "application/json":
        raise InputError(
            f"Content-Type {content_type or '(none)'!r} is not accepted here; send "
            "multipart/form-data with files or application/json.",
            code="unsupported_media_type",
        )
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as exc:
        raise RequestValidationError(
            [error | {"loc": ("body", *error["loc"])} for error in exc.errors()]
        ) from exc


async def read_multipart(
    request: Request, settings: Settings, gate: Gate, *, document_id: str | None = None
) -> list[Upload]:
    """The files of a form, with its `metadata` and, for one file, its `id`."""
    try:
        async with request.form(
            max_files=settings.max_files, max_fields=16, max_part_size=MAX_FIELD_BYTES
        ) as form:
            _require_known(
                form, ("file", "metadata") if document_id else ("file", "metadata", "id")
            )
            metadata = _metadata(form)
            wanted_id = document_id or _id(form)
            files = form.getlist("file")
            if not files:
                raise _missing_file()
            if wanted_id is not None and len(files) > 1:
                raise InputError("`id` goes with one file.", field="body.id")
            return [await _file_upload(file, settings, gate, metadata, wanted_id) for file in files]
    except MultiPartException as exc:
        raise InputError(f"The form can't be read: {exc.message}", field="body") from exc


def require_one(uploads: Sequence[Upload]) -> None:
    """Exactly one file."""
    if len(uploads) != 1:
        raise InputError(f"PUT takes exactly one file, not {len(uploads)}.", field="body.file")


def text_upload(
    text: str,
    settings: Settings,
    *,
    document_id: str | None,
    filename: str | None,
    metadata: Metadata,
    field: str,
) -> Upload:
    """A text as an upload; its file name tells the format (plain text when it has none)."""
    if "\x00" in text:
        raise InputError(
            f"{field}.text holds a NUL character at {text.index(chr(0))}; send text.",
            field=f"{field}.text",
            code="binary",
        )
    if not text.strip():
        raise InputError(f"{field}.text holds no text.", field=f"{field}.text", code="empty")
    try:
        content = text.encode()
    except UnicodeEncodeError as exc:
        raise InputError(
            f"{field}.text holds a lone surrogate at {exc.start}, which is no character.",
            field=f"{field}.text",
            code="wrong_encoding",
        ) from exc
    _require_size(len(content), filename or "text", settings)
    name = safe_filename(filename) if filename else None
    media_type = "text/plain"
    if name is not None:
        media_type = detect_media_type(name, "text/plain", content[:HEAD_BYTES]) or "text/plain"
    return _upload(
        name or "text.txt", content, media_type, metadata, document_id, named=name is not None
    )


async def _file_upload(
    file: UploadFile | str,
    settings: Settings,
    gate: Gate,
    metadata: Metadata,
    document_id: str | None,
) -> Upload:
    if not isinstance(file, UploadFile):
        raise _missing_file()
    name = safe_filename(file.filename or "")
    _require_size(file.size or 0, name, settings)
    content = await file.read()
    if not content.strip():
        raise InputError(f"{name!r} is empty.", field="body.file", code="empty")
    media_type = detect_media_type(name, file.content_type, content[:HEAD_BYTES])
    if media_type is None:
        raise InputError(
            f"{name!r} is of a format that can't be read ({file.content_type}); see the README "
            "for the formats.",
            field="body.file",
            code="unsupported_media_type",
        )
    # Hashing 50 MB takes a tenth of a second: not on the event loop.
    return await gate.run(_upload, name, content, media_type, metadata, document_id)


def _upload(
    filename: str,
    content: bytes,
    media_type: str,
    metadata: Metadata,
    document_id: str | None,
    *,
    named: bool = True,
) -> Upload:
    return Upload(
        document_id=document_id or document_id_of(filename if named else "", content),
        filename=filename,
        media_type=media_type,
        content=content,
        sha256=sha256_hex(content),
        metadata=metadata,
    )


def _require_size(n_bytes: int, name: str, settings: Settings) -> None:
    limit = settings.max_upload_mb * 2**20
    if n_bytes > limit:
        raise TooLargeError(
            f"{name!r} has {n_bytes} bytes; at most {limit} are allowed (RAG_MAX_UPLOAD_MB="
            f"{settings.max_upload_mb}).",
            field="body.file",
        )


def _require_known(form: FormData, known: Sequence[str]) -> None:
    for key in form:
        if key not in known:
            raise InputError(
                f"The form has a field {key!r}; known are {', '.join(known)}.", field=f"body.{key}"
            )


def _metadata(form: FormData) -> Metadata:
    raw = form.get("metadata")
    if raw is None:
        return {}
    try:
        value: Any = json.loads(raw) if isinstance(raw, str) else None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(
            'metadata is not a JSON object, such as {"year": 2026}.', field="body.metadata"
        )
    return _validated(_METADATA, value, "metadata")


def _id(form: FormData) -> str | None:
    raw = form.get("id")
    return None if raw is None else _validated(_DOCUMENT_ID, raw, "id")


T = TypeVar("T")


def _validated(adapter: TypeAdapter[T], value: object, field: str) -> T:
    try:
        return adapter.validate_python(value, strict=True)
    except ValidationError as exc:
        raise RequestValidationError(
            [error | {"loc": ("body", field, *error["loc"])} for error in exc.errors()]
        ) from exc


def _missing_file() -> InputError:
    return InputError(
        "The form has no file; send one as `-F file=@handbook.pdf`.", field="body.file"
    )
