"""From an LLM's answer to checked evidence: which passage, which sentences, at which offsets. Pure.

A marker counts only when it names a passage that was given. The quotation is then chosen by us, not
by the LLM: the sentences of that passage that share most with what the answer claims there. So a
quotation is always the document's own text, whatever the LLM wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ragdock.core.markers import Marker, MarkerFilter
from ragdock.core.overlap import Idf, coverage
from ragdock.core.prompting import is_dont_know
from ragdock.core.sentences import sentence_spans
from ragdock.core.terms import overlap_terms
from ragdock.types import Citation, Hit

__all__ = ["CheckedAnswer", "check_citations", "cite"]

_MIN_GAIN: Final = 0.15
"""A neighbouring sentence joins a quotation when it adds this share of the claim's weight."""
_MAX_QUOTE_SENTENCES: Final = 3
_MIN_INFERRED: Final = 0.6
"""Share of a statement's weight that a passage sentence must hold to be cited unasked."""
_MIN_INFERRED_TERMS: Final = 3
_LONGEST_UNMATCHED: Final = 400
"""Characters of a passage quoted when it shares no word with the claim (another language, say)."""


@dataclass(frozen=True, slots=True)
class CheckedAnswer:
    """`text` with `[n]` only where citation n exists; `unknown` are the numbers removed from it.

    `inferred` tells that the LLM cited nothing and the markers come from our own comparison.
    """

    text: str
    citations: tuple[Citation, ...]
    unknown: tuple[int, ...] = ()
    inferred: bool = False

    @property
    def grounded(self) -> bool:
        """Whether at least one source stands behind the answer."""
        return bool(self.citations)


def check_citations(
    answer: str, passages: Sequence[Hit], *, question: str = "", infer: bool = True
) -> CheckedAnswer:
    """Check the answer's markers against the passages, which were given as 1..n in this order.

    Markers keep their numbers, so a streamed text stays true. When there is none at all (small
    models forget them), each statement that a passage's sentence backs by at least 60 % of its
    weight gets one, unless `infer` is off. An "I don't know" has no citations.
    """
    cleaner = MarkerFilter(len(passages))
    text = (cleaner.feed(answer) + cleaner.close()).rstrip()
    lead = len(text) - len(text.lstrip())
    text = text[lead:]
    markers = [Marker(m.number, m.position - lead) for m in cleaner.markers]
    unknown = tuple(sorted(cleaner.unknown))
    if is_dont_know(text):
        return CheckedAnswer(_without(text, markers)[0], (), unknown)
    idf = Idf.of(passage.text for passage in passages)
    inferred = not markers and infer
    if inferred:
        text, markers = _infer(text, passages, idf)
    claims = _claims(text, markers)
    citations = tuple(
        cite(number, passages[number - 1], claim, idf=idf, question=question)
        for number, claim in sorted(claims.items())
    )
    return CheckedAnswer(text, citations, unknown, inferred and bool(citations))


def cite(
    marker: int, passage: Hit, claim: str, *, idf: Idf | None = None, question: str = ""
) -> Citation:
    """Quote the sentences of `passage` that best back `claim`; failing that, answer `question`.

    The score is the passage's retrieval score.
    """
    weights = idf or Idf.of([passage.text])
    start, end = (
        _best_span(passage.text, claim, weights)
        or _best_span(passage.text, question, weights)
        or _opening(passage.text)
    )
    return Citation(
        marker=marker,
        document_id=passage.document_id,
        filename=passage.filename,
        page=passage.page,
        page_label=passage.page_label,
        start=passage.start + start,
        end=passage.start + end,
        quote=passage.text[start:end],
        score=passage.fused,
    )


def _best_span(text: str, claim: str, idf: Idf) -> tuple[int, int] | None:
    wanted = set(overlap_terms(claim))
    spans = sentence_spans(text)
    if not wanted or not spans:
        return None
    held = [set(overlap_terms(text[start:end])) for start, end in spans]
    scores = [coverage(wanted, terms, idf) for terms in held]
    best = max(range(len(spans)), key=lambda index: (scores[index], -index))
    if scores[best] <= 0.0:
        return None
    first = last = best
    terms, score = held[best], scores[best]
    while last - first + 1 < _MAX_QUOTE_SENTENCES:
        neighbours = [n for n in (first - 1, last + 1) if 0 <= n < len(spans)]
        gains = [(coverage(wanted, terms | held[n], idf) - score, n) for n in neighbours]
        gain, neighbour = max(gains, default=(0.0, best))
        if gain < _MIN_GAIN:
            break
        first, last = min(first, neighbour), max(last, neighbour)
        terms, score = terms | held[neighbour], score + gain
    return spans[first][0], spans[last][1]


def _opening(text: str) -> tuple[int, int]:
    """The first sentences of a passage: at least one, or the whole text when it has none."""
    spans = sentence_spans(text)
    if not spans:
        return 0, len(text)
    start, end = spans[0]
    for _, later in spans[1:]:
        if later - start > _LONGEST_UNMATCHED:
            break
        end = later
    return start, end


def _claims(text: str, markers: Sequence[Marker]) -> dict[int, str]:
    """For each cited number the statements that cite it, joined."""
    plain, positions = _without(text, markers)
    spans = sentence_spans(plain)
    claims: dict[int, dict[str, None]] = {}
    for marker, position in zip(markers, positions, strict=True):
        claims.setdefault(marker.number, {})[_statement(plain, spans, position)] = None
    return {number: " ".join(statements) for number, statements in claims.items()}


def _without(text: str, markers: Sequence[Marker]) -> tuple[str, list[int]]:
    """The text without its markers, and where each of them stood in it."""
    pieces: list[str] = []
    positions: list[int] = []
    at = length = 0
    for marker in markers:
        piece = text[at : marker.position]
        pieces.append(piece)
        length += len(piece)
        positions.append(length)
        at = marker.position + len(f"[{marker.number}]")
    pieces.append(text[at:])
    return "".join(pieces).rstrip(), positions


def _statement(plain: str, spans: Sequence[tuple[int, int]], position: int) -> str:
    """The sentence that a marker closes or stands in; the next one when it opens a line."""
    line = plain.rfind("\n", 0, position) + 1
    said = plain[line:position].rstrip()
    anchor = line + len(said) - 1 if said.strip("-*•> ") else position
    for start, end in spans:
        if anchor < end:
            return plain[start:end]
    return plain[slice(*spans[-1])] if spans else ""


def _infer(text: str, passages: Sequence[Hit], idf: Idf) -> tuple[str, list[Marker]]:
    """Add a marker behind each statement that one sentence of a passage clearly backs."""
    sentences = list(_sentences(passages))
    pieces: list[str] = []
    markers: list[Marker] = []
    at = length = 0
    for start, end in sentence_spans(text):
        wanted = set(overlap_terms(text[start:end]))
        if len(wanted) < _MIN_INFERRED_TERMS:
            continue
        score, number = max(
            ((coverage(wanted, held, idf), -number) for number, held in sentences),
            default=(0.0, 0),
        )
        if score < _MIN_INFERRED:
            continue
        piece = text[at:end] + " "
        pieces += [piece, f"[{-number}]"]
        markers.append(Marker(-number, length + len(piece)))
        length += len(piece) + len(pieces[-1])
        at = end
    pieces.append(text[at:])
    return "".join(pieces), markers


def _sentences(passages: Sequence[Hit]) -> Iterator[tuple[int, frozenset[str]]]:
    for number, passage in enumerate(passages, start=1):
        for start, end in sentence_spans(passage.text):
            yield number, frozenset(overlap_terms(passage.text[start:end]))
