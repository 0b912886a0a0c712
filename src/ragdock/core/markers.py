"""Citation markers in an LLM's text: reads their many spellings, keeps those that name a source.

`[1]`, `[1, 2]`, `[1-3]`, `[Source 2]`, `[^1]`, `【1】` and `【1†source】` become `[1]`, `[1][2]`;
numbers of sources that were not given are removed. Code spans are left alone: `row[1]` is an index
there. Works on a stream: the pieces that come out, joined, equal the whole text cleaned.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["Marker", "MarkerFilter", "strip_markers"]

# Blanks, but no line break: a marker ends with its line, as what is held back of a stream does.
_GAP: Final = r"[^\S\n]*"
_LABEL: Final = (
    rf"(?:(?:sources?|src|refs?|references?|passages?|documents?|docs?){_GAP}[:#.]?{_GAP})?"
)
_NUMBER: Final = rf"{_LABEL}\d{{1,3}}"
_MARKER: Final = re.compile(
    rf"[\[【［]{_GAP}\^?{_NUMBER}(?:{_GAP}(?:[,;、，&\-–—]|and|und|et|y){_GAP}{_NUMBER})*"
    rf"{_GAP}(?:†[^\]】］`\n]{{0,40}})?[\]】］]",
    re.IGNORECASE,
)
_NUMBER_OR_RANGE: Final = re.compile(r"(\d{1,3})(?:\s*[-–—]\s*(\d{1,3}))?")
_LONGEST_MARKER: Final = 96
_SPECIAL: Final = re.compile(r"`+|[\[【［]")
_CLOSED: Final = re.compile(r"[\]】］\n`]")


@dataclass(frozen=True, slots=True)
class Marker:
    """Source `number` is cited at `position` of the text that came out."""

    number: int
    position: int


class MarkerFilter:
    """Cleans text piece by piece; `markers` and `unknown` fill up on the way.

    Inline code ends with its line at the latest, as a stray backtick would else hide every marker
    that follows.
    """

    def __init__(self, n_sources: int) -> None:
        self._n_sources = n_sources
        self._pending = ""
        self._at = 0
        self._space = ""
        self._fence = ""
        self._length = 0
        self._out: list[str] = []
        self.markers: list[Marker] = []
        self.unknown: set[int] = set()

    def feed(self, piece: str) -> str:
        """What can be shown now; text that may still turn out to be a marker waits."""
        self._pending += piece
        return self._drain(final=False)

    def close(self) -> str:
        """The rest."""
        return self._drain(final=True)

    def _drain(self, *, final: bool) -> str:
        while self._at < len(self._pending):
            before = self._at
            if self._fence:
                self._code(final=final)
            else:
                self._prose(final=final)
            if self._at == before:
                break
        if final:
            self._emit("")
        self._pending, self._at = self._pending[self._at :], 0
        out, self._out = "".join(self._out), []
        return out

    def _emit(self, text: str) -> None:
        for piece in (self._space, text):
            if piece:
                self._out.append(piece)
                self._length += len(piece)
        self._space = ""

    def _take(self, end: int) -> str:
        taken = self._pending[self._at : end]
        self._at = end
        return taken

    def _code(self, *, final: bool) -> None:
        ends = rf"(?<!`){self._fence}(?!`)" if len(self._fence) > 2 else r"`+|\n"
        size = len(self._pending)
        end = re.compile(ends).search(self._pending, self._at)
        if end is None or (end.end() == size and not final and end.group() != "\n"):
            # A run of backticks at the very end may still grow, so it waits.
            ticks = 0 if final else size - len(self._pending.rstrip("`"))
            self._emit(self._take(max(self._at, size - ticks)))
            return
        self._emit(self._take(end.end()))
        if end.group() in {self._fence, "\n"}:
            self._fence = ""

    def _prose(self, *, final: bool) -> None:
        special = _SPECIAL.search(self._pending, self._at)
        stop = special.start() if special else len(self._pending)
        if stop > self._at:
            text = self._take(stop)
            kept = text.rstrip(" \t")
            if kept:
                self._emit(kept)
            self._space += text[len(kept) :]
            return
        assert special is not None
        if special.group().startswith("`"):
            if special.end() < len(self._pending) or final:
                self._fence = self._take(special.end())
                self._emit(self._fence)
            return
        limit = self._at + _LONGEST_MARKER
        marker = _MARKER.match(self._pending, self._at, limit)
        if marker is not None:
            self._cite(self._take(marker.end()))
        elif final or len(self._pending) > limit or _CLOSED.search(self._pending, self._at + 1):
            self._emit(self._take(self._at + 1))

    def _cite(self, marker: str) -> None:
        numbers = _numbers(marker)
        known = [number for number in numbers if 1 <= number <= self._n_sources]
        self.unknown.update(set(numbers) - set(known))
        if not known:
            self._space = ""
            return
        self._emit("")
        for number in known:
            self.markers.append(Marker(number, self._length))
            self._emit(f"[{number}]")


def strip_markers(text: str) -> str:
    """The text without anything that reads as a citation marker, outside code."""
    cleaner = MarkerFilter(0)
    return cleaner.feed(text) + cleaner.close()


def _numbers(marker: str) -> list[int]:
    """The numbers of one marker, each once, in order; `[2-4]` is three sources."""
    numbers: dict[int, None] = {}
    for match in _NUMBER_OR_RANGE.finditer(marker.split("†")[0]):
        first = int(match.group(1))
        last = int(match.group(2) or first)
        # A long range is no list of sources but, say, a span of pages: only its ends are taken.
        steps = range(first, last + 1) if first <= last <= first + 20 else (first, last)
        numbers.update(dict.fromkeys(steps))
    return list(numbers)
