"""Which lines of a PDF are headings: those of its outline, else those set larger or bolder.

A PDF has no headings, only type. The text's own size is the one most characters have; what is
larger and short is a heading, the larger the higher, and a short bold line is one of the lowest
level. A document in which that would be much of the text (slides, forms) has none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import Final, TypeAlias

import pypdfium2

from ragdock.adapters.parsers.pdf_layout import Line

__all__ = ["Headings", "Outline", "outline_of"]

_LARGER: Final = 1.15
_SAME: Final = 0.06  # Sizes that differ by less are of one level.
_MAX_CHARACTERS: Final = 150
_MAX_BOLD_CHARACTERS: Final = 80
_MAX_LINES: Final = 3
_MAX_SHARE: Final = 0.25  # Of the characters.
_MAX_LEVEL: Final = 6
_OUTLINE_ENTRIES: Final = 5000
_WORD: Final = re.compile(r"[^\W\d_]{2}")
_CLOSED: Final = re.compile(r"[.,;]['\"”’)\]»]*$")
_NUMBERING: Final = re.compile(r"^\W*(?:\d+(?:\.\d+)*\.?)?\s*")
_NOISE: Final = re.compile(r"\W+")

Outline: TypeAlias = dict[int, dict[str, int]]
"""By page (0-based): the entries' keys, and their levels."""


def outline_of(document: pypdfium2.PdfDocument) -> Outline:
    """The bookmarks, as far as they lead to pages."""
    outline: Outline = {}
    with suppress(pypdfium2.PdfiumError):
        for entry in islice(document.get_toc(max_depth=_MAX_LEVEL), _OUTLINE_ENTRIES):
            destination = entry.get_dest()
            page = destination.get_index() if destination else None
            key = _key(entry.get_title()[: 2 * _MAX_CHARACTERS])
            if page is not None and key:
                level = min(entry.level + 1, _MAX_LEVEL)
                outline.setdefault(page, {}).setdefault(key, level)
    return outline


class Headings:
    """Made from a sample of a document's pages, by number (0-based); knows headings on any page."""

    def __init__(self, sample: dict[int, list[Line]], outline: Outline) -> None:
        self._outline = outline
        self._levels: dict[float, int] = {}
        self._body = 0.0
        self._bold_level = 0
        n_entries = sum(len(outline.get(page, ())) for page in sample)
        n_found = sum(
            self._outlined(page, lines, at) != (0, 0)
            for page, lines in sample.items()
            if page in outline
            for at in range(len(lines))
        )
        if n_found * 2 < max(1, n_entries):
            self._learn([line for lines in sample.values() for line in lines])

    def at(self, page: int, lines: Sequence[Line], at: int) -> tuple[int, int]:
        """The level of the heading that begins with line `at`, and its lines; 0 and 0 for none."""
        found = self._outlined(page, lines, at)
        return found if found != (0, 0) else self._by_type(lines, at)

    def _outlined(self, page: int, lines: Sequence[Line], at: int) -> tuple[int, int]:
        entries = self._outline.get(page)
        # A line without a word is a page's number rather than a chapter's.
        if not entries or len(lines[at].text) > _MAX_CHARACTERS or not _WORD.search(lines[at].text):
            return 0, 0
        for n_lines in range(1, _MAX_LINES + 1):
            key = _key(" ".join(line.text for line in lines[at : at + n_lines]))
            if key in entries:
                return entries[key], min(n_lines, len(lines) - at)
        return 0, 0

    def _learn(self, lines: list[Line]) -> None:
        sizes: Counter[float] = Counter()
        n_bold = 0
        for line in lines:
            sizes[line.size] += len(line.text)
            n_bold += len(line.text) if line.bold else 0
        n_characters = sum(sizes.values())
        del sizes[0.0]
        if not sizes:
            return
        self._body = max(sizes, key=lambda size: (sizes[size], size))
        larger = sorted((size for size in sizes if size > self._body * _LARGER), reverse=True)
        if sum(sizes[size] for size in larger) > _MAX_SHARE * n_characters:
            self._body = 0.0
            return
        level, last = 0, 0.0
        for size in larger:
            if not last or size < last * (1 - _SAME):
                level, last = level + 1, size
            self._levels[size] = min(level, _MAX_LEVEL)
        if n_bold <= _MAX_SHARE * n_characters:
            self._bold_level = min(level + 1, _MAX_LEVEL)

    def _by_type(self, lines: Sequence[Line], at: int) -> tuple[int, int]:
        level = self._level(lines[at])
        if not level:
            return 0, 0
        n_lines = 1
        while at + n_lines < len(lines) and n_lines < _MAX_LINES:
            above, line = lines[at + n_lines - 1], lines[at + n_lines]
            near = 0 < above.top - line.top < 1.8 * above.size
            if not (near and (line.size, line.bold) == (above.size, above.bold)):
                break
            n_lines += 1
        text = " ".join(line.text for line in lines[at : at + n_lines])
        if len(text) > _MAX_CHARACTERS or not _WORD.search(text) or _CLOSED.search(text):
            return 0, 0
        if level == self._bold_level and not self._stands_out(lines, at, n_lines, text):
            return 0, 0
        return level, n_lines

    def _level(self, line: Line) -> int:
        if not self._body or line.cells or len(line.text) > _MAX_CHARACTERS:
            return 0
        if line.size > self._body * _LARGER:
            nearest = min(self._levels, key=lambda size: abs(size - line.size), default=0.0)
            return self._levels.get(nearest, 0)
        return self._bold_level if line.bold and line.size >= self._body * 0.95 else 0

    @staticmethod
    def _stands_out(lines: Sequence[Line], at: int, n_lines: int, text: str) -> bool:
        """Whether bold text is more than a stressed sentence: short, and no sentence goes on."""
        following = lines[at + n_lines].text if at + n_lines < len(lines) else ""
        return (
            n_lines == 1
            and len(text) <= _MAX_BOLD_CHARACTERS
            and following != ""
            and not text[0].islower()
            and not following[0].islower()
        )


def _key(text: str) -> str:
    """What is the same in an outline's entry and in the heading, without numbering."""
    plain = _NOISE.sub("", _NUMBERING.sub("", text, count=1)).casefold()
    return plain or _NOISE.sub("", text).casefold()
