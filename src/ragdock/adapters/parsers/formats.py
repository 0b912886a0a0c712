"""Which parser reads which media type; parsers are imported when they are needed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any, BinaryIO, Final

from ragdock.adapters.parsers.parts import scanned, split
from ragdock.adapters.parsers.text_stream import TextStream
from ragdock.core import media
from ragdock.core.spans import overlong_word_spans
from ragdock.errors import DocumentError
from ragdock.types import Bounds, ParsedDocument

__all__ = ["is_supported", "modules", "needs_child", "read", "unpack"]

_SCANNERS: Final = {
    media.PLAIN_TEXT: ("plain_text", "Scanner"),
    media.MARKDOWN: ("markdown", "Scanner"),
    media.RST: ("restructured", "Scanner"),
    media.CSV: ("delimited", "Scanner"),
    media.TSV: ("delimited", "Scanner"),
    media.JSONL: ("json_text", "LineScanner"),
    **dict.fromkeys(media.CODE_TYPES, ("source_code", "Scanner")),
}
"""Read in windows, whatever their size."""
_PARSERS: Final = {
    media.JSON: ("json_text", "parse"),
    media.HTML: ("html_lexbor", "parse"),
    media.DOCX: ("docx_xml", "parse"),
    media.PPTX: ("pptx_xml", "parse"),
    media.XLSX: ("xlsx_xml", "parse"),
    media.ODT: ("odf_xml", "parse"),
    media.ODS: ("odf_xml", "parse"),
    media.ODP: ("odf_xml", "parse"),
    media.EPUB: ("epub", "parse"),
    media.RTF: ("rtf", "parse"),
    media.EML: ("eml", "parse"),
    media.LATEX: ("latex", "parse"),
    media.NOTEBOOK: ("notebook", "parse"),
    media.SUBRIP: ("subtitles", "parse"),
    media.WEBVTT: ("subtitles", "parse"),
    media.XML: ("xml_text", "parse"),
}
"""Read whole, within the parser's memory, and handed on in parts."""
# Plain text and records, read by our own code in time that grows with their size.
_HARMLESS: Final = frozenset({*_SCANNERS, media.JSON, media.SUBRIP, media.WEBVTT})
_SOLID: Final = re.compile(r"\A\S+")
_IN_PROCESS_BYTES: Final = 2**18  # At most 0.4 s of pure Python, which holds the GIL.


def is_supported(media_type: str) -> bool:
    """Whether there is a parser for this media type."""
    return media_type == media.PDF or media_type in _SCANNERS or media_type in _PARSERS


def needs_child(media_type: str, size_bytes: int) -> bool:
    """Whether the file is parsed in a child process: foreign code, or much work."""
    return media_type not in _HARMLESS or size_bytes > _IN_PROCESS_BYTES


def modules() -> tuple[str, ...]:
    """The names of all modules that parse."""
    names = {module for module, _ in (*_SCANNERS.values(), *_PARSERS.values())}
    names |= {"archives", "pdf_pdfium"}
    return tuple(f"ragdock.adapters.parsers.{name}" for name in sorted(names))


def read(
    file: BinaryIO,
    filename: str,
    media_type: str,
    *,
    max_pages: int,
    ocr: bool = False,
    labelled: bool = True,
) -> Iterator[ParsedDocument]:
    """Parse in this process; raises `DocumentError` also when the text says nothing.

    With `ocr` pictures of pages are read; if it is to be `labelled`, pages have their labels.
    """
    title = filename if media_type in media.CODE_TYPES else ""
    words = _Words()
    for part in _parts(file, media_type, max_pages=max_pages, ocr=ocr, labelled=labelled):
        words.look(part.text)
        yield replace(part, title=title) if title else part
    words.refuse_none()


def unpack(
    file: BinaryIO, filename: str, media_type: str, bounds: Bounds
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The files in an archive, each to be read before the next; see `archives.members`."""
    members = _imported("archives", "members", media_type)
    for member in members(file, filename, media_type, bounds):
        yield member.path, member.pieces


def _parts(file: BinaryIO, media_type: str, **of_pdf: Any) -> Iterator[ParsedDocument]:
    if media_type == media.PDF:
        yield from _imported("pdf_pdfium", "parts", media_type)(file, **of_pdf)
    elif media_type in _SCANNERS:
        scanner = _imported(*_SCANNERS[media_type], media_type)()
        yield from scanned(TextStream(file), scanner)
    else:
        parse = _imported(*_PARSERS[media_type], media_type)
        file.seek(0)
        yield from split(parse(file.read()))


def _imported(module: str, name: str, media_type: str) -> Any:
    try:
        return getattr(import_module(f"ragdock.adapters.parsers.{module}"), name)
    except ImportError as exc:
        raise DocumentError(
            f"This server lacks the package that reads {media_type}; run `pip install ragdock` "
            "where it is installed.",
            code="unsupported",
        ) from exc


class _Words:
    """Whether there are words in a document, of which the parts are looked at in order."""

    def __init__(self) -> None:
        self._has_text = self._has_words = False
        self._cut = False

    def look(self, text: str) -> None:
        """The next part."""
        if self._has_words:
            return
        if self._cut:
            # The rest of an overlong word may be short.
            text = _SOLID.sub("", text, count=1)
        self._has_text |= bool(text.strip())
        start = 0
        overlong = overlong_word_spans(text)
        for span_start, span_end in overlong:
            self._has_words |= bool(text[start:span_start].strip())
            start = span_end
        self._has_words |= bool(text[start:].strip())
        self._cut = bool(overlong) and start == len(text)

    def refuse_none(self) -> None:
        """Raise `no_text` when there were none."""
        if self._has_words:
            return
        if not self._has_text:
            raise DocumentError(
                "The document holds no text; upload one that has words in it.", code="no_text"
            )
        raise DocumentError(
            "The document holds no words: it is nothing but runs of more than 1,000 characters "
            "without white space, as encoded data has. Upload readable text.",
            code="no_text",
        )
