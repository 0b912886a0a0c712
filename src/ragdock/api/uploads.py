"""From a request's body to uploads: checked, named, hashed; nothing stored yet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError

from ragdock.api.bodies import content_type, parse_json, require_json
from ragdock.api.fields import DocumentId, MetadataObject
from ragdock.api.forms import Form, FormLimits, ReceivedFile, missing_file, plain_name
from ragdock.api.gate import Gate
from ragdock.api.schemas import (
    TextDocument,
    TextDocuments,
    TextReplacement,
)
from ragdock.bootstrap import Services
from ragdock.core.keys import document_id_of, sha256_hex
from ragdock.core.media import detect_media_type
from ragdock.errors import InputError, TooLargeError, UnavailableError
from ragdock.settings import Settings
from ragdock.types import Metadata, Upload

__all__ = [
    "is_multipart",
    "receive_form",
    "receive_replacement",
    "receive_texts",
]

HEAD_BYTES: Final = 4096
MAX_JSON_BYTES: Final = 16 * 2**20
_METADATA: Final[TypeAdapter[Metadata]] = TypeAdapter(MetadataObject)
_DOCUMENT_ID: Final[TypeAdapter[str]] = TypeAdapter(DocumentId)


def is_multipart(request: Request) -> bool:
    """Whether the body is a form with files."""
    return content_type(request) == "multipart/form-data"


@asynccontextmanager
async def receive_texts(
    request: Request, services: Services, gate: Gate
) -> AsyncGenerator[tuple[TextDocuments, list[Upload]]]:
    """The JSON body of a POST, and its uploads."""

    def read(raw: bytes) -> tuple[TextDocuments, list[Upload]]:
        body = parse_json(raw, TextDocuments)
        return body, [
            _text_upload(document, document.id, services.settings, f"body.documents.{index}")
            for index, document in enumerate(body.documents)
        ]

    async with _json(request, services, gate) as raw:
        yield await gate.run(read, raw)


@asynccontextmanager
async def receive_replacement(
    request: Request, services: Services, gate: Gate, document_id: str
) -> AsyncGenerator[list[Upload]]:
    """The JSON body of a PUT as an upload."""

    def read(raw: bytes) -> list[Upload]:
        document = parse_json(raw, TextReplacement)
        return [_text_upload(document, document_id, services.settings, "body")]

    async with _json(request, services, gate) as raw:
        yield await gate.run(read, raw)


@asynccontextmanager
async def _json(request: Request, services: Services, gate: Gate) -> AsyncGenerator[bytes]:
    """The body's bytes, for which there is memory until the block ends."""
    require_json(request, or_files=True)
    receipt = await gate.run(services.intake.open, _declared_bytes(request))
    body = bytearray()
    try:
        async for piece in request.stream():
            receipt.grow(len(piece))
            if len(body) + len(piece) > MAX_JSON_BYTES:
                raise TooLargeError(
                    f"A JSON body may have {MAX_JSON_BYTES // 2**20} MiB; send the text as a file "
                    "(multipart/form-data)."
                )
            if not receipt.keep(len(piece)):
                raise UnavailableError(
                    "Too many large requests at once; retry shortly.", code="overloaded"
                )
            body += piece
        yield bytes(body)
    finally:
        receipt.give_back(len(body))
        receipt.close()


def _declared_bytes(request: Request) -> int:
    declared = request.headers.get("content-length", "0")
    return int(declared) if declared.isdigit() else 0


@asynccontextmanager
async def receive_form(
    request: Request, services: Services, gate: Gate, *, document_id: str | None = None
) -> AsyncGenerator[list[Upload]]:
    """The files of a form, with its `metadata` and, for one file, its `id`.

    Files that nobody has accepted when the block ends are removed from the disk.
    """
    settings = services.settings
    known = ("file", "metadata") if document_id else ("file", "metadata", "id")
    receipt = await gate.run(services.intake.open, _declared_bytes(request))
    limits = FormLimits(known, settings.max_files, settings.max_upload_mb)
    form = Form(limits, gate, receipt, services.store.spool)
    try:
        try:
            await form.receive(request)
        finally:
            receipt.close()
        yield _form_uploads(form, document_id)
    finally:
        # Also when the client has left, which cancels whatever is awaited here.
        await asyncio.shield(asyncio.ensure_future(form.discard()))


def _form_uploads(form: Form, document_id: str | None) -> list[Upload]:
    metadata = _metadata(form)
    wanted_id = document_id or _id(form)
    if not form.files:
        raise missing_file()
    if wanted_id is not None and len(form.files) > 1:
        what = "`id` goes with one file" if document_id is None else "PUT takes exactly one file"
        raise InputError(f"{what}, not {len(form.files)}.", field="body.file")
    return [_file_upload(file, metadata, wanted_id) for file in form.files]


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
    name = plain_name(filename, f"{field}.filename") if filename else None
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


def _file_upload(file: ReceivedFile, metadata: Metadata, document_id: str | None) -> Upload:
    name = file.filename
    if file.is_blank:
        raise InputError(f"{name!r} is empty.", field="body.file", code="empty")
    media_type = detect_media_type(name, file.media_type, file.head)
    if media_type is None:
        raise InputError(
            f"{name!r} is of a format that can't be read ({file.media_type}); see the README "
            "for the formats.",
            field="body.file",
            code="unsupported_media_type",
        )
    return Upload(
        document_id=document_id or file.document_id,
        filename=name,
        media_type=media_type,
        content=file.content,
        sha256=file.sha256,
        metadata=metadata,
    )


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


def _metadata(form: Form) -> Metadata:
    raw = form.fields.get("metadata")
    if raw is None:
        return {}
    try:
        value: Any = json.loads(raw)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(
            'metadata is not a JSON object, such as {"year": 2026}.', field="body.metadata"
        )
    return _validated(_METADATA, value, "metadata")


def _id(form: Form) -> str | None:
    raw = form.fields.get("id")
    return None if raw is None else _validated(_DOCUMENT_ID, raw, "id")


T = TypeVar("T")


def _validated(adapter: TypeAdapter[T], value: object, field: str) -> T:
    try:
        return adapter.validate_python(value, strict=True)
    except ValidationError as exc:
        raise RequestValidationError(
            [error | {"loc": ("body", field, *error["loc"])} for error in exc.errors()]
        ) from exc
