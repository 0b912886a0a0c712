"""PDF through PDFium: the text of each page in reading order: headings, paragraphs, tables.

PDFium gives lines (`pdf_layout` orders them); this module joins them again into paragraphs (the
last line of a paragraph is short or ends a sentence), undoes hyphenation, and leaves out lines that
repeat at the top or bottom of the pages. Pages that hold pictures and no text are counted.
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

from ragdock.adapters.parsers import ocr_rapid
from ragdock.adapters.parsers.building import MAX_CHARACTERS, TextBuilder
from ragdock.adapters.parsers.parts import PART_CHARACTERS, split
from ragdock.adapters.parsers.pdf_headings import Headings, outline_of
from ragdock.adapters.parsers.pdf_labels import labels_of
from ragdock.adapters.parsers.pdf_layout import Line, lines_of, lines_of_words
from ragdock.adapters.parsers.tables import Cell, add_table
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
_HYPHENATED: Final = re.compile(rf"(?<=\w)[{_HYPHEN_MARKS}](?=[^\W\d_A-Z])")
_DIVIDED: Final = re.compile(rf"(?<=\w)[-{_HYPHEN_MARKS}]\Z")
_CONTINUED: Final = re.compile(r"[^\W\d_A-Z]")
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


def parts(
    file: BinaryIO,
    max_pages: int,
    limit: int = PART_CHARACTERS,
    *,
    ocr: bool = False,
    labelled: bool = True,
) -> Iterator[ParsedDocument]:
    """Pages and paragraphs, a few hundred pages a part; the title is the metadata's, if any.

    The document is opened anew for each part, because PDFium keeps what it has read. With `ocr`
    pages without text are recognised, each a part of its own because that takes seconds; the part
    is empty where nothing was found. Pages have their labels if it is to be `labelled`.
    """
    _refuse_truncated(file)
    reader = _Reader(file, max_pages, ocr=ocr, labelled=labelled)
    start = n_told = 0
    running: frozenset[str] = frozenset()
    headings: Headings | None = None
    try:
        for first, pages in reader.stretches(limit):
            behind = first + len(pages)
            if headings is None:
                whole = behind == reader.n_pages
                sample = dict(enumerate(pages)) if whole else reader.sample()
                running = _running_lines(list(sample.values()))
                clean = {
                    number: _without_running(lines, running) for number, lines in sample.items()
                }
                headings = Headings(clean, reader.outline)
            builder = TextBuilder(MAX_CHARACTERS - start, continued=start > 0)
            for number, lines in enumerate(pages, first + 1):
                before = builder.length
                _add_page(builder, number - 1, _without_running(lines, running), headings)
                if builder.length > before:
                    builder.end_page(number, before, reader.labels.get(number - 1, ""))
            if builder.length:
                part = replace(
                    builder.document(reader.title), start=start, done=behind / reader.n_pages
                )
                start += len(part.text)
                first_piece, *others = split(part, limit)
                yield replace(first_piece, n_scanned=reader.n_scanned - n_told)
                n_told = reader.n_scanned
                yield from others
            elif behind < reader.n_pages:
                # Whoever waits should know that there is progress.
                yield replace(builder.document(), start=start, done=behind / reader.n_pages)
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

    def __init__(self, file: BinaryIO, max_pages: int, *, ocr: bool, labelled: bool) -> None:
        self._file = file
        self._ocr = ocr
        self._document = _open(file)
        self.n_pages = len(self._document)
        self.n_broken = self.n_scanned = 0
        self._has_recognised = False
        self.title = _title(self._document)
        self.outline = outline_of(self._document)
        if self.n_pages > max_pages:
            raise DocumentError(
                f"The PDF has {self.n_pages:,} pages and may have {max_pages:,} (RAG_MAX_PAGES); "
                "split it into several files.",
                code="too_complex",
            )
        self.labels = labels_of(self._document, _clean) if labelled else {}

    def close(self) -> None:
        self._document.close()

    def stretches(self, limit: int) -> Iterator[tuple[int, list[list[Line]]]]:
        """(first page, pages) with at most `limit` characters, or with one page."""
        first, n_characters = 0, 0
        pages: list[list[Line]] = []
        for number in range(self.n_pages):
            lines = self._page(number)
            n_page = _n_characters(lines)
            if pages and n_characters + n_page > limit:
                n_whole = _whole_pages(pages)
                yield first, pages[:n_whole]
                first, pages = first + n_whole, pages[n_whole:]
                n_characters = sum(map(_n_characters, pages))
                self.close()
                self._document = _open(self._file)
            pages.append(lines)
            n_characters += n_page
            if self._has_recognised and number + 1 < self.n_pages:
                yield first, pages
                first, pages, n_characters = number + 1, [], 0
        yield first, pages

    def _page(self, number: int) -> list[Line]:
        try:
            self._has_recognised = False
            lines = _lines(self._document, number)
            if not lines and _has_picture(self._document, number):
                if self._ocr:
                    lines = _recognised(self._document, number)
                    self._has_recognised = True
                else:
                    self.n_scanned += 1
        except pypdfium2.PdfiumError:
            self.n_broken += 1
            return []
        return lines

    def sample(self) -> dict[int, list[Line]]:
        """Pages from all over the document, by number (0-based)."""
        step = max(1, self.n_pages // _SAMPLE_PAGES)
        pages = {}
        for number in range(0, self.n_pages, step):
            with suppress(pypdfium2.PdfiumError):
                pages[number] = _lines(self._document, number)
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


def _n_characters(lines: list[Line]) -> int:
    return sum(len(line.text) + 1 for line in lines)


def _whole_pages(pages: list[list[Line]]) -> int:
    """How many of the pages to take, so that the last one ends with a sentence, if one does."""
    for n in range(len(pages), len(pages) * 3 // 4, -1):
        body = pages[n - 1][:-_RUNNING_LINES] or pages[n - 1]
        if body and any(_SENTENCE_END.search(one.text) for one in (body[-1], pages[n - 1][-1])):
            return n
    return len(pages)


def _recognised(document: pypdfium2.PdfDocument, number: int) -> list[Line]:
    page = document[number]
    try:
        scale = ocr_rapid.scale_for(*page.get_size())
        bitmap = page.render(scale=scale, rev_byteorder=False)
        try:
            words = ocr_rapid.recognised(bitmap.to_numpy()[:, :, :3])
        finally:
            bitmap.close()
    finally:
        page.close()
    return _cleaned(lines_of_words(words, 1 / scale))


def _lines(document: pypdfium2.PdfDocument, number: int) -> list[Line]:
    page = document[number]
    try:
        text_page = page.get_textpage()
        try:
            lines = lines_of(text_page)
        finally:
            text_page.close()
    finally:
        page.close()
    return _cleaned(lines)


def _cleaned(lines: list[Line]) -> list[Line]:
    """Lines without PDFium's marks; halves of words that were divided are put together."""
    joined: list[Line] = []
    for line in lines:
        above = joined[-1].text if joined and not line.cells else ""
        if _DIVIDED.search(above) and (_CONTINUED.match(line.text) or above[-1] != "-"):
            hyphen = "" if _CONTINUED.match(line.text) else "-"
            joined[-1] = replace(joined[-1], text=above[:-1] + hyphen + line.text)
        else:
            joined.append(line)
    cleaned = (replace(line, text=_clean(line.text)) for line in joined)
    return [line for line in cleaned if line.text]


def _clean(text: str) -> str:
    text = _HYPHENATED.sub("", text).replace("\x02", "-")
    return " ".join(_JUNK.sub("", text).translate(_LIGATURES).split())


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


def _running_lines(pages: list[list[Line]]) -> frozenset[str]:
    """Lines at the edges of most pages, their digits masked: headers, footers, page numbers."""
    full = [lines for lines in pages if lines]
    if len(full) < _RUNNING_PAGES:
        return frozenset()
    counts: Counter[str] = Counter()
    for lines in full:
        counts.update({_DIGITS.sub("0", lines[at].text) for at in _edges(lines)})
    return frozenset(line for line, n in counts.items() if n >= len(full) * _RUNNING_SHARE)


def _edges(lines: list[Line]) -> list[int]:
    """Which lines stand highest and lowest, wherever in the order they come."""
    order = sorted(range(len(lines)), key=lambda at: -lines[at].top)
    return order[:_RUNNING_LINES] + order[max(_RUNNING_LINES, len(order) - _RUNNING_LINES) :]


def _without_running(lines: list[Line], running: frozenset[str]) -> list[Line]:
    edges = set(_edges(lines)) if running else set()
    return [
        line
        for at, line in enumerate(lines)
        if not (at in edges and _DIGITS.sub("0", line.text) in running)
    ]


def _add_page(builder: TextBuilder, page: int, lines: list[Line], headings: Headings) -> None:
    lengths = sorted(len(line.text) for line in lines)
    full = lengths[len(lengths) * 9 // 10] if lengths else 0
    waiting: list[str] = []

    def end_text() -> None:
        for paragraph in _paragraphs(waiting, full):
            builder.add(paragraph, BlockKind.PARAGRAPH)
        waiting.clear()

    at = 0
    while at < len(lines):
        n_lines = _n_rows(lines, at)
        if n_lines:
            end_text()
            rows = lines[at : at + n_lines]
            add_table(builder, [[Cell(_clean(text)) for text in row.cells] for row in rows])
            at += n_lines
            continue
        level, n_lines = headings.at(page, lines, at)
        if level:
            end_text()
            title = " ".join(line.text for line in lines[at : at + n_lines])
            builder.add(title, BlockKind.HEADING, level, label=title)
        else:
            n_lines = 1
            waiting.append(lines[at].text)
        at += n_lines
    end_text()


def _n_rows(lines: list[Line], at: int) -> int:
    """How many rows of one table begin with line `at`."""
    n = 0
    while at + n < len(lines) and len(lines[at + n].cells) == len(lines[at].cells) > 0:
        n += 1
    return n


def _paragraphs(lines: list[str], full: int) -> list[str]:
    """Lines joined where a paragraph goes on; `full` is the length of a line that fills its row."""
    paragraphs = lines[:1]
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
