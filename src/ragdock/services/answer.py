"""Ask: retrieve, generate or extract, check the citations."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator as Steps
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

from ragdock.core.citations import check_citations
from ragdock.core.extractive import (
    GENERATOR_ID,
    abstains,
    candidate_sentences,
    extract_answer,
    no_answer,
    trusts_vectors,
)
from ragdock.core.markers import MarkerFilter
from ragdock.core.patience import require_patience
from ragdock.core.prompting import PROMPT_ID, select_passages
from ragdock.errors import GeneratorError, UnavailableError
from ragdock.ports import Embedder, Generator, Metrics
from ragdock.services.caching import CacheState, JsonCache, dump
from ragdock.services.retrieve import Query, Retrieved, Retriever, Timings
from ragdock.types import Answer, Hit

__all__ = ["Answerer", "Delta", "Final", "Reset", "StreamEvent"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Reset:
    """Forget the pieces so far: the LLM failed and another answer follows."""

    reason: str


@dataclass(frozen=True, slots=True)
class Final:
    """The whole answer, checked: a JSON object, and where it came from."""

    value: bytes
    cache: CacheState


StreamEvent = Delta | Reset | Final


@dataclass(frozen=True, slots=True)
class _Draft:
    """An answer, and whether it is as good as it gets and may be cached."""

    answer: Answer
    keep: bool = True


class Answerer:
    """Answers questions from a collection, with an LLM where there is one."""

    def __init__(
        self,
        retriever: Retriever,
        embedder: Embedder,
        generator: Generator | None,
        cache: JsonCache,
        metrics: Metrics,
        *,
        min_score: float,
    ) -> None:
        self._retriever = retriever
        self._embedder = embedder
        self._generator = generator
        self._cache = cache
        self._metrics = metrics
        self._min_score = min_score
        self._method = (self.generator_id, PROMPT_ID, min_score)

    @property
    def generator_id(self) -> str:
        """What writes the answers; part of cache keys."""
        return self._generator.id if self._generator else GENERATOR_ID

    def ask(self, query: Query, *, bypass: bool = False) -> tuple[bytes, CacheState]:
        """The answer as a JSON object, from the cache where it is current."""

        def compute() -> tuple[bytes, bool]:
            timings = Timings()
            draft = self._answered(query, timings)
            return _dumped(draft.answer, timings), draft.keep

        return self._cache.get("answer", self._key(query), compute, bypass=bypass)

    def peek(self, query: Query) -> bytes | None:
        """What `ask` would answer, if that is known without waiting; for the event loop."""
        key = self._retriever.peek_key("answer", query, *self._method)
        return None if key is None else self._cache.peek("answer", key)

    def stream(self, query: Query, *, bypass: bool = False) -> Iterator[StreamEvent]:
        """The answer in pieces, then whole; a cached one comes in one piece."""
        key = self._key(query)
        cached = None if bypass else self._cache.load("answer", key)
        if cached is not None:
            yield Delta(json.loads(cached)["answer"])
            yield Final(cached, "hit")
            return
        timings = Timings()
        found = self._retriever.retrieve(query, timings)
        draft: _Draft | None = None
        failure: str | None = None
        if self._generator is not None and not self._abstains(query.text, found):
            shown: list[Delta] = []
            try:
                answer = yield from self._streamed(
                    self._generator, query.text, found, timings, shown
                )
                draft = _Draft(answer)
            except GeneratorError as exc:
                require_patience()
                self._log_fallback(exc)
                failure = exc.reason
                if shown:
                    yield Reset(exc.reason)
        if draft is None:
            draft = self._extracted(query.text, found, timings, failure)
            yield Delta(draft.answer.text)
        self._count(draft.answer)
        value = _dumped(draft.answer, timings)
        if draft.keep:
            self._cache.save(key, value)
        yield Final(value, "bypass" if bypass else "miss")

    def answer(self, query: Query, timings: Timings) -> Answer:
        """Answer now, without the cache."""
        return self._answered(query, timings).answer

    def _answered(self, query: Query, timings: Timings) -> _Draft:
        found = self._retriever.retrieve(query, timings)
        draft = self._drafted(query.text, found, timings)
        self._count(draft.answer)
        return draft

    def _drafted(self, question: str, found: Retrieved, timings: Timings) -> _Draft:
        if self._generator is None or self._abstains(question, found):
            return self._extracted(question, found, timings)
        given = select_passages(question, found.hits)
        try:
            with timings.stage("generate", self._metrics):
                text = self._generator.generate(question, given)
            return _Draft(self._checked(text, question, given))
        except GeneratorError as exc:
            require_patience()
            self._log_fallback(exc)
            return self._extracted(question, found, timings, exc.reason)

    def _streamed(
        self,
        generator: Generator,
        question: str,
        found: Retrieved,
        timings: Timings,
        shown: list[Delta],
    ) -> Steps[Delta, None, Answer]:
        """Yield the answer's pieces, and put into `shown` what was yielded."""
        given = select_passages(question, found.hits)
        # Markers of sources that were not given never reach the client.
        known = MarkerFilter(len(given))
        pieces: list[str] = []
        with (
            timings.stage("generate", self._metrics),
            # Closed at once when the client leaves, so that the LLM stops working for nobody.
            closing(generator.stream(question, given)) as stream,
        ):
            for piece in stream:
                pieces.append(piece)
                text = known.feed(piece)
                if text:
                    shown.append(Delta(text))
                    yield shown[-1]
            text = known.close()
            if text:
                yield Delta(text)
        return self._checked("".join(pieces), question, given)

    def _checked(self, text: str, question: str, given: Sequence[Hit]) -> Answer:
        checked = check_citations(text, given, question=question)
        if checked.unknown:
            log.warning(
                "the LLM cited sources that were not given",
                extra={"n_unknown": len(checked.unknown)},
            )
        return Answer(
            text=checked.text,
            citations=checked.citations,
            grounded=checked.grounded,
            generator=self.generator_id,
        )

    def _extracted(
        self, question: str, found: Retrieved, timings: Timings, fallback_reason: str | None = None
    ) -> _Draft:
        with timings.stage("extract", self._metrics):
            if self._abstains(question, found):
                return _Draft(no_answer(fallback_reason=fallback_reason), fallback_reason is None)
            sentences = candidate_sentences(found.hits)
            vectors, keep = None, fallback_reason is None
            if sentences and found.vector is not None and trusts_vectors(found.familiarity):
                try:
                    vectors = self._embedder.embed([s.match_text for s in sentences], urgent=True)
                except UnavailableError:
                    # Overlap alone is a decent answer; a busy embedder must not be an error here.
                    log.warning("sentences are ranked without vectors: the embedder is busy")
                    keep = False
            answer = extract_answer(
                question,
                found.hits,
                sentences,
                sentence_vectors=vectors,
                question_vector=None if vectors is None else found.vector,
            )
            return _Draft(replace(answer, fallback_reason=fallback_reason), keep)

    def _abstains(self, question: str, found: Retrieved) -> bool:
        return abstains(
            question,
            found.hits,
            top_cosine=found.top_cosine,
            familiarity=found.familiarity,
            min_score=self._min_score,
        )

    def _key(self, query: Query) -> str:
        return self._retriever.key("answer", query, *self._method)

    def _count(self, answer: Answer) -> None:
        result = "grounded" if answer.grounded else "unknown"
        self._metrics.count(
            "answers",
            generator="extractive" if answer.generator == GENERATOR_ID else "llm",
            result="fallback" if answer.fallback_reason else result,
        )

    @staticmethod
    def _log_fallback(exc: GeneratorError) -> None:
        log.warning("the LLM failed, answering extractively", extra={"reason": exc.reason})


def _dumped(answer: Answer, timings: Timings) -> bytes:
    body: dict[str, Any] = {
        "answer": answer.text,
        "citations": [
            asdict(citation)
            | {"page_label": citation.page_label or None, "score": round(citation.score, 6)}
            for citation in answer.citations
        ],
        "grounded": answer.grounded,
        "generator": answer.generator,
        "fallback_reason": answer.fallback_reason,
        "stages": timings.ms,
    }
    return dump(body)
