"""OpenDocument: texts (ODT), sheets (ODS) and presentations (ODP) from one schema.

Deleted text, comments and tables of contents are left out; notes follow the paragraph that they
belong to. A sheet's cells are read as they are shown, which ODF keeps beside their values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ragdock.adapters.parsers.building import TextBuilder, words
from ragdock.adapters.parsers.elements import ElementReader
from ragdock.adapters.parsers.packages import Attributes, XmlPackage, attribute
from ragdock.adapters.parsers.tables import Cell, RowWriter, add_table, grid
from ragdock.types import BlockKind, ParsedDocument

__all__ = ["parse"]

_SKIPPED: Final = words(
    """
    tracked-changes annotation table-of-content alphabetical-index illustration-index table-index
    bibliography sequence-decls forms ruby-text scripts font-face-decls automatic-styles
    date-time-decl desc
    """
)
_MAX_REPEAT: Final = 1000
_MAX_COLUMNS: Final = 1000


@dataclass(slots=True)
class _Table:
    rows: list[list[Cell]] = field(default_factory=list)
    cell: list[str] = field(default_factory=list)
    header: bool = False
    columns: int = 1
    spanned_rows: int = 1
    repeat: int = 1
    row_repeat: int = 1


def parse(content: bytes) -> ParsedDocument:
    """Blocks of the document; presentations have a page for each slide."""
    package = XmlPackage(content, "OpenDocument")
    if b"encryption-data" in package.read("META-INF/manifest.xml", 10 * 2**20):
        raise package.encrypted()
    if "content.xml" not in package.members:
        raise package.damaged()
    reader = _Reader(TextBuilder())
    package.parse("content.xml", reader.start, reader.end, reader.characters)
    reader.finish()
    return reader.builder.document(package.core_title("meta.xml") or reader.title)


class _Reader(ElementReader):
    """Handlers for expat; the builder gets a block when a paragraph, list or table ends."""

    def __init__(self, builder: TextBuilder) -> None:
        super().__init__(_SKIPPED | {"note-citation"})
        self.builder = builder
        self.title = ""
        self._paragraphs: list[list[str]] = []  # A text box nests paragraphs.
        self._levels: list[int] = []  # The heading level of each open paragraph, or 0.
        self._notes: list[str] = []
        self._lists = 0
        self._items: list[str] = []
        self._fresh_item = False
        self._tables: list[_Table] = []
        self._sheet: RowWriter | None = None
        self._kind = ""
        self._page = 0
        self._page_start = 0
        self._in_notes = 0
        self._in_title = False
        self._starts = {
            "spreadsheet": lambda _: self._set_kind("spreadsheet"),
            "presentation": lambda _: self._set_kind("presentation"),
            "page": self._start_page,
            "notes": lambda _: self._shift_notes(1),
            "frame": self._start_frame,
            "h": self._start_heading,
            "p": lambda _: self._start_paragraph(0),
            "s": self._add_spaces,
            "tab": lambda _: self._append(" "),
            "line-break": lambda _: self._append("\n"),
            "list": lambda _: self._shift_lists(1),
            "list-item": self._start_item,
            "list-header": self._start_item,
            "table": self._start_table,
            "table-row": self._start_row,
            "table-header-rows": lambda _: self._set_header(True),
            "table-cell": self._start_cell,
            "covered-table-cell": self._start_cell,
        }
        self._ends = {
            "page": self._end_page,
            "notes": lambda: self._shift_notes(-1),
            "frame": self._end_frame,
            "h": self._end_paragraph,
            "p": self._end_paragraph,
            "list": lambda: self._shift_lists(-1),
            "table": self._end_table,
            "table-row": self._end_row,
            "table-header-rows": lambda: self._set_header(False),
            "table-cell": self._end_cell,
            "covered-table-cell": self._end_covered_cell,
        }

    def characters(self, text: str) -> None:
        if self._skipping is None:
            self._append(text)

    def finish(self) -> None:
        self._end_list()

    def _set_kind(self, kind: str) -> None:
        self._kind = self._kind or kind

    # Pages of presentations

    def _start_page(self, _: Attributes) -> None:
        if self._kind == "presentation":
            self._page += 1
            self._page_start = self.builder.length

    def _end_page(self) -> None:
        self._end_list()
        if self._page and self.builder.length > self._page_start:
            self.builder.end_page(self._page, self._page_start)

    def _shift_notes(self, by: int) -> None:
        self._end_list()
        self._in_notes += by

    def _start_frame(self, attributes: Attributes) -> None:
        self._in_title = attribute(attributes, "class") == "title"

    def _end_frame(self) -> None:
        self._in_title = False

    # Paragraphs

    def _append(self, text: str) -> None:
        if self._paragraphs:
            self._paragraphs[-1].append(text)

    def _add_spaces(self, _: Attributes) -> None:
        self._append(" ")

    def _start_heading(self, attributes: Attributes) -> None:
        level = attribute(attributes, "outline-level")
        self._start_paragraph(min(int(level), 6) if level in tuple("123456789") else 1)

    def _start_paragraph(self, level: int) -> None:
        self._paragraphs.append([])
        self._levels.append(level)

    def _end_paragraph(self) -> None:
        if not self._paragraphs:
            return
        lines = (" ".join(line.split()) for line in "".join(self._paragraphs.pop()).split("\n"))
        text = "\n".join(line for line in lines if line)
        level = self._levels.pop()
        if self._in_title and not self._in_notes and not self._tables:
            level = level or 1
        if not text:
            return
        if self._paragraphs:  # A note or a text box: after the paragraph around it.
            self._notes.append(text)
            return
        self._write(text, level)
        notes, self._notes = self._notes, []
        for note in notes:
            self._write(note, 0)

    def _write(self, text: str, level: int) -> None:
        if self._tables:
            self._tables[-1].cell.append(text.replace("\n", " "))
        elif self._lists and not level:
            indent = "  " * (min(self._lists, 9) - 1)
            marker = "- " if self._fresh_item else "  "
            self._fresh_item = False
            self._items.append(indent + marker + text.replace("\n", " "))
        elif level:
            self._end_list()
            text = text.replace("\n", " ")
            self.builder.add(text, BlockKind.HEADING, level, text)
            if level == 1 and not self.title:
                self.title = text
        else:
            self._end_list()
            note = "Notes: " if self._in_notes else ""
            self.builder.add(note + text, BlockKind.PARAGRAPH)

    # Lists

    def _shift_lists(self, by: int) -> None:
        self._lists = max(0, self._lists + by)
        if not self._lists:
            self._end_list()

    def _start_item(self, _: Attributes) -> None:
        self._fresh_item = True

    def _end_list(self) -> None:
        self.builder.add("\n".join(self._items), BlockKind.LIST)
        self._items.clear()

    # Tables and sheets

    def _start_table(self, attributes: Attributes) -> None:
        if not self._tables:
            self._end_list()
            if self._kind == "spreadsheet":
                name = attribute(attributes, "name")
                self.builder.add(name, BlockKind.HEADING, 1, name)
                self._sheet = RowWriter(self.builder)
        self._tables.append(_Table())

    def _set_header(self, header: bool) -> None:
        if self._tables:
            self._tables[-1].header = header

    def _start_row(self, attributes: Attributes) -> None:
        if self._tables:
            self._tables[-1].rows.append([])
            self._tables[-1].row_repeat = _count(attributes, "number-rows-repeated")

    def _start_cell(self, attributes: Attributes) -> None:
        if self._tables:
            table = self._tables[-1]
            table.cell = []
            table.columns = min(_count(attributes, "number-columns-spanned"), 100)
            table.spanned_rows = min(_count(attributes, "number-rows-spanned"), 100)
            table.repeat = _count(attributes, "number-columns-repeated")

    def _end_cell(self) -> None:
        if not self._tables or not self._tables[-1].rows:
            return
        table = self._tables[-1]
        row = table.rows[-1]
        text = " ".join(table.cell)
        if self._sheet is not None:
            columns, rows = 1, 1
        else:
            columns, rows = table.columns, table.spanned_rows
        # Empty cells up to the sheet's edge come as one that is repeated a thousand times.
        repeat = min(table.repeat, _MAX_REPEAT if text else 50, _MAX_COLUMNS - len(row))
        row.extend([Cell(text, table.header, columns, rows)] * max(0, repeat))

    def _end_covered_cell(self) -> None:
        if self._sheet is not None:
            self._end_cell()

    def _end_row(self) -> None:
        if self._sheet is None or len(self._tables) != 1 or not self._tables[0].rows:
            return
        table = self._tables[0]
        texts = [cell.text for cell in table.rows.pop()]
        while texts and not texts[-1]:
            texts.pop()
        for _ in range(min(table.row_repeat, _MAX_REPEAT if texts else 1)):
            self._sheet.add(texts)

    def _end_table(self) -> None:
        if not self._tables:
            return
        table = self._tables.pop()
        if self._tables:  # A table in a cell: its rows become part of the cell's text.
            rows = (" | ".join(cell.text for cell in row if cell.text) for row in table.rows)
            self._tables[-1].cell.append("; ".join(row for row in rows if row))
        elif self._sheet is not None:
            self._sheet.end_table()
            self._sheet = None
        else:
            add_table(self.builder, grid(table.rows))


def _count(attributes: Attributes, name: str) -> int:
    value = attribute(attributes, name)
    return int(value) if value.isascii() and value.isdigit() and len(value) < 9 else 1
