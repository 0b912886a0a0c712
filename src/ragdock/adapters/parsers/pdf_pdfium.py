"""PDF through PDFium: the text of each page in reading order, as paragraphs.

PDFium gives lines; this module joins them again into paragraphs (the last line of a paragraph is
short or ends a sentence), undoes hyphenation, and leaves out lines that repeat at the top or bottom
of the pages. Pictures of text stay pictures: there is no OCR.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import Final

import pypdfium2
import pypdfium2.raw as pdfium

from ragdock.adapters.parsers.building import TextBuilder
from ragdock.errors import DocumentError
from ragdock.types import BlockKind, ParsedDocument

__all__ = ["parse"]

_MAX_PAGES: Final = 20_000
_TAIL: Final = 4096  # Readers look for %%EOF in the last 1,024 bytes; some writers add more.

# PDFium joins a word that it takes for hyphenated, and leaves one of these marks.
_HYPHEN_MARKS: Final = "\x02\ufffe\u00ad"
_HYPHENATED: Final = re.compile(rf"(?<=\w)(?:[{_HYPHEN_MARKS}]\n?|-\n)(?=[^\W\d_A-Z])")
_JUNK: Final = re.compile(
    r"[\x00-\x08\x0b\x0e-\x1f\x7f\u200b\u2060\ufeff\ufffe\uffff\ud800-\udfff]"
)
_LIGATURES: Final = str.maketrans(
    {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st", "\u00a0": " "}
)
_SENTENCE_END: Final = re.compile(r"[.!?:…。！？]['\"”’)\]»]*$")
_ITEM: Final = re.compile(r"(?:[•◦▪‣–●○■-]|\(?(?:\d{1,3}|[a-zA-Z])[.)])\s")
_DIGITS: Final = re.compile(r"\d+")
_SHORT: Final = 0.8  # A line shorter than that share of the full width may end a paragraph.
_RUNNING_LINES: Final = 2  # Headers and footers have at most so many lines.
_RUNNING_SHARE: Final = 0.6
_RUNNING_PAGES: Final = 4
_NO_TITLE: Final = re.compile(
    r"(?:untitled.*|document\d*|microsoft word.*|.*\.(?:docx?|pdf|tex|dvi|indd|qxd|pptx?|xlsx?))",
    re.IGNORECASE,
)


def parse(content: bytes) -> ParsedDocument:
    """Pages and paragraphs; the title is the metadata's, if it says something."""
    if b"%%EOF" not in content[-_TAIL:] and b"%PDF-" in content[:1024]:
        raise DocumentError(
            "The PDF ends early: its end-of-file mark is missing. Upload the complete file.",
            code="truncated",
        )
    document = _open(content)
    try:
        return _read(document)
    finally:
        document.close()


def _open(content: bytes) -> pypdfium2.PdfDocument:
    try:
        return pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as exc:
        if exc.err_code in (pdfium.FPDF_ERR_PASSWORD, pdfium.FPDF_ERR_SECURITY):
            raise DocumentError(
                "The PDF is encrypted; remove its password and upload it again.", code="encrypted"
            ) from None
        raise DocumentError(
            "The PDF is damaged and can't be opened; export or download it again.", code="damaged"
        ) from None


def _read(document: pypdfium2.PdfDocument) -> ParsedDocument:
    n_pages = len(document)
    if n_pages > _MAX_PAGES:
        raise DocumentError(
            f"The PDF has {n_pages:,} pages and may have {_MAX_PAGES:,}; split it into several "
            "files.",
            code="too_complex",
        )
    pages: list[list[str]] = []
    n_broken = 0
    for number in range(n_pages):
        try:
            pages.append(_lines(document, number))
        except pypdfium2.PdfiumError:
            n_broken += 1
            pages.append([])
    if n_pages == 0 or n_broken == n_pages:
        raise DocumentError(
            "The PDF is damaged: none of its pages can be read. Export or download it again.",
            code="damaged",
        )
    running = _running_lines(pages)
    builder = TextBuilder()
    for number, lines in enumerate(pages, 1):
        before = builder.length
        for paragraph in _paragraphs(_without_running(lines, running)):
            builder.add(paragraph, BlockKind.PARAGRAPH)
        if builder.length > before:
            builder.end_page(number, before)
    if builder.length == 0:
        raise DocumentError(
            "The PDF holds no text; it looks scanned. Run OCR on it (for example ocrmypdf) and "
            "upload the result.",
            code="no_text",
        )
    return builder.document(_title(document))


def _lines(document: pypdfium2.PdfDocument, number: int) -> list[str]:
    page = document[number]
    try:
        text_page = page.get_textpage()
        try:
            text = text_page.get_text_bounded()
        finally:
            text_page.close()
    finally:
        page.close()
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _HYPHENATED.sub("", text)
    text = _JUNK.sub("", text.replace("\x02", "-")).translate(_LIGATURES)
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return [line for line in lines if line]


def _title(document: pypdfium2.PdfDocument) -> str:
    title = " ".join(_JUNK.sub("", document.get_metadata_value("Title")).split())
    return "" if _NO_TITLE.fullmatch(title) else title[:300]


def _running_lines(pages: list[list[str]]) -> frozenset[str]:
    """Lines at the edges of most pages, their digits masked: headers, footers, page numbers."""
    full = [lines for lines in pages if lines]
    if len(full) < _RUNNING_PAGES:
        return frozenset()
    counts: Counter[str] = Counter()
    for lines in full:
        counts.update({_DIGITS.sub("0", line) for line in _edges(lines)})
    return frozenset(line for line, n in counts.items() if n >= len(full) * _RUNNING_SHARE)


def _edges(lines: list[str]) -> list[str]:
    return lines[:_RUNNING_LINES] + lines[max(_RUNNING_LINES, len(lines) - _RUNNING_LINES) :]


def _without_running(lines: list[str], running: frozenset[str]) -> list[str]:
    n = len(lines)
    return [
        line
        for i, line in enumerate(lines)
        if not (
            (i < _RUNNING_LINES or i >= n - _RUNNING_LINES) and _DIGITS.sub("0", line) in running
        )
    ]


def _paragraphs(lines: list[str]) -> list[str]:
    """Lines joined where a paragraph goes on."""
    if not lines:
        return []
    lengths = sorted(map(len, lines))
    full = lengths[len(lengths) * 9 // 10]
    paragraphs = [lines[0]]
    for before, line in pairwise(lines):
        if _ends_paragraph(before, line, full):
            paragraphs.append(line)
        elif _spaceless(before[-1]) and _spaceless(line[0]):
            paragraphs[-1] += line
        else:
            paragraphs[-1] += " " + line
    return paragraphs


def _ends_paragraph(line: str, following: str, full: int) -> bool:
    if _ITEM.match(following):
        return True
    short = len(line) < full * _SHORT
    if _SENTENCE_END.search(line):
        return short or len(line) + len(following.split(" ", 1)[0]) < full * 0.97
    # A heading, a cell of a table, a line of an address: short, and what follows begins anew.
    return short and not following[0].islower()


def _spaceless(character: str) -> bool:
    return "\u2e80" <= character <= "\u9fff" or "\uff00" <= character <= "\uffef"
