"""`/v1/ask` without an LLM: extractive answers, citations, streams, the cache."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ragdock.errors import EmbedderError
from ragdock.types import Vectors
from support.embedders import HashEmbedder
from support.serving import serving, until
from support.web import add, ask, assert_problem, events

GUIDE = (
    "Übersicht 🐝\n\nThe dome is closed above 62 kilometres per hour of wind. "
    "Tomas Okonkwo holds the spare key.\n\nThe emergency extension is 3178."
)


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server that holds one text with characters of one to four bytes."""
    with serving(tmp_path_factory.mktemp("ask") / "data") as client:
        add(client, GUIDE, "guide", filename="guide.txt")
        yield client


def test_the_answer_cites_its_source(guide: TestClient) -> None:
    """The answer's markers name citations whose spans, cut from the text, are the quotes."""
    answer = ask(guide, "Who holds the spare key?")
    assert "Tomas Okonkwo" in answer["answer"]
    assert answer["grounded"] is True
    assert answer["generator"] == "extractive"
    assert answer["fallback_reason"] is None
    text = guide.get("/v1/documents/guide/text").text
    assert text == GUIDE
    for citation in answer["citations"]:
        assert f"[{citation['marker']}]" in answer["answer"]
        assert text[citation["start"] : citation["end"]] == citation["quote"]
        assert citation["document_id"] == "guide"
        assert citation["filename"] == "guide.txt"


def test_nothing_relevant_is_not_answered(tmp_path: Path) -> None:
    """Without a relevant passage the answer says so, ungrounded and without citations."""
    with serving(tmp_path / "data", min_score=0.99) as client:
        add(client, "Honey costs 8.50 a jar.")
        answer = ask(client, "Who was the first president of the moon?")
        assert answer["answer"].startswith("I don't know.")
        assert (answer["grounded"], answer["citations"]) == (False, [])


def test_the_cached_answer_equals_the_computed_one(guide: TestClient) -> None:
    """Miss, hit and bypass differ in nothing but `cache` and `timings_ms`."""
    question = "When is the dome closed?"
    miss = ask(guide, question)
    hit = ask(guide, question)
    response = guide.post(
        "/v1/ask", json={"question": question}, headers={"Cache-Control": "no-cache"}
    )
    bypass = response.json()
    assert response.headers["x-cache"] == "bypass"
    states = [body.pop("cache") for body in (miss, hit, bypass)]
    assert states == ["miss", "hit", "bypass"]
    for body in (miss, hit, bypass):
        body.pop("timings_ms")
    assert miss == hit == bypass


def test_the_question_comes_back_as_asked(guide: TestClient) -> None:
    """The response echoes the question as it was sent, whatever the cache makes of it."""
    assert ask(guide, "  What  is\tthe extension? ")["question"] == "  What  is\tthe extension? "


def test_nul_bytes_in_a_question_are_blanks(guide: TestClient) -> None:
    """A NUL character in a question is white space: nothing fails, and the question is answered."""
    assert "3178" in ask(guide, "emergency\x00extension")["answer"]


def test_a_stream_is_deltas_then_the_whole(guide: TestClient) -> None:
    """A streamed answer is deltas, then done with the same object as an unstreamed one."""
    body = {"question": "What is the emergency extension?", "stream": True}
    for expected in ("miss", "hit"):
        response = guide.post("/v1/ask", json=body)
        found = events(response)
        assert response.status_code == 200
        assert response.headers["cache-control"] == "no-store"
        assert [name for name, _ in found[:-1]] == ["delta"] * (len(found) - 1)
        name, whole = found[-1]
        assert name == "done"
        assert whole["cache"] == expected
        assert "".join(data["text"] for _, data in found[:-1]) == whole["answer"]
    plain = ask(guide, "What is the emergency extension?")
    for one in (plain, whole):
        one.pop("timings_ms")
        one.pop("cache")
    assert plain == whole


def test_what_fails_before_a_stream_is_a_status(guide: TestClient) -> None:
    """A stream that can't begin is a problem with its status, not an event."""
    response = guide.post(
        "/v1/ask", json={"question": "x", "stream": True, "collection": "nowhere"}
    )
    assert_problem(response, 404, "collection_not_found", says="'nowhere'")


class BrokenEmbedder(HashEmbedder):
    """Fails for queries on demand."""

    fails: Exception | None = None

    def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Vectors:
        """Embed, or fail."""
        if urgent and self.fails is not None:
            raise self.fails
        return super().embed(texts, urgent=urgent)


@pytest.mark.parametrize("stream", [True, False])
def test_a_busy_embedder_is_503(tmp_path: Path, stream: bool) -> None:
    """When the embedder refuses, the caller learns when to come back, streamed or not."""
    embedder = BrokenEmbedder()
    with serving(tmp_path / "data", embedder=embedder) as client:
        add(client, "Some text.")
        embedder.fails = EmbedderError("Busy.", code="embedder_busy", retry_after_seconds=2.2)
        response = client.post("/v1/ask", json={"question": "what?", "stream": stream})
        assert_problem(response, 503, "embedder_busy")
        assert response.headers["retry-after"] == "3"
        embedder.fails = None
        assert ask(client, "what?")["cache"] == "miss"


class SecondCallFails(HashEmbedder):
    """Embeds a question, and refuses the sentences while told to."""

    refuses = True

    def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Vectors:
        """Embed; several urgent texts are sentences."""
        if urgent and len(texts) > 1 and self.refuses:
            raise EmbedderError("Busy.")
        return super().embed(texts, urgent=urgent)


def test_a_lesser_answer_is_not_kept(tmp_path: Path) -> None:
    """An answer made without vectors, because the embedder was busy, isn't cached."""
    embedder = SecondCallFails()
    with serving(tmp_path / "data", embedder=embedder) as client:
        add(client, GUIDE)
        assert ask(client, "Who holds the spare key?")["grounded"]
        assert ask(client, "Who holds the spare key?")["cache"] == "miss"
        embedder.refuses = False
        assert ask(client, "Who holds the spare key?")["cache"] == "miss"
        assert ask(client, "Who holds the spare key?")["cache"] == "hit"


class SlowEmbedder(HashEmbedder):
    """Queries wait for the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Vectors:
        """Wait, then embed."""
        if urgent:
            self.gate.wait(30)
        return super().embed(texts, urgent=urgent)


def test_the_same_question_at_once_is_computed_once(tmp_path: Path) -> None:
    """Callers of one question at the same time share one computation."""
    embedder = SlowEmbedder()
    with serving(tmp_path / "data", embedder=embedder) as client:
        add(client, "The answer is forty-two.")
        calls = embedder.calls
        answers: list[str] = []
        threads = [
            threading.Thread(target=lambda: answers.append(ask(client, "What is it?")["answer"]))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        until(lambda: in_flight(client) >= 6)
        time.sleep(0.1)
        embedder.gate.set()
        for thread in threads:
            thread.join(20)
        assert len(set(answers)) == 1
        assert len(answers) == 6
        assert embedder.calls - calls <= 2  # The question and the sentences.


@pytest.mark.timing
def test_too_many_requests_are_503(tmp_path: Path) -> None:
    """Beyond running and waiting places a request is refused at once, and health still answers."""
    embedder = SlowEmbedder()
    with serving(tmp_path / "data", embedder=embedder, max_concurrency=2, max_waiting=2) as client:
        results: list[int] = []

        def send(number: int) -> None:
            response = client.post("/v1/ask", json={"question": f"What is {number}?"})
            results.append(response.status_code)

        threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: in_flight(client) >= 4)
        start = time.monotonic()
        for stream in (True, False):
            response = client.post("/v1/ask", json={"question": "One more?", "stream": stream})
            assert_problem(response, 503, "overloaded")
            assert response.headers["retry-after"] == "1"
        assert client.get("/health").status_code == 200
        assert client.get("/livez").status_code == 200
        assert time.monotonic() - start < 5
        embedder.gate.set()
        for thread in threads:
            thread.join(20)
        assert results == [200] * 4
        assert client.post("/v1/ask", json={"question": "One more?"}).status_code == 200
        assert 'rag_refused_total{reason="overloaded"} 2.0' in client.get("/metrics").text


def in_flight(client: TestClient) -> int:
    """Requests being worked on, without the one that asks."""
    lines = client.get("/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith("rag_requests_in_flight ")]
    return int(float(line.split()[1])) - 1
