"""Forms with files, received as they come: small files in memory, large ones in the store's spool.

Starlette's own parser keeps files in a temporary directory. In a container that is memory, and a
file would be written twice.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ragdock.api.gate import Gate
from ragdock.core.keys import document_id_digest, document_id_from
from ragdock.core.media import safe_filename
from ragdock.errors import InputError, TooLargeError
from ragdock.ports import Spool
from ragdock.services.intake import Receipt
from ragdock.types import SpooledFile

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

__all__ = [
    "Form",
    "FormLimits",
    "ReceivedFile",
    "missing_file",
    "plain_name",
    "too_many_files",
]

HEAD_BYTES: Final = 4096
KEPT_BYTES: Final = 2**18
"""Larger files are spooled."""

PIECE_BYTES: Final = 2**19
"""So much is written at once: a thread for each piece of the network would cost more than that."""

MAX_FIELDS: Final = 16
MAX_FIELD_BYTES: Final = 64 * 1024


class FormLimits:
    """What a form may hold; `known` are the names of its fields, of which `file` are files."""

    def __init__(self, known: tuple[str, ...], max_files: int, max_file_mb: int) -> None:
        self.known = known
        self.max_files = max_files
        self.max_file_mb = max_file_mb


class ReceivedFile:
    """A file of a form; `content` is whole when `finish` has returned."""

    def __init__(self, filename: str, media_type: str | None) -> None:
        self.filename = filename
        self.media_type = media_type
        self.head = b""
        self.size_bytes = 0
        self.is_blank = True
        self.content: bytes | SpooledFile = b""
        self.sha256 = ""
        self.document_id = ""
        self._pieces: list[bytes] = []
        self.n_pending = 0
        self.kept_bytes = 0
        self._spool: Spool | None = None
        self._digest = document_id_digest(filename)

    def feed(self, piece: bytes) -> None:
        """The next bytes, kept until `flush` or `finish`."""
        if len(self.head) < HEAD_BYTES:
            self.head += piece[: HEAD_BYTES - len(self.head)]
        self._pieces.append(piece)
        self.size_bytes += len(piece)
        self.n_pending += len(piece)

    @property
    def is_spooled(self) -> bool:
        """Whether it goes to the disk."""
        return self._spool is not None

    def flush(self, open_spool: Callable[[], Spool]) -> None:
        """Write what is pending to the disk; blocks."""
        if self._spool is None:
            self._spool = open_spool()
        self._take(self._spool.write)

    def finish(self) -> None:
        """Make the content whole and, on the disk, durable; blocks."""
        if self._spool is None:
            whole: list[bytes] = []
            self._take(whole.append)
            self.content = b"".join(whole)
            self.sha256 = hashlib.sha256(self.content).hexdigest()
        else:
            self._take(self._spool.write)
            self.content = self._spool.finish()
            self.sha256 = self.content.sha256
        self.document_id = document_id_from(self._digest)

    def discard(self) -> None:
        """Remove it from the disk, unless a job owns it by now; blocks."""
        if self._spool is not None:
            self._spool.discard()

    def _take(self, write: Callable[[bytes], None]) -> None:
        if not self._pieces:
            return
        piece = b"".join(self._pieces)
        self._pieces.clear()
        self.n_pending = 0
        self.is_blank = self.is_blank and not piece.strip()
        self._digest.update(piece)
        write(piece)


class Form:
    """A form in the order of its parts: `fields` and `files`.

    The caller discards it when its files are accepted or not wanted.
    """

    def __init__(
        self, limits: FormLimits, gate: Gate, receipt: Receipt, open_spool: Callable[[], Spool]
    ) -> None:
        self.fields: dict[str, str] = {}
        self.files: list[ReceivedFile] = []
        self._limits = limits
        self._gate = gate
        self._receipt = receipt
        self._open_spool = open_spool
        self._n_settled = 0  # Files that nothing more can come of.
        self._name = b""
        self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._field = ""
        self._data = bytearray()
        self._file: ReceivedFile | None = None

    async def receive(self, request: Request) -> None:
        """Read the request's body; raises `InputError` and `TooLargeError` as soon as it is wrong.

        The files received until then stay until `discard`.
        """
        _, options = parse_options_header(request.headers.get("content-type", ""))
        boundary = options.get(b"boundary")
        if not boundary:
            raise _invalid("the boundary is missing")
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
        }
        try:
            parser = MultipartParser(boundary, callbacks)
            async for piece in request.stream():
                self._receipt.grow(len(piece))
                parser.write(piece)
                await self._flush()
            parser.finalize()
        except FormParserError as exc:
            raise _invalid("it is no valid multipart data") from exc
        if self._headers:
            raise _invalid("it ends early")
        if self.files:
            await self._gate.run(self._finish)

    async def discard(self) -> None:
        """Remove from the disk what no job owns."""
        self._receipt.give_back(sum(file.kept_bytes for file in self.files))
        if any(file.is_spooled for file in self.files):
            # Not through the gate, which may be full or closed.
            await asyncio.to_thread(self._discard)

    def _discard(self) -> None:
        for file in self.files:
            file.discard()

    def _finish(self) -> None:
        for file in self.files:
            file.finish()

    async def _flush(self) -> None:
        for file in self.files[self._n_settled :]:
            is_last = file is self.files[-1]
            if file.is_spooled:
                if file.n_pending >= PIECE_BYTES or not is_last:
                    await self._gate.run(file.flush, self._open_spool)
            elif file.size_bytes > KEPT_BYTES or not self._keep(file):
                await self._gate.run(file.flush, self._open_spool)
                self._receipt.give_back(file.kept_bytes)
                file.kept_bytes = 0
        self._n_settled = max(0, len(self.files) - 1)

    def _keep(self, file: ReceivedFile) -> bool:
        """Whether there is memory for what has come of a small file."""
        n_more = file.size_bytes - file.kept_bytes
        if not self._receipt.keep(n_more):
            return False
        file.kept_bytes += n_more
        return True

    # What the parser calls

    def _begin(self) -> None:
        self._headers = {}
        self._data = bytearray()
        self._file = None

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"name" not in options:
            raise _invalid("a part has no name")
        self._field = _text(options[b"name"])
        if self._field not in self._limits.known:
            raise InputError(
                f"The form has a field {self._field!r}; known are {', '.join(self._limits.known)}.",
                field=f"body.{self._field}",
            )
        if b"filename" in options and self._field != "file":
            raise InputError(
                f"{self._field} is a field with a text, and not a file.",
                field=f"body.{self._field}",
            )
        if b"filename" in options:
            if len(self.files) >= self._limits.max_files:
                raise too_many_files(self._limits.max_files)
            media_type = self._headers.get(b"content-type")
            name = plain_name(_text(options[b"filename"]), "body.file")
            self._file = ReceivedFile(name, _text(media_type) if media_type else None)
            self.files.append(self._file)
        elif self._field == "file":
            raise missing_file()
        elif len(self.fields) >= MAX_FIELDS:
            raise _invalid("it has too many fields")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            if len(self._data) + end - start > MAX_FIELD_BYTES:
                raise _invalid(f"a field is larger than {MAX_FIELD_BYTES // 1024} KiB")
            self._data += data[start:end]
            return
        self._file.feed(data[start:end])
        limit = self._limits.max_file_mb * 2**20
        if self._file.size_bytes > limit:
            raise TooLargeError(
                f"{self._file.filename!r} has more than {limit} bytes, which are allowed "
                f"(RAG_MAX_UPLOAD_MB={self._limits.max_file_mb}).",
                field="body.file",
            )

    def _part_end(self) -> None:
        if self._file is None:
            self.fields[self._field] = _text(bytes(self._data))
        self._headers = {}


def plain_name(filename: str, field: str) -> str:
    """The file's name in NFC; `InputError` unless it is one."""
    try:
        return safe_filename(filename)
    except InputError as exc:
        raise InputError(str(exc), field=field, code=exc.code) from exc


def too_many_files(max_files: int) -> InputError:
    """More documents than one request may have."""
    return InputError(
        f"At most {max_files} documents are allowed in one request (RAG_MAX_FILES).",
        field="body",
        code="too_many_files",
    )


def missing_file() -> InputError:
    """A form without the one thing that it is for."""
    return InputError(
        "The form has no file; send one as `-F file=@handbook.pdf`.", field="body.file"
    )


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _invalid(why: str) -> InputError:
    return InputError(f"The form can't be read: {why}.", field="body", code="invalid_form")
