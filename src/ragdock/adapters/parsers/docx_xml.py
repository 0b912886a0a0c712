"""DOCX: headings, paragraphs, lists and tables, streamed from the XML of the package.

Read with expat and nothing between, because what a library would build in memory (a tree, then
HTML, then a tree again) is the price of a bomb. Deleted text, field codes, tables of contents,
headers and footers are left out; footnotes follow the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from ragdock.adapters.parsers.building import TextBuilder, words
from ragdock.adapters.parsers.docx_package import Package, Style
from ragdock.adapters.parsers.elements import ElementReader
from ragdock.adapters.parsers.packages import Attributes
from ragdock.adapters.parsers.tables import Cell, add_table, grid
from ragdock.types import BlockKind, ParsedDocument

__all__ = ["parse"]

_W: Final = (
    "http://schemas.openxmlformats.org/wordprocessingml/2006/main ",
    "http://purl.oclc.org/ooxml/wordprocessingml/main ",
)
_M: Final = (
    "http://schemas.openxmlformats.org/officeDocument/2006/math ",
    "http://purl.oclc.org/ooxml/officeDocument/math ",
)
_COMPATIBILITY: Final = "http://schemas.openxmlformats.org/markup-compatibility/2006 "

_SKIPPED: Final = words(
    """
    del moveFrom pPrChange rPrChange tblPrChange trPrChange tcPrChange sectPr instrText delText rt
    sdtPr Fallback
    """
)
_SPACE: Final = re.compile(r"[^\S\n]+")
_INVISIBLE: Final = re.compile("[\u00ad\u200b\u2060\ufeff]")


@dataclass(slots=True)
class _Paragraph:
    parts: list[str] = field(default_factory=list)
    style: str = ""
    outline: int | None = None
    list_id: str | None = None
    list_level: int = 0

    @property
    def text(self) -> str:
        text = _INVISIBLE.sub("", "".join(self.parts))
        lines = (_SPACE.sub(" ", line).strip() for line in text.split("\n"))
        return "\n".join(line for line in lines if line)


@dataclass(slots=True)
class _Table:
    rows: list[list[Cell]] = field(default_factory=list)
    cell: list[str] = field(default_factory=list)
    columns: int = 1
    merged: bool = False


def parse(content: bytes) -> ParsedDocument:
    """Blocks of the main document; the title is the property's, else the first title or heading."""
    package = Package(content)
    styles, numbering = package.styles(), package.numbering()
    reader = _BodyReader(TextBuilder(), styles, numbering)
    package.parse(package.word_part, reader.start, reader.end, reader.characters)
    reader.finish()
    for part in ("footnotes", "endnotes"):
        notes = _BodyReader(reader.builder, styles, numbering)
        package.parse(package.beside_main(part), notes.start, notes.end, notes.characters)
        notes.finish()
    return reader.builder.document(package.core_title() or reader.title)


class _BodyReader(ElementReader):
    """Handlers for expat; the builder gets a block when a paragraph or table ends."""

    def __init__(
        self,
        builder: TextBuilder,
        styles: dict[str, Style],
        numbering: dict[tuple[str, int], bool],
    ) -> None:
        super().__init__(_SKIPPED, _local)
        self.builder = builder
        self.styles = styles
        self.numbering = numbering
        self.title = ""
        self._title_level = 99
        self._in_properties = 0
        self._in_text = False
        self._paragraphs: list[_Paragraph] = []  # A text box nests paragraphs.
        self._tables: list[_Table] = []
        self._items: list[str] = []
        self._counters: dict[tuple[str, int], int] = {}
        self._starts = {
            "p": self._start_paragraph,
            "t": self._start_text,
            "tbl": self._start_table,
            "tr": self._start_row,
            "tc": self._start_cell,
            "tab": lambda _: self._append(" "),
            "br": lambda _: self._append("\n"),
            "cr": lambda _: self._append("\n"),
            "noBreakHyphen": lambda _: self._append("-"),
            "pPr": self._start_properties,
            "pStyle": self._set_style,
            "outlineLvl": self._set_outline,
            "ilvl": self._set_list_level,
            "numId": self._set_list,
            "gridSpan": self._set_columns,
            "vMerge": self._set_merged,
        }
        self._ends = {
            "p": self._end_paragraph,
            "t": self._end_text,
            "tc": self._end_cell,
            "tbl": self._end_table,
            "pPr": self._end_properties,
        }

    def characters(self, text: str) -> None:
        if self._in_text and self._skipping is None:
            self._append(text)

    def finish(self) -> None:
        self._end_list()

    # Paragraphs

    def _append(self, text: str) -> None:
        # A <w:tab> among the properties is a tab stop, no character.
        if self._paragraphs and not self._in_properties:
            self._paragraphs[-1].parts.append(text)

    def _start_paragraph(self, _: Attributes) -> None:
        self._paragraphs.append(_Paragraph())

    def _start_text(self, _: Attributes) -> None:
        self._in_text = True

    def _end_text(self) -> None:
        self._in_text = False

    def _start_properties(self, _: Attributes) -> None:
        self._in_properties += 1

    def _end_properties(self) -> None:
        self._in_properties -= 1

    def _set_style(self, attributes: Attributes) -> None:
        if self._paragraphs:
            self._paragraphs[-1].style = _value(attributes)

    def _set_outline(self, attributes: Attributes) -> None:
        if self._paragraphs:
            self._paragraphs[-1].outline = _number(attributes, None)

    def _set_list_level(self, attributes: Attributes) -> None:
        if self._paragraphs:
            self._paragraphs[-1].list_level = _number(attributes, 0) or 0

    def _set_list(self, attributes: Attributes) -> None:
        if self._paragraphs:
            self._paragraphs[-1].list_id = _value(attributes)

    def _end_paragraph(self) -> None:
        if not self._paragraphs:
            return
        paragraph = self._paragraphs.pop()
        text = paragraph.text
        if not text:
            return
        if self._tables:
            self._tables[-1].cell.append(text.replace("\n", " "))
            return
        style = self.styles.get(paragraph.style, Style())
        if style.is_contents:
            return
        level = style.level if paragraph.outline is None else _heading_level(paragraph.outline)
        list_id = style.list_id if paragraph.list_id is None else paragraph.list_id
        if level:
            self._add_heading(text.replace("\n", " "), level, style.is_title)
        elif list_id and list_id != "0":
            self._items.append(self._marker(list_id, paragraph.list_level) + text)
        else:
            self._end_list()
            self.builder.add(text, BlockKind.PARAGRAPH)

    def _add_heading(self, text: str, level: int, is_title: bool) -> None:
        self._end_list()
        self.builder.add(text, BlockKind.HEADING, level, text)
        rank = 0 if is_title else level
        if rank < self._title_level and rank <= 1:
            self.title, self._title_level = text, rank

    def _marker(self, list_id: str, level: int) -> str:
        level = min(level, 8)
        indent = "  " * level
        if not self.numbering.get((list_id, level), False):
            return f"{indent}- "
        number = self._counters[list_id, level] = self._counters.get((list_id, level), 0) + 1
        for deeper in range(level + 1, 9):
            self._counters.pop((list_id, deeper), None)
        return f"{indent}{number}. "

    def _end_list(self) -> None:
        self.builder.add("\n".join(self._items), BlockKind.LIST)
        self._items.clear()

    # Tables

    def _start_table(self, _: Attributes) -> None:
        if not self._tables:
            self._end_list()
        self._tables.append(_Table())

    def _start_row(self, _: Attributes) -> None:
        if self._tables:
            self._tables[-1].rows.append([])

    def _start_cell(self, _: Attributes) -> None:
        if self._tables:
            table = self._tables[-1]
            table.cell, table.columns, table.merged = [], 1, False

    def _set_columns(self, attributes: Attributes) -> None:
        if self._tables:
            self._tables[-1].columns = min(_number(attributes, 1) or 1, 100)

    def _set_merged(self, attributes: Attributes) -> None:
        if self._tables:
            self._tables[-1].merged = _value(attributes) != "restart"

    def _end_cell(self) -> None:
        if not self._tables or not self._tables[-1].rows:
            return
        table = self._tables[-1]
        row = table.rows[-1]
        text = " ".join(table.cell)
        if table.merged and not text:
            text = _above(table.rows, sum(cell.columns for cell in row))
        row.append(Cell(text, columns=table.columns))

    def _end_table(self) -> None:
        if not self._tables:
            return
        table = self._tables.pop()
        if self._tables:  # A table in a cell: its rows become part of the cell's text.
            rows = (" | ".join(cell.text for cell in row if cell.text) for row in table.rows)
            self._tables[-1].cell.append("; ".join(row for row in rows if row))
        else:
            add_table(self.builder, grid(table.rows))


def _local(name: str) -> str:
    """The local name of an element of WordprocessingML or its math; "" for all others."""
    for prefix in (*_W, *_M, _COMPATIBILITY):
        if name.startswith(prefix):
            return name[len(prefix) :]
    return ""


def _value(attributes: Attributes) -> str:
    return next((attributes[f"{prefix}val"] for prefix in _W if f"{prefix}val" in attributes), "")


def _number(attributes: Attributes, default: int | None) -> int | None:
    value = _value(attributes)
    return int(value) if value.isascii() and value.isdigit() and len(value) < 6 else default


def _heading_level(outline: int) -> int:
    return min(outline + 1, 6) if outline < 9 else 0


def _above(rows: list[list[Cell]], column: int) -> str:
    """The text of the cell that covers this column in the row before."""
    at = 0
    for cell in rows[-2] if len(rows) > 1 else ():
        if at == column:
            return cell.text
        at += cell.columns
    return ""
