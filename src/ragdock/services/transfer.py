"""Export and import of a collection as JSON lines: texts, structure, passages, vectors.

The first line is the header. Each further line is a document, or a part of a large one (about a
million characters), so that neither side needs more memory than that: see docs/backup.md.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Final

import numpy as np

from ragdock import __version__
from ragdock.errors import ConflictError, InputError
from ragdock.ports import Transfer
from ragdock.services.reindex import Reindexer
from ragdock.types import (
    Block,
    BlockKind,
    Chunk,
    Collection,
    Content,
    Document,
    PageSpan,
    ParsedDocument,
)

__all__ = ["Imported", "export_collection", "import_collection", "read_header"]

FORMAT: Final = 1
NORM_TOLERANCE: Final = 5e-3
_DOCUMENT: Final = {
    "id": str,
    "filename": str,
    "media_type": str,
    "title": str,
    "size_bytes": int,
    "sha256": str,
    "metadata": dict,
    "created_at": float,
    "updated_at": float,
}


@dataclass(frozen=True, slots=True)
class Imported:
    """How many documents were written, and how many were there as they are."""

    n_written: int
    n_unchanged: int
    embedded: bool


def export_collection(
    store: Transfer,
    collection: Collection,
    stream: BinaryIO,
    progress: Callable[[int, int], None],
) -> int:
    """Write the collection; how many documents it were."""
    _put(
        stream,
        {
            "ragdock_export": FORMAT,
            "version": __version__,
            "collection": collection.name,
            "fingerprint": collection.fingerprint,
            "vectors": "f16",
        },
    )
    n_documents = 0
    for document, contents in store.exported(collection.name):
        progress(n_documents, collection.n_documents)
        previous: dict[str, Any] | None = None
        for number, content in enumerate(contents):
            if previous is not None:
                _put(stream, previous)
            previous = _line(document, number, content)
        if previous is not None:
            _put(stream, {**previous, "last": True})
            n_documents += 1
    return n_documents


def _put(stream: BinaryIO, value: object) -> None:
    stream.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")


def _line(document: Document, number: int, content: Content) -> dict[str, Any]:
    part, chunks, vectors = content
    head: dict[str, Any] = {"id": document.id, "part": number}
    if number == 0:
        head = {name: getattr(document, name) for name in _DOCUMENT} | {"part": 0}
    return {
        **head,
        "text": part.text,
        "start": part.start,
        "part_title": part.title,
        "blocks": [[b.start, b.end, b.kind.value, b.level, b.label] for b in part.blocks],
        "pages": [[p.number, p.start, p.end, *_optional(p.label)] for p in part.pages],
        "chunks": [[c.start, c.end, c.page, c.context, *_optional(c.page_label)] for c in chunks],
        "vectors": base64.b64encode(vectors.astype("<f2").tobytes()).decode("ascii"),
        "last": False,
    }


def _optional(label: str) -> list[str]:
    """Nothing for no label, as before there were any: older releases read such an export."""
    return [label] if label else []


def _label(rest: list[Any]) -> str:
    """What follows the other elements: a label, or nothing."""
    (label,) = rest or ("",)
    if not isinstance(label, str):
        raise TypeError("a page's label isn't text")
    return label


def read_header(stream: BinaryIO) -> dict[str, Any]:
    """The first line; `InputError` when the stream isn't an export."""
    header = _parsed(stream.readline(), 1)
    if header.get("ragdock_export") != FORMAT or header.get("vectors") != "f16":
        raise InputError(f"This isn't an export of ragdock (format {FORMAT}).", field="FILE")
    return header


def import_collection(
    store: Transfer,
    collection: Collection,
    header: dict[str, Any],
    stream: BinaryIO,
    *,
    reindexer: Reindexer,
    fingerprint: str,
    progress: Callable[[int], None],
) -> Imported:
    """Write the documents; vectors are taken over where they fit, else made with the embedder.

    `fingerprint` is the embedder's and the chunker's, as set. Raises `ConflictError` when neither
    the export nor the settings fit to the collection, `InputError` for a line that isn't right.
    """
    fits = header.get("fingerprint") == collection.fingerprint
    if not fits and fingerprint != collection.fingerprint:
        raise ConflictError(
            f"Collection {collection.name!r} is indexed with {collection.fingerprint!r}, the "
            f"export with {header.get('fingerprint')!r}, and the settings mean {fingerprint!r}. "
            f"Run `ragdock reindex {collection.name}` first.",
            code="fingerprint_mismatch",
        )
    n_written = n_unchanged = 0
    lines = _Lines(stream)
    while lines.has_more():
        document = replace(lines.document(), collection=collection.name)
        contents = lines.contents()
        made = contents if fits else reindexer.remade(part for part, _, _ in contents)
        if store.imported(collection.name, document, made):
            n_written += 1
        else:
            n_unchanged += 1
        for _ in contents:
            pass
        progress(n_written + n_unchanged)
    return Imported(n_written, n_unchanged, not fits)


class _Lines:
    """The lines of an export, checked; one is looked ahead."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._number = 1
        self._line: dict[str, Any] = {}
        self._advance()

    def _advance(self) -> None:
        self._number += 1
        raw = self._stream.readline()
        self._line = _parsed(raw, self._number) if raw else {}

    def has_more(self) -> bool:
        """Whether another document follows."""
        return bool(self._line)

    def document(self) -> Document:
        """The next one."""
        line = self._line
        for name, kind in _DOCUMENT.items():
            allowed = (int, float) if kind is float else kind
            if not isinstance(line.get(name), allowed):
                raise self._wrong(f"{name!r} is missing or wrong")
        if not line["id"] or line.get("part") != 0:
            raise self._wrong("a document begins with part 0, and has an id")
        return Document(
            **{name: line[name] for name in _DOCUMENT},
            collection="",
            version=0,
            n_characters=0,
            n_chunks=0,
            n_pages=0,
        )

    def contents(self) -> Iterator[Content]:
        """Its parts."""
        document_id = self._line["id"]
        number = start = 0
        while True:
            line = self._line
            if (line.get("id"), line.get("part"), line.get("start")) != (
                document_id,
                number,
                start,
            ):
                raise self._wrong(f"part {number} of {document_id!r} is missing")
            try:
                content = self._content(line)
            except (KeyError, TypeError, ValueError) as exc:
                raise self._wrong(str(exc)) from exc
            last = line.get("last") is True
            number, start = number + 1, start + len(content[0].text)
            self._advance()
            yield content
            if last:
                return

    def _content(self, line: dict[str, Any]) -> Content:
        text, start = line["text"], line["start"]
        part = ParsedDocument(
            text,
            tuple(
                Block(first, end, BlockKind(kind), level, label)
                for first, end, kind, level, label in line["blocks"]
            ),
            tuple(
                PageSpan(n, first, end, _label(label)) for n, first, end, *label in line["pages"]
            ),
            line["part_title"],
            start,
        )
        chunks = []
        for n, (first, end, page, context, *label) in enumerate(line["chunks"]):
            if not start <= first < end <= start + len(text):
                raise ValueError("a passage is outside of the text")
            passage = text[first - start : end - start]
            chunks.append(Chunk(n, first, end, passage, str(context), page, _label(label)))
        flat = np.frombuffer(base64.b64decode(line["vectors"], validate=True), "<f2")
        vectors = flat.reshape(len(chunks), -1 if chunks else 0).astype(np.float32)
        norms = np.linalg.norm(np.nan_to_num(vectors), axis=1)
        if not np.all(np.abs(norms - 1.0) <= NORM_TOLERANCE):
            raise ValueError("a vector isn't of norm 1")
        return part, tuple(chunks), vectors

    def _wrong(self, what: str) -> InputError:
        return InputError(f"Line {self._number} isn't right: {what}.", field="FILE")


def _parsed(raw: bytes, number: int) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError as exc:
        raise InputError(f"Line {number} isn't JSON.", field="FILE") from exc
    if not isinstance(value, dict):
        raise InputError(f"Line {number} isn't a JSON object.", field="FILE")
    return value
