"""RTF: paragraphs, headings by style, and tables, in one pass over the tokens.

See the Rich Text Format specification 1.9.1. Pictures, objects, field codes, headers, footers and
deleted text are left out; footnotes stand in parentheses where they are called.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, replace
from typing import Final

from ragdock.adapters.parsers.building import TextBuilder, words
from ragdock.adapters.parsers.tables import Cell, add_table
from ragdock.errors import DocumentError
from ragdock.types import BlockKind, ParsedDocument

__all__ = ["parse"]

_TOKEN: Final = re.compile(
    rb"\\([a-zA-Z]{1,32})(-?\d{1,10})? ?|\\'([0-9a-fA-F]{2})|\\([^a-zA-Z'])|([{}])|([^\\{}\r\n]+)"
)
_MAX_DEPTH: Final = 500
_SKIPPED: Final = words(
    """
    pict object objdata result fldinst header headerl headerr headerf footer footerl footerr footerf
    colortbl listtable listoverridetable revtbl rsidtbl generator xmlnstbl themedata datastore
    colorschememapping latentstyles bkmkstart bkmkend annotation atnid atnauthor nonshppict shpinst
    filetbl xe tc panose falt sp template operator company author category keywords doccomm subject
    comment manager hlinkbase pgdsctbl nonesttables listtext pntext pntxta pntxtb pnseclvl
    """
)
_CHARACTERS: Final = {
    "tab": " ", "line": "\n", "lquote": "‘", "rquote": "’", "ldblquote": "“", "rdblquote": "”",
    "emdash": "—", "endash": "–", "bullet": "•", "emspace": " ", "enspace": " ", "qmspace": " ",
}  # fmt: skip
# Character sets of fonts, by the numbers of Windows (\fcharset).
_CHARSETS: Final = {
    0: "cp1252", 128: "cp932", 129: "cp949", 130: "johab", 134: "cp936", 136: "cp950",
    161: "cp1253", 162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257",
    204: "cp1251", 222: "cp874", 238: "cp1250", 254: "cp437", 255: "cp850",
}  # fmt: skip
_ANSI: Final = {"mac": "mac_roman", "pc": "cp437", "pca": "cp850"}
_HEADING: Final = re.compile(r"heading ([1-9])", re.IGNORECASE)


@dataclass(slots=True)
class _State:
    """What a group inherits from the group around it."""

    target: str = "body"  # body, skip, fonts, styles or title.
    encoding: str = "cp1252"
    fallback_characters: int = 1  # How many follow a \\u for readers that don't know it.
    deleted: bool = False
    hidden: bool = False


def parse(content: bytes) -> ParsedDocument:
    """Blocks of the body; the title is the one in the document's information."""
    if not content.lstrip().startswith(b"{\\rtf"):
        raise DocumentError(
            "The file is no RTF document; save it anew and upload it again.", code="damaged"
        )
    reader = _Reader()
    reader.read(content)
    return reader.builder.document(" ".join(reader.title.split())[:300])


class _Reader:
    def __init__(self) -> None:
        self.builder = TextBuilder()
        self.title = ""
        self._state = _State()
        self._stack: list[_State] = []
        self._default = "cp1252"
        self._fonts: dict[int, str] = {}
        self._font = 0  # The font that the font table is at.
        self._levels: dict[int, int] = {}  # Heading levels by style.
        self._style: int | None = None
        self._style_name: list[str] = []
        self._bytes = bytearray()
        self._parts: list[str] = []
        self._skip_characters = 0
        self._surrogate = 0
        self._ignorable = False
        self._level = 0
        self._in_table = False
        self._is_item = False
        self._items: list[str] = []
        self._cells: list[Cell] = []
        self._rows: list[list[Cell]] = []

    def read(self, content: bytes) -> None:
        at = 0
        scanner = _TOKEN.scanner(content)  # type: ignore[attr-defined]
        while (match := scanner.search()) is not None:
            word, number, code, symbol, brace, text = match.groups()
            if match.start() < at:
                continue  # Within binary data.
            if word is not None:
                name = word.decode("ascii")
                value = None if number is None else int(number)
                if name == "bin" and value:
                    at = match.end() + value
                    continue
                self._take_word(name, value)
            elif code is not None:
                self._take_bytes(bytes((int(code, 16),)), 1)
            elif symbol is not None:
                self._take_symbol(symbol)
            elif brace == b"{":
                self._open()
            elif brace == b"}":
                self._close()
            else:
                self._take_bytes(text, len(text))
        self._end_paragraph()
        self._end_table()
        self._end_list()

    # Groups

    def _open(self) -> None:
        self._flush_bytes()
        if len(self._stack) >= _MAX_DEPTH:
            raise DocumentError(
                f"The RTF file nests groups more than {_MAX_DEPTH} deep; save it anew or as text.",
                code="too_complex",
            )
        self._stack.append(self._state)
        self._state = replace(self._state)
        self._ignorable = False
        self._skip_characters = 0

    def _close(self) -> None:
        self._flush_bytes()
        if self._state.target == "styles" and self._style is not None:
            self._end_style()
        if self._stack:
            before, self._state = self._state, self._stack.pop()
            if before.target == "note" and self._state.target != "note":
                self._parts.append(") ")
        self._ignorable = False

    # Tokens

    def _take_word(self, name: str, value: int | None) -> None:
        if name == "u" and value is not None:
            self._take_unicode(value)
            return
        self._flush_bytes()
        state = self._state
        if self._ignorable or name in _SKIPPED:
            self._ignorable = False
            state.target = "skip"
        elif name in ("fonttbl", "stylesheet", "title", "footnote"):
            self._enter(name)
        elif state.target == "skip":
            return
        elif name in _CHARACTERS:
            self._append(_CHARACTERS[name])
        elif name in ("par", "sect", "page", "cell", "nestcell", "row", "nestrow"):
            if state.target in ("body", "note"):
                self._end_unit(name)
        elif not self._take_property(name, value):
            self._take_encoding(name, value)

    def _enter(self, name: str) -> None:
        if self._state.target == "skip":
            return
        if name == "footnote":
            self._append(" (")
            self._state.target = "note"
        else:
            self._state.target = {"fonttbl": "fonts", "stylesheet": "styles"}.get(name, "title")

    def _take_property(self, name: str, value: int | None) -> bool:
        state = self._state
        on = value != 0
        if name == "pard":
            self._level, self._in_table, self._is_item = 0, False, False
        elif name == "s" and state.target == "styles":
            self._style, self._style_name = value, []
        elif name == "s":
            self._level = self._levels.get(value or 0, 0)
        elif name == "outlinelevel" and value is not None and state.target == "styles":
            if self._style is not None and value < 9:
                self._levels[self._style] = min(value + 1, 6)
        elif name == "outlinelevel" and value is not None:
            self._level = min(value + 1, 6) if 0 <= value < 9 else 0
        elif name == "intbl":
            self._in_table = True
        elif name == "ls":
            self._is_item = bool(value)
        elif name == "deleted":
            state.deleted = on
        elif name == "v":
            state.hidden = on
        elif name == "uc" and value is not None:
            state.fallback_characters = max(0, min(value, 10))
        else:
            return False
        return True

    def _take_encoding(self, name: str, value: int | None) -> None:
        state = self._state
        if name == "ansicpg" and value is not None:
            self._default = state.encoding = _codec(f"cp{value}", "cp1252")
        elif name in _ANSI:
            self._default = state.encoding = _ANSI[name]
        elif name == "f" and value is not None:
            if state.target == "fonts":
                self._font = value
            else:
                state.encoding = self._fonts.get(value, self._default)
        elif name == "fcharset" and value is not None and state.target == "fonts":
            self._fonts[self._font] = _CHARSETS.get(value, self._default) if value else ""
            self._fonts[self._font] = self._fonts[self._font] or self._default
        elif name == "plain":
            state.encoding = self._default

    def _take_symbol(self, symbol: bytes) -> None:
        if symbol == b"*":
            self._ignorable = True
            return
        self._flush_bytes()
        if symbol in b"\\{}":
            self._take_bytes(symbol, 1)
        elif symbol == b"~":
            self._append(" ")
        elif symbol == b"_":
            self._append("-")
        elif symbol in b"\r\n" and self._state.target in ("body", "note"):
            self._end_unit("par")

    def _take_bytes(self, piece: bytes, n_characters: int) -> None:
        if self._skip_characters:
            skipped = min(self._skip_characters, n_characters)
            self._skip_characters -= skipped
            piece = piece[skipped:]
        self._ignorable = False
        if piece and self._state.target != "skip":
            self._bytes += piece

    def _take_unicode(self, value: int) -> None:
        self._flush_bytes()
        unit = value & 0xFFFF
        self._skip_characters = self._state.fallback_characters
        if 0xD800 <= unit < 0xDC00:
            self._surrogate = unit
            return
        if 0xDC00 <= unit < 0xE000:
            high, self._surrogate = self._surrogate, 0
            if high:
                self._append(chr(0x10000 + ((high - 0xD800) << 10) + unit - 0xDC00))
            return
        if unit:
            self._append(chr(unit))

    def _flush_bytes(self) -> None:
        if self._bytes:
            text = bytes(self._bytes).decode(self._state.encoding, "replace")
            self._bytes.clear()
            self._append(text)

    def _append(self, text: str) -> None:
        state = self._state
        if state.target == "styles":
            self._style_name.append(text[:200])
        elif state.target == "title":
            self.title += text[:300]
        elif state.target in ("body", "note") and not (state.deleted or state.hidden):
            self._parts.append(text.replace("\0", ""))

    def _end_style(self) -> None:
        name = "".join(self._style_name).strip(" ;")
        heading = _HEADING.fullmatch(name)
        if heading and self._style is not None:
            self._levels[self._style] = min(int(heading[1]), 6)
        elif name.lower() == "title" and self._style is not None:
            self._levels[self._style] = 1
        self._style, self._style_name = None, []

    # Paragraphs and tables

    def _end_unit(self, name: str) -> None:
        if self._state.target == "note":
            self._parts.append(" ")
        elif name in ("cell", "nestcell"):
            self._cells.append(Cell(self._take_text().replace("\n", " ")))
            self._in_table = True
        elif name in ("row", "nestrow"):
            self._rows.append(self._cells)
            self._cells = []
        elif self._in_table and (self._cells or self._parts):
            self._parts.append("\n")  # A paragraph within a cell.
        else:
            self._end_paragraph()

    def _take_text(self) -> str:
        lines = (" ".join(line.split()) for line in "".join(self._parts).split("\n"))
        self._parts = []
        return "\n".join(line for line in lines if line)

    def _end_paragraph(self) -> None:
        text = self._take_text()
        if not text:
            return
        self._end_table()
        if self._is_item:
            self._items.append("- " + text.replace("\n", " "))
            return
        self._end_list()
        if self._level:
            text = text.replace("\n", " ")
            self.builder.add(text, BlockKind.HEADING, self._level, text)
        else:
            self.builder.add(text, BlockKind.PARAGRAPH)

    def _end_table(self) -> None:
        if self._cells:
            self._rows.append(self._cells)
            self._cells = []
        if self._rows:
            self._end_list()
            add_table(self.builder, self._rows)
            self._rows = []

    def _end_list(self) -> None:
        self.builder.add("\n".join(self._items), BlockKind.LIST)
        self._items.clear()


def _codec(name: str, default: str) -> str:
    name = {"cp65001": "utf-8", "cp10000": "mac_roman", "cp0": default}.get(name, name)
    try:
        return codecs.lookup(name).name
    except LookupError:
        return default
