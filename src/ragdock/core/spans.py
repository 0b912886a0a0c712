"""Spans of a text: words that are no language, ends of pages, and even divisions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, TypeAlias

from ragdock.core.sentences import sentence_spans
from ragdock.types import PageSpan

__all__ = ["MAX_WORD_CHARACTERS", "Span", "divide_evenly", "overlong_word_spans", "page_walls"]

Span: TypeAlias = tuple[int, int]

MAX_WORD_CHARACTERS: Final = 1000

# Scripts that write without white space: CJK, kana, hangul, full-width forms, Thai, Lao, Tibetan,
# Burmese, Khmer and their neighbours.
_SPACELESS: Final = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\u2e80-\u9fff"
    "\ua980-\ua9ff\uaa60-\uaadf\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
)
_OVERLONG_WORD: Final = re.compile(
    rf"[^\s,;|\"'<>(){{}}\[\]{_SPACELESS}]{{{MAX_WORD_CHARACTERS + 1},}}"
)
_SPACELESS_CHARACTER: Final = re.compile(rf"[{_SPACELESS}]")
_SENTENCE_END: Final = re.compile(r"[.!?:…。！？।॥۔؟։።။][\"'”’)\]»」』]*$")
_SENTENCE_WINDOW: Final = 2000

_SPACE: Final = re.compile(r"\s+")
_SOFT_BREAK: Final = re.compile(r"(?<=[,;:)\]}>/|&、，；：])(?=.)", re.DOTALL)


def overlong_word_spans(text: str) -> list[Span]:
    """Spans of words above 1,000 characters in scripts that use white space: base64 and such."""
    return [match.span() for match in _OVERLONG_WORD.finditer(text)]


def page_walls(text: str, pages: Sequence[PageSpan]) -> list[Span]:
    """Empty spans where a page begins, or where the sentence ends that began on the page before.

    A passage within these walls starts on the page on which its sentences start, so its page
    number holds for every quotation from it.
    """
    walls = []
    for page in pages[1:]:
        before = text[max(0, page.start - 50) : page.start].rstrip()
        after = text[page.start : min(page.end, page.start + _SENTENCE_WINDOW)]
        first = after.lstrip()[:1]
        continues = first.islower() or (
            _SPACELESS_CHARACTER.match(first) and _SPACELESS_CHARACTER.match(before[-1:])
        )
        place = page.start
        if before and continues and not _SENTENCE_END.search(before):
            place += sentence_spans(after)[0][1]
        walls.append((place, place))
    return walls


def divide_evenly(text: str, start: int, end: int, n_parts: int) -> list[Span]:
    """Cut at white space next to the even places, else at punctuation, else at the place."""
    step = (end - start) / n_parts
    parts: list[Span] = []
    last = start
    for number in range(1, n_parts):
        aim = start + round(number * step)
        low, high = max(last + 1, aim - int(step / 3)), min(end - 1, aim + int(step / 3))
        if low > high:
            continue
        cut = _nearest(_SPACE, text, low, aim, high)
        if cut is None:
            cut = _nearest(_SOFT_BREAK, text, low, aim, high)
        cut = aim if cut is None else cut
        parts.append((last, cut))
        last = cut
    parts.append((last, end))
    trimmed = (_trim(text, a, b) for a, b in parts)
    return [(a, b) for a, b in trimmed if a < b]


def _nearest(pattern: re.Pattern[str], text: str, low: int, aim: int, high: int) -> int | None:
    places = [match.start() for match in pattern.finditer(text, low, high)]
    return min(places, key=lambda place: abs(place - aim)) if places else None


def _trim(text: str, start: int, end: int) -> Span:
    body = text[start:end]
    start += len(body) - len(body.lstrip())
    return start, start + len(body.strip())
