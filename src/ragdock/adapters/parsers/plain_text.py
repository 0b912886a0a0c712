"""Plain text: paragraphs, the text exactly as it is."""

from __future__ import annotations

import re
from typing import Final

from ragdock.adapters.parsers import parts
from ragdock.adapters.parsers.building import BlockList
from ragdock.types import Block, BlockKind, ParsedDocument

__all__ = ["Scanner", "parse"]

_PARAGRAPH: Final = re.compile(r"\S[^\n]*(?:\n[^\S\n]*\S[^\n]*)*")
_WRAP_CHARACTERS: Final = 120  # Nobody wraps lines by hand at more than that.
_MAX_PARAGRAPH_LINES: Final = 200


def parse(content: bytes) -> ParsedDocument:
    """Paragraphs are set apart by blank lines; long lines are paragraphs of their own."""
    return Scanner().whole(content)


class Scanner(parts.Scanner):
    """Of a text in windows; a paragraph longer than a window may be cut."""

    longest_block = 0

    def scan(self, text: str, *, final: bool) -> list[Block]:  # noqa: ARG002
        blocks = BlockList(text)
        for match in _PARAGRAPH.finditer(text):
            start, end = match.span()
            lines = match.group().split("\n")
            if len(lines) > 1 and max(map(len, lines)) > _WRAP_CHARACTERS:
                group = 1
            else:
                group = _MAX_PARAGRAPH_LINES
            for first in range(0, len(lines), group):
                end = start + len("\n".join(lines[first : first + group]))
                blocks.add(start, end, BlockKind.PARAGRAPH)
                start = end + 1
        return blocks.blocks
