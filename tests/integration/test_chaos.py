"""Nothing acknowledged is lost, doubled or torn: not by kills, a full disk, nor a jumping clock.

`make chaos` runs the same at full length (bench/chaos.py).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from support.chaos import Arrivals, Killer, Questions, check, is_ready, settle, tmpfs
from support.serving import ServerProcess, until

ENVIRONMENT: dict[str, Any] = {
    "RAG_CHUNK_TOKENS": 40,
    "RAG_LEASE_SECONDS": 3,
    "RAG_LOG_LEVEL": "warning",
}
SCALE = float(os.environ.get("CHAOS_SCALE", "1"))


def _told(name: str, *counts: Any) -> None:
    sys.stderr.write(f"chaos {name}: {json.dumps([dict(one) for one in counts])}\n")


def _sound(counts: Any, n_documents: int) -> None:
    assert counts["found"] == n_documents
    wrong = ("torn", "doubled", "unexpected", "failed jobs", "chunks of no document")
    assert {name: counts[name] for name in wrong} == dict.fromkeys(wrong, 0)


def test_kills_lose_double_and_tear_nothing(tmp_path: Path) -> None:
    """SIGKILL for web and worker at random instants while documents arrive and all is asked."""
    data = tmp_path / "data"
    web = ServerProcess(data, **ENVIRONMENT)
    worker = ServerProcess(data, worker=True, **ENVIRONMENT)
    n_documents, n_kills = int(200 * SCALE), int(20 * SCALE)
    with web, worker:
        arrivals = Arrivals([web.url], n_documents)
        questions = Questions([web.url], n_documents)
        killer = Killer([web, worker], n_kills, mean_seconds=1.5, seed=11)
        for one in (arrivals, questions, killer):
            one.start()
        killer.join(600.0 * max(SCALE, 1))
        arrivals.join(600.0)
        until(lambda: is_ready(web), 60)
        with web.client() as client:
            settle(client)
            questions.stop()
            counts = check(client, arrivals, data)
    _told("kills", killer.counts, arrivals.counts, questions.counts, counts)
    _sound(counts, n_documents)
    assert sum(killer.counts.values()) == n_kills
    assert questions.counts["answered with the document"] > 0


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """On a disk that fills up uploads are refused, questions answered; freed, all goes on."""
    try:
        disk = tmpfs(tmp_path / "disk", 48)
        directory = disk.__enter__()
    except PermissionError as exc:
        pytest.skip(f"a disk of one's own needs root: {exc}")
    try:
        web = ServerProcess(directory / "data", log_dir=tmp_path, **ENVIRONMENT)
        n_documents = int(120 * max(SCALE, 1))
        with web:
            arrivals = Arrivals([web.url], n_documents, pause_seconds=0.02)
            questions = Questions([web.url], n_documents)
            for one in (arrivals, questions):
                one.start()
            n_fills = 0
            while len(arrivals.acknowledged) < n_documents:
                time.sleep(0.7)
                _fill(directory / "ballast")
                n_fills += 1
                # Some are in work now, and some on their way. Small ones may still fit in the space
                # that the database files hold already.
                time.sleep(1.5)
                (directory / "ballast").unlink()
            arrivals.join(120)
            with web.client() as client:
                settle(client)
                questions.stop()
                counts = check(client, arrivals, directory / "data")
        _told("full disk", {"fills": n_fills}, arrivals.counts, questions.counts, counts)
        _sound(counts, n_documents)
        assert arrivals.counts["refused: disk_full"] > 0
    finally:
        disk.__exit__(None, None, None)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def test_a_jumping_clock_loses_nothing(tmp_path: Path) -> None:
    """The wall clocks of web and workers jump by days, one worker is suspended beyond its lease."""
    data = tmp_path / "data"
    web = ServerProcess(data, stepping=True, RAG_INGEST="false", **ENVIRONMENT)
    workers = [ServerProcess(data, worker=True, stepping=True, **ENVIRONMENT) for _ in range(2)]
    n_documents = int(150 * SCALE)
    with web, workers[0], workers[1]:
        arrivals = Arrivals([web.url], n_documents)
        questions = Questions([web.url], n_documents)
        killer = Killer([workers[1]], int(5 * SCALE), mean_seconds=2.0, seed=5)
        for one in (arrivals, questions, killer):
            one.start()
        time.sleep(1.0)
        assert workers[0].process is not None
        workers[0].process.send_signal(signal.SIGSTOP)
        time.sleep(5.0)
        workers[0].process.send_signal(signal.SIGCONT)
        arrivals.join(600.0)
        killer.join(600.0)
        start = time.monotonic()
        with web.client() as client:
            settle(client, 120.0)
            waited_seconds = time.monotonic() - start
            questions.stop()
            counts = check(client, arrivals, data)
    _told("clock", killer.counts, arrivals.counts, questions.counts, counts)
    _sound(counts, n_documents)
    # Nothing waited for a day that wasn't over.
    assert waited_seconds < 60


def test_two_servers_on_one_directory(tmp_path: Path) -> None:
    """Both ingest and answer, replace each other's documents, and see each other at once."""
    data = tmp_path / "data"
    servers = [ServerProcess(data, **ENVIRONMENT) for _ in range(2)]
    n_rounds = int(25 * SCALE)
    with servers[0], servers[1], servers[0].client() as one, servers[1].client() as other:
        for n in range(n_rounds):
            here, there = (one, other) if n % 2 else (other, one)
            text = f"Round {n}: the quay is called pier{n}q today."
            put = here.put("/v1/documents/shared?wait=true", json={"text": text})
            assert put.status_code == 200, put.text
            assert there.get("/v1/documents/shared/text").text == text
            hits = there.post("/v1/search", json={"query": "quay pier today"}).json()["hits"]
            assert [hit["text"] for hit in hits] == [text]
            answer = there.post("/v1/ask", json={"question": "How is the quay called today?"})
            assert f"pier{n}q" in answer.text
        _hammer(servers, n_rounds)
        for client in (one, other):
            settle(client)
        for name in ("a", "b", "c"):
            newest = one.get("/v1/jobs", params={"document_id": name, "limit": 1000}).json()["jobs"]
            assert {job["status"] for job in newest} == {"done"}
            applied = next(job for job in newest if job["outcome"] == "indexed")
            assert one.get(f"/v1/documents/{name}").json()["version"] == applied["id"]
            texts = {client.get(f"/v1/documents/{name}/text").text for client in (one, other)}
            assert len(texts) == 1
    _told("two servers", {"rounds": n_rounds, "writes": 4 * n_rounds})


def _hammer(servers: list[ServerProcess], n_rounds: int) -> None:
    failed: list[str] = []

    def write(number: int) -> None:
        with servers[number % 2].client() as client:
            for n in range(n_rounds):
                name = "abc"[n % 3]
                response = client.put(
                    f"/v1/documents/{name}?wait=true",
                    json={"text": f"Writer {number} says hello number {n}."},
                )
                if response.status_code != 200:
                    failed.append(response.text)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
