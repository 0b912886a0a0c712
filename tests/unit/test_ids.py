"""Public ids: there and back, and nothing to read in them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragdock.core.ids import PublicIds

IDS = PublicIds(b"k" * 32)
NUMBERS = st.integers(min_value=0, max_value=2**63 - 1)


@given(NUMBERS)
def test_there_and_back(number: int) -> None:
    """Every number comes back from its id, and from no other kind's or key's reading of it."""
    text = IDS.encode("job", number)
    assert text.startswith("job_")
    assert len(text) == 17
    assert IDS.decode("job", text) == number
    assert IDS.decode("event", text) is None
    assert IDS.decode("event", "event_" + text[4:]) != number
    assert PublicIds(b"x" * 32).decode("job", text) != number


def test_neighbours_share_nothing() -> None:
    """Ids of 20,000 consecutive numbers are distinct, unordered, and differ in most symbols."""
    texts = [IDS.encode("job", number)[4:] for number in range(20_000)]
    assert len(set(texts)) == len(texts)
    rising = sum(a < b for a, b in pairwise(texts)) / len(texts)
    assert 0.48 < rising < 0.52
    same = [sum(x == y for x, y in zip(a, b, strict=True)) for a, b in pairwise(texts)]
    # By chance 12 of 32 symbols agree once each, and the first (of 16) somewhat more often.
    assert 0.3 < sum(same) / len(same) < 0.6


@pytest.mark.parametrize(
    "text",
    ["", "7", "job_", "job_0", "job_iiiiiiiiiiiii", "job_zzzzzzzzzzzzz", "job_0000000000000\n"],
)
def test_what_is_no_id(text: str) -> None:
    """Other texts have no number."""
    assert IDS.decode("job", text) is None


def test_the_permutation_stays() -> None:
    """Ids that were handed out mean the same in every later release."""
    assert [IDS.encode("job", n) for n in (1, 2)] == ["job_1ge03q42s368j", "job_4a4n1rej4yydg"]
