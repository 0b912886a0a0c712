"""Promise 3: once a write or a delete is acknowledged, no older cached answer is served."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx2
import pytest
from starlette.testclient import TestClient

from support.redis_server import RedisServer
from support.serving import ServerProcess, serving
from support.web import add, ask, events

QUESTION = "At what hour does the Kittiwake leave the harbour?"
N_INTERLEAVINGS = 36


def fact(hour: str) -> str:
    """What the only document says."""
    return f"The Kittiwake leaves the harbour at the hour of {hour}."


def test_a_write_or_delete_outdates_cached_answers(tmp_path: Path) -> None:
    """In one process, each answer tells the state after the last acknowledged change."""
    with serving(tmp_path / "data") as client:
        add(client, fact("seven"), "old")
        assert "seven" in ask(client, QUESTION)["answer"]
        assert ask(client, QUESTION)["cache"] == "hit"
        search = {"query": QUESTION}
        client.post("/v1/search", json=search)
        assert client.post("/v1/search", json=search).json()["cache"] == "hit"

        client.delete("/v1/documents/old").raise_for_status()
        add(client, fact("nine"), "new")
        answer = ask(client, QUESTION)
        assert (answer["cache"], "nine" in answer["answer"]) == ("miss", True)
        hits = client.post("/v1/search", json=search).json()
        assert (hits["cache"], [h["document_id"] for h in hits["hits"]]) == ("miss", ["new"])
        streamed = client.post("/v1/ask", json={"question": QUESTION, "stream": True})
        assert "nine" in events(streamed)[-1][1]["answer"]

        client.delete("/v1/documents/new").raise_for_status()
        assert ask(client, QUESTION)["grounded"] is False


def test_a_contradicting_document_is_seen_at_once(tmp_path: Path) -> None:
    """A second document joins the answer when it is indexed, and leaves it when it is deleted."""
    with serving(tmp_path / "data") as client:
        add(client, fact("seven"), "first")
        for _ in range(2):
            assert "nine" not in ask(client, QUESTION)["answer"]
        add(client, fact("nine"), "second")
        for cache in ("miss", "hit"):
            answer = ask(client, QUESTION)
            assert answer["cache"] == cache
            assert {c["document_id"] for c in answer["citations"]} == {"first", "second"}
        client.delete("/v1/documents/second").raise_for_status()
        for cache in ("miss", "hit"):
            answer = ask(client, QUESTION)
            assert answer["cache"] == cache
            assert {c["document_id"] for c in answer["citations"]} == {"first"}


def test_a_collection_made_anew_shares_nothing(tmp_path: Path) -> None:
    """Dropping a collection and making one of that name doesn't bring its answers back."""
    with serving(tmp_path / "data") as client:
        for hour in ("seven", "nine"):
            client.post("/v1/collections", json={"name": "boats"}).raise_for_status()
            add(client, fact(hour), "boat", collection="boats")
            answer = ask(client, QUESTION, collection="boats")
            assert (answer["cache"], hour in answer["answer"]) == ("miss", True)
            assert ask(client, QUESTION, collection="boats")["cache"] == "hit"
            client.delete("/v1/collections/boats").raise_for_status()


def test_two_processes_with_redis_never_serve_what_was(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Writes through one server outdate the other's answers at once; both share what is current."""
    environment = {
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": redis_server.port,
        "RAG_REDIS_TIMEOUT_SECONDS": 2,
    }
    hits = 0
    with (
        ServerProcess(tmp_path / "data", **environment) as one,
        ServerProcess(tmp_path / "data", **environment) as two,
        one.client() as first,
        two.client() as second,
    ):
        for number in range(N_INTERLEAVINGS):
            writer, reader = (first, second) if number % 2 else (second, first)
            hits += change_and_look(writer, reader, number)
    # Each round asks the reader twice: the second time, nothing has changed.
    assert hits >= N_INTERLEAVINGS // 2


def change_and_look(writer: httpx2.Client, reader: httpx2.Client, number: int) -> int:
    """Change the document through one server, ask both; how many answers came from a cache."""
    if number % 5 == 4:
        writer.delete("/v1/documents/boat").raise_for_status()
        answers = [ask(client, QUESTION) for client in (reader, writer, reader)]
        assert [answer["grounded"] for answer in answers] == [False] * 3, answers
    else:
        text = fact(f"number {number:03}")
        response = writer.put("/v1/documents/boat?wait=true", json={"text": text})
        assert response.json()["documents"][0]["status"] == "done", response.text
        answers = [ask(client, QUESTION) for client in (reader, writer, reader)]
        for answer in answers:
            assert f"{number:03}" in answer["answer"], (number, answer)
    assert answers[0]["cache"] == "miss"
    assert answers[1]["answer"] == answers[0]["answer"]
    return sum(answer["cache"] == "hit" for answer in answers[1:])


@pytest.mark.parametrize("n_rounds", [20])
def test_reads_beside_writes_are_never_older_than_the_last_ack(
    tmp_path: Path, n_rounds: int
) -> None:
    """While readers keep asking, none sees an hour older than what was acknowledged before."""
    with serving(tmp_path / "data") as client:
        put(client, 0)
        acknowledged = [0]
        stale: list[object] = []
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                floor = acknowledged[0]
                answer = ask(client, QUESTION)
                seen = [n for n in range(n_rounds + 1) if f"n{n:03}" in answer["answer"]]
                if not seen or min(seen) < floor:
                    stale.append((floor, answer))

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(1, n_rounds + 1):
            put(client, number)
            acknowledged[0] = number
        stop.set()
        for thread in threads:
            thread.join(20)
        assert stale == []


def put(client: TestClient, number: int) -> None:
    """Replace the document and wait for it."""
    body = {"text": fact(f"n{number:03}")}
    response = client.put("/v1/documents/boat?wait=true", json=body)
    assert response.status_code == 200, response.text
