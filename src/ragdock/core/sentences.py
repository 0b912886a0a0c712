"""Where sentences begin and end."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["sentence_spans"]

_BOUNDARY: Final = re.compile(
    r"(?<=[.!?…])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9À-ÖØ-Þ\u0400-\u042f])"
    r"|(?<=[.!?؟۔।])\s+(?=[^\x00-\u024f])"
    r"|(?<=[。！？])[」』”]*"
    r"|\s*\n\s*\n\s*|\n(?=\s*(?:[-*+•#|]|\d+[.)])\s?)"
)
_ABBREVIATION: Final = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|Inc|Ltd|Co|No|Fig|Vol|Jr|Sr|e\.g|i\.e|approx|ca|cf)"
    r"|\b[A-Z])\.$"
)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Half-open spans of the sentences, ascending, without surrounding white space."""
    spans: list[tuple[int, int]] = []
    start = 0
    for match in _BOUNDARY.finditer(text):
        if "\n" not in match.group() and _ABBREVIATION.search(text, start, match.start()):
            continue
        _append(spans, text, start, match.end())
        start = match.end()
    _append(spans, text, start, len(text))
    return spans


def _append(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    if piece.strip():
        start += len(piece) - len(piece.lstrip())
        spans.append((start, start + len(piece.strip())))
