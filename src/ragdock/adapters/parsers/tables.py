"""Tables of HTML and DOCX as readable rows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ragdock.adapters.parsers.building import TextBuilder
from ragdock.types import BlockKind

__all__ = ["Cell", "add_table", "grid"]

_NUMBER: Final = re.compile(r"[-+−]?[\d.,:/]*\d[\d.,:/]*\s?[%€$£]?")
_MAX_HEADER_CHARACTERS: Final = 80
_MAX_COLUMNS: Final = 1000


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
