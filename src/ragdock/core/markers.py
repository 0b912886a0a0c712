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

_LABEL: Final = r"(?:(?:sources?|src|refs?|references?|passages?|documents?|docs?)\s*[:#.]?\s*)?"
_NUMBER: Final = rf"{_LABEL}\d{{1,3}}"
_MARKER: Final = re.compile(
    rf"[\[【［]\s*\^?{_NUMBER}(?:\s*(?:[,;、，&\-–—]|and|und|et|y)\s*{_NUMBER})*"
    r"\s*(?:†[^\]】］\n]{0,40})?[\]】］]",
    re.IGNORECASE,
)
_NUMBER_OR_RANGE: Final = re.compile(r"(\d{1,3})(?:\s*[-–—]\s*(\d{1,3}))?")
_LONGEST_MARKER: Final = 96
_SPECIAL: Final = re.compile(r"`+|[\[【［]")
_CLOSED: Final = re.compile(r"[\]】］\n`]")
_TRAILING_SPACE: Final = re.compile(r"[ \t]+\Z")


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
        self._space = ""
        self._fence = ""
        self._length = 0
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
        out: list[str] = []
        while self._pending:
            before = len(self._pending)
            if self._fence:
                self._code(out, final=final)
            else:
                self._prose(out, final=final)
            if len(self._pending) == before:
                break
        if final:
            self._emit(out, "")
        return "".join(out)

    def _emit(self, out: list[str], text: str) -> None:
        for piece in (self._space, text):
            if piece:
                out.append(piece)
                self._length += len(piece)
        self._space = ""

    def _take(self, length: int) -> str:
        taken, self._pending = self._pending[:length], self._pending[length:]
        return taken

    def _code(self, out: list[str], *, final: bool) -> None:
        ends = rf"(?<!`){self._fence}(?!`)" if len(self._fence) > 2 else r"`+|\n"
        end = re.search(ends, self._pending)
        if end is None or (end.end() == len(self._pending) and not final):
            # A run of backticks at the very end may still grow, so it waits.
            keep = 0 if final else len(self._pending) - len(self._pending.rstrip("`"))
            self._emit(out, self._take(len(self._pending) - keep))
            return
        closes = end.group() == self._fence or end.group() == "\n"
        self._emit(out, self._take(end.end()))
        if closes:
            self._fence = ""

    def _prose(self, out: list[str], *, final: bool) -> None:
        special = _SPECIAL.search(self._pending)
        stop = special.start() if special else len(self._pending)
        if stop:
            text = self._take(stop)
            space = _TRAILING_SPACE.search(text)
            cut = space.start() if space else len(text)
            if cut:
                self._emit(out, text[:cut])
            self._space += text[cut:]
            return
        assert special is not None
        if special.group().startswith("`"):
            if special.end() < len(self._pending) or final:
                self._fence = self._take(special.end())
                self._emit(out, self._fence)
            return
        marker = _MARKER.match(self._pending)
        if marker is not None:
            self._cite(out, self._take(marker.end()))
        elif final or len(self._pending) > _LONGEST_MARKER or _CLOSED.search(self._pending, 1):
            self._emit(out, self._take(1))

    def _cite(self, out: list[str], marker: str) -> None:
        numbers = _numbers(marker)
        known = [number for number in numbers if 1 <= number <= self._n_sources]
        self.unknown.update(set(numbers) - set(known))
        if not known:
            self._space = ""
            return
        self._emit(out, "")
        for number in known:
            self.markers.append(Marker(number, self._length))
            self._emit(out, f"[{number}]")


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
