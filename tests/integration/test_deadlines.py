"""A request's time is over, or its client has left: the work for it stops, and places are free."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ragdock.types import Vectors
from support.embedders import HashEmbedder
from support.llm_server import LlmServer
from support.serving import ServerProcess, serving, until
from support.sockets import connect, head, read_all
from support.web import add, ask, assert_problem

pytestmark = pytest.mark.timing

QUESTION = {"question": "How long does the lamp burn?"}


class SlowEmbedder(HashEmbedder):
    """Takes its time for a query."""

    seconds = 0.0
    n_times = 1_000_000

    def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Vectors:
        """Sleep, then embed."""
        if urgent and self.seconds and self.n_times:
            self.n_times -= 1
            time.sleep(self.seconds)
        return super().embed(texts, urgent=urgent)


def ask_bytes(**more: Any) -> bytes:
    """The request as it travels."""
    body = json.dumps({**QUESTION, **more}).encode()
    lines = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    return head("POST", "/v1/ask", *lines, "Cache-Control: no-cache") + body


def test_work_that_takes_too_long_is_503(tmp_path: Path) -> None:
    """Late is `deadline_exceeded` with Retry-After, at the deadline; what follows isn't begun."""
    embedder = SlowEmbedder()
    with serving(tmp_path / "data", embedder=embedder, request_timeout_seconds=0.5) as client:
        add(client, "The lamp burns for nine hours.", "lamp")
        embedder.seconds = 1.5
        start = time.monotonic()
        response = client.post("/v1/ask", json=QUESTION)
        assert 0.4 < time.monotonic() - start < 1.4
        assert_problem(response, 503, "deadline_exceeded", says="RAG_REQUEST_TIMEOUT_SECONDS")
        assert int(response.headers["retry-after"]) >= 1
        time.sleep(1.5)
        stages = client.get("/metrics").text
        assert 'rag_query_stage_seconds_count{stage="embed"} 1.0' in stages
        assert 'stage="dense"' not in stages
        assert 'rag_refused_total{reason="deadline"} 1.0' in stages
        embedder.seconds = 0.0
        assert "nine hours" in ask(client, QUESTION["question"])["answer"]


def test_a_hanging_llm_is_left_at_the_deadline(tmp_path: Path) -> None:
    """The LLM's connection ends with the request, long before its own timeout."""
    with (
        LlmServer() as llm,
        serving(
            tmp_path / "data",
            llm_base_url=llm.base_url,
            llm_model="drip",
            llm_timeout_seconds=60,
            request_timeout_seconds=0.7,
        ) as client,
    ):
        add(client, "The lamp burns for nine hours.", "lamp")
        assert_problem(client.post("/v1/ask", json=QUESTION), 503, "deadline_exceeded")
        assert llm.requests[0].client_left.wait(5)
        response = client.post("/v1/ask", json={**QUESTION, "stream": True})
        assert_problem(response, 503, "deadline_exceeded")
        assert llm.requests[1].client_left.wait(5)


def test_a_client_that_leaves_stops_the_work(tmp_path: Path) -> None:
    """Closed connections end their LLM calls and free their places, streamed or not."""
    with LlmServer() as llm:
        server = ServerProcess(
            tmp_path / "data",
            RAG_LLM_BASE_URL=llm.base_url,
            RAG_LLM_MODEL="drip",
            RAG_LLM_TIMEOUT_SECONDS=60,
            RAG_MAX_CONCURRENCY=2,
            RAG_MAX_WAITING=2,
        )
        with server, server.client() as client:
            add(client, "The lamp burns for nine hours.", "lamp")
            leaving = [connect(server.port) for _ in range(4)]
            for number, connection in enumerate(leaving):
                connection.sendall(ask_bytes(stream=number % 2 == 1, top_k=number + 1))
            until(lambda: len(llm.requests) == 2)
            refused = client.post("/v1/ask", json=QUESTION)
            assert_problem(refused, 503, "overloaded")
            for connection in leaving:
                connection.close()
            # Both places and both waiting places are free: the two that ran and those that waited.
            until(lambda: all(r.client_left.is_set() for r in llm.requests))
            assert client.get("/v1/collections").status_code == 200
            until(lambda: "rag_requests_in_flight 1.0" in client.get("/metrics").text)
            assert 'status="499"' in client.get("/metrics").text
            assert len(llm.requests) == 2
            assert server.stop() == 0
        assert '"level": "error"' not in server.log.read_text()


def test_another_asker_of_the_same_question_is_not_cut_off(tmp_path: Path) -> None:
    """Who shares a computation with one who leaves gets an answer all the same."""
    embedder = SlowEmbedder()
    with serving(tmp_path / "data", embedder=embedder, request_timeout_seconds=1.0) as client:
        add(client, "The lamp burns for nine hours.", "lamp")
        embedder.seconds, embedder.n_times = 1.4, 1
        answers: dict[float, Any] = {}

        def later(seconds: float) -> None:
            time.sleep(seconds)
            answers[seconds] = client.post("/v1/ask", json={**QUESTION, "top_k": 3})

        threads = [threading.Thread(target=later, args=(s,)) for s in (0.0, 0.9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers[0.0].status_code == 503
        assert "nine hours" in answers[0.9].json()["answer"]


def test_waiting_for_documents_is_no_work(tmp_path: Path) -> None:
    """`?wait=true` may take its own setting's time, beyond the deadline, and ends in 202."""

    class Stuck(HashEmbedder):
        def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Vectors:
            time.sleep(0.0 if urgent else 3.0)
            return super().embed(texts, urgent=urgent)

    with serving(
        tmp_path / "data",
        embedder=Stuck(),
        request_timeout_seconds=0.5,
        wait_timeout_seconds=1.5,
    ) as client:
        start = time.monotonic()
        body = {"documents": [{"text": "The lamp burns for nine hours."}]}
        response = client.post("/v1/documents?wait=true", json=body)
        assert response.status_code == 202
        assert 1.3 < time.monotonic() - start < 3.0


def test_a_stream_outlives_the_deadline_once_it_runs(tmp_path: Path) -> None:
    """The deadline is for the work before the first word; a slow stream ends as it should."""
    with LlmServer() as llm:
        server = ServerProcess(
            tmp_path / "data",
            RAG_LLM_BASE_URL=llm.base_url,
            RAG_LLM_MODEL="slow",
            RAG_REQUEST_TIMEOUT_SECONDS=1,
        )
        with server, server.client() as client:
            add(client, "The lamp burns for nine long hours in every single night.", "lamp")
            with connect(server.port) as connection:
                connection.sendall(
                    ask_bytes(stream=True).replace(b"Host", b"Connection: close\r\nHost")
                )
                answer = read_all(connection)
            assert b"event: done" in answer
