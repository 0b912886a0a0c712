from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ragdock.core.citations import check_citations, cite
from ragdock.core.markers import MarkerFilter, strip_markers
from ragdock.types import Hit
from support.passages import RETURNS, SHIPPING, hit

DOCUMENT = "x" * 100 + RETURNS
PASSAGES = [hit(RETURNS, 1), hit(SHIPPING, 2, start=0, fused=0.5), hit("Zebras graze.", 3)]


def clean(text: str, n_sources: int, size: int = 10**6) -> tuple[str, list[int], set[int]]:
    """The text through a filter in pieces of `size`, with the numbers known and unknown."""
    cleaner = MarkerFilter(n_sources)
    pieces = [cleaner.feed(text[at : at + size]) for at in range(0, len(text), size)]
    out = "".join(pieces) + cleaner.close()
    assert all(out[m.position :].startswith(f"[{m.number}]") for m in cleaner.markers)
    return out, [marker.number for marker in cleaner.markers], cleaner.unknown


@pytest.mark.parametrize(
    ("text", "cleaned", "numbers", "unknown"),
    [
        ("Plain.", "Plain.", [], set()),
        ("A [1].", "A [1].", [1], set()),
        ("A [1, 2].", "A [1][2].", [1, 2], set()),
        ("A [1][3].", "A [1][3].", [1, 3], set()),
        ("A [1-3].", "A [1][2][3].", [1, 2, 3], set()),
        ("A [Source 2].", "A [2].", [2], set()),
        ("A [sources 1 and 2].", "A [1][2].", [1, 2], set()),
        ("A [Source 1, Source 3].", "A [1][3].", [1, 3], set()),
        ("A【1】.", "A[1].", [1], set()),
        ("A 【2†source】.", "A [2].", [2], set()),
        ("A ［１］.", "A [1].", [1], set()),
        ("A [^2].", "A [2].", [2], set()),
        ("A [9].", "A.", [], {9}),
        ("A [1, 9] b.", "A [1] b.", [1], {9}),
        ("A [0] [2].", "A [2].", [2], {0}),
        ("A [2, 2].", "A [2].", [2], set()),
        ("In [2024] [sic] [a] [].", "In [2024] [sic] [a] [].", [], set()),
        ("[4] starts.", " starts.", [], {4}),
        ("`row[9]` and [1].", "`row[9]` and [1].", [1], set()),
        ("```\nx[7]\n``y``\n```\nA [7][1]", "```\nx[7]\n``y``\n```\nA[1]", [1], {7}),
        ("A stray ` tick\nthen [9].", "A stray ` tick\nthen.", [], {9}),
        ("Open [1", "Open [1", [], set()),
        ("[" * 40, "[" * 40, [], set()),
        ("A [1-999].", "A [1].", [1], {999}),
    ],
)
def test_markers(text: str, cleaned: str, numbers: list[int], unknown: set[int]) -> None:
    """Each spelling of a marker becomes [n]; those that name no source go, code stays."""
    assert clean(text, 3) == (cleaned, numbers, unknown)


@given(
    st.text(alphabet="ab .\n`[]【】123,9-†sourceS", max_size=120),
    st.integers(1, 7),
)
@example("【1\n]", 1)
@example("【1†`】", 1)
@example("`\n[1]", 1)
def test_streamed_text_is_the_whole_text_cleaned(text: str, size: int) -> None:
    """However a text is cut into pieces, the filter gives the same text and markers."""
    assert clean(text, 3, size) == clean(text, 3)


@given(st.text(alphabet="ab .\n[]【】12390,-", max_size=80))
def test_cleaned_text_is_stable(text: str) -> None:
    """Only given numbers are left, and cleaning twice changes nothing but in nested brackets."""
    once, numbers, _ = clean(text, 2)
    assert set(numbers) <= {1, 2}
    # What is taken out of brackets within brackets leaves the outer ones around something else.
    nested = re.search(r"[\[【][^\]】]*[\[【]", text)
    assert clean(once, 2)[0] == once or nested


def test_a_long_open_bracket_is_not_held_back() -> None:
    """Text after an opening bracket waits for at most a hundred characters."""
    cleaner = MarkerFilter(1)
    shown = cleaner.feed("See [" + "1" * 200)
    assert len(shown) > 100


def test_a_marker_has_a_longest_form() -> None:
    """A list of numbers beyond any sense is text, streamed or not."""
    text = f"See [{', '.join('1' * 60)}] and [1]."
    assert clean(text, 3) == clean(text, 3, 5) == (text, [1], set())


def test_hostile_text_takes_linear_time() -> None:
    """Brackets, backticks or numbers in great numbers are read in a moment."""
    started = time.thread_time()
    for text in ("[" * 2**16, "`[1]`" * 2**14, "[1, " * 2**15, "``" * 2**16, " [1]" * 2**14):
        clean(text, 3)
    # Linear: half a second. When each character sliced the buffer, it was half a minute.
    assert time.thread_time() - started < 5


def test_strip_markers_removes_all() -> None:
    """A quotation's own footnotes can't pose as citations."""
    assert strip_markers("It grew [3] fast [4, 5].") == "It grew fast."


def test_citation_quotes_the_supporting_sentence() -> None:
    """The quotation is the sentence behind the claim, at offsets into the document."""
    result = check_citations("You have 30 days to return it [1].", PASSAGES)
    (citation,) = result.citations
    assert citation.quote == "You may return any item within 30 days of delivery."
    assert DOCUMENT[citation.start : citation.end] == citation.quote
    assert (citation.marker, citation.document_id, citation.score) == (1, "doc-1", 0.8)
    assert result.grounded
    assert not result.inferred


def test_a_citation_tells_the_page_as_it_is_called() -> None:
    """Number and label of the page are the passage's."""
    passages = [hit(RETURNS, page=6, page_label="iv")]
    (citation,) = check_citations("You have 30 days to return it [1].", passages).citations
    assert (citation.page, citation.page_label) == (6, "iv")


@pytest.mark.parametrize(
    ("answer", "quote"),
    [
        ("Refunds take 5 business days.[1] Express costs extra.", "Refunds are paid"),
        ("According to [1], opened software is excluded.", "Opened software can't"),
        ("- [1] Refunds go to the original card.", "Refunds are paid"),
        ("[1] says that opened software stays with you.", "Opened software can't"),
        ("Summary:\n* refunds to the card [1]\n* more [2]", "Refunds are paid"),
    ],
)
def test_claim_is_the_sentence_around_the_marker(answer: str, quote: str) -> None:
    """A marker belongs to the sentence it closes or opens, also in lists."""
    citation = check_citations(answer, PASSAGES).citations[0]
    assert citation.marker == 1
    assert citation.quote.startswith(quote)


def test_claim_over_two_sentences_quotes_both() -> None:
    """When two neighbouring sentences back a claim, the quotation spans them."""
    answer = "Return it within 30 days of delivery and refunds reach the original card [1]."
    (citation,) = check_citations(answer, PASSAGES).citations
    assert citation.quote.startswith("You may return")
    assert citation.quote.endswith("5 business days.")


def test_unknown_markers_are_removed_and_reported() -> None:
    """A number that was not given leaves the text, is reported, and grounds nothing."""
    result = check_citations("Zebras fly [7].", [hit(SHIPPING)])
    assert result.text == "Zebras fly."
    assert result.unknown == (7,)
    assert result.citations == ()
    assert not result.grounded


def test_numbers_are_kept() -> None:
    """Markers keep their numbers, so what was streamed stays true; one citation a source."""
    result = check_citations("Express costs 12 euros [2]. Zebras graze [3][2].", PASSAGES)
    assert [citation.marker for citation in result.citations] == [2, 3]
    assert result.text == "Express costs 12 euros [2]. Zebras graze [3][2]."


def test_dont_know_has_no_citations() -> None:
    """An "I don't know" is not grounded, even when the LLM adds a marker."""
    result = check_citations("I don't know. [1]", PASSAGES)
    assert result.text.strip() == "I don't know."
    assert result.citations == ()


def test_missing_markers_are_inferred() -> None:
    """When the LLM cites nothing, statements that a source clearly backs get their marker."""
    answer = "Express shipping costs 12 euros. Unicorns sing opera beautifully."
    result = check_citations(answer, PASSAGES)
    assert result.text == "Express shipping costs 12 euros. [2] Unicorns sing opera beautifully."
    assert result.inferred
    assert result.citations[0].quote.startswith("Express shipping costs 12 euros")
    assert check_citations(answer, PASSAGES, infer=False).citations == ()


def test_nothing_is_inferred_without_support() -> None:
    """An answer that no source backs stays without citations."""
    result = check_citations("Unicorns sing opera beautifully.", PASSAGES)
    assert result.citations == ()
    assert not result.inferred


def test_other_language_quotes_for_the_question() -> None:
    """A claim that shares no word with its source is quoted by the question, or the opening."""
    answer = "Umsonst [2]."
    assert cite(2, PASSAGES[1], answer, question="express shipping costs").quote.startswith(
        "Express shipping"
    )
    assert cite(2, PASSAGES[1], answer).quote == SHIPPING


def test_chinese_claim_finds_its_sentence() -> None:
    """Bigrams choose the sentence where words have no spaces."""
    passage = hit("退货期限为三十天。运费为十二欧元。")
    (citation,) = check_citations("运费是十二欧元[1]。", [passage]).citations
    assert citation.quote == "运费为十二欧元。"


def test_empty_passage_is_cited_as_it_is() -> None:
    """A passage without a sentence gives an empty quotation and no error."""
    assert cite(1, hit(" "), "claim").quote in {"", " "}


words = st.sampled_from(["alpha", "beta", "gamma", "delta.", "Epsilon", "zeta!", "\n\n", "[1]"])


@given(
    st.lists(st.lists(words, min_size=1, max_size=15), min_size=1, max_size=3),
    st.lists(st.one_of(words, st.sampled_from(["[2]", "[3]", "[9]", "【1】", "`"])), max_size=15),
    st.integers(0, 50),
)
def test_every_quote_is_the_documents_text(
    texts: list[list[str]], answer: list[str], start: int
) -> None:
    """Whatever is asked and answered, each quotation is cut from its document at its offsets."""
    passages = [hit(" ".join(t), n, start=start) for n, t in enumerate(texts, start=1)]
    result = check_citations(" ".join(answer), passages)
    by_id: dict[str, Hit] = {passage.document_id: passage for passage in passages}
    for citation in result.citations:
        document = "#" * start + by_id[citation.document_id].text
        assert document[citation.start : citation.end] == citation.quote
        assert f"[{citation.marker}]" in result.text
