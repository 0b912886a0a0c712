"""Collects blocks while a parser walks a document; holds their number within bounds."""

from __future__ import annotations

from typing import Final

from ragdock.errors import DocumentError
from ragdock.types import Block, BlockKind, PageSpan, ParsedDocument

__all__ = ["MAX_BLOCKS", "MAX_CHARACTERS", "BlockList", "TextBuilder", "words"]

MAX_BLOCKS: Final = 400_000
MAX_CHARACTERS: Final = 100_000_000
_JOIN_FROM: Final = 100_000  # From here on, small neighbours of one kind become one block.
_JOIN_CHARACTERS: Final = 2000


class BlockList:
    """The blocks of a text that is kept as it is."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.blocks: list[Block] = []

    def add(self, start: int, end: int, kind: BlockKind, level: int = 0, label: str = "") -> None:
        """Append `text[start:end]` without the white space around it, unless nothing is left."""
        body = self.text[start:end]
        stripped = body.strip()
        if not stripped:
            return
        start += len(body) - len(body.lstrip())
        block = Block(start, start + len(stripped), kind, level, label)
        if len(self.blocks) >= _JOIN_FROM and self._joins(block):
            block = Block(self.blocks.pop().start, block.end, kind, level, label)
        elif len(self.blocks) >= MAX_BLOCKS:
            raise DocumentError(
                f"The document has more than {MAX_BLOCKS:,} headings and blocks; split it into "
                "several files.",
                code="too_complex",
            )
        self.blocks.append(block)

    def extend_last(self, end: int) -> bool:
        """Let the last block reach to `end`; False when there is none."""
        if not self.blocks:
            return False
        last = self.blocks[-1]
        end = last.start + len(self.text[last.start : end].rstrip())
        self.blocks[-1] = Block(last.start, end, last.kind, last.level, last.label)
        return True

    def _joins(self, block: Block) -> bool:
        last = self.blocks[-1]
        return (
            (last.kind, last.level, last.label) == (block.kind, 0, block.label)
            and block.kind is not BlockKind.HEADING
            and block.end - last.start <= _JOIN_CHARACTERS
        )


class TextBuilder:
    """Text that a parser writes block by block; `continued` says that other text is before it."""

    def __init__(self, max_characters: int = MAX_CHARACTERS, *, continued: bool = False) -> None:
        self._parts: list[str] = [""] if continued else []
        self._blocks: list[Block] = []
        self._pages: list[PageSpan] = []
        self._max_characters = max_characters
        self.length = 0

    def add(
        self, text: str, kind: BlockKind, level: int = 0, label: str = "", gap: str = "\n\n"
    ) -> None:
        """Append a block, with `gap` between it and the block before."""
        text = text.strip()
        if not text:
            return
        if self._parts:
            self._parts.append(gap)
            self.length += len(gap)
        end = self.length + len(text)
        if end > self._max_characters or len(self._blocks) >= MAX_BLOCKS:
            raise DocumentError(
                "The document has too much text or too many elements; split it into several files.",
                code="too_complex",
            )
        self._blocks.append(Block(self.length, end, kind, level, label))
        self._parts.append(text)
        self.length = end

    def include(self, parsed: ParsedDocument, level: int = 0) -> None:
        """Append another document's blocks, its headings `level` levels deeper."""
        for block in parsed.blocks:
            deeper = min(block.level + level, 6) if block.level else 0
            text = parsed.text[block.start : block.end]
            self.add(text, block.kind, deeper, block.label)

    def end_page(self, number: int, start: int, label: str = "") -> None:
        """Note that page `number` covers what was added since the text had length `start`."""
        self._pages.append(PageSpan(number, start, self.length, label))

    def document(self, title: str = "") -> ParsedDocument:
        return ParsedDocument(
            "".join(self._parts), tuple(self._blocks), tuple(self._pages), title=title
        )


def words(text: str) -> frozenset[str]:
    """The words of a listing in a source file."""
    return frozenset(text.split())
