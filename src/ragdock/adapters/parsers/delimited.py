"""CSV and TSV: a record for each row, the text exact, the header row as every record's label."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from ragdock.adapters.parsers import parts
from ragdock.adapters.parsers.building import BlockList
from ragdock.types import Block, BlockKind, ParsedDocument

__all__ = ["Scanner", "parse"]

_DELIMITERS: Final = ",;\t|"
_SAMPLE_ROWS: Final = 20
_MAX_ROW_LINES: Final = 500  # A quotation left open longer than that is a mistake.
_MAX_ROW_CHARACTERS: Final = 100_000
_NUMBER: Final = re.compile(r"[-+]?[\d.,:/\s]*\d[\d.,:/\s]*%?")


def parse(content: bytes) -> ParsedDocument:
    """One block a row; a first row of names becomes the label of all others."""
    return Scanner().whole(content)


class Scanner(parts.Scanner):
    """Of rows in windows; the header row is that of the first."""

    longest_block = 0

    def __init__(self) -> None:
        self._at_start = True
        self._label = ""

    def scan(self, text: str, *, final: bool) -> list[Block]:  # noqa: ARG002
        blocks = BlockList(text)
        rows = _rows(text)
        if self._at_start and (first := next(rows, None)) is not None:
            sample = text[: _MAX_ROW_CHARACTERS * 2]
            cells = _cells(text[slice(*first)], _delimiter(sample))
            self._label = ", ".join(cells) if _is_header(cells) else ""
            blocks.add(*first, BlockKind.TABLE if self._label else BlockKind.RECORD)
        for start, end in rows:
            blocks.add(start, end, BlockKind.RECORD, label=self._label)
        return blocks.blocks

    def take(self, text: str) -> None:  # noqa: ARG002
        self._at_start = False


def _rows(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the rows: lines, joined while a quotation is open."""
    start, quotes, n_lines = 0, 0, 0
    trust_quotes = True
    at = 0
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        quotes += text.count('"', at, end)
        n_lines += 1
        if quotes % 2 and trust_quotes and end + 1 < len(text):
            if n_lines < _MAX_ROW_LINES and end - start < _MAX_ROW_CHARACTERS:
                at = end + 1
                continue
            # The quotation never closes: from here on, a line is a row.
            trust_quotes = False
            end = text.find("\n", start)
        yield start, end
        start = at = end + 1
        quotes, n_lines = 0, 0


def _delimiter(sample: str) -> str:
    """The character that divides the first rows into the same number of cells, most often."""
    rows = [sample[start:end] for start, end in _first(_rows(sample), _SAMPLE_ROWS)]

    def score(delimiter: str) -> tuple[float, int]:
        counts = Counter(len(_cells(row, delimiter)) for row in rows if row.strip())
        n_cells, n_rows = counts.most_common(1)[0] if counts else (1, 0)
        return (n_rows / len(rows) if n_cells > 1 else 0.0, n_cells)

    return max(_DELIMITERS, key=score)


def _first(rows: Iterator[tuple[int, int]], n: int) -> Iterator[tuple[int, int]]:
    for row, _ in zip(rows, range(n), strict=False):
        yield row


def _cells(row: str, delimiter: str) -> list[str]:
    """The cells of one row, trimmed; a row that csv refuses is one cell."""
    try:
        parsed = next(csv.reader([row.replace("\n", " ")], delimiter=delimiter), [])
    except csv.Error:
        return [row.strip()]
    return [" ".join(cell.split()) for cell in parsed]


def _is_header(cells: list[str]) -> bool:
    """Names are not empty, not numbers, and differ; a trailing empty cell is forgiven."""
    names = cells[:-1] if len(cells) > 1 and not cells[-1] else cells
    return (
        len(names) > 1
        and all(name and len(name) <= 100 and not _NUMBER.fullmatch(name) for name in names)
        and len(set(names)) == len(names)
    )
