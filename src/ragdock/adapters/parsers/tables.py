"""Tables of documents and sheets as readable rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ragdock.adapters.parsers.building import TextBuilder
from ragdock.types import BlockKind

__all__ = ["Cell", "RowWriter", "add_table", "grid"]

_NUMBER: Final = re.compile(r"[-+−]?[\d.,:/]*\d[\d.,:/]*\s?[%€$£]?")
_MAX_HEADER_CHARACTERS: Final = 80
_MAX_COLUMNS: Final = 1000
_ROWS_APART: Final = 50_000  # Rows from here on share a block.
_ROWS_TOGETHER: Final = 50


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that covers `columns` by `rows` places of the grid."""

    text: str
    heading: bool = False
    columns: int = 1
    rows: int = 1


def grid(rows: list[list[Cell]]) -> list[list[Cell]]:
    """The table with cells that reach over several rows repeated in each of them."""
    filled: list[list[Cell]] = []
    hanging: dict[int, tuple[int, Cell]] = {}  # By column: rows still to cover, and by what.
    for row in rows:
        line: list[Cell] = []
        waiting = list(row)
        column = 0
        while (waiting or column in hanging) and column < _MAX_COLUMNS:
            if column in hanging:
                left, cell = hanging.pop(column)
                if left > 1:
                    hanging[column] = (left - 1, cell)
                line.append(cell)
                column += cell.columns
                continue
            cell = waiting.pop(0)
            if cell.rows > 1:
                hanging[column] = (cell.rows - 1, cell)
            line.append(cell)
            column += cell.columns
        filled.append(line)
    return filled


def add_table(builder: TextBuilder, rows: list[list[Cell]]) -> None:
    """Write the table: a line a row, cells divided by ` | `, the header row as label.

    A table of one column is layout: its cells become paragraphs.
    """
    rows = [row for row in rows if any(cell.text for cell in row)]
    if all(len(row) == 1 for row in rows):
        for row in rows:
            builder.add(row[0].text, BlockKind.PARAGRAPH)
        return
    lines = [" | ".join(cell.text for cell in row).strip() for row in rows]
    label = lines[0] if len(rows) > 1 and _is_header(rows[0]) else ""
    builder.add("\n".join(lines), BlockKind.TABLE, label=label)


class RowWriter:
    """Writes the rows of a sheet as they come: a record a row, labelled with the header row.

    A row with one filled cell above a table is a caption; an empty row ends a table.
    """

    def __init__(self, builder: TextBuilder) -> None:
        self._builder = builder
        self._label = ""
        self._in_table = False
        self._n_rows = 0
        self._waiting: list[str] = []

    def add(self, row: list[str]) -> None:
        """The next row, its cells by column; cells at the end may be missing."""
        filled = sum(1 for text in row if text)
        if not filled:
            self.end_table()
            return
        if not self._in_table and filled == 1:
            self._builder.add(next(filter(None, row)), BlockKind.PARAGRAPH)
            return
        line = " | ".join(row).strip(" |")
        if not self._in_table:
            self._in_table = True
            cells = [Cell(text) for text in row if text]
            if _is_header(cells):
                self._label = " | ".join(cell.text for cell in cells)
                self._builder.add(line, BlockKind.TABLE)
                return
        self._n_rows += 1
        self._waiting.append(line)
        if self._n_rows < _ROWS_APART or len(self._waiting) >= _ROWS_TOGETHER:
            self._flush()

    def end_table(self) -> None:
        """What follows is another table."""
        self._flush()
        self._label, self._in_table = "", False

    def _flush(self) -> None:
        text = "\n".join(self._waiting)
        self._builder.add(text, BlockKind.RECORD, label=self._label, gap="\n")
        self._waiting.clear()


def _is_header(row: list[Cell]) -> bool:
    """Marked as headings throughout, or not at all and made of short names."""
    if any(cell.heading for cell in row):
        return all(cell.heading or not cell.text for cell in row)
    return (
        all(
            len(cell.text) <= _MAX_HEADER_CHARACTERS and not _NUMBER.fullmatch(cell.text)
            for cell in row
        )
        and sum(1 for cell in row if cell.text) > 1
    )
