"""Markdown: blocks as CommonMark sees them, the text exactly the source.

Only what chunking needs is read: where blocks begin and end, headings and their words, tables and
their header rows. Inline markup stays in the text, because a citation's offsets point into the
file that the user has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ragdock.adapters.parsers import parts
from ragdock.adapters.parsers.building import BlockList
from ragdock.types import Block, BlockKind, ParsedDocument

__all__ = ["Scanner", "parse"]

_LINE: Final = re.compile(r"[^\n]*\n|[^\n]+")
_ATX: Final = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*))?$")
_ATX_CLOSE: Final = re.compile(r"(?:^|[ \t]+)#+[ \t]*$")
_SETEXT: Final = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})")
_RULE: Final = re.compile(r" {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$")
_ITEM: Final = re.compile(r" {0,3}(?:[-+*]|\d{1,9}[.)])(?:[ \t]|$)")
_DELIMITER_CELL: Final = re.compile(r"[ \t]*:?-+:?[ \t]*$")
_FRONT_MATTER: Final = re.compile(
    r"---[ \t]*\r?\n(?=[^\n]*:)(.*?)\n(?:---|\.\.\.)[ \t]*\r?(?:\n|$)", re.DOTALL
)
_FRONT_TITLE: Final = re.compile(r"^title[ \t]*:[ \t]*(.+?)[ \t]*$", re.MULTILINE | re.IGNORECASE)
_MAX_FRONT_MATTER: Final = 20_000

_IMAGE_OR_LINK: Final = re.compile(r"!?\[([^\[\]]*)\](?:\([^()]*\)|\[[^\[\]]*\])")
_TAG: Final = re.compile(r"</?[A-Za-z][^<>]*>")
_EMPHASIS: Final = re.compile(r"(?<!\\)[*`]+|(?<![A-Za-z0-9\\])_+|(?<!\\)_+(?![A-Za-z0-9])")
_ESCAPE: Final = re.compile(r"\\([!-/:-@\[-`{-~])")
_ANCHOR: Final = re.compile(r"\{#[^{}]*\}\s*$")
_MAX_LABEL: Final = 500  # Characters; bounds the time these patterns take.


@dataclass(slots=True)
class _Line:
    start: int
    end: int
    body: str  # Without the line break.

    @property
    def blank(self) -> bool:
        return not self.body.strip()

    @property
    def indent(self) -> int:
        """Columns of white space at the beginning; a tab counts as four."""
        margin = self.body[: len(self.body) - len(self.body.lstrip(" \t"))]
        return len(margin) + 3 * margin.count("\t")


def parse(content: bytes) -> ParsedDocument:
    """Blocks, headings and tables; the title is the front matter's, else the first heading."""
    return Scanner().whole(content)


class Scanner(parts.Scanner):
    """Of Markdown in windows; the title is taken from the first."""

    def __init__(self) -> None:
        self._at_start = True

    def scan(self, text: str, *, final: bool) -> list[Block]:  # noqa: ARG002
        blocks = BlockList(text)
        start = 0
        if self._at_start:
            start, self.title = _front_matter(text)
            blocks.add(0, start, BlockKind.RECORD)
        _Lines(text, start, blocks).scan()
        if self._at_start and not self.title:
            tops = (b.label for b in blocks.blocks if b.kind is BlockKind.HEADING and b.level == 1)
            self.title = next(tops, "")
        return blocks.blocks

    def take(self, text: str) -> None:  # noqa: ARG002
        self._at_start = False


def plain_inline(source: str) -> str:
    """The words of a line of Markdown as a reader sees them: no emphasis, links or tags."""
    text = _ANCHOR.sub("", source[:_MAX_LABEL])
    text = _IMAGE_OR_LINK.sub(r"\1", text)
    text = _TAG.sub("", text)
    text = _EMPHASIS.sub("", text)
    return _ESCAPE.sub(r"\1", text).strip()


def _front_matter(text: str) -> tuple[int, str]:
    """(end, title) of the YAML block at the top; (0, "") without one."""
    match = _FRONT_MATTER.match(text, 0, _MAX_FRONT_MATTER)
    if match is None:
        return 0, ""
    title = _FRONT_TITLE.search(match.group(1))
    return match.end(), title.group(1).strip("\r\"' ") if title else ""


class _Lines:
    """Walks the lines once; each method takes one block and returns the line after it."""

    def __init__(self, text: str, start: int, blocks: BlockList) -> None:
        self.blocks = blocks
        self.lines = [
            _Line(match.start(), match.end(), match.group().rstrip("\r\n"))
            for match in _LINE.finditer(text, start)
        ]

    def scan(self) -> None:
        at = 0
        while at < len(self.lines):
            line = self.lines[at]
            if line.blank:
                at += 1
            elif line.indent >= 4:
                at = self._take_indented(at)
            elif heading := _ATX.match(line.body):
                label = plain_inline(_ATX_CLOSE.sub("", heading.group(2) or ""))
                level = len(heading.group(1))
                self.blocks.add(line.start, line.end, BlockKind.HEADING, level, label)
                at += 1
            elif fence := _FENCE.match(line.body):
                at = self._take_fenced(at, fence.group(1))
            elif _RULE.match(line.body):
                # A rule says nothing by itself; it belongs to what it closes.
                if not self.blocks.extend_last(line.end):
                    self._add(at, at + 1, BlockKind.PARAGRAPH)
                at += 1
            elif self._is_table(at):
                at = self._take_table(at)
            elif _ITEM.match(line.body):
                at = self._take_list(at)
            else:
                at = self._take_paragraph(at)

    def _add(self, first: int, end: int, kind: BlockKind, level: int = 0, label: str = "") -> None:
        self.blocks.add(self.lines[first].start, self.lines[end - 1].end, kind, level, label)

    def _take_indented(self, first: int) -> int:
        at = first
        while at < len(self.lines) and (self.lines[at].blank or self.lines[at].indent >= 4):
            at += 1
        self._add(first, at, BlockKind.CODE)
        return at

    def _take_fenced(self, first: int, fence: str) -> int:
        close = re.compile(rf" {{0,3}}{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$")
        at = first + 1
        while at < len(self.lines) and not close.match(self.lines[at].body):
            at += 1
        at = min(at + 1, len(self.lines))
        self._add(first, at, BlockKind.CODE)
        return at

    def _is_table(self, at: int) -> bool:
        if at + 1 >= len(self.lines) or "|" not in self.lines[at].body:
            return False
        header, delimiter = (_cells(self.lines[n].body) for n in (at, at + 1))
        return len(header) == len(delimiter) and all(map(_DELIMITER_CELL.match, delimiter))

    def _take_table(self, first: int) -> int:
        at = first + 2
        while at < len(self.lines) and not self._interrupts(at) and "|" in self.lines[at].body:
            at += 1
        label = " | ".join(plain_inline(cell) for cell in _cells(self.lines[first].body))
        self._add(first, at, BlockKind.TABLE, label=label)
        return at

    def _take_list(self, first: int) -> int:
        """The items with what is indented below them; one blank line does not end a list."""
        at = first + 1
        while at < len(self.lines):
            line = self.lines[at]
            if line.blank:
                following = next(self._not_blank(at), None)
                if following is None or not (
                    self.lines[following].indent >= 2 or self._is_item(following)
                ):
                    break
                at = following
            elif line.indent < 2 and not self._is_item(at) and self._interrupts(at):
                break
            elif fence := _FENCE.match(line.body.lstrip()):
                at = self._skip_fenced(at, fence.group(1))
            else:
                at += 1
        self._add(first, at, BlockKind.LIST)
        return at

    def _not_blank(self, at: int) -> Iterator[int]:
        return (n for n in range(at, len(self.lines)) if not self.lines[n].blank)

    def _is_item(self, at: int) -> bool:
        body = self.lines[at].body
        return _ITEM.match(body) is not None and not _RULE.match(body)

    def _skip_fenced(self, first: int, fence: str) -> int:
        at = first + 1
        while at < len(self.lines) and not self.lines[at].body.strip().startswith(fence):
            at += 1
        return min(at + 1, len(self.lines))

    def _interrupts(self, at: int) -> bool:
        """Whether this line begins another block without a blank line before it."""
        body = self.lines[at].body
        return (
            self.lines[at].blank
            or _ATX.match(body) is not None
            or _FENCE.match(body) is not None
            or _RULE.match(body) is not None
        )

    def _take_paragraph(self, first: int) -> int:
        at = first + 1
        while at < len(self.lines):
            underline = _SETEXT.match(self.lines[at].body)
            if underline and not self.lines[first].body.lstrip().startswith(">"):
                label = plain_inline(" ".join(line.body.strip() for line in self.lines[first:at]))
                level = 1 if underline.group(1)[0] == "=" else 2
                self._add(first, at + 1, BlockKind.HEADING, level, label)
                return at + 1
            if self._interrupts(at) or self._is_item(at) or self._is_table(at):
                break
            at += 1
        self._add(first, at, BlockKind.PARAGRAPH)
        return at


def _cells(row: str) -> list[str]:
    row = row.strip()
    row = row.removeprefix("|")
    row = row[:-1] if row.endswith("|") and not row.endswith("\\|") else row
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)]
