"""XLSX: sheets as headings, rows as records, cells as a reader of the sheet sees them.

Values only: a formula is read as its last result. Rows stream; of the workbook only the strings
that the cells share are held in memory.
"""

from __future__ import annotations

from typing import Final

from ragdock.adapters.parsers.building import TextBuilder
from ragdock.adapters.parsers.packages import Attributes, XmlPackage, local_name
from ragdock.adapters.parsers.tables import RowWriter
from ragdock.adapters.parsers.xlsx_numbers import BUILTIN_FORMATS, show_number
from ragdock.errors import DocumentError
from ragdock.types import BlockKind, ParsedDocument

__all__ = ["parse"]

_MAX_SHEETS: Final = 5000
_MAX_COLUMNS: Final = 16_384
_MAX_STRINGS: Final = 5_000_000
_WIDE: Final = 200  # Rows that reach further are written without their empty cells.


def parse(content: bytes) -> ParsedDocument:
    """Sheets in order; the title is the property's."""
    package = XmlPackage(content, "XLSX", "Excel 97-2003 (.xls)")
    book = _Workbook(package)
    builder = TextBuilder()
    for name, part in book.sheets:
        reader = _SheetReader(book, RowWriter(builder))
        builder.add(name, BlockKind.HEADING, 1, name)
        package.parse(part, reader.start, reader.end, reader.characters)
        reader.rows.end_table()
        for relation in package.relationships(part).values():
            if relation.kind == "comments":
                _write_comments(package, relation.target, builder)
    return builder.document(package.core_title())


class _Workbook:
    """Sheets, shared strings and number formats."""

    def __init__(self, package: XmlPackage) -> None:
        self.package = package
        self.main = package.main_part("xl/workbook.xml", "workbook")
        self.targets = package.relationships(self.main)
        self.since_1904 = False
        self.sheets: list[tuple[str, str]] = []
        self.formats: list[str] = []
        self.strings: list[str] = []
        package.parse(self.main, self._start_workbook)
        for relation in self.targets.values():
            if relation.kind == "styles":
                self._read_styles(relation.target)
            elif relation.kind == "sharedStrings":
                self._read_strings(relation.target)

    def _start_workbook(self, name: str, attributes: Attributes) -> None:
        local = local_name(name)
        if local == "workbookPr":
            self.since_1904 = attributes.get("date1904") in ("1", "true")
        elif local == "sheet":
            if len(self.sheets) >= _MAX_SHEETS:
                raise DocumentError(
                    f"The workbook has more than {_MAX_SHEETS:,} sheets; split it.",
                    code="too_complex",
                )
            ids = [v for key, v in attributes.items() if key.endswith("relationships id")]
            target = self.targets.get(ids[0]) if ids else None
            if target is not None and target.kind == "worksheet":
                self.sheets.append((attributes.get("name", ""), target.target))

    def _read_styles(self, part: str) -> None:
        codes = dict(BUILTIN_FORMATS)
        inside = False

        def start(name: str, attributes: Attributes) -> None:
            nonlocal inside
            local = local_name(name)
            if local == "numFmt":
                codes[_number(attributes.get("numFmtId"))] = attributes.get("formatCode", "")
            elif local == "cellXfs":
                inside = True
            elif local == "xf" and inside:
                self.formats.append(codes.get(_number(attributes.get("numFmtId")), "General"))

        def end(name: str) -> None:
            nonlocal inside
            if local_name(name) == "cellXfs":
                inside = False

        self.package.parse(part, start, end)

    def _read_strings(self, part: str) -> None:
        texts = _Texts("si")

        def end(name: str) -> None:
            text = texts.end(name)
            if text is not None:
                if len(self.strings) >= _MAX_STRINGS:
                    raise DocumentError(
                        f"The workbook has more than {_MAX_STRINGS:,} different texts; split it.",
                        code="too_complex",
                    )
                self.strings.append(text)

        self.package.parse(part, texts.start, end, texts.characters)


class _Texts:
    """Collects the `t` elements within each element of one kind, phonetic readings left out."""

    def __init__(self, outer: str) -> None:
        self._outer = outer
        self._parts: list[str] = []
        self._in_text = False
        self._in_phonetic = False

    def start(self, name: str, _: Attributes) -> None:
        local = local_name(name)
        if local == self._outer:
            self._parts = []
        elif local == "rPh":
            self._in_phonetic = True
        elif local == "t":
            self._in_text = not self._in_phonetic

    def characters(self, text: str) -> None:
        if self._in_text:
            self._parts.append(text)

    def end(self, name: str) -> str | None:
        """The text, when the outer element ends here."""
        local = local_name(name)
        if local == "t":
            self._in_text = False
        elif local == "rPh":
            self._in_phonetic = False
        elif local == self._outer:
            return " ".join("".join(self._parts).split())
        return None


class _SheetReader:
    """Handlers for expat: rows go to the writer as they end."""

    def __init__(self, book: _Workbook, rows: RowWriter) -> None:
        self.rows = rows
        self._book = book
        self._row: dict[int, str] = {}
        self._next_column = 0
        self._last_row = 0
        self._kind = ""
        self._style = 0
        self._value: list[str] = []
        self._reading = False

    def start(self, name: str, attributes: Attributes) -> None:
        local = local_name(name)
        if local == "row":
            number = _number(attributes.get("r")) or self._last_row + 1
            if number > self._last_row + 1:
                self.rows.end_table()
            self._last_row = number
            self._row, self._next_column = {}, 0
        elif local == "c":
            column = _column(attributes.get("r", ""))
            self._next_column = self._next_column if column is None else column
            self._kind = attributes.get("t", "n")
            self._style = _number(attributes.get("s"))
            self._value = []
        elif local in ("v", "t"):
            self._reading = True
        elif local == "rPh":
            self._reading = False

    def characters(self, text: str) -> None:
        if self._reading:
            self._value.append(text)

    def end(self, name: str) -> None:
        local = local_name(name)
        if local in ("v", "t"):
            self._reading = False
        elif local == "c":
            text = self._shown("".join(self._value))
            if text:
                self._row[self._next_column] = text
            self._next_column += 1
        elif local == "row":
            self.rows.add(self._cells())

    def _shown(self, raw: str) -> str:
        book = self._book
        if not raw or self._kind == "e":
            return ""
        if self._kind == "s":
            index = _number(raw)
            return book.strings[index] if index < len(book.strings) else ""
        if self._kind == "b":
            return "TRUE" if raw.strip() == "1" else "FALSE"
        if self._kind == "n":
            code = book.formats[self._style] if self._style < len(book.formats) else "General"
            return show_number(raw, code, since_1904=book.since_1904)
        return " ".join(raw.split())

    def _cells(self) -> list[str]:
        if not self._row:
            return []
        last = max(self._row)
        if last - min(self._row) >= _WIDE and len(self._row) < last // 2:
            return [self._row[column] for column in sorted(self._row)]
        return [self._row.get(column, "") for column in range(min(self._row), last + 1)]


def _write_comments(package: XmlPackage, part: str, builder: TextBuilder) -> None:
    texts = _Texts("comment")
    found: list[str] = []

    def end(name: str) -> None:
        text = texts.end(name)
        if text:
            found.append(text)

    package.parse(part, texts.start, end, texts.characters)
    for text in found:
        builder.add(f"Comment: {text}", BlockKind.PARAGRAPH)


def _number(value: str | None) -> int:
    plain = value is not None and value.isascii() and value.isdigit() and len(value) < 9
    return int(value) if value and plain else 0


def _column(reference: str) -> int | None:
    """The column of `B7`, counted from 0; None when there is no reference."""
    column = 0
    for character in reference[:4]:
        if not "A" <= character <= "Z":
            break
        column = column * 26 + ord(character) - 64
    return min(column, _MAX_COLUMNS) - 1 if column else None
