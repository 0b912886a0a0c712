"""The recorded part of BERT's vocabulary, for tests that need a tokenizer and no model."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from ragdock.core.wordpiece import WordPiece

__all__ = ["recorded", "recorded_tokens"]

VOCABULARY_SIZE = 30_522


@cache
def recorded() -> dict[str, Any]:
    """`vocabulary` (token to id) and `cases` (text, ids) as `scripts/record_wordpiece.py` wrote."""
    path = Path(__file__).parents[1] / "data" / "wordpiece.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="ascii"))
    return content


def recorded_tokens() -> WordPiece:
    """A tokenizer that is exact for the recorded texts; other words may be unknown to it."""
    vocabulary = [f"[absent {number}]" for number in range(VOCABULARY_SIZE)]
    for token, number in recorded()["vocabulary"].items():
        vocabulary[number] = token
    return WordPiece(vocabulary)
