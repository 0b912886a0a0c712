from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragdock.core.extractive import (
    NO_ANSWER,
    abstains,
    candidate_sentences,
    extract_answer,
    no_answer,
    question_coverage,
    trusts_vectors,
)
from ragdock.core.overlap import Idf, coverage, similarity
from ragdock.types import Answer, Hit
from support.passages import RETURNS, SHIPPING, hit

PASSAGES = [hit(RETURNS, 1, fused=0.9), hit(SHIPPING, 2, start=7, fused=0.6)]


def ask(question: str, passages: list[Hit]) -> Answer:
    """The extractive answer without vectors."""
    return extract_answer(question, passages, candidate_sentences(passages))


def test_best_sentence_answers() -> None:
    """The sentence with the question's rare words is the answer, cited at its offsets."""
    answer = ask("How much does express shipping cost?", PASSAGES)
    first = answer.citations[0]
    assert answer.text.startswith(
        "Express shipping costs 12 euros and arrives the next day. [1]"
    ) or first.quote.endswith("Express shipping costs 12 euros and arrives the next day.")
    assert first.document_id == "doc-2"
    assert first.quote == SHIPPING[first.start - 7 : first.end - 7]
    assert answer.grounded
    assert answer.generator == "extractive"
    assert answer.fallback_reason is None


def test_markers_match_citations() -> None:
    """Markers count from 1 in the order of the text, each with one citation."""
    answer = ask("business days for refunds and shipping", PASSAGES)
    assert [c.marker for c in answer.citations] == list(range(1, len(answer.citations) + 1))
    assert all(f"[{c.marker}]" in answer.text for c in answer.citations)


def test_citations_tell_the_page_as_it_is_called() -> None:
    """Number and label of the page are the passage's."""
    (citation,) = ask("zebras", [hit("Zebras eat grass.", page=6, page_label="iv")]).citations
    assert (citation.page, citation.page_label) == (6, "iv")


def test_neighbours_become_one_quotation() -> None:
    """Two chosen sentences that stand together are quoted as one, in reading order."""
    text = "Alpha pumps need oil. Alpha pumps need weekly oil checks. Birds sing."
    answer = ask("Which oil checks do alpha pumps need?", [hit(text)])
    (citation,) = answer.citations
    assert citation.quote == "Alpha pumps need oil. Alpha pumps need weekly oil checks."


def test_duplicates_are_dropped() -> None:
    """The same sentence in two passages is said once."""
    answer = ask("What do zebras eat?", [hit("Zebras eat grass.", 1), hit("Zebras eat grass!", 2)])
    assert answer.text == "Zebras eat grass. [1]"


def test_weak_sentences_are_left_out() -> None:
    """Sentences far below the best one don't pad the answer."""
    text = "The warranty lasts two years. Bananas are yellow. Clouds are white."
    assert ask("How long does the warranty last?", [hit(text)]).text == (
        "The warranty lasts two years. [1]"
    )


def test_question_in_a_faq_leads_to_its_answer() -> None:
    """The question of a FAQ entry is no answer to itself, but points at the one that follows."""
    faq = "How do I reset my password?\n\nClick the key icon.\n\nCan I fly?\n\nOnly with wings."
    answer = ask("How do I reset my password?", [hit(faq)])
    assert answer.text.startswith("Click the key icon. [1]")
    assert "?" not in answer.text


def test_headings_are_not_quoted() -> None:
    """A Markdown heading lends its words to what follows and stays out of the answer."""
    answer = ask("What about returns?", [hit(RETURNS)])
    assert "#" not in answer.text
    assert answer.citations[0].quote.startswith("You may return")


def test_only_headings_are_better_than_nothing() -> None:
    """A passage of headings alone can still be quoted."""
    assert ask("returns", [hit("# Returns")]).citations[0].quote == "# Returns"


def test_answer_is_one_line_without_foreign_markers() -> None:
    """Line breaks, list marks and footnotes of the source don't get into the answer's text."""
    text = "- The tower is\n  324 metres tall [12]."
    answer = ask("How tall is the tower?", [hit(text)])
    assert answer.text == "The tower is 324 metres tall. [1]"
    assert answer.citations[0].quote == text


def test_vectors_can_decide() -> None:
    """Without a shared word, the cosine chooses the sentence."""
    passages = [hit("Cats purr loudly. Dogs bark at night.")]
    sentences = candidate_sentences(passages)
    vectors = np.eye(2, dtype=np.float32)
    answer = extract_answer(
        "noise by canines",
        passages,
        sentences,
        sentence_vectors=vectors,
        question_vector=vectors[1],
    )
    assert answer.text == "Dogs bark at night. [1]"


def test_better_passage_wins_between_equals() -> None:
    """Of two equally fitting sentences, the one in the better passage comes first."""
    passages = [
        hit("Red foxes hunt mice.", 1, fused=0.2),
        hit("Red foxes hunt voles.", 2, fused=0.9),
    ]
    assert ask("What do red foxes hunt?", passages).citations[0].document_id == "doc-2"


def test_long_blocks_are_cut_into_lines() -> None:
    """A table without sentence ends is quoted by row, so an answer stays readable."""
    rows = "\n".join(f"item {n} costs {n * 3} euros" for n in range(60))
    answer = ask("What does item 17 cost?", [hit(rows)])
    assert any("item 17 costs 51 euros" in c.quote for c in answer.citations)
    assert len(answer.text) < 2_000


def test_no_passage_no_answer() -> None:
    """Without anything to quote, the answer says so and cites nothing."""
    assert ask("What?", []) == no_answer()
    assert no_answer().text == NO_ANSWER
    assert NO_ANSWER.startswith("I don't know.")
    assert not no_answer().grounded


@given(
    st.lists(st.text(alphabet="ab c.?!\n#-[1]编程。", max_size=60), max_size=4),
    st.text(alphabet="ab c?编", max_size=20),
)
def test_every_quote_is_the_documents_text(texts: list[str], question: str) -> None:
    """Whatever the passages hold, quotations are their text and no passage makes it fail."""
    passages = [hit(text, n) for n, text in enumerate(texts, start=1)]
    answer = ask(question, passages)
    by_id = {passage.document_id: passage for passage in passages}
    for citation in answer.citations:
        passage = by_id[citation.document_id]
        assert passage.text[citation.start - 100 : citation.end - 100] == citation.quote


@pytest.mark.parametrize(
    ("question", "cosine", "familiarity", "expected"),
    [
        ("How long may I return an item?", 0.6, 1.0, False),
        ("Who won the chess championship in 1972?", 0.1, 1.0, True),
        ("Express shipping costs euros", 0.1, 1.0, False),
        ("Who won the chess championship in 1972?", 0.9, 0.1, True),
        ("Express shipping euros?", 0.0, 0.1, False),
        ("Who won the chess championship in 1972?", None, 1.0, True),
        ("Express shipping euros?", None, 1.0, False),
        ("", None, 1.0, True),
    ],
)
def test_abstains(question: str, cosine: float | None, familiarity: float, expected: bool) -> None:
    """The cosine decides, shared words where the embedder can't; a full match always answers."""
    assert abstains(question, PASSAGES, top_cosine=cosine, familiarity=familiarity) is expected


def test_abstains_without_passages_only_when_off() -> None:
    """A minimum of 0 answers from anything but nothing."""
    assert not abstains("chess?", PASSAGES, top_cosine=0.0, min_score=0.0)
    assert abstains("chess?", [], top_cosine=0.9, min_score=0.0)


def test_abstains_in_chinese_by_bigrams() -> None:
    """A language that the embedder lacks is judged by shared bigrams, with their own threshold."""
    passages = [hit("退货期限为三十天。运费为十二欧元。")]
    assert not abstains("退货期限是多少天？", passages, top_cosine=0.0, familiarity=0.0)
    assert abstains("谁赢得了世界象棋冠军？", passages, top_cosine=0.9, familiarity=0.0)


def test_context_counts_for_coverage() -> None:
    """The heading above a passage can hold the question's words."""
    passages = [hit("It takes 30 days.", context="Warranty")]
    assert question_coverage("warranty", passages) == 1.0


@pytest.mark.parametrize(("familiarity", "trusted"), [(0.0, False), (0.54, False), (0.7, True)])
def test_trusts_vectors(familiarity: float, trusted: bool) -> None:
    """Vectors of a language that the embedder hardly knows are left out."""
    assert trusts_vectors(familiarity) is trusted


def test_idf_prefers_rare_terms() -> None:
    """A term in every text weighs little, an unseen one most."""
    idf = Idf.of(["red fox", "red hen", "red ant"])
    assert 0.0 < idf("red") < idf("fox") < idf("unseen")


def test_coverage_and_similarity_bounds() -> None:
    """Nothing wanted is not covered; equal sets are similar, disjoint ones are not."""
    idf = Idf({}, 0)
    assert coverage([], ["a"], idf) == 0.0
    assert coverage(["a", "b"], ["b"], idf) == pytest.approx(0.5)
    assert similarity([], []) == 1.0
    assert similarity(["a"], ["b"]) == 0.0
