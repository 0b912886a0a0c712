"""PDF through PDFium: the text of each page in reading order, as paragraphs.

PDFium gives lines; this module joins them again into paragraphs (the last line of a paragraph is
short or ends a sentence), undoes hyphenation, and leaves out lines that repeat at the top or bottom
of the pages. Pages that hold pictures and no text are counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice, pairwise
from typing import BinaryIO, Final

import pypdfium2
import pypdfium2.raw as pdfium

from ragdock.adapters.parsers.building import MAX_CHARACTERS, TextBuilder
from ragdock.adapters.parsers.parts import PART_CHARACTERS, split
from ragdock.adapters.parsers.text_stream import size_of
from ragdock.errors import DocumentError
from ragdock.types import BlockKind, ParsedDocument

__all__ = ["parts"]

_SAMPLE_PAGES: Final = 200
_DEPTH: Final = 4  # Of forms in forms, in which a page may hold its picture.
_OBJECTS: Final = 10_000  # Where a page's picture is not among so many, it is a drawing.
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


def parts(file: BinaryIO, max_pages: int, limit: int = PART_CHARACTERS) -> Iterator[ParsedDocument]:
    """Pages and paragraphs, a few hundred pages a part; the title is the metadata's, if any.

    The document is opened anew for each part, because PDFium keeps what it has read.
    """
    _refuse_truncated(file)
    reader = _Reader(file, max_pages)
    start = n_told = 0
    running: frozenset[str] | None = None
    try:
        for first, pages in reader.stretches(limit):
            behind = first + len(pages)
            if running is None:
                whole = behind == reader.n_pages
                running = _running_lines(pages if whole else reader.sample())
            builder = TextBuilder(MAX_CHARACTERS - start, continued=start > 0)
            for number, lines in enumerate(pages, first + 1):
                before = builder.length
                for paragraph in _paragraphs(_without_running(lines, running)):
                    builder.add(paragraph, BlockKind.PARAGRAPH)
                if builder.length > before:
                    builder.end_page(number, before)
            if builder.length:
                part = replace(
                    builder.document(reader.title), start=start, done=behind / reader.n_pages
                )
                start += len(part.text)
                first_piece, *others = split(part, limit)
                yield replace(first_piece, n_scanned=reader.n_scanned - n_told)
                n_told = reader.n_scanned
                yield from others
    finally:
        reader.close()
    if reader.n_broken == reader.n_pages:
        raise DocumentError(
            "The PDF is damaged: none of its pages can be read. Export or download it again.",
            code="damaged",
        )
    if start == 0 and reader.n_scanned:
        raise DocumentError(
            f"The PDF is scanned: it holds pictures of pages ({reader.n_scanned:,}) and no text. "
            "Set RAG_OCR=true where ragdock runs with its `ocr` extra, or upload a version with "
            "text (ocrmypdf makes one).",
            code="scanned",
        )
    if start == 0:
        raise DocumentError(
            "The PDF holds no text; upload one that has words in it.", code="no_text"
        )


def _refuse_truncated(file: BinaryIO) -> None:
    head = file.read(1024)
    file.seek(max(0, size_of(file) - _TAIL))
    if b"%%EOF" not in file.read() and b"%PDF-" in head:
        raise DocumentError(
            "The PDF ends early: its end-of-file mark is missing. Upload the complete file.",
            code="truncated",
        )


class _Reader:
    """The lines of pages, in memory that does not grow with them."""

    def __init__(self, file: BinaryIO, max_pages: int) -> None:
        self._file = file
        self._document = _open(file)
        self.n_pages = len(self._document)
        self.n_broken = self.n_scanned = 0
        self.title = _title(self._document)
        if self.n_pages > max_pages:
            raise DocumentError(
                f"The PDF has {self.n_pages:,} pages and may have {max_pages:,} (RAG_MAX_PAGES); "
                "split it into several files.",
                code="too_complex",
            )

    def close(self) -> None:
        self._document.close()

    def stretches(self, limit: int) -> Iterator[tuple[int, list[list[str]]]]:
        """(first page, pages) with at most `limit` characters, or with one page."""
        first, n_characters = 0, 0
        pages: list[list[str]] = []
        for number in range(self.n_pages):
            lines = self._page(number)
            n_lines = sum(map(len, lines)) + len(lines)
            if pages and n_characters + n_lines > limit:
                n_whole = _whole_pages(pages)
                yield first, pages[:n_whole]
                first, pages = first + n_whole, pages[n_whole:]
                n_characters = sum(len(line) + 1 for page in pages for line in page)
                self.close()
                self._document = _open(self._file)
            pages.append(lines)
            n_characters += n_lines
        yield first, pages

    def _page(self, number: int) -> list[str]:
        try:
            lines = _lines(self._document, number)
            if not lines:
                self.n_scanned += _has_picture(self._document, number)
        except pypdfium2.PdfiumError:
            self.n_broken += 1
            return []
        return lines

    def sample(self) -> list[list[str]]:
        """Pages from all over the document."""
        step = max(1, self.n_pages // _SAMPLE_PAGES)
        pages = []
        for number in range(0, self.n_pages, step):
            with suppress(pypdfium2.PdfiumError):
                pages.append(_lines(self._document, number))
        return pages


def _open(file: BinaryIO) -> pypdfium2.PdfDocument:
    try:
        return pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as exc:
        if exc.err_code in (pdfium.FPDF_ERR_PASSWORD, pdfium.FPDF_ERR_SECURITY):
            raise DocumentError(
                "The PDF is encrypted; remove its password and upload it again.", code="encrypted"
            ) from None
        raise DocumentError(
            "The PDF is damaged and can't be opened; export or download it again.", code="damaged"
        ) from None


def _whole_pages(pages: list[list[str]]) -> int:
    """How many of the pages to take, so that the last one ends with a sentence, if one does."""
    for n in range(len(pages), len(pages) * 3 // 4, -1):
        body = pages[n - 1][:-_RUNNING_LINES] or pages[n - 1]
        if body and any(_SENTENCE_END.search(line) for line in (body[-1], pages[n - 1][-1])):
            return n
    return len(pages)


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


def _has_picture(document: pypdfium2.PdfDocument, number: int) -> bool:
    page = document[number]
    try:
        objects = islice(page.get_objects(max_depth=_DEPTH), _OBJECTS)
        return any(one.type == pdfium.FPDF_PAGEOBJ_IMAGE for one in objects)
    finally:
        page.close()


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
