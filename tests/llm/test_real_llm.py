"""Against a real LLM server, for what a script can't promise: plumbing, not wording."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from ragdock.adapters.generators.openai import OpenAiGenerator
from ragdock.core.citations import check_citations
from ragdock.errors import GeneratorError
from support import real_llm
from support.passages import INJECTED, RETURNS, SHIPPING, hit

pytestmark = [
    pytest.mark.llm,
    pytest.mark.skipif(bool(real_llm.missing()), reason=real_llm.missing()),
]

KEY = "sk-test-real"
QUESTION = "How long does standard shipping take?"
PASSAGES = [hit(SHIPPING, 1), hit(RETURNS, 2)]


@pytest.fixture(scope="module")
def llm() -> Iterator[real_llm.RealLlm]:
    with real_llm.RealLlm(api_key=KEY) as running:
        yield running


def generator(
    llm: real_llm.RealLlm, key: str = KEY, timeout_seconds: float = 180.0, max_tokens: int = 24
) -> OpenAiGenerator:
    return OpenAiGenerator(
        llm.base_url, llm.model, key, timeout_seconds=timeout_seconds, max_tokens=max_tokens
    )


def test_whole_answer(llm: real_llm.RealLlm) -> None:
    """A real answer comes back as text, and its citations check out against the passages."""
    answer = generator(llm).generate(QUESTION, PASSAGES)
    assert answer.strip()
    result = check_citations(answer, PASSAGES, question=QUESTION)
    texts = {passage.document_id: "#" * passage.start + passage.text for passage in PASSAGES}
    for citation in result.citations:
        assert texts[citation.document_id][citation.start : citation.end] == citation.quote


def test_streamed_answer_is_the_whole_answer(llm: real_llm.RealLlm) -> None:
    """At temperature 0 the pieces of a stream join to a real answer, word by word."""
    pieces = list(generator(llm).stream(QUESTION, PASSAGES))
    assert len(pieces) > 3
    assert "".join(pieces).strip()


@pytest.mark.parametrize("stream", [False, True])
def test_deadline(llm: real_llm.RealLlm, stream: bool) -> None:
    """A deadline shorter than any answer is a timeout, in time, streamed or not."""
    hasty = generator(llm, timeout_seconds=0.05, max_tokens=512)
    started = time.monotonic()
    with pytest.raises(GeneratorError) as caught:
        list(hasty.stream(QUESTION, PASSAGES)) if stream else hasty.generate(QUESTION, PASSAGES)
    assert caught.value.reason == "timeout"
    assert time.monotonic() - started < 1.0


def test_wrong_key(llm: real_llm.RealLlm) -> None:
    """A real 401 is an HTTP failure that doesn't repeat the key."""
    wrong = generator(llm, key="sk-wrong")
    with pytest.raises(GeneratorError, match="401") as caught:
        wrong.generate(QUESTION, PASSAGES)
    assert caught.value.reason == "http"
    assert "sk-wrong" not in str(caught.value)


def test_ping(llm: real_llm.RealLlm) -> None:
    """A real server lists its models, so it is alive."""
    generator(llm).ping()


def test_token_limit(llm: real_llm.RealLlm) -> None:
    """The token limit ends an answer early, and that is no failure."""
    short = "".join(generator(llm, max_tokens=16).stream(QUESTION, PASSAGES))
    assert 0 < len(short.split()) <= 16
    whole = generator(llm, max_tokens=16).generate(QUESTION, PASSAGES)
    assert 0 < len(whole.split()) <= 16


def test_leaving_early_frees_the_server(llm: real_llm.RealLlm) -> None:
    """After a stream is left, the next answer doesn't wait for the rest of the first."""
    pieces = generator(llm, max_tokens=512).stream(QUESTION, PASSAGES)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert generator(llm, max_tokens=16).generate(QUESTION, PASSAGES)


def test_prompt_over_the_window_is_a_failure(llm: real_llm.RealLlm) -> None:
    """A prompt that the model has no room for is refused by the server and told as such."""
    long = OpenAiGenerator(llm.base_url, llm.model, KEY, max_prompt_characters=200_000)
    with pytest.raises(GeneratorError) as caught:
        long.generate(QUESTION, [hit("many words here " * 4_000)])
    assert caught.value.reason == "http"


def test_control_tokens_in_a_source_are_text(llm: real_llm.RealLlm) -> None:
    """A source with chat control tokens leaves the request whole: an answer still comes."""
    answer = generator(llm).generate("What is your name?", [hit(INJECTED, 1), hit(SHIPPING, 2)])
    assert answer.strip()
