"""The first sentence as context of passages that have none."""

from __future__ import annotations

from ragdock.core.lead import MAX_LEAD_CHARACTERS, with_lead
from ragdock.types import Chunk, ParsedDocument


def passages(*texts: str, contexts: tuple[str, ...] = ()) -> tuple[ParsedDocument, list[Chunk]]:
    """A document of these passages, one after the other."""
    chunks: list[Chunk] = []
    at = 0
    for index, text in enumerate(texts):
        context = contexts[index] if index < len(contexts) else ""
        chunks.append(Chunk(index, at, at + len(text), text, context))
        at += len(text) + 1
    return ParsedDocument(" ".join(texts), ()), chunks


def contexts(parsed: ParsedDocument, chunks: list[Chunk]) -> list[str]:
    """The contexts after the lead was given."""
    return [chunk.context for chunk in with_lead(parsed, chunks)]


def test_later_passages_get_the_first_sentence() -> None:
    """Passages after the first carry the sentence that the document begins with."""
    parsed, chunks = passages("Otters hold hands. They float.", "They sleep.", "They eat.")
    assert contexts(parsed, chunks) == ["", "Otters hold hands.", "Otters hold hands."]


def test_a_context_that_is_there_stays() -> None:
    """A heading says more than the first sentence."""
    parsed, chunks = passages("Otters hold hands.", "They sleep.", contexts=("", "Habits"))
    assert contexts(parsed, chunks) == ["", "Habits"]


def test_a_title_makes_the_sentence_needless() -> None:
    """Documents with a title keep their chunker's contexts."""
    parsed, chunks = passages("Otters hold hands.", "They sleep.")
    titled = ParsedDocument(parsed.text, (), title="Otters")
    assert contexts(titled, chunks) == ["", ""]


def test_one_passage_stays_as_it_is() -> None:
    """A single passage begins with the sentence already."""
    parsed, chunks = passages("Otters hold hands. They float.")
    assert contexts(parsed, chunks) == [""]


def test_text_without_sentence_ends_has_a_lead_too() -> None:
    """Where the first sentence is the whole text, its beginning is the context."""
    first, later = "shear flow past a flat plate " * 20, "free stream outside the layer " * 20
    parsed, chunks = passages(first.strip(), later.strip())
    found = contexts(parsed, chunks)
    assert found[0] == ""
    assert found[1] == first[:MAX_LEAD_CHARACTERS].strip()


def test_texts_and_places_stay() -> None:
    """Only contexts change: a quotation is still the document's own text."""
    parsed, chunks = passages("Otters hold hands. They float.", "They sleep.")
    for before, after in zip(chunks, with_lead(parsed, chunks), strict=True):
        assert (before.start, before.end, before.text) == (after.start, after.end, after.text)
