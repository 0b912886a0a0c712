"""How much of one text another one holds, in shared words weighted by their rarity. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from ragdock.core.terms import overlap_terms

__all__ = ["Idf", "coverage", "similarity"]


_MIN_TEXTS: Final = 8
"""Fewer texts are counted as so many: in a collection of one passage, each of its words would
else weigh next to nothing beside a word that it lacks."""


class Idf:
    """Weight of a term: BM25's idf, ln(1 + (n - df + .5) / (df + .5)), over texts counted.

    (Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009.) A term that no text
    holds weighs most.
    """

    def __init__(self, document_frequency: Mapping[str, int], n_texts: int) -> None:
        self._document_frequency = document_frequency
        self._n_texts = n_texts

    @classmethod
    def of(cls, texts: Iterable[str]) -> Idf:
        """Count the terms of the texts; for passages and their sentences, not for a corpus."""
        frequency: Counter[str] = Counter()
        n_texts = 0
        for text in texts:
            frequency.update(set(overlap_terms(text)))
            n_texts += 1
        return cls(frequency, max(n_texts, _MIN_TEXTS))

    def __call__(self, term: str) -> float:
        """The term's weight, above 0."""
        df = min(self._document_frequency.get(term, 0), self._n_texts)
        return math.log(1.0 + (self._n_texts - df + 0.5) / (df + 0.5))


def coverage(wanted: Iterable[str], held: Iterable[str], idf: Idf) -> float:
    """0..1: the share of the wanted terms' weight that `held` has; 0.0 when nothing is wanted."""
    wanted_terms = set(wanted)
    total = sum(idf(term) for term in wanted_terms)
    if total <= 0.0:
        return 0.0
    return sum(idf(term) for term in wanted_terms & set(held)) / total


def similarity(left: Iterable[str], right: Iterable[str]) -> float:
    """0..1: Jaccard similarity of two term sets; two empty sets are equal."""
    a, b = set(left), set(right)
    return len(a & b) / len(a | b) if a or b else 1.0
