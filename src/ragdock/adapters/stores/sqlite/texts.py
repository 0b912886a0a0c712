"""A part of a document as it is stored: its text, and the structure that a chunker needs."""

from __future__ import annotations

import codecs
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ragdock.errors import DocumentError
from ragdock.types import Block, BlockKind, PageSpan, ParsedDocument

__all__ = ["StoredPart", "text_pieces", "to_document", "to_stored"]

PIECE_BYTES: Final = 2**20
_BETWEEN_PARAGRAPHS: Final = re.compile(r"\n\s*\n")


@dataclass(frozen=True, slots=True)
class StoredPart:
    """The text and the structure, deflated; a document of the first release has no structure."""

    start: int
    deflated: bytes
    structure: bytes | None


def to_stored(parsed: ParsedDocument) -> StoredPart:
    """Deflate a part; `DocumentError` for text that UTF-8 can't say."""
    structure = {
        "title": parsed.title,
        "blocks": [[b.start, b.end, b.kind.value, b.level, b.label] for b in parsed.blocks],
        "pages": [[p.number, p.start, p.end, p.label] for p in parsed.pages],
    }
    try:
        # Level 1: the text is read rarely, and written while a worker waits.
        deflated = zlib.compress(parsed.text.encode(), 1)
        described = json.dumps(structure, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as exc:
        raise DocumentError(
            "The document's text holds half a surrogate pair, which UTF-8 can't say."
        ) from exc
    return StoredPart(parsed.start, deflated, zlib.compress(described, 1))


def text_pieces(part: StoredPart) -> Iterator[str]:
    """The text, a megabyte at a time."""
    inflater = zlib.decompressobj()
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest = part.deflated
    while rest:
        piece = inflater.decompress(rest, PIECE_BYTES)
        rest = inflater.unconsumed_tail
        if text := decoder.decode(piece):
            yield text
    if text := decoder.decode(inflater.flush(), final=True):
        yield text


def to_document(part: StoredPart, title: str) -> ParsedDocument:
    """The part as it was committed."""
    text = zlib.decompress(part.deflated).decode()
    if part.structure is None:
        return ParsedDocument(text, _paragraphs(text), title=title, start=part.start)
    structure = json.loads(zlib.decompress(part.structure))
    return ParsedDocument(
        text,
        tuple(
            Block(start, end, BlockKind(kind), level, label)
            for start, end, kind, level, label in structure["blocks"]
        ),
        # Pages of earlier releases have no label.
        tuple(PageSpan(*page) for page in structure["pages"]),
        structure["title"],
        part.start,
    )


def _paragraphs(text: str) -> tuple[Block, ...]:
    """What the first release's texts still tell of their structure."""
    ends = [match.start() for match in _BETWEEN_PARAGRAPHS.finditer(text)]
    starts = [match.end() for match in _BETWEEN_PARAGRAPHS.finditer(text)]
    return tuple(
        Block(start, end, BlockKind.PARAGRAPH)
        for start, end in zip([0, *starts], [*ends, len(text)], strict=True)
        if text[start:end].strip()
    )
