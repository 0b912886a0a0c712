"""How good a ranking is: nDCG, recall, reciprocal rank, percentiles and a paired bootstrap.

A ranking is a sequence of document ids, best first, none twice. `gains` maps the ids of the judged
documents to their relevance; a gain of 0 or less is "not relevant". Queries without any relevant
document have no defined value: leave them out before averaging.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import shake_128

import numpy as np

from ragdock.errors import InputError

__all__ = [
    "Difference",
    "holds_answer",
    "mean",
    "ndcg",
    "paired_bootstrap",
    "percentile",
    "recall",
    "reciprocal_rank",
]


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of `a - b` over paired queries with its confidence interval."""

    mean: float
    low: float
    high: float


def ndcg(ranking: Sequence[str], gains: Mapping[str, float], k: int = 10) -> float:
    """Normalised discounted cumulative gain at `k` in 0..1, with linear gains.

    DCG is the sum of gain / log2(rank + 1) (Järvelin and Kekäläinen 2002), as trec_eval's
    `ndcg_cut` and BEIR have it; the ideal ranks all judged documents by gain.
    """
    ideal = _dcg(sorted(_relevant(gains).values(), reverse=True)[:k])
    return _dcg(max(gains.get(item, 0.0), 0.0) for item in ranking[:k]) / ideal


def recall(ranking: Sequence[str], gains: Mapping[str, float], k: int) -> float:
    """Share of the relevant documents that are among the first `k`, 0..1."""
    relevant = _relevant(gains)
    return sum(item in relevant for item in ranking[:k]) / len(relevant)


def reciprocal_rank(ranking: Sequence[str], gains: Mapping[str, float], k: int = 10) -> float:
    """1 / rank of the first relevant document, 0 when none is among the first `k`."""
    relevant = _relevant(gains)
    return next((1 / rank for rank, item in enumerate(ranking[:k], 1) if item in relevant), 0.0)


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; raises `InputError` for no values."""
    if not values:
        raise InputError("There is nothing to average: no query has a relevant document.")
    return math.fsum(values) / len(values)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0..1) of the values lie, linearly interpolated."""
    if not values:
        raise InputError("There is no percentile of no values.")
    return float(np.quantile(np.asarray(values, dtype=np.float64), share))


def paired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    *,
    n_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Percentile bootstrap of the mean of `a - b` over paired queries (Efron 1979).

    An interval that excludes 0 says that the difference is more than the luck of the queries.
    Deterministic for a seed. Raises `InputError` when the two aren't paired or are empty.
    """
    if len(a) != len(b) or not a:
        raise InputError(f"A paired comparison needs equal numbers, not {len(a)} and {len(b)}.")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    means = np.empty(n_resamples, dtype=np.float64)
    # Row by row, so that memory stays at one resample whatever the number of queries is.
    for index in range(n_resamples):
        # A hash as generator: pure, and the image does without NumPy's (3 MB).
        raw = shake_128(f"{seed}:{index}".encode()).digest(8 * len(differences))
        # The remainder favours low numbers by less than one in 10^15.
        means[index] = differences[np.frombuffer(raw, np.uint64) % len(differences)].mean()
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return Difference(float(differences.mean()), float(low), float(high))


def holds_answer(text: str, answers: Iterable[str]) -> bool:
    """Whether one of the answers is in the text, whatever its case, width and white space."""
    haystack = _normal(text)
    return any(needle in haystack for needle in map(_normal, answers) if needle)


def _relevant(gains: Mapping[str, float]) -> dict[str, float]:
    relevant = {item: gain for item, gain in gains.items() if gain > 0}
    if not relevant:
        raise InputError("A query without a relevant document can't be scored; leave it out.")
    return relevant


def _dcg(gains: Iterable[float]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
