"""Which parser reads which media type; parsers are imported when they are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Final

from ragdock.core import media
from ragdock.core.spans import overlong_word_spans
from ragdock.errors import DocumentError
from ragdock.types import ParsedDocument

__all__ = ["is_supported", "needs_child", "read"]

_PARSERS: Final = {
    media.PLAIN_TEXT: ("plain_text", "parse"),
    media.MARKDOWN: ("markdown", "parse"),
    media.RST: ("restructured", "parse"),
    media.CSV: ("delimited", "parse"),
    media.TSV: ("delimited", "parse"),
    media.JSON: ("json_text", "parse"),
    media.JSONL: ("json_text", "parse_lines"),
    media.HTML: ("html_lexbor", "parse"),
    media.PDF: ("pdf_pdfium", "parse"),
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
    **dict.fromkeys(media.CODE_TYPES, ("source_code", "parse")),
}
# Read by foreign code, or compressed, so that their size says nothing about the work.
_FOREIGN: Final = frozenset(
    {media.HTML, media.PDF, media.DOCX, media.PPTX, media.XLSX, media.ODT, media.ODS, media.ODP,
     media.EPUB, media.EML, media.RTF, media.XML, media.LATEX, media.NOTEBOOK}
)  # fmt: skip
_IN_PROCESS_BYTES: Final = 2**18  # At most 0.4 s of pure Python, which holds the GIL.


def is_supported(media_type: str) -> bool:
    """Whether there is a parser for this media type."""
    return media_type in _PARSERS


def needs_child(media_type: str, size_bytes: int) -> bool:
    """Whether the file is parsed in a child process: foreign code, or much work."""
    return media_type in _FOREIGN or size_bytes > _IN_PROCESS_BYTES


def read(content: bytes, filename: str, media_type: str) -> ParsedDocument:
    """Parse in this process; raises `DocumentError` also when the text says nothing."""
    module, function = _PARSERS[media_type]
    try:
        imported = import_module(f"ragdock.adapters.parsers.{module}")
    except ImportError as exc:
        raise DocumentError(
            f"This server lacks the package that reads {media_type}; run `pip install ragdock` "
            "where it is installed.",
            code="unsupported",
        ) from exc
    parse: Callable[[bytes], ParsedDocument] = getattr(imported, function)
    parsed = parse(content)
    _refuse_wordless(parsed)
    if module == "source_code":
        parsed = replace(parsed, title=filename)
    return parsed


def _refuse_wordless(parsed: ParsedDocument) -> None:
    if not parsed.text.strip():
        raise DocumentError(
            "The document holds no text; upload one that has words in it.", code="no_text"
        )
    overlong = overlong_word_spans(parsed.text)
    if not overlong:
        return
    start = 0
    for span_start, span_end in overlong:
        if parsed.text[start:span_start].strip():
            return
        start = span_end
    if not parsed.text[start:].strip():
        raise DocumentError(
            "The document holds no words: it is nothing but runs of more than 1,000 characters "
            "without white space, as encoded data has. Upload readable text.",
            code="no_text",
        )
