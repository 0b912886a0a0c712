"""One ranking out of two."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragdock.core.fusion import MIN_MAX, MINILM, RRF, FusionProfile, fuse
from ragdock.types import DenseResult, ScoredChunk

PROFILES = [MINILM, MIN_MAX, RRF]


def lexical(**scores: float) -> tuple[ScoredChunk, ...]:
    """Hits by chunk number, best first: `lexical(c1=2.0)`."""
    found = [ScoredChunk(int(name[1:]), score) for name, score in scores.items()]
    return tuple(sorted(found, key=lambda hit: -hit.score))


def dense(baseline: float = 0.0, **scores: float) -> DenseResult:
    """The same for the dense side."""
    return DenseResult(lexical(**scores), baseline)


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_found_is_nothing(profile: FusionProfile) -> None:
    """Two empty sides fuse to nothing."""
    assert fuse((), DenseResult((), 0.0), profile) == []


@pytest.mark.parametrize("profile", PROFILES)
def test_first_on_both_sides_is_first(profile: FusionProfile) -> None:
    """What both sides rank first wins, with both raw scores."""
    ranked = fuse(lexical(c1=9.0, c2=3.0), dense(0.1, c1=0.8, c3=0.5), profile)
    assert ranked[0].chunk_id == 1
    assert (ranked[0].lexical, ranked[0].dense) == (9.0, 0.8)
    by_id = {item.chunk_id: item for item in ranked}
    assert by_id[2].dense is None
    assert by_id[3].lexical is None


@pytest.mark.parametrize("profile", PROFILES)
def test_one_blind_side_leaves_the_other_ones_order(profile: FusionProfile) -> None:
    """With one side empty the ranking is the other side's."""
    hits = lexical(c5=9.0, c3=4.0, c8=1.0)
    assert [item.chunk_id for item in fuse(hits, DenseResult((), 0.0), profile)] == [5, 3, 8]
    found = dense(0.1, c5=0.9, c3=0.4, c8=0.2)
    assert [item.chunk_id for item in fuse((), found, profile)] == [5, 3, 8]


def test_calibrated_scores_by_hand() -> None:
    """alpha * (cos - t) / (1 - t) + (1 - alpha) * bm25 / max(bm25)."""
    ranked = fuse(lexical(c1=10.0, c2=5.0), dense(0.2, c1=0.6, c2=0.2, c3=0.1), MINILM)
    scores = {item.chunk_id: item.fused for item in ranked}
    assert scores[1] == pytest.approx(0.6 * 0.5 + 0.4 * 1.0)
    assert scores[2] == pytest.approx(0.4 * 0.5)
    assert scores[3] == 0.0


def test_an_unknown_language_trusts_words() -> None:
    """Below the familiarity bound the dense side weighs little."""
    sides = lexical(c1=10.0), dense(0.0, c2=0.9)
    assert [item.chunk_id for item in fuse(*sides, MINILM, familiarity=1.0)] == [2, 1]
    assert [item.chunk_id for item in fuse(*sides, MINILM, familiarity=0.2)] == [1, 2]


def test_min_max_floor_depends_on_whether_all_were_seen() -> None:
    """The lexical floor is zero while the side found fewer than it was asked for."""
    hits = lexical(c1=10.0, c2=8.0)
    few = {i.chunk_id: i.fused for i in fuse(hits, dense(), MIN_MAX, n_candidates=100)}
    full = {i.chunk_id: i.fused for i in fuse(hits, dense(), MIN_MAX, n_candidates=2)}
    assert few[2] == pytest.approx(0.4)
    assert full[2] == 0.0


def test_reciprocal_ranks() -> None:
    """First place on both sides is 1; a place on one side counts half."""
    ranked = fuse(lexical(c1=3.0, c2=2.0), dense(0.0, c1=0.5), RRF)
    assert ranked[0].fused == pytest.approx(1.0)
    assert ranked[1].fused == pytest.approx(0.5 * 61 / 62)


def test_ties_are_broken_by_chunk_id() -> None:
    """Equal scores come in the order of the documents, always the same."""
    ranked = fuse(lexical(c9=1.0, c4=1.0, c7=1.0), dense(), MIN_MAX)
    assert [item.chunk_id for item in ranked] == [4, 7, 9]


_SIDE = st.dictionaries(st.integers(1, 30), st.floats(-1, 1, allow_subnormal=False), max_size=20)


@pytest.mark.parametrize("profile", PROFILES)
@given(left=_SIDE, right=_SIDE, baseline=st.floats(-1, 1))
def test_scores_stay_in_range_and_order(
    profile: FusionProfile, left: dict[int, float], right: dict[int, float], baseline: float
) -> None:
    """Whatever the sides say: every chunk once, best first, fused scores within 0..1."""
    ordered = tuple(
        ScoredChunk(k, abs(v) * 20) for k, v in sorted(left.items(), key=lambda i: -abs(i[1]))
    )
    found = tuple(ScoredChunk(k, v) for k, v in sorted(right.items(), key=lambda i: -i[1]))
    ranked = fuse(ordered, DenseResult(found, min(baseline, 0.999)), profile)
    assert sorted(item.chunk_id for item in ranked) == sorted(left.keys() | right.keys())
    scores = [item.fused for item in ranked]
    assert scores == sorted(scores, reverse=True)
    assert all(-1e-9 <= score <= 1 + 1e-9 for score in scores)
