"""reStructuredText: titles by their underlines, directives, tables and literal blocks; text exact.

Nothing is included, executed or looked up: a directive is what stands in the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ragdock.adapters.parsers import parts
from ragdock.adapters.parsers.building import BlockList
from ragdock.types import Block, BlockKind, ParsedDocument

__all__ = ["parse"]

_LINE: Final = re.compile(r"[^\n]*\n|[^\n]+")
_ADORNMENT: Final = re.compile(r"([!-/:-@\[-`{-~])\1*[ \t]*$")
_DIRECTIVE: Final = re.compile(r"\.\.[ \t]+(?:\|[^|\n]{1,100}\|[ \t]+)?([A-Za-z][\w:+.-]*)::(.*)")
_EXPLICIT: Final = re.compile(r"\.\.(?:[ \t]|$)|__(?:[ \t]|$)")
_ITEM: Final = re.compile(r"(?:[*+•‣⁃-]|\(?(?:\d{1,4}|[A-Za-z#]|[ivxlcIVXLC]{1,6})[.)])(?:[ \t]|$)")
_FIELD: Final = re.compile(r":[^:\s][^:\n]{0,100}:(?:[ \t]|$)")
_GRID: Final = re.compile(r"[ \t]*\+(?:[-=]{1,}\+)+[ \t]*$")
_SIMPLE: Final = re.compile(r"[ \t]*={2,}(?:[ \t]+={2,})+[ \t]*$")
_CODE: Final = frozenset(
    {"code", "code-block", "sourcecode", "literalinclude", "parsed-literal", "highlight", "math",
     "doctest", "testcode", "testoutput", "prompt", "ipython", "raw", "graphviz", "productionlist"}
)  # fmt: skip
_TABLES: Final = frozenset({"table", "csv-table", "list-table"})
_TITLED: Final = frozenset({"title"})
_ROLE: Final = re.compile(
    r":[\w:+.-]{1,40}:`([^`]{1,300})`|``([^`]{1,300})``|`([^`]{1,300})`_{0,2}"
)
_TARGET: Final = re.compile(r"\s*<[^<>]*>$")
_MAX_LABEL: Final = 300


@dataclass(slots=True)
class _Line:
    start: int
    end: int
    body: str

    @property
    def blank(self) -> bool:
        return not self.body.strip()

    @property
    def indent(self) -> int:
        expanded = self.body.expandtabs(8)
        return len(expanded) - len(expanded.lstrip())


class Scanner(parts.Scanner):
    """Of reStructuredText in windows; the title is taken from the first."""

    def __init__(self) -> None:
        self._styles: list[tuple[str, bool]] = []  # Adornments in order of appearance.
        self._at_start = True

    def scan(self, text: str, *, final: bool) -> list[Block]:  # noqa: ARG002
        """The blocks of a window."""
        blocks = BlockList(text)
        lines = _Lines(text, blocks, self._styles)
        lines.scan()
        if self._at_start:
            headings = (block.label for block in blocks.blocks if block.kind is BlockKind.HEADING)
            self.title = lines.title or next(headings, "")
        return blocks.blocks

    def take(self, text: str) -> None:  # noqa: ARG002
        """The next window begins behind this text."""
        self._at_start = False


def parse(content: bytes) -> ParsedDocument:
    """Blocks of the file; the title is the first heading's."""
    return Scanner().whole(content)


def plain_inline(source: str) -> str:
    """A line as it is read: roles, literals and links as their text."""
    text = _ROLE.sub(lambda m: _TARGET.sub("", m[1] or m[2] or m[3]), source[:_MAX_LABEL])
    return re.sub(r"\*{1,2}([^*]+)\*{1,2}", r"\1", text).replace("\\", "").strip()


class _Lines:
    """Walks the lines once; each method takes one block and returns the line after it."""

    def __init__(self, text: str, blocks: BlockList, styles: list[tuple[str, bool]]) -> None:
        self.blocks = blocks
        self._styles = styles
        self.title = ""
        self.lines = [
            _Line(match.start(), match.end(), match.group().rstrip("\r\n"))
            for match in _LINE.finditer(text)
        ]
        self._literal_next = False

    def scan(self) -> None:
        at = 0
        while at < len(self.lines):
            line = self.lines[at]
            if line.blank:
                at += 1
            elif line.indent and self._literal_next:
                at = self._take_indented(at, BlockKind.CODE)
            elif heading := self._heading(at):
                at = self._take_heading(at, *heading)
            elif _GRID.match(line.body) or _SIMPLE.match(line.body):
                at = self._take_table(at)
            elif line.indent:
                at = self._take_indented(at, BlockKind.PARAGRAPH)
            else:
                at = self._take_by_marker(at, line.body)

    def _take_by_marker(self, at: int, body: str) -> int:
        """What the first characters of a line at the margin decide."""
        if directive := _DIRECTIVE.match(body):
            return self._take_directive(at, directive[1].lower(), directive[2].strip())
        if _EXPLICIT.match(body):
            return self._take_explicit(at)
        if body.startswith(">>>"):
            return self._take_while_filled(at, BlockKind.CODE)
        if _FIELD.match(body):
            return self._take_list(at, BlockKind.RECORD)
        if _ITEM.match(body):
            return self._take_list(at, BlockKind.LIST)
        if _ADORNMENT.match(body) and len(body.strip()) >= 4:
            # A transition says nothing by itself; it belongs to what it closes.
            if not self.blocks.extend_last(self.lines[at].end):
                self._add(at, at + 1, BlockKind.PARAGRAPH)
            return at + 1
        return self._take_while_filled(at, BlockKind.PARAGRAPH)

    def _add(self, first: int, end: int, kind: BlockKind, level: int = 0, label: str = "") -> None:
        self.blocks.add(self.lines[first].start, self.lines[end - 1].end, kind, level, label)
        last = self.lines[end - 1].body.rstrip()
        self._literal_next = kind is not BlockKind.CODE and last.endswith("::")

    # Titles

    def _heading(self, at: int) -> tuple[int, tuple[str, bool]] | None:
        """(line after it, adornment) if a title begins here."""
        body = self.lines[at].body.rstrip()
        over = _ADORNMENT.match(body)
        if over and at + 2 < len(self.lines):
            under, name = self.lines[at + 2].body.rstrip(), self.lines[at + 1].body.strip()
            if name and under == body and len(body) >= max(2, len(name) // 2):
                return at + 3, (over[1], True)
        if self.lines[at].indent or at + 1 >= len(self.lines):
            return None
        under = self.lines[at + 1].body.rstrip()
        match = _ADORNMENT.match(under)
        if match and len(under) >= min(4, len(body)) and len(under) * 2 >= len(body) and not over:
            return at + 2, (match[1], False)
        return None

    def _take_heading(self, at: int, end: int, style: tuple[str, bool]) -> int:
        if style not in self._styles:
            self._styles.append(style)
        level = min(self._styles.index(style) + 1, 6)
        name = self.lines[at + 1 if style[1] else at].body.strip()
        self._add(at, end, BlockKind.HEADING, level, plain_inline(name))
        self._literal_next = False
        return end

    # Bodies

    def _take_indented(self, first: int, kind: BlockKind) -> int:
        at = self._skip_indented(first)
        self._add(first, at, kind)
        return at

    def _skip_indented(self, at: int) -> int:
        """The line after all that are blank or indented, blank ones at the end left out."""
        end = at
        while at < len(self.lines) and (self.lines[at].blank or self.lines[at].indent):
            at += 1
            if not self.lines[at - 1].blank:
                end = at
        return max(end, 1)

    def _take_table(self, first: int) -> int:
        grid = _GRID.match(self.lines[first].body) is not None
        at = first + 1
        n_rules = 1
        while at < len(self.lines):
            line = self.lines[at]
            if grid and (line.blank or line.body.strip()[0] not in "+|"):
                break
            if not grid and _SIMPLE.match(line.body):
                n_rules += 1
                closed = at + 1 >= len(self.lines) or self.lines[at + 1].blank
                if n_rules > 2 or closed:
                    at += 1
                    break
            at += 1
        header = self.lines[first + 1].body if first + 1 < len(self.lines) else ""
        parts = (
            header.strip().strip("|").split("|") if grid else re.split(r"\s{2,}", header.strip())
        )
        label = " | ".join(plain_inline(part) for part in parts)
        self._add(first, at, BlockKind.TABLE, label=label)
        return at

    def _take_directive(self, first: int, name: str, argument: str) -> int:
        end = max(first + 1, self._skip_indented(first + 1))
        if name in _TITLED:
            self.title = plain_inline(argument)
        if name in _CODE:
            self._add(first, end, BlockKind.CODE)
        elif name in _TABLES:
            self._add(first, end, BlockKind.TABLE, label=plain_inline(argument))
        else:
            # The body of a note, a warning, a function is prose: block by block.
            self._add(first, first + 1, BlockKind.PARAGRAPH)
            at = first + 1
            while at < end:
                if self.lines[at].blank:
                    at += 1
                    continue
                begin = at
                while at < end and not self.lines[at].blank:
                    at += 1
                self._add(begin, at, BlockKind.PARAGRAPH)
        self._literal_next = False
        return end

    def _take_explicit(self, first: int) -> int:
        """Comments, targets, footnotes, citations."""
        end = max(first + 1, self._skip_indented(first + 1))
        if self.lines[first].body.strip() == ".." and end > first + 1:
            kind = BlockKind.CODE  # A comment: kept, because offsets point into the file.
        else:
            kind = BlockKind.PARAGRAPH
        self._add(first, end, kind)
        self._literal_next = False
        return end

    def _take_list(self, first: int, kind: BlockKind) -> int:
        marker = _FIELD if kind is BlockKind.RECORD else _ITEM
        at = first + 1
        while at < len(self.lines):
            line = self.lines[at]
            if line.blank:
                following = at
                while following < len(self.lines) and self.lines[following].blank:
                    following += 1
                if following == len(self.lines) or not (
                    self.lines[following].indent or marker.match(self.lines[following].body)
                ):
                    break
                at = following
            elif not line.indent and not marker.match(line.body):
                break
            else:
                at += 1
        self._add(first, at, kind)
        return at

    def _take_while_filled(self, first: int, kind: BlockKind) -> int:
        at = first + 1
        while at < len(self.lines) and not self.lines[at].blank:
            if kind is BlockKind.PARAGRAPH and self._heading(at):
                break
            at += 1
        self._add(first, at, kind)
        return at
