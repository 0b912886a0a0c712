"""`/v1/ask` with an LLM: its answers, its failures, and what is never shown or kept."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from support.llm_server import LlmServer
from support.serving import serving, until
from support.web import add, ask, events

QUESTION = "How long does the lamp burn?"
SECRET = "sk-do-not-show-me"


@contextmanager
def with_llm(directory: Path, model: str, **settings: object) -> Iterator[TestClient]:
    """A server with a document, that asks the scripted LLM of that model."""
    fields = {"llm_timeout_seconds": 1.0} | settings
    with (
        LlmServer(api_key=SECRET) as llm,
        serving(
            directory / "data",
            llm_base_url=llm.base_url,
            llm_model=model,
            llm_api_key=SECRET,
            **fields,
        ) as client,
    ):
        client.llm = llm  # type: ignore[attr-defined]
        add(client, "The lamp burns for nine hours. It needs oil.", "lamp")
        yield client


def test_the_llm_answers_with_citations(tmp_path: Path) -> None:
    """An LLM's answer carries checked citations, and is cached."""
    with with_llm(tmp_path, "ok") as client:
        answer = ask(client, QUESTION)
        assert answer["generator"].startswith("openai:ok")
        assert answer["grounded"] is True
        assert answer["fallback_reason"] is None
        assert "nine hours" in answer["answer"]
        (citation,) = answer["citations"]
        text = client.get("/v1/documents/lamp/text").text
        assert text[citation["start"] : citation["end"]] == citation["quote"]
        assert ask(client, QUESTION)["cache"] == "hit"
        assert len(client.llm.requests) == 1  # type: ignore[attr-defined]


def test_the_llm_streams(tmp_path: Path) -> None:
    """Its words arrive as several deltas that together are the answer; a hit is one delta."""
    with with_llm(tmp_path, "ok") as client:
        body = {"question": QUESTION, "stream": True}
        found = events(client.post("/v1/ask", json=body))
        names = [name for name, _ in found]
        assert names == ["delta"] * (len(names) - 1) + ["done"]
        assert len(names) > 3
        assert "".join(data["text"] for _, data in found[:-1]).strip() == found[-1][1]["answer"]
        again = events(client.post("/v1/ask", json=body))
        assert [name for name, _ in again] == ["delta", "done"]
        assert again[-1][1]["cache"] == "hit"


FAILURES = [
    ("hang", "timeout"),
    ("http500", "http"),
    ("http429", "http"),
    ("disconnect", "connection"),
    ("cut", "cut"),
    ("malformed", "protocol"),
    ("empty", "protocol"),
]


@pytest.mark.parametrize(("model", "reason"), FAILURES)
def test_a_failing_llm_falls_back(tmp_path: Path, model: str, reason: str) -> None:
    """Whatever fails, the answer is 200, extractive, cited, says why, and isn't cached."""
    with with_llm(tmp_path, model) as client:
        for _ in range(2):
            answer = ask(client, QUESTION)
            assert answer["generator"] == "extractive"
            assert answer["cache"] == "miss"
            assert "nine hours" in answer["answer"]
            assert answer["citations"]
        assert answer["fallback_reason"] == reason
        metrics = client.get("/metrics").text
        assert 'rag_answers_total{generator="extractive",result="fallback"} 2.0' in metrics


@pytest.mark.parametrize("model", ["cut", "malformed", "error_in_stream", "stall"])
def test_a_stream_that_breaks_is_reset(tmp_path: Path, model: str) -> None:
    """After pieces were shown, a failure is a reset and a whole extractive answer."""
    with with_llm(tmp_path, model) as client:
        body = {"question": QUESTION, "stream": True}
        found = events(client.post("/v1/ask", json=body))
        names = [name for name, _ in found]
        reset = names.index("reset")
        assert names[:reset] == ["delta"] * reset
        assert reset > 0
        assert names[reset + 1 :] == ["delta", "done"]
        done = found[-1][1]
        assert found[reset][1]["reason"] == done["fallback_reason"]
        assert found[reset + 1][1]["text"] == done["answer"]
        assert done["generator"] == "extractive"
        assert done["cache"] == "miss"
        assert events(client.post("/v1/ask", json=body))[-1][1]["cache"] == "miss"


def test_a_stream_that_never_began_needs_no_reset(tmp_path: Path) -> None:
    """When no piece was shown there is nothing to forget: delta and done, with the reason."""
    with with_llm(tmp_path, "http500") as client:
        found = events(client.post("/v1/ask", json={"question": QUESTION, "stream": True}))
        assert [name for name, _ in found] == ["delta", "done"]
        assert found[-1][1]["fallback_reason"] == "http"


@pytest.mark.parametrize("stream", [True, False])
def test_sources_that_were_not_given_are_not_cited(tmp_path: Path, stream: bool) -> None:
    """A marker of an unknown source reaches neither the answer nor a delta."""
    with with_llm(tmp_path, "not_given_citation") as client:
        response = client.post("/v1/ask", json={"question": QUESTION, "stream": stream})
        assert "[9]" not in response.text
        answer = events(response)[-1][1] if stream else response.json()
        assert "[1]" in answer["answer"]
        assert [citation["marker"] for citation in answer["citations"]] == [1]


def test_health_names_the_llm(tmp_path: Path) -> None:
    """An LLM that is down degrades health, by name, and is not required."""
    with with_llm(tmp_path, "ok") as client:
        report = client.get("/health").json()
        assert report["status"] == "ok"
        assert "llm" in [d["name"] for d in report["dependencies"]]
    with serving(tmp_path / "dead", llm_base_url="http://127.0.0.1:9/v1", llm_model="ok") as client:
        response = client.get("/health")
        assert response.status_code == 200
        assert response.json()["status"] == "degraded"
        down = [d["name"] for d in response.json()["dependencies"] if d["status"] == "down"]
        assert down == ["llm"]


def test_no_log_line_holds_key_question_or_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the LLM's key, nor the question, nor the document is logged, even when it fails."""
    with caplog.at_level(logging.DEBUG, "ragdock"), with_llm(tmp_path, "http500") as client:
        ask(client, QUESTION)
        client.get("/health")
    logged = json.dumps([str(vars(record)) for record in caplog.records])
    assert "the LLM failed" in logged
    for secret in (SECRET, "lamp burn", "nine hours"):
        assert secret not in logged


def test_a_client_that_leaves_frees_the_llm(tmp_path: Path) -> None:
    """When the client closes a stream, the LLM's connection is closed and the place is free."""
    import httpx2

    from support.serving import ServerProcess

    with LlmServer() as llm:
        server = ServerProcess(
            tmp_path / "data",
            RAG_LLM_BASE_URL=llm.base_url,
            RAG_LLM_MODEL="slow",
            RAG_MAX_CONCURRENCY=1,
        )
        with server, server.client() as client:
            add(client, "The lamp " + "burns and " * 100 + "burns for nine hours.", "lamp")
            body = {"question": QUESTION, "stream": True}
            with httpx2.stream("POST", f"{server.url}/v1/ask", json=body) as response:
                next(response.iter_raw())
            assert until(lambda: llm.requests[0].client_left.is_set(), 10)
            assert client.post("/v1/search", json={"query": "lamp"}).status_code == 200


def test_identical_questions_share_one_call(tmp_path: Path) -> None:
    """Six callers of one question at once cost one call of the LLM."""
    with with_llm(tmp_path, "slow", llm_timeout_seconds=30) as client:
        answers: list[str] = []
        threads = [
            threading.Thread(target=lambda: answers.append(ask(client, QUESTION)["answer"]))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(answers) == 6
        assert len(set(answers)) == 1
        assert len(client.llm.requests) == 1  # type: ignore[attr-defined]
