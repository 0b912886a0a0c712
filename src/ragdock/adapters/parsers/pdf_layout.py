"""Where the text of a PDF page stands: lines in reading order, columns, rows of tables.

PDFium gives text in the order in which the page draws it, which is mostly the order to read it in.
It is not where a program draws two columns side by side, line by line; there the gutters between
columns are looked for. Everything here errs on the side of leaving the order as it is: columns must
hold prose, that is, lines that fill them; rows of a table must stand in line.
"""

from __future__ import annotations

import ctypes
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

import pypdfium2
import pypdfium2.raw as pdfium

from ragdock.adapters.parsers.ocr_rapid import Word

__all__ = ["Line", "lines_of", "lines_of_words"]

# PDFium joins the halves of a word that it takes for hyphenated, and leaves one of these marks.
_VISUAL_LINE: Final = re.compile(r"[^\r\n\x02\ufffe]*(?:[\x02\ufffe]|\r?\n|\r|\Z)")
_WORD: Final = re.compile(r"\S+")
_BOLD: Final = re.compile(rb"bold|black|heavy|demi", re.IGNORECASE)
_BOLD_WEIGHT: Final = 600
_SHORT_LINE: Final = 150  # Only so short a line may be a heading, and is looked at closely.
_MARKER: Final = re.compile(r"\W{1,2}|\(?\w{1,3}[.)]")

_NEAR_POINTS: Final = 3.0  # A group begins with a word that begins so near to its left edge.
_GAP: Final = 1.0  # Of a line's height: wider than any space between words.
_BIN_POINTS: Final = 2.0
_GUTTER_POINTS: Final = 6.0
_MARGIN: Final = 0.15  # Of the width: no column is narrower.
_NARROW: Final = 0.62  # Of the width: wider lines belong to no column.
_CROSSING: Final = 0.06  # Of the lines may reach over a gutter: titles, captions.
_COLUMN_LINES: Final = 5
_COLUMN_CHARACTERS: Final = 15
_FULL: Final = 0.75  # Of the column's width: so much a line of prose fills,
_FULL_SHARE: Final = 0.5  # and so many lines do.
_IN_COLUMNS: Final = 0.4  # Of the page's characters.
_MAX_LINES: Final = 2000
_TABLE_ROWS: Final = 3
_CELL_CHARACTERS: Final = 40


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text; `top` and `size` in points, 0 where unknown, `cells` if it is a table's row.

    `size` is the height of its letters' boxes, a little more than the font's size.
    """

    text: str
    top: float = 0.0
    size: float = 0.0
    bold: bool = False
    cells: tuple[str, ...] = ()


class _Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float


@dataclass(frozen=True, slots=True)
class _Segment:
    """A stretch of a line without a wide gap, `text[start:end]` of the page."""

    start: int
    end: int
    text: str
    box: _Box

    @property
    def middle(self) -> float:
        return (self.box.bottom + self.box.top) / 2

    @property
    def width(self) -> float:
        return self.box.right - self.box.left

    @property
    def height(self) -> float:
        return self.box.top - self.box.bottom


def lines_of(text_page: pypdfium2.PdfTextPage) -> list[Line]:
    """The page's lines as they should be read, with PDFium's marks of hyphens left in."""
    page = _Page(text_page)
    if not page.is_measurable:
        return [Line(line) for line in page.text.splitlines() if line.strip()]
    rows = page.rows()
    segments = [segment for row in rows for segment in row]
    if _is_turned(segments):
        return [Line(line) for line in page.text.splitlines() if line.strip()]
    gutters = _gutters(segments)
    if gutters:
        return [page.line([one]) for one in _in_columns(segments, gutters)]
    lines = [page.line(row) for row in rows]
    for start, end, columns in _tables(rows):
        for n in range(start, end):
            cells = _cells(rows[n], columns)
            lines[n] = replace(lines[n], text=" | ".join(cells).strip(" |"), cells=cells)
    return lines


def lines_of_words(words: Sequence[Word], points_per_pixel: float) -> list[Line]:
    """Lines that were recognised in a picture, in the order to read them in."""
    segments = []
    for word in words:
        left, bottom, right, top = (
            edge * points_per_pixel for edge in (word.left, -word.bottom, word.right, -word.top)
        )
        segments.append(_Segment(0, 0, word.text, _Box(left, bottom, right, top)))
    gutters = _gutters(segments)
    if gutters:
        segments = _in_columns(segments, gutters)
    return [Line(one.text, one.box.top) for one in segments]


class _Page:
    """A page's characters and where they stand; the only part that asks PDFium."""

    def __init__(self, text_page: pypdfium2.PdfTextPage) -> None:
        self._page = text_page
        self.text: str = text_page.get_text_range()
        n_characters = pdfium.FPDFText_CountChars(text_page)
        # Where the text has surrogates or leaves characters out, offsets are no indexes.
        self.is_measurable = n_characters == len(self.text)
        self._edges = [ctypes.c_double() for _ in range(4)]
        self._references = [ctypes.byref(edge) for edge in self._edges]
        self._loose = pdfium.FS_RECTF()
        self._loose_reference = ctypes.byref(self._loose)
        self._name = ctypes.create_string_buffer(128)
        self._flags = ctypes.c_int()

    def rows(self) -> list[list[_Segment]]:
        """The lines in the order in which they are drawn, each cut at its wide gaps."""
        rows = []
        for match in _VISUAL_LINE.finditer(self.text):
            body = match.group()
            text = body.strip()
            if text:
                start = match.start() + len(body) - len(body.lstrip())
                rows.append(self._row(start, text))
        return rows

    def _row(self, start: int, text: str) -> list[_Segment]:
        boxes = self._boxes(start, len(text))
        groups = [boxes[0]]
        for box in boxes[1:]:
            last = groups[-1]
            height = max(last.top - last.bottom, box.top - box.bottom)
            if box.left - last.right > _GAP * height:
                groups.append(box)
            else:
                groups[-1] = _around(last, box)
        starts = [start]
        if len(groups) > 1:
            words = [start + word.start() for word in _WORD.finditer(text)]
            for group in groups[1:]:
                at = bisect_left(words, group.left - 1.0, lo=1, key=self._left)
                if at < len(words) and abs(self._left(words[at]) - group.left) < _NEAR_POINTS:
                    starts.append(words[at])
        if len(starts) < len(groups) or any(a >= b for a, b in pairwise(starts)):
            return [_Segment(start, start + len(text), text, _all_around(groups))]
        starts.append(start + len(text))
        return [
            _Segment(a, b, self.text[a:b].strip(), box)
            for (a, b), box in zip(pairwise(starts), groups, strict=True)
        ]

    def _boxes(self, start: int, length: int) -> list[_Box]:
        n = pdfium.FPDFText_CountRects(self._page, start, length)
        boxes = []
        left, top, right, bottom = self._edges
        for index in range(n):
            pdfium.FPDFText_GetRect(self._page, index, *self._references)
            boxes.append(_Box(left.value, bottom.value, right.value, top.value))
        return boxes or [_Box(0.0, 0.0, 0.0, 0.0)]

    def _left(self, index: int) -> float:
        left, right, bottom, top = self._references
        pdfium.FPDFText_GetCharBox(self._page, index, left, right, bottom, top)
        return float(self._edges[0].value)

    def line(self, segments: Sequence[_Segment]) -> Line:
        """Segments that stand on one line."""
        text = " ".join(segment.text for segment in segments)
        first, last = segments[0].start, segments[-1].start + len(segments[-1].text) - 1
        size, bold = self._size(first), False
        if len(text) <= _SHORT_LINE:
            # A line may begin with an initial, or with words in bold.
            size = min(size, self._size(last))
            bold = self._is_bold(first) and self._is_bold(last)
        return Line(text, max(segment.box.top for segment in segments), size, bold)

    def _size(self, index: int) -> float:
        if not pdfium.FPDFText_GetLooseCharBox(self._page, index, self._loose_reference):
            return 0.0
        return float(round((self._loose.top - self._loose.bottom) * 2) / 2)

    def _is_bold(self, index: int) -> bool:
        if pdfium.FPDFText_GetFontWeight(self._page, index) >= _BOLD_WEIGHT:
            return True
        n_bytes = pdfium.FPDFText_GetFontInfo(
            self._page, index, self._name, len(self._name), self._flags
        )
        return 0 < n_bytes <= len(self._name) and bool(_BOLD.search(self._name.raw[:n_bytes]))


def _around(one: _Box, other: _Box) -> _Box:
    return _Box(
        min(one.left, other.left),
        min(one.bottom, other.bottom),
        max(one.right, other.right),
        max(one.top, other.top),
    )


def _all_around(boxes: Sequence[_Box]) -> _Box:
    *_, box = accumulate(boxes, _around)
    return box


def _is_turned(segments: list[_Segment]) -> bool:
    """Whether most lines run upwards or downwards."""
    long = [one for one in segments if len(one.text) > 3]
    return sum(one.height > one.width for one in long) * 2 > len(long)


# Columns


def _gutters(segments: list[_Segment]) -> list[float]:
    """The middles of the gaps between columns of prose; none, unless that is what they are."""
    if not 2 * _COLUMN_LINES <= len(segments) <= _MAX_LINES:
        return []
    left = min(one.box.left for one in segments)
    width = max(one.box.right for one in segments) - left
    narrow = [one for one in segments if one.width < _NARROW * width]
    n_bins = int(width / _BIN_POINTS) + 1
    if len(narrow) < 2 * _COLUMN_LINES or n_bins > 10_000:
        return []
    changes = [0] * (n_bins + 2)
    for one in narrow:
        changes[max(0, int((one.box.left - left) / _BIN_POINTS))] += 1
        changes[min(n_bins, int((one.box.right - left) / _BIN_POINTS) + 1)] -= 1
    most = max(1, int(_CROSSING * len(narrow)))
    gutters, start = [], None
    for n, covered in enumerate(accumulate(changes)):
        if covered <= most and start is None:
            start = n
        elif covered > most and start is not None:
            middle = (start + n) / 2 / n_bins
            if (n - start) * _BIN_POINTS >= _GUTTER_POINTS and _MARGIN < middle < 1 - _MARGIN:
                gutters.append(left + (start + n) / 2 * _BIN_POINTS)
            start = None
    return gutters if gutters and _is_prose(segments, gutters) else []


def _is_prose(segments: list[_Segment], gutters: list[float]) -> bool:
    """Whether the lines between the gutters fill their columns, as a table's cells do not."""
    columns: list[list[_Segment]] = [[] for _ in range(len(gutters) + 1)]
    for one in segments:
        if (column := _column(one, gutters)) is not None:
            columns[column].append(one)
    for column_lines in columns:
        if len(column_lines) < _COLUMN_LINES:
            return False
        widths = sorted(one.width for one in column_lines)
        full = widths[len(widths) * 9 // 10] * _FULL
        n_characters = sum(len(one.text) for one in column_lines)
        if n_characters < _COLUMN_CHARACTERS * len(column_lines):
            return False
        if sum(width >= full for width in widths) < _FULL_SHARE * len(widths):
            return False
    within = sum(len(one.text) for lines in columns for one in lines)
    return within >= _IN_COLUMNS * sum(len(one.text) for one in segments)


def _column(one: _Segment, gutters: list[float]) -> int | None:
    """The number of the column that a segment stands in; None when it reaches over a gutter."""
    column = bisect_left(gutters, one.box.left + 1.0)
    return column if column == bisect_left(gutters, one.box.right - 1.0) else None


def _in_columns(segments: list[_Segment], gutters: list[float]) -> list[_Segment]:
    """Column after column, between the lines that reach over several of them."""
    ordered: list[_Segment] = []
    band: list[tuple[int, _Segment]] = []

    def end_band() -> None:
        ordered.extend(one for _, one in sorted(band, key=lambda pair: pair[0]))
        band.clear()

    # Within a band the sort is stable, so that lines stay in order from top to bottom.
    for one in sorted(segments, key=lambda one: (-round(one.middle / 2), one.box.left)):
        column = _column(one, gutters)
        if column is None:
            end_band()
            ordered.append(one)
        else:
            band.append((column, one))
    end_band()
    return ordered


# Tables


def _tables(rows: list[list[_Segment]]) -> list[tuple[int, int, list[tuple[float, float]]]]:
    """Rows `start` to `end` that stand in line, and the columns that they have."""
    tables = []
    start = 0
    while start < len(rows):
        end = start
        columns: list[tuple[float, float]] = []
        while end < len(rows) and len(rows[end]) > 1:
            wider = _merged(columns, rows[end])
            if len(wider) < max(len(columns), len(rows[end])):
                break
            columns, end = wider, end + 1
        if _is_table(rows[start:end], len(columns)):
            tables.append((start, end, columns))
        start = max(end, start + 1)
    return tables


def _merged(columns: list[tuple[float, float]], row: list[_Segment]) -> list[tuple[float, float]]:
    spans = sorted([*columns, *((one.box.left, one.box.right) for one in row)])
    merged = [spans[0]]
    for left, right in spans[1:]:
        if left < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], right))
        else:
            merged.append((left, right))
    return merged


def _is_table(rows: list[list[_Segment]], n_columns: int) -> bool:
    if len(rows) < _TABLE_ROWS:
        return False
    cells = [one for row in rows for one in row]
    if sum(len(one.text) for one in cells) > _CELL_CHARACTERS * len(cells):
        return False
    # Cells stand in most places, and what stands before them is more than the marks of a list.
    return len(cells) * 3 >= len(rows) * n_columns * 2 and not all(
        _MARKER.fullmatch(row[0].text) for row in rows
    )


def _cells(row: list[_Segment], columns: list[tuple[float, float]]) -> tuple[str, ...]:
    texts = [""] * len(columns)
    for one in row:
        middle = (one.box.left + one.box.right) / 2
        at = next((n for n, (_, right) in enumerate(columns) if middle <= right), -1)
        texts[at] = f"{texts[at]} {one.text}".strip()
    return tuple(texts)
