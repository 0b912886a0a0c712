"""From a request's body to uploads: checked, named, hashed; nothing stored yet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from ragdock.api.bodies import content_type, json_body, parse_json
from ragdock.api.fields import DocumentId, MetadataObject
from ragdock.api.gate import Gate
from ragdock.api.schemas import (
    TextDocument,
    TextDocuments,
    TextReplacement,
)
from ragdock.core.keys import document_id_of, sha256_hex
from ragdock.core.media import detect_media_type, safe_filename
from ragdock.errors import InputError, TooLargeError
from ragdock.settings import Settings
from ragdock.types import Metadata, Upload

__all__ = [
    "is_multipart",
    "read_multipart",
    "read_replacement",
    "read_texts",
    "too_many_files",
]

HEAD_BYTES: Final = 4096
MAX_FIELD_BYTES: Final = 64 * 1024
_METADATA: Final[TypeAdapter[Metadata]] = TypeAdapter(MetadataObject)
_DOCUMENT_ID: Final[TypeAdapter[str]] = TypeAdapter(DocumentId)


def is_multipart(request: Request) -> bool:
    """Whether the body is a form with files."""
    return content_type(request) == "multipart/form-data"


async def read_texts(
    request: Request, settings: Settings, gate: Gate
) -> tuple[TextDocuments, list[Upload]]:
    """The JSON body of a POST, and its uploads."""

    def read(raw: bytes) -> tuple[TextDocuments, list[Upload]]:
        body = parse_json(raw, TextDocuments)
        return body, [
            _text_upload(document, document.id, settings, f"body.documents.{index}")
            for index, document in enumerate(body.documents)
        ]

    return await gate.run(read, await json_body(request, or_files=True))


async def read_replacement(
    request: Request, settings: Settings, gate: Gate, document_id: str
) -> Upload:
    """The JSON body of a PUT as an upload."""

    def read(raw: bytes) -> Upload:
        return _text_upload(parse_json(raw, TextReplacement), document_id, settings, "body")

    return await gate.run(read, await json_body(request, or_files=True))


async def read_multipart(
    request: Request, settings: Settings, gate: Gate, *, document_id: str | None = None
) -> list[Upload]:
    """The files of a form, with its `metadata` and, for one file, its `id`."""
    try:
        form = await request.form(
            max_files=settings.max_files, max_fields=16, max_part_size=MAX_FIELD_BYTES
        )
    except HTTPException as exc:
        # Starlette's parser says 400 to everything; limits on the body have a status of their own.
        if exc.status_code != 400:
            raise
        if exc.detail.startswith("Too many files"):
            raise too_many_files(settings) from exc
        raise InputError(
            f"The form can't be read: {exc.detail}", field="body", code="invalid_form"
        ) from exc
    try:
        # Reading and hashing 50 MB takes tenths of a second: not on the event loop.
        return await gate.run(_form_uploads, form, settings, document_id)
    finally:
        await form.close()


def too_many_files(settings: Settings) -> InputError:
    """More documents than one request may have."""
    return InputError(
        f"At most {settings.max_files} documents are allowed in one request (RAG_MAX_FILES).",
        field="body",
        code="too_many_files",
    )


def _form_uploads(form: FormData, settings: Settings, document_id: str | None) -> list[Upload]:
    _require_known(form, ("file", "metadata") if document_id else ("file", "metadata", "id"))
    metadata = _metadata(form)
    wanted_id = document_id or _id(form)
    files = form.getlist("file")
    if not files:
        raise _missing_file()
    if wanted_id is not None and len(files) > 1:
        what = "`id` goes with one file" if document_id is None else "PUT takes exactly one file"
        raise InputError(f"{what}, not {len(files)}.", field="body.file")
    return [_file_upload(file, settings, metadata, wanted_id) for file in files]


def _text_upload(
    document: TextDocument | TextReplacement,
    document_id: str | None,
    settings: Settings,
    field: str,
) -> Upload:
    """A text as an upload; its file name tells the format (plain text when it has none)."""
    text, filename = document.text, document.filename
    if "\x00" in text:
        raise InputError(
            f"{field}.text holds a NUL character at {text.index(chr(0))}; send text.",
            field=f"{field}.text",
            code="binary",
        )
    if not text.strip():
        raise InputError(f"{field}.text holds no text.", field=f"{field}.text", code="empty")
    content = text.encode()
    name = _safe(filename, f"{field}.filename") if filename else None
    _require_size(len(content), name or "text", settings, f"{field}.text")
    media_type = "text/plain"
    if name is not None:
        media_type = detect_media_type(name, "text/plain", content[:HEAD_BYTES]) or "text/plain"
    return _upload(
        name or "text.txt",
        content,
        media_type,
        document.metadata,
        document_id,
        named=name is not None,
    )


def _file_upload(
    file: UploadFile | str, settings: Settings, metadata: Metadata, document_id: str | None
) -> Upload:
    if not isinstance(file, UploadFile):
        raise _missing_file()
    name = _safe(file.filename or "", "body.file")
    _require_size(file.size or 0, name, settings, "body.file")
    file.file.seek(0)
    content = file.file.read()
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
    return _upload(name, content, media_type, metadata, document_id)


def _safe(filename: str, field: str) -> str:
    try:
        return safe_filename(filename)
    except InputError as exc:
        raise InputError(str(exc), field=field, code=exc.code) from exc


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


def _require_size(n_bytes: int, name: str, settings: Settings, field: str) -> None:
    limit = settings.max_upload_mb * 2**20
    if n_bytes > limit:
        raise TooLargeError(
            f"{name!r} has {n_bytes} bytes; at most {limit} are allowed (RAG_MAX_UPLOAD_MB="
            f"{settings.max_upload_mb}).",
            field=field,
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
    except (ValueError, RecursionError):
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
