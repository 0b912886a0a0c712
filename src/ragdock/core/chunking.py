"""Documents into passages that stand for themselves.

A document is cut into runs at headings of level 1 and 2, at the ends of pages, and at stretches
that are no language. In a run, sentences and lines are the units, and the cheapest segmentation
is found as a typesetter finds line breaks (Knuth and Plass 1981,
https://doi.org/10.1002/spe.4380111102): a passage pays for the room it leaves empty, squared, so
that a long paragraph is halved and leaves no small rest, and for the place of its first cut:
little between blocks, more between the sentences of a paragraph, much within a sentence or just
below a heading.

Tokens are counted once for each unit and summed, which is exact for tokenizers whose tokens do
not span white space (WordPiece).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, TypeAlias

from ragdock.core.sentences import line_spans, sentence_spans
from ragdock.core.spans import Span, divide_evenly, overlong_word_spans, page_walls
from ragdock.types import Block, BlockKind, Chunk, PageSpan, ParsedDocument

__all__ = ["CHUNKER_ID", "PartChunker", "chunk_document"]

CHUNKER_ID: Final = "structure-1"
"""Names what this module does; goes into a collection's fingerprint with `max_tokens`."""

MAX_CONTEXT_CHARACTERS: Final = 200

CountTokens: TypeAlias = Callable[[str], int]

# What a cut before a unit costs, where an empty passage costs 1.
_CUT_BLOCK: Final = 0.0
_CUT_LINE: Final = 0.1
_CUT_BLANK_LINE: Final = 0.03
_CUT_LEAD_IN: Final = 0.2
_CUT_SENTENCE: Final = 0.5
_CUT_PIECE: Final = 0.8
_CUT_BELOW_HEADING: Final = 1.5

# The header row, with or without the row of dashes that Markdown puts below it.
_TABLE_HEAD: Final = re.compile(r"[^\n]*(?:\n[\s|:+-]*)?")

_PACKED_SECTIONS_FILL: Final = 0.6  # Passages of several small sections stay below this.
_TINY_FRACTION: Final = 16  # Neighbours below max_tokens / 16 together are one unit.
_RUN_UNITS: Final = 2000  # Longer runs are cut at the next block, which bounds memory.
_LONG_SPAN: Final = 10_000  # Characters; longer sentences are cut before they are counted.


@dataclass(slots=True)
class _Unit:
    """A sentence, line or piece: `text[start:end]`, never empty, no white space around it."""

    start: int
    end: int
    n_tokens: int
    cut: float
    context: str
    context_tokens: int
    heading: bool = False
    opens_section: bool = False

    def absorbs(self, other: _Unit, limit: int) -> bool:
        """Whether both are so small that no cut between them is worth considering."""
        return (
            self.n_tokens + other.n_tokens <= limit
            and not (self.heading or other.heading)
            and self.context == other.context
        )


@dataclass(slots=True)
class _Run:
    """The units between two hard boundaries."""

    units: list[_Unit] = field(default_factory=list)
    has_body: bool = False

    def clear(self) -> None:
        self.units = []
        self.has_body = False


def chunk_document(
    parsed: ParsedDocument,
    *,
    max_tokens: int = 200,
    count_tokens: CountTokens,
    overlap_sentences: int = 0,
) -> tuple[Chunk, ...]:
    """Cut a document into passages of at most `max_tokens`, their context included.

    Passages ascend, are stretches of the document without white space around them, and cover all
    its text but overlong words (`spans.overlong_word_spans`). None contains a heading of level 1
    or 2 other than at its beginning, and none goes on over the end of a page, except with the
    sentence that began there. With `overlap_sentences` > 0 a passage repeats so many units of
    the passage before it, unless a heading or a quarter of `max_tokens` lies between.
    """
    chunker = PartChunker(
        max_tokens=max_tokens, count_tokens=count_tokens, overlap_sentences=overlap_sentences
    )
    return chunker.chunks(parsed)


class PartChunker:
    """Cuts a document that comes in parts, as `chunk_document` cuts one that comes whole.

    No passage reaches over the end of a part. The headings above it, the label of a table that is
    cut in two, and the numbers of the passages go on from one part to the next.
    """

    def __init__(
        self, *, max_tokens: int, count_tokens: CountTokens, overlap_sentences: int = 0
    ) -> None:
        self._max_tokens = max_tokens
        self._count = count_tokens
        self._overlap = overlap_sentences
        self._title: str | None = None
        self._path: list[tuple[int, str]] = []
        self._last: Block | None = None
        self._n_chunks = 0

    def chunks(self, part: ParsedDocument) -> tuple[Chunk, ...]:
        """The passages of the next part; their places are those in the document."""
        if self._title is None:
            self._title = _squeeze(part.title)
        chunker = _Chunker(part, self._title, self._max_tokens, self._count, self._overlap)
        chunker.path = self._path
        chunker.continued = self._last is not None and _goes_on(self._last, part.blocks)
        chunks: list[Chunk] = []
        for run in chunker.runs():
            for start, end, context in chunker.segment(run):
                page = _page_at(part.pages, start)
                text = part.text[start:end]
                start, end = start + part.start, end + part.start
                chunks.append(Chunk(self._n_chunks, start, end, text, context, *page))
                self._n_chunks += 1
        self._last = part.blocks[-1] if part.blocks else self._last
        return tuple(chunks)


def _goes_on(last: Block, blocks: Sequence[Block]) -> bool:
    """Whether the first block seems to be the rest of the last one of the part before."""
    return (
        bool(blocks and last.label)
        and last.kind in (BlockKind.TABLE, BlockKind.CODE)
        and (blocks[0].kind, blocks[0].label) == (last.kind, last.label)
    )


def _page_at(pages: Sequence[PageSpan], start: int) -> tuple[int | None, str]:
    """The number and the label of the page."""
    if not pages:
        return None, ""
    page = pages[max(0, bisect_right(pages, start, key=lambda page: page.start) - 1)]
    return page.number, page.label


class _Chunker:
    def __init__(
        self,
        parsed: ParsedDocument,
        title: str,
        max_tokens: int,
        count_tokens: CountTokens,
        overlap: int,
    ) -> None:
        self.text = parsed.text
        self.title = title
        self.blocks = parsed.blocks
        self.max_tokens = max_tokens
        self.count = count_tokens
        self.overlap = overlap
        # Nothing crosses these: stretches that are dropped, and (empty) the ends of pages.
        self.walls = sorted(
            overlong_word_spans(parsed.text) + page_walls(parsed.text, parsed.pages)
        )
        self.next_wall = 0
        self.behind_wall = False
        self.path: list[tuple[int, str]] = []
        self.continued = False  # Whether the first block began in the part before.
        self.contexts: dict[tuple[str, ...], tuple[str, int]] = {}

    # Runs of units

    def runs(self) -> Iterator[list[_Unit]]:
        """Lists of units; no passage may reach from one to the next."""
        run = _Run()
        for block in self.blocks:
            heading = block.kind is BlockKind.HEADING
            if run.has_body and ((heading and block.level <= 2) or len(run.units) > _RUN_UNITS):
                yield run.units
                run.clear()
            if heading:
                self._descend(block)
            for start, end in self._fragments(block.start, block.end):
                if self.behind_wall:
                    yield run.units
                    run.clear()
                    self.behind_wall = False
                self._append(run, block, start, end)
        yield run.units

    def _descend(self, block: Block) -> None:
        while self.path and self.path[-1][0] >= block.level:
            self.path.pop()
        self.path.append((block.level, _squeeze(block.label)))

    def _fragments(self, start: int, end: int) -> Iterator[Span]:
        """The stretches of a block between walls; `behind_wall` tells of one before each."""
        while self.next_wall < len(self.walls):
            wall_start, wall_end = self.walls[self.next_wall]
            if wall_start >= end:
                break
            if wall_start > start:
                yield start, wall_start
            self.behind_wall = True
            start = max(start, min(end, wall_end))
            if wall_end > end:
                break
            self.next_wall += 1
        if start < end:
            yield start, end

    def _append(self, run: _Run, block: Block, start: int, end: int) -> None:
        tiny = self.max_tokens // _TINY_FRACTION
        heading = block.kind is BlockKind.HEADING
        within = self.continued and block is self.blocks[0]
        outer, inner = self._context(block, inside=within), self._context(block, inside=True)
        before = run.units[-1] if run.units else None
        opens = True
        for a, b, n_tokens, cut in self._pieces(block, start, end, outer[1], inner[1]):
            unit = _Unit(a, b, n_tokens, cut, *(inner if a > block.start else outer), heading)
            if before is not None and opens:
                unit.cut = self._cut_between(before)
                unit.opens_section = heading and not before.heading
            opens = False
            if before is not None and before.absorbs(unit, tiny):
                before.end = b
                before.n_tokens += n_tokens
                continue
            run.units.append(unit)
            before = unit
        run.has_body |= bool(run.units) and not heading

    def _cut_between(self, before: _Unit) -> float:
        if before.heading:
            return _CUT_BELOW_HEADING
        return _CUT_LEAD_IN if self.text[before.end - 1] in ":：" else _CUT_BLOCK

    # Units of a block

    def _pieces(
        self, block: Block, start: int, end: int, outer_tokens: int, inner_tokens: int
    ) -> Iterator[tuple[int, int, int, float]]:
        """(start, end, tokens, cost of a cut before): sentences or lines, long ones divided."""
        text = self.text[start:end]
        last_end = 0
        for a, b in self._spans(block.kind, text):
            cut = self._cut_within(block.kind, text, last_end, a)
            last_end = b
            at_start = start + a == block.start
            room = self.max_tokens - (outer_tokens if at_start else inner_tokens)
            parts = self._divide(start + a, start + b, room, self.max_tokens - inner_tokens)
            for c, d, n_tokens in parts:
                yield c, d, n_tokens, cut
                cut = _CUT_PIECE

    def _spans(self, kind: BlockKind, text: str) -> Iterator[Span]:
        """Sentences of prose; lines of code, tables and records, long ones by sentences."""
        if kind in (BlockKind.PARAGRAPH, BlockKind.LIST, BlockKind.HEADING):
            yield from sentence_spans(text)
            return
        for a, b in line_spans(text):
            if kind is BlockKind.CODE or b - a <= self.max_tokens * 3:
                yield a, b
            else:
                yield from ((a + c, a + d) for c, d in sentence_spans(text[a:b]))

    @staticmethod
    def _cut_within(kind: BlockKind, text: str, end: int, start: int) -> float:
        """The cost of a cut between units that end and start at these places of a block."""
        if kind in (BlockKind.PARAGRAPH, BlockKind.HEADING) or "\n" not in text[end:start]:
            return _CUT_SENTENCE
        if kind is BlockKind.LIST:
            return _CUT_LINE
        if kind is BlockKind.TABLE and _TABLE_HEAD.fullmatch(text, 0, end):
            return _CUT_BELOW_HEADING
        if text.count("\n", end, start) > 1:
            return _CUT_BLANK_LINE
        return _CUT_LEAD_IN if text[end - 1 : end] in ("{", "(", "[", ":") else _CUT_LINE

    def _divide(
        self, start: int, end: int, limit: int, part_limit: int
    ) -> Iterator[tuple[int, int, int]]:
        """The span and its tokens if within the limit, else parts of about the same length."""
        stack = [(start, end)]
        while stack:
            a, b = stack.pop()
            length = b - a
            if length > _LONG_SPAN:
                n_parts = -(-length // _LONG_SPAN)
            else:
                # At least one, so that no passage has more units than tokens.
                n_tokens = max(1, self.count(self.text[a:b]))
                if n_tokens <= limit or length == 1:
                    yield a, b, n_tokens
                    continue
                # A little more than needed: parts differ in how dense their tokens are.
                n_parts = min(length, max(2, -(-n_tokens * 21 // (limit * 20))))
            limit = part_limit
            stack.extend(reversed(divide_evenly(self.text, a, b, n_parts)))

    # Contexts

    def _context(self, block: Block, *, inside: bool) -> tuple[str, int]:
        """Context and its tokens for a passage that starts at or inside the block."""
        names = [self.title, *(label for _, label in self.path)]
        label = ""
        if block.kind is BlockKind.HEADING:
            own = names.pop()
            names = [name for name in names if name != own]
        elif inside or block.kind is BlockKind.RECORD:
            label = _squeeze(block.label)
        key = (*names, "\n", label)
        if key not in self.contexts:
            self.contexts[key] = self._render_context(names, label)
        return self.contexts[key]

    def _render_context(self, names: list[str], label: str) -> tuple[str, int]:
        context = _join_context(names, label)
        n_tokens = self.count(context) if context else 0
        # The passage itself gets at least two thirds of the room.
        while n_tokens > self.max_tokens // 3:
            context = _clip(context, len(context) * (self.max_tokens // 3) // (n_tokens + 1))
            n_tokens = self.count(context) if context else 0
        return context, n_tokens

    # The cheapest segmentation

    def segment(self, units: list[_Unit]) -> Iterator[tuple[int, int, str]]:
        """(start, end, context) of the passages of a run."""
        sums = [0, *accumulate(unit.n_tokens for unit in units)]
        firsts = [self._first_unit(units, sums, cut) for cut in range(len(units))]
        costs = [0.0]
        cuts = [0]
        for end in range(1, len(units) + 1):
            cost, cut = self._cheapest(units, sums, firsts, costs, end)
            costs.append(cost)
            cuts.append(cut)
        passages = []
        end = len(units)
        while end > 0:
            cut = cuts[end]
            first = units[firsts[cut]]
            if sums[end] - sums[firsts[cut]] > self.max_tokens - first.context_tokens:
                first = units[cut]  # A unit so long that no overlap fits beside it.
            passages.append((first.start, units[end - 1].end, first.context))
            end = cut
        yield from reversed(passages)

    def _cheapest(
        self, units: list[_Unit], sums: list[int], firsts: list[int], costs: list[float], end: int
    ) -> tuple[float, int]:
        """The least cost of `units[:end]`, and the unit at which its last passage is cut off."""
        total = sums[end]
        best, best_cut = float("inf"), end - 1
        packed = False
        for cut in range(end - 1, -1, -1):
            if total - sums[cut] > self.max_tokens and cut < end - 1:
                break
            unit = units[cut]
            room = self.max_tokens - units[firsts[cut]].context_tokens
            n_tokens = total - sums[firsts[cut]]
            if n_tokens > room and cut < end - 1:
                continue
            if packed and n_tokens > room * _PACKED_SECTIONS_FILL:
                break
            empty = 1.0 - n_tokens / room if n_tokens < room else 0.0
            cost = costs[cut] + empty * empty + (unit.cut if cut else 0.0)
            if cost < best:
                best, best_cut = cost, cut
            packed = packed or unit.opens_section
        return best, best_cut

    def _first_unit(self, units: list[_Unit], sums: list[int], cut: int) -> int:
        """The unit at which a passage cut at `cut` begins: earlier, if there is an overlap."""
        if not self.overlap or units[cut].heading:
            return cut
        first = cut
        while first > max(0, cut - self.overlap) and not units[first - 1].heading:
            first -= 1
        return first if (sums[cut] - sums[first]) * 4 <= self.max_tokens else cut


def _join_context(names: list[str], label: str) -> str:
    names = list(dict.fromkeys(name for name in names if name))
    room = MAX_CONTEXT_CHARACTERS
    if label:
        label = _clip(label, room * 3 // 5 if names else room)
        room -= len(label) + 1
    while len(names) > 2 and len(" > ".join(names)) > room:
        del names[1]
    if len(" > ".join(names)) > room:
        share = (room - 3 * (len(names) - 1)) // len(names)
        names = [_clip(name, share) for name in names]
    return "\n".join(part for part in (" > ".join(names), label) if part)


def _clip(text: str, length: int) -> str:
    """At most `length` characters, cut at a white space if there is one in the second half."""
    if len(text) <= length:
        return text
    clipped = text[: max(0, length - 1)]
    space = clipped.rfind(" ")
    clipped = clipped[:space] if space > length // 2 else clipped
    return clipped.rstrip() + "…" if clipped.strip() else ""


def _squeeze(text: str) -> str:
    return " ".join(text.split())
