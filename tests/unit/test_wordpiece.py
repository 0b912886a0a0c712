"""The tokenizer agrees with the reference, without needing it or the model."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragdock.core.wordpiece import WordPiece, read_vocabulary
from ragdock.errors import ConfigurationError
from support.wordpiece import recorded, recorded_tokens

CASES: list[dict[str, Any]] = recorded()["cases"]
TOKENS = recorded_tokens()


@pytest.fixture(scope="module")
def tokens() -> WordPiece:
    """The tokenizer over the recorded part of the vocabulary."""
    return recorded_tokens()


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case["text"][:24]))
def test_ids_equal_the_reference(tokens: WordPiece, case: dict[str, Any]) -> None:
    """Each recorded text in some 50 languages gives the ids of the reference tokenizer."""
    assert tokens.encode(case["text"], 9999) == case["ids"]


def test_recorded_cases_are_many() -> None:
    """The recording holds at least a hundred texts, so that an emptied file can't pass."""
    assert len(CASES) >= 100
    assert sum(len(case["ids"]) for case in CASES) > 1500


@pytest.mark.parametrize("case", CASES[::7], ids=lambda case: ascii(case["text"][:24]))
def test_count_is_the_ids_without_the_ends(tokens: WordPiece, case: dict[str, Any]) -> None:
    """`count` counts what `encode` returns between [CLS] and [SEP]."""
    assert tokens.count(case["text"]) == len(case["ids"]) - 2


@pytest.mark.parametrize("limit", [2, 3, 4, 5, 7, 12])
def test_truncation_keeps_the_ends(tokens: WordPiece, limit: int) -> None:
    """A long text keeps its first ids and [SEP], also when the cut falls inside a word."""
    text = "Unaffable, antidisestablishmentarianism & floccinaucinihilipilification"
    whole = tokens.encode(text, 9999)
    assert len(whole) > 12
    assert tokens.encode(text, limit) == [*whole[: limit - 1], tokens.end_id]


def test_text_that_just_fits_is_whole(tokens: WordPiece) -> None:
    """A text of exactly the limit isn't cut, and one id less cuts one id."""
    whole = tokens.encode("The quick brown fox jumps over the lazy dog.", 9999)
    assert tokens.encode("The quick brown fox jumps over the lazy dog.", len(whole)) == whole
    shorter = tokens.encode("The quick brown fox jumps over the lazy dog.", len(whole) - 1)
    assert shorter == [*whole[:-2], tokens.end_id]


def test_control_tokens_in_a_text_are_text(tokens: WordPiece) -> None:
    """A document that says [SEP] can't write the separator."""
    assert tokens.end_id not in tokens.encode("a [SEP] b", 9999)[:-1]
    assert tokens.start_id not in tokens.encode("a [CLS] b", 9999)[1:]


def test_pieces_tell_whether_a_word_can_be_spelt(tokens: WordPiece) -> None:
    """A word that the vocabulary can't spell is one unknown id, and says so."""
    assert tokens.pieces("fox").known
    assert tokens.pieces("\u0378") == ((tokens.unknown_id,), False)
    assert tokens.pieces("z" * 101) == ((tokens.unknown_id,), False)


def test_vocabulary_without_special_tokens_is_refused() -> None:
    """A file that isn't BERT's vocabulary is named as the cause."""
    with pytest.raises(ConfigurationError, match=r"lacks the token \[CLS\]"):
        WordPiece(["[UNK]", "a"])


def test_vocabulary_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    """An entry that is itself an exotic line separator keeps its own id."""
    path = tmp_path / "vocab.txt"
    path.write_bytes("[UNK]\n\u2028\n[CLS]\n\x85\n[SEP]\n".encode())
    assert read_vocabulary(path) == ("[UNK]", "\u2028", "[CLS]", "\x85", "[SEP]")


@given(st.text(max_size=200))
def test_any_text_becomes_ids(text: str) -> None:
    """Whatever the characters, the ids lie between the ends and within the vocabulary."""
    ids = TOKENS.encode(text, 64)
    assert ids[0] == TOKENS.start_id
    assert ids[-1] == TOKENS.end_id
    assert 2 <= len(ids) <= 64
    assert all(0 <= i < 30522 for i in ids)


@given(st.text(max_size=40), st.text(max_size=40))
def test_words_on_both_sides_of_a_space_are_independent(left: str, right: str) -> None:
    """A space separates: the ids of two texts joined by one are the ids of both."""
    joined = TOKENS.encode(f"{left} {right}", 9999)[1:-1]
    assert joined == TOKENS.encode(left, 9999)[1:-1] + TOKENS.encode(right, 9999)[1:-1]


def test_threads_share_it() -> None:
    """Several threads that share one tokenizer get what one thread gets."""
    texts = [case["text"] for case in CASES] * 3
    alone = [TOKENS.encode(text, 9999) for text in texts]
    shared = recorded_tokens()
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda text: shared.encode(text, 9999), texts)) == alone


def test_recording_names_its_script() -> None:
    """The data file says how to make it again, and the script is there."""
    made_by = json.loads((Path(__file__).parents[1] / "data/wordpiece.json").read_text())["made_by"]
    assert (Path(__file__).parents[2] / made_by).is_file()
