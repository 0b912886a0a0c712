"""A rehearsal of reindexing: a live server, readers, writers, and a reindex that is killed twice.

Some documents stay as they are, and what a search finds among them is known beforehand for both
indexes, exactly: so each answer is the old index's, the new one's, or a mixture of them.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from ragdock.bootstrap import open_services
from ragdock.services.retrieve import Query
from ragdock.types import Upload
from support.embedders import HashEmbedder
from support.serving import ROOT, ServerProcess, hash_arguments, make_settings, until
from support.stores import upload

__all__ = ["Plan", "Report", "Result", "rehearse"]

N_READERS = 2
N_WRITERS = 2
N_WORDS = 3_000
TOP_K = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """`n_documents` of `n_paragraphs` stay as they are; the embedder or the passages change."""

    n_documents: int
    n_paragraphs: int
    n_queries: int
    new_dim: int
    new_chunk_tokens: int
    n_kills: int = 2
    old_dim: int = 64
    old_chunk_tokens: int = 64

    def text(self, n: int) -> str:
        """A document's text."""
        drawn = random.Random(n)
        words = (f"word{drawn.randrange(N_WORDS)}" for _ in range(1_000_000))
        paragraphs = (
            " ".join(f"{' '.join(next(words) for _ in range(12))}." for _ in range(8))
            for _ in range(self.n_paragraphs)
        )
        return "\n\n".join(paragraphs)

    def queries(self) -> list[str]:
        """What is searched for."""
        drawn = random.Random(-1)
        return [
            " ".join(f"word{drawn.randrange(N_WORDS)}" for _ in range(4))
            for _ in range(self.n_queries)
        ]


Result = tuple[tuple[str, int, int, float], ...]
"""What a search found: document, start, end, cosine."""


@dataclass(slots=True)
class Report:
    """What happened."""

    n_chunks: tuple[int, int] = (0, 0)
    kills: int = 0
    seconds: float = 0.0
    reindex: dict[str, Any] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    went_back: int = 0
    p95_ms: float = 0.0
    acknowledged: int = 0
    refused: int = 0
    lost: list[str] = field(default_factory=list)
    files: int = 0


def rehearse(directory: Path, plan: Plan) -> Report:
    """Do it all, and tell; nothing is asserted here."""
    report = Report()
    data = directory / "data"
    old = _fill(data, plan, plan.old_dim, plan.old_chunk_tokens)
    new = _fill(directory / "reference", plan, plan.new_dim, plan.new_chunk_tokens)
    report.n_chunks = (old.n_chunks, new.n_chunks)
    server = _server(data, plan.old_dim, plan.old_chunk_tokens)
    with server, _Readers(server, old.results, new.results, report) as readers:
        with _Writers(server, report) as writers:
            until(lambda: report.acknowledged > 5)
            start = time.monotonic()
            _reindex(data, plan, report)
            report.seconds = time.monotonic() - start
            until(lambda: report.refused > 3 or report.errors)
        n_before = sum(report.answers.values())
        until(lambda: sum(report.answers.values()) > n_before + 20 or report.errors)
        # A server with the new settings begins beside the old one, which goes on answering.
        with (
            _server(data, plan.new_dim, plan.new_chunk_tokens) as second,
            _Readers(second, {}, new.results, report),
        ):
            _require_writes(second, writers, report)
            n_before = sum(report.answers.values())
            until(lambda: sum(report.answers.values()) > n_before + 20 or report.errors)
        report.p95_ms = readers.p95_ms()
    report.files = len(list((data / "collections").glob("*.db")))
    return report


# ---- the two indexes -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Filled:
    results: dict[str, Result]
    n_chunks: int


def _fill(data: Path, plan: Plan, dim: int, chunk_tokens: int) -> _Filled:
    """A store with the documents that stay, and what each query finds."""
    settings = make_settings(data, chunk_tokens=chunk_tokens, max_queue=100_000)
    with open_services(settings, embedder=HashEmbedder(dim)) as services:
        for first in range(0, plan.n_documents, 100):
            batch = range(first, min(first + 100, plan.n_documents))
            services.ingester.submit("default", [_document(plan, n) for n in batch])
        assert services.ingester.drain(1_800)
        results = {}
        for query in plan.queries():
            body, _ = services.retriever.search(
                Query(query, top_k=TOP_K, mode="dense", where=_fixed()), bypass=True
            )
            results[query] = _result(json.loads(body)["hits"])
        return _Filled(results, services.store.collection("default").n_chunks)


def _document(plan: Plan, n: int) -> Upload:
    return upload(f"fixed{n}", plan.text(n), fixed=True)


def _fixed() -> Any:
    from ragdock.core.filters import parse_filter

    return parse_filter({"fixed": True})


def _result(hits: list[dict[str, Any]]) -> Result:
    return tuple(
        (hit["document_id"], hit["start"], hit["end"], hit["scores"]["dense"]) for hit in hits
    )


# ---- the processes -------------------------------------------------------------------------------


def _server(data: Path, dim: int, chunk_tokens: int) -> ServerProcess:
    return ServerProcess(
        data,
        hashed=dim,
        RAG_CHUNK_TOKENS=chunk_tokens,
        RAG_MAX_QUEUE=100_000,
        RAG_MAX_WAITING=1_000,
    )


def _reindex(data: Path, plan: Plan, report: Report) -> None:
    """Run the command, kill it some times on the way, and let it finish."""
    drawn = random.Random(5)
    while True:
        process = _spawn(data, plan)
        if report.kills < plan.n_kills:
            _kill_at(process, _percent(data) + drawn.uniform(15, 30), data)
            report.kills += 1
            continue
        _, said = process.communicate(timeout=3_600)
        if process.returncode:
            report.errors.append(f"reindex: {said}")
        else:
            report.reindex = json.loads(said.strip().splitlines()[-1])
        return


def _kill_at(process: subprocess.Popen[str], percent: float, data: Path) -> None:
    """Kill the process when it is so far, or when it is done already."""
    while process.poll() is None and _percent(data) < percent:
        time.sleep(0.05)
    process.kill()
    process.communicate()


def _percent(data: Path) -> float:
    import apsw

    connection = apsw.Connection(str(data / "catalogue.db"), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.set_busy_timeout(5_000)
        rows: list[Any] = connection.execute(
            "SELECT percent FROM indexes WHERE retired_at IS NULL"
        ).fetchall()
        return float(rows[0][0]) if rows else 0.0
    finally:
        connection.close()


def _spawn(data: Path, plan: Plan) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAG_", "REDIS_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "support.reindex", *hash_arguments(plan.new_dim), "default"],
        env={
            **kept,
            "RAG_DATA_DIR": str(data),
            "RAG_CHUNK_TOKENS": str(plan.new_chunk_tokens),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")]),
        },
        cwd=data.parent,
        stderr=subprocess.PIPE,
        text=True,
    )


class _Threads:
    def __init__(self, n: int) -> None:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(me,), daemon=True) for me in range(n)
        ]

    def _work(self, me: int) -> None:
        raise NotImplementedError

    def __enter__(self) -> Any:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


class _Readers(_Threads):
    """Searches among the documents that stay; each answer is told apart by what is expected."""

    def __init__(
        self,
        server: ServerProcess,
        old: dict[str, Result],
        new: dict[str, Result],
        report: Report,
    ) -> None:
        super().__init__(N_READERS)
        self._server, self._old, self._new, self._report = server, old, new, report
        self._seconds: list[float] = []

    def p95_ms(self) -> float:
        """Of all answers."""
        ordered = sorted(self._seconds)
        return 1_000 * ordered[int(0.95 * (len(ordered) - 1))] if ordered else 0.0

    def _work(self, me: int) -> None:
        drawn = random.Random(me)
        queries = list(self._new)
        seen_new = False
        with self._server.client() as client:
            while not self._stop.is_set():
                query = drawn.choice(queries)
                body = {
                    "query": query,
                    "mode": "dense",
                    "top_k": TOP_K,
                    "filters": {"fixed": True},
                }
                start = time.perf_counter()
                try:
                    reply = client.post("/v1/search", json=body)
                except httpx2.HTTPError as exc:
                    self._report.errors.append(f"search: {exc!r}")
                    continue
                self._seconds.append(time.perf_counter() - start)
                if reply.status_code != 200:
                    self._report.errors.append(f"search: {reply.status_code} {reply.text}")
                    continue
                which = self._which(query, _result(reply.json()["hits"]))
                self._report.answers[which] += 1
                if which == "mixed" and self._report.answers["mixed"] < 4:
                    self._report.errors.append(f"mixed: {query} {reply.text[:2_000]}")
                self._report.went_back += seen_new and which == "old"
                seen_new = seen_new or which == "new"

    def _which(self, query: str, result: Result) -> str:
        if result == self._new[query]:
            return "new"
        return "old" if result == self._old.get(query) else "mixed"


class _Writers(_Threads):
    """Adds, replaces and deletes other documents; what is refused by a clear 409 is counted."""

    def __init__(self, server: ServerProcess, report: Report) -> None:
        super().__init__(N_WRITERS)
        self._server, self._report = server, report
        self._lock = threading.Lock()
        self.latest: dict[str, str | None] = {}
        self.uncertain: set[str] = set()

    def _work(self, me: int) -> None:
        n = 0
        with self._server.client() as client:
            while not self._stop.is_set():
                n += 1
                name = f"w{me}-{n % 12}"
                marker = f"marker{me}x{n}"
                if n % 7 == 0:
                    reply = client.delete(f"/v1/documents/{name}")
                    self._note(name, None, reply, (204, 404))
                else:
                    document = {"id": name, "text": f"{marker} of {name}"}
                    reply = client.post("/v1/documents", json={"documents": [document]})
                    self._note(name, marker, reply, (200, 202))
                time.sleep(0.02)

    def _note(
        self, name: str, marker: str | None, reply: httpx2.Response, good: tuple[int, ...]
    ) -> None:
        with self._lock:
            if reply.status_code in good:
                self.latest[name] = marker
                self._report.acknowledged += 1
            elif reply.status_code == 409 and reply.json()["code"] == "fingerprint_mismatch":
                self._report.refused += 1
            else:
                self._report.errors.append(f"write: {reply.status_code} {reply.text}")


def _require_writes(server: ServerProcess, writers: _Writers, report: Report) -> None:
    """Every acknowledged write is in the new index, every deleted document isn't."""
    with server.client() as client:

        def drained() -> bool:
            queue = client.get("/health").json()["queue"]
            return not queue["pending"] and not queue["processing"]

        until(drained, 300)
        for name, marker in writers.latest.items():
            body = {"query": marker or name, "mode": "lexical", "filters": {"document_id": name}}
            hits = client.post("/v1/search", json=body).json()["hits"]
            there = [hit["text"].split()[0] for hit in hits]
            if there != ([marker] if marker else []):
                report.lost.append(f"{name}: {marker} expected, {there} found")
        written = client.put(
            "/v1/documents/after", params={"wait": True}, json={"text": "written afterwards"}
        )
        if written.status_code != 200:
            report.errors.append(f"write afterwards: {written.status_code} {written.text}")
