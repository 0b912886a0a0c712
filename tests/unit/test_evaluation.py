"""The metrics agree with tables worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragdock.core.evaluation import (
    holds_answer,
    mean,
    ndcg,
    paired_bootstrap,
    percentile,
    recall,
    reciprocal_rank,
)
from ragdock.errors import InputError

# gains 3, 2, 1: ideal DCG = 3/1 + 2/1.584962... + 1/2 = 4.761859507
GAINS = {"a": 3.0, "b": 2.0, "c": 1.0, "zero": 0.0, "minus": -1.0}
IDEAL = 3 + 2 / math.log2(3) + 1 / 2

# ranking, DCG by hand, recall@2, recall@10, reciprocal rank
TABLE = [
    (["a", "b", "c"], IDEAL, 2 / 3, 1.0, 1.0),
    (["c", "b", "a"], 1 + 2 / math.log2(3) + 3 / 2, 2 / 3, 1.0, 1.0),
    (["x", "a"], 3 / math.log2(3), 1 / 3, 1 / 3, 0.5),
    (["x", "y", "z", "b"], 2 / math.log2(5), 0.0, 1 / 3, 0.25),
    (["zero", "minus", "c"], 1 / 2, 0.0, 1 / 3, 1 / 3),
    (["x", "y"], 0.0, 0.0, 0.0, 0.0),
    ([], 0.0, 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("ranking", "dcg", "recall_2", "recall_10", "rr"), TABLE)
def test_metrics_equal_the_hand_computed_table(
    ranking: list[str], dcg: float, recall_2: float, recall_10: float, rr: float
) -> None:
    """nDCG, recall and reciprocal rank of seven rankings are what paper and pencil give."""
    assert ndcg(ranking, GAINS) == pytest.approx(dcg / IDEAL, abs=1e-12)
    assert recall(ranking, GAINS, 2) == pytest.approx(recall_2)
    assert recall(ranking, GAINS, 10) == pytest.approx(recall_10)
    assert reciprocal_rank(ranking, GAINS) == pytest.approx(rr)


def test_the_known_number_of_the_reversed_ranking() -> None:
    """The reversed ranking scores 0.789998 to six digits, a constant and not our formula again."""
    assert ndcg(["c", "b", "a"], GAINS) == pytest.approx(0.789998, abs=5e-7)


def test_ideal_is_cut_at_k() -> None:
    """With more relevant documents than k, a full page of the best ones still scores 1."""
    gains = {str(number): 1.0 for number in range(30)}
    assert ndcg([str(number) for number in range(10)], gains, 10) == pytest.approx(1.0)
    assert recall([str(number) for number in range(10)], gains, 10) == pytest.approx(1 / 3)


def test_documents_beyond_k_do_not_count() -> None:
    """A relevant document at rank 11 adds nothing at k = 10."""
    ranking = [f"x{number}" for number in range(10)] + ["a"]
    assert ndcg(ranking, {"a": 1.0}) == 0.0
    assert reciprocal_rank(ranking, {"a": 1.0}) == 0.0
    assert recall(ranking, {"a": 1.0}, 11) == 1.0


@pytest.mark.parametrize("metric", [ndcg, reciprocal_rank])
def test_a_query_without_relevant_documents_is_refused(metric: object) -> None:
    """Scoring a query without a relevant document is an error, not a silent zero."""
    assert callable(metric)
    with pytest.raises(InputError, match="leave it out"):
        metric(["a"], {"a": 0.0})


def test_mean_and_percentile_of_nothing_are_errors() -> None:
    """An empty list has neither mean nor percentile, and the error says so."""
    with pytest.raises(InputError, match="nothing to average"):
        mean([])
    with pytest.raises(InputError, match="no percentile"):
        percentile([], 0.5)


def test_percentiles_interpolate() -> None:
    """The median of four numbers lies between the middle two; p95 of 1..101 is 96."""
    assert percentile([1, 2, 3, 4], 0.5) == pytest.approx(2.5)
    assert percentile(list(range(1, 102)), 0.95) == pytest.approx(96.0)
    assert mean([1.0, 2.0, 6.0]) == pytest.approx(3.0)


def test_bootstrap_of_a_constant_difference_has_no_width() -> None:
    """When every query differs by .1, the interval is .1 to .1."""
    difference = paired_bootstrap([0.6] * 20, [0.5] * 20, n_resamples=200)
    assert difference.mean == pytest.approx(0.1)
    assert difference.low == pytest.approx(0.1)
    assert difference.high == pytest.approx(0.1)


def test_bootstrap_matches_the_normal_interval() -> None:
    """For 400 differences of +1 and -1 the 95 % interval is about 1.96 standard errors wide."""
    a = [1.0, 0.0] * 200
    b = [0.0, 1.0] * 200
    difference = paired_bootstrap(a, b, n_resamples=4000)
    assert difference.mean == 0.0
    assert difference.high == pytest.approx(1.96 / math.sqrt(400), abs=0.012)
    assert difference.low == pytest.approx(-1.96 / math.sqrt(400), abs=0.012)
    assert difference == paired_bootstrap(a, b, n_resamples=4000)


def test_bootstrap_wants_pairs() -> None:
    """Lists of different lengths, or empty ones, are refused."""
    with pytest.raises(InputError, match="equal numbers"):
        paired_bootstrap([1.0], [1.0, 2.0])
    with pytest.raises(InputError, match="equal numbers"):
        paired_bootstrap([], [])


@pytest.mark.parametrize(
    ("text", "answers", "held"),
    [
        ("It waits up to 25\nminutes for it.", ("25 minutes",), True),
        ("HELENE OKAFOR leads", ("Helene Okafor",), True),
        ("１９３１ was the year", ("1931",), True),
        ("nothing here", ("1931",), False),
        ("anything", ("",), False),
        ("anything", (), False),
    ],
)
def test_answer_is_found_whatever_its_form(text: str, answers: tuple[str, ...], held: bool) -> None:
    """Case, full-width digits and line breaks don't hide an answer; an empty one is no answer."""
    assert holds_answer(text, answers) is held


@given(
    st.lists(st.sampled_from("abcdefgh"), unique=True),
    st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0.1, 5), min_size=1),
)
def test_metrics_stay_within_0_and_1(ranking: list[str], gains: dict[str, float]) -> None:
    """Whatever the ranking, every metric lies in 0..1, and the ideal ranking scores 1."""
    ideal = sorted(gains, key=lambda item: -gains[item])
    assert -1e-12 <= ndcg(ranking, gains) <= 1 + 1e-12
    assert 0 <= recall(ranking, gains, 3) <= 1
    assert 0 <= reciprocal_rank(ranking, gains) <= 1
    assert ndcg(ideal, gains) == pytest.approx(1.0)
