"""Stopping and dying: running requests are answered, and nothing acknowledged is lost."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support.llm_server import LlmServer
from support.serving import ServerProcess, until
from support.web import add, ask, assert_problem, events

pytestmark = pytest.mark.timing

N_SMALL = 200


def log_lines(server: ServerProcess) -> list[dict[str, Any]]:
    """The server's log, which is nothing but JSON lines."""
    return [json.loads(line) for line in server.log.read_text().splitlines()]


def in_background(call: Any) -> tuple[threading.Thread, list[Any]]:
    """Call in a thread; its result, or its exception, is put into the list."""
    results: list[Any] = []

    def work() -> None:
        try:
            results.append(call())
        except httpx2.TransportError as exc:
            results.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, results


def test_sigterm_lets_a_slow_request_end(tmp_path: Path) -> None:
    """A request in flight at SIGTERM is answered whole, streamed or not; exit code 0."""
    with LlmServer() as llm:
        server = ServerProcess(
            tmp_path / "data",
            RAG_LLM_BASE_URL=llm.base_url,
            RAG_LLM_MODEL="slow",
            RAG_SHUTDOWN_SECONDS=20,
        )
        with server, server.client() as client:
            add(client, "The lamp burns for nine hours.", "lamp")
            body = {"question": "How long does the lamp burn?"}
            whole, one = in_background(lambda: client.post("/v1/ask", json=body))
            stream, two = in_background(
                lambda: client.post(
                    "/v1/ask", json=body | {"stream": True}, headers={"Cache-Control": "no-cache"}
                )
            )
            until(lambda: len(llm.requests) >= 2)
            assert server.stop() == 0
            whole.join(5)
            stream.join(5)
            assert "nine hours" in one[0].json()["answer"]
            assert events(two[0])[-1][0] == "done"
        assert "ragdock has stopped" in [line["message"] for line in log_lines(server)]


def test_what_doesnt_end_in_time_is_told_to_retry(tmp_path: Path) -> None:
    """A request that outlasts the grace gets 503 `stopping`, a waiting upload its 202; in time."""
    with LlmServer() as llm:
        server = ServerProcess(
            tmp_path / "data",
            RAG_LLM_BASE_URL=llm.base_url,
            RAG_LLM_MODEL="hang",
            RAG_LLM_TIMEOUT_SECONDS=60,
            RAG_SHUTDOWN_SECONDS=4,
        )
        with server, server.client() as client:
            add(client, "The lamp burns for nine hours.", "lamp")
            body = {"question": "How long does the lamp burn?"}
            thread, results = in_background(lambda: client.post("/v1/ask", json=body))
            until(lambda: llm.requests)
            start = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - start < 4 + 2
            thread.join(5)
            assert_problem(results[0], 503, "stopping")
            assert results[0].headers["retry-after"] == "1"


def test_sigterm_gives_documents_back_and_a_second_start_goes_on(tmp_path: Path) -> None:
    """A stop in the middle of ingestion releases its claims; the next start finishes at once."""
    texts = [{"id": f"d{n}", "text": f"Document number {n}. " * 60} for n in range(60)]
    with ServerProcess(tmp_path / "data", RAG_SHUTDOWN_SECONDS=6) as server:
        with server.client() as client:
            response = client.post("/v1/documents", json={"documents": texts})
            assert response.status_code == 202
            waiting, results = in_background(
                lambda: httpx2.post(
                    f"{server.url}/v1/documents?wait=true",
                    json={"documents": [{"id": "last", "text": "The last one."}]},
                    timeout=30,
                )
            )
            until(lambda: len(client.get("/v1/jobs?limit=1000").json()["jobs"]) == 61)
        start = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - start < 6 + 2
        waiting.join(5)
        assert results[0].status_code in (200, 202), results
    assert not [line for line in log_lines(server) if line["level"] == "error"]
    with ServerProcess(tmp_path / "data") as server, server.client() as client:
        queue = client.get("/health").json()["queue"]
        assert queue["failed"] == 0
        until(lambda: not any(client.get("/health").json()["queue"].values()), 60)
        assert client.get("/v1/collections/default").json()["n_documents"] == 61
        jobs = client.get("/v1/jobs?limit=1000").json()["jobs"]
        assert {job["attempt"] for job in jobs} == {1}
        assert server.stop() == 0


@pytest.mark.parametrize("n_documents", [N_SMALL])
def test_sigkill_loses_nothing_acknowledged(tmp_path: Path, n_documents: int) -> None:
    """Killed while documents come in and are indexed: all acknowledged are found, none twice."""
    acknowledged: list[str] = []
    server = ServerProcess(tmp_path / "data").start()

    def send() -> None:
        with server.client() as client:
            for number in range(n_documents):
                document = {"id": f"k{number:03}", "text": f"Fact {number:03} is word{number:03}."}
                try:
                    response = client.post("/v1/documents", json={"documents": [document]})
                except httpx2.TransportError:
                    return
                if response.status_code == 202:
                    acknowledged.append(document["id"])

    sender = threading.Thread(target=send)
    sender.start()
    until(lambda: len(acknowledged) >= n_documents // 2, 60)
    server.kill()
    sender.join(30)
    with ServerProcess(tmp_path / "data") as second, second.client() as client:
        # The dead server's claims are free at once, without waiting for their leases.
        idle = {"pending": 0, "processing": 0, "failed": 0}
        until(lambda: client.get("/health").json()["queue"] == idle, 45)
        listed = client.get("/v1/documents?limit=1000").json()["documents"]
        ids = [body["id"] for body in listed]
        assert len(ids) == len(set(ids))
        assert set(acknowledged) <= set(ids)
        assert {body["status"] for body in listed} == {"done"}
        assert {body["n_chunks"] for body in listed} == {1}
        collection = client.get("/v1/collections/default").json()
        assert collection["n_documents"] == collection["n_chunks"] == len(ids)
        for document_id in acknowledged[:: max(1, len(acknowledged) // 10)]:
            word = f"word{document_id[1:]}"
            body = {"query": word, "mode": "lexical", "top_k": 5}
            hits = client.post("/v1/search", json=body).json()["hits"]
            assert [hit["document_id"] for hit in hits] == [document_id]
        assert ask(client, f"What is fact {acknowledged[-1][1:]}?")["grounded"]
        assert second.stop() == 0
