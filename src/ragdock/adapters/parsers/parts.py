"""Large documents in parts: cut between blocks, before a heading where there is one.

A text is read in windows. Each is scanned for blocks as if it were all; its last block may go on
behind the window, so it is scanned again at the beginning of the next one. That gives the blocks
that a scan of the whole text would, because a scanner that stands between two blocks knows all
that it needs (what else it knows, it keeps for itself).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from ragdock.adapters.parsers.decoding import decode_text
from ragdock.adapters.parsers.text_stream import TextStream
from ragdock.types import Block, BlockKind, ParsedDocument

__all__ = ["PART_CHARACTERS", "Scanner", "scanned", "split"]

PART_CHARACTERS: Final = 2**20
_HEADING_FROM: Final = 0.5
"""A part is at least so full before a heading ends it."""

_LAST_SPACE: Final = re.compile(r"\s(?=\S*\Z)")
_SPACE_WITHIN: Final = 10_000


class Scanner(ABC):
    """Finds the blocks of a text that comes in windows."""

    title = ""
    """The document's, once the first window is scanned."""
    longest_block = 8 * PART_CHARACTERS
    """Characters that a block may have before it is cut as any text is."""

    @abstractmethod
    def scan(self, text: str, *, final: bool) -> list[Block]:
        """The blocks of a window; unless it is the final one, the last may be incomplete."""

    def take(self, text: str) -> None:  # noqa: B027  # Most have nothing to remember.
        """The next window begins behind this text, with which the last one began."""

    def whole(self, content: bytes) -> ParsedDocument:
        """A document that fits in memory."""
        text = decode_text(content)
        blocks = tuple(self.scan(text, final=True))
        return ParsedDocument(text, blocks, title=self.title)


def scanned(
    stream: TextStream, scanner: Scanner, limit: int = PART_CHARACTERS
) -> Iterator[ParsedDocument]:
    """The document in parts of at most about `limit` characters."""
    window, start, size = "", 0, limit
    while True:
        # One more than fits, to know whether the text ends here.
        window += stream.read(size + 1 - len(window))
        final = len(window) <= size
        blocks = scanner.scan(window, final=final)
        if not final and len(blocks) < 2 and len(window) < scanner.longest_block:
            size *= 2
            continue
        done = 1.0 if final else min(0.99, stream.done)
        whole = ParsedDocument(window, tuple(blocks), (), scanner.title, start, done)
        if final:
            yield from split(whole, limit)
            return
        if len(blocks) > 1:
            at = _cut(whole, 0, limit) or _before(whole, len(blocks) - 1)
        else:
            at = _inside(window, len(window) - limit // 8)
        yield from split(_part(whole, 0, at), limit)
        scanner.take(window[:at])
        window, start, size = window[at:], start + at, limit


def split(parsed: ParsedDocument, limit: int = PART_CHARACTERS) -> Iterator[ParsedDocument]:
    """A document that is read already, in parts of at most about `limit` characters."""
    at, length = 0, len(parsed.text)
    while length - at > limit:
        end = _cut(parsed, at, limit) or _inside(parsed.text, at + limit, at)
        yield _part(parsed, at, end)
        at = end
    yield _part(parsed, at, length) if at else parsed


def _cut(parsed: ParsedDocument, at: int, limit: int) -> int | None:
    """Where the part that begins at `at` should end; None when its first block is too long."""
    blocks = parsed.blocks
    first = bisect_right(blocks, at, key=lambda block: block.end)
    behind = bisect_right(blocks, at + limit, first, key=lambda block: block.end)
    index = min(behind, len(blocks) - 1)
    if index <= first:
        return None
    for candidate in range(index, first, -1):
        if blocks[candidate].start - at < limit * _HEADING_FROM:
            break
        if blocks[candidate].kind is BlockKind.HEADING:
            index = candidate
            if blocks[candidate - 1].kind is not BlockKind.HEADING:
                break
    cut = _before(parsed, index)
    # White space before a page belongs to the page.
    page = bisect_left(parsed.pages, blocks[index - 1].end, key=lambda page: page.start)
    if page < len(parsed.pages):
        cut = min(cut, parsed.pages[page].start)
    return cut


def _before(parsed: ParsedDocument, index: int) -> int:
    """Where the line begins that the block begins with: its margin is part of what it is."""
    start = parsed.blocks[index].start
    line = parsed.text.rfind("\n", parsed.blocks[index - 1].end, start)
    return line + 1 if line >= 0 else start


def _inside(text: str, end: int, start: int = 0) -> int:
    """A place to cut within a block, at or before `end`: a line's end, a white space, or there."""
    low = max(start + 1, end - _SPACE_WITHIN)
    line = text.rfind("\n", low, end)
    if line > low:
        return line + 1
    space = _LAST_SPACE.search(text[low:end])
    return low + space.end() if space else end


def _part(parsed: ParsedDocument, start: int, end: int) -> ParsedDocument:
    """`text[start:end]` with its blocks and pages, cut where they reach over the ends."""
    first = bisect_right(parsed.blocks, start, key=lambda block: block.end)
    last = bisect_left(parsed.blocks, end, key=lambda block: block.start)
    blocks = []
    for block in parsed.blocks[first:last]:
        a, b = max(block.start, start), min(block.end, end)
        body = parsed.text[a:b]
        a += len(body) - len(body.lstrip())
        b = a + len(body.strip())
        if a < b:
            blocks.append(replace(block, start=a - start, end=b - start))
    first = bisect_right(parsed.pages, start, key=lambda page: page.end)
    last = bisect_left(parsed.pages, end, key=lambda page: page.start)
    pages = tuple(
        replace(page, start=max(page.start, start) - start, end=min(page.end, end) - start)
        for page in parsed.pages[first:last]
    )
    share = 1.0 if parsed.start else end / max(1, len(parsed.text))
    return ParsedDocument(
        parsed.text[start:end],
        tuple(blocks),
        pages,
        parsed.title,
        parsed.start + start,
        parsed.done * share,
    )
