"""Chaos: real servers and workers that are killed, filled up and misled while documents arrive.

`Arrivals` sends documents until each is acknowledged, some of them twice with another text;
`Questions` asks all the while; `Killer` kills. At the end `check` compares what is there with what
was acknowledged: through the API, and in the files.
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import apsw
import httpx2

from ragdock.adapters.stores.sqlite import SqliteStore
from support.serving import ServerProcess, until

__all__ = ["Arrivals", "Killer", "Questions", "check", "is_ready", "settle", "tmpfs"]

COLLECTION: Final = "default"
CHUNK_TOKENS: Final = 40
PATIENCE_SECONDS: Final = 300.0
KILLED_STARTING: Final = 0.2
_WORDS: Final = [
    "harbour",
    "lighthouse",
    "ferry",
    "tide",
    "pilot",
    "anchor",
    "signal",
    "current",
    "channel",
    "beacon",
    "mooring",
    "cargo",
    "captain",
    "storm",
    "compass",
    "voyage",
    "sail",
    "deck",
    "engine",
    "chart",
]


def marker(number: int) -> str:
    """A word that only this document has."""
    return f"marker{number}x"


def text_of(number: int, version: int) -> str:
    """The text of a document's version: some paragraphs, each with its marks; few are large."""
    chosen = random.Random(number * 1000 + version)
    n_paragraphs = 400 if number % 100 == 7 else chosen.randint(2, 8)
    return "\n\n".join(
        f"{marker(number)} version{version} part{part} "
        + " ".join(chosen.choice(_WORDS) for _ in range(chosen.randint(15, 30)))
        + "."
        for part in range(n_paragraphs)
    )


class _Busy:
    """Threads that run until they are told to stop, and whose failure fails the test."""

    def __init__(self, n_threads: int) -> None:
        self.stopping = threading.Event()
        self.errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=(n,), daemon=True) for n in range(n_threads)
        ]

    def _guarded(self, number: int) -> None:
        try:
            self.run(number)
        except BaseException as exc:  # noqa: BLE001 (told where it is waited for)
            self.errors.append(exc)

    def run(self, number: int) -> None:
        """What each thread does."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def join(self, timeout_seconds: float) -> None:
        """Wait until they are done by themselves."""
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), "not done in time"
        if self.errors:
            raise self.errors[0]

    def stop(self) -> None:
        """Tell them to stop, and wait."""
        self.stopping.set()
        self.join(60.0)


class Arrivals(_Busy):
    """Documents `0..n_documents - 1` on their way to the servers; every fifth comes twice.

    `acknowledged` holds the version that was last acknowledged, by document.
    """

    def __init__(
        self, urls: Sequence[str], n_documents: int, *, n_threads: int = 3, pause_seconds: float = 0
    ) -> None:
        super().__init__(n_threads)
        self._urls = urls
        self._n_threads = n_threads
        self._pause_seconds = pause_seconds
        self.n_documents = n_documents
        self.acknowledged: dict[int, int] = {}
        self.counts: Counter[str] = Counter()

    def run(self, number: int) -> None:
        """Send this thread's share."""
        mine = range(number, self.n_documents, self._n_threads)
        with httpx2.Client(timeout=30.0) as client:
            for document in mine:
                self._deliver(client, document, 0)
                if document % 5 == 0:
                    self._deliver(client, document, 1)
                time.sleep(self._pause_seconds)

    def _deliver(self, client: httpx2.Client, document: int, version: int) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        content = text_of(document, version).encode()
        n_sent = 0
        while True:
            assert time.monotonic() < deadline, f"document {document} was never acknowledged"
            url = self._urls[(document + n_sent) % len(self._urls)]
            n_sent += 1
            try:
                response = client.put(
                    f"{url}/v1/documents/d{document}", files={"file": ("d.txt", content)}
                )
            except httpx2.TransportError:
                self.counts["cut off"] += 1
                time.sleep(0.1)
                continue
            if response.status_code in (200, 202):
                self.acknowledged[document] = version
                self.counts["acknowledged"] += 1
                return
            # Full, or about to stop: both say when to come back.
            assert response.status_code == 503, (response.status_code, response.text)
            assert response.headers["retry-after"]
            self.counts[f"refused: {response.json()['code']}"] += 1
            time.sleep(0.2)


class Questions(_Busy):
    """Searches and questions without a pause; whatever is answered must be answered well.

    All hits of a document must be of one version: a torn one would show both.
    """

    def __init__(self, urls: Sequence[str], n_documents: int, *, n_threads: int = 2) -> None:
        super().__init__(n_threads)
        self._urls = urls
        self._n_documents = n_documents
        self.counts: Counter[str] = Counter()

    def run(self, number: int) -> None:
        """Ask until told to stop."""
        chosen = random.Random(number)
        with httpx2.Client(timeout=30.0) as client:
            while not self.stopping.is_set():
                url = chosen.choice(list(self._urls))
                document = chosen.randrange(self._n_documents)
                try:
                    if chosen.random() < 0.7:
                        self._search(client, url, document, chosen.choice(["lexical", "hybrid"]))
                    else:
                        self._ask(client, url, document)
                except httpx2.TransportError:
                    self.counts["down"] += 1
                    time.sleep(0.05)
                time.sleep(0.01)

    def _search(self, client: httpx2.Client, url: str, document: int, mode: str) -> None:
        body = {"query": marker(document), "mode": mode, "top_k": 20}
        response = client.post(f"{url}/v1/search", json=body)
        assert response.status_code == 200, (response.status_code, response.text)
        hits = [hit for hit in response.json()["hits"] if hit["document_id"] == f"d{document}"]
        versions = {word for hit in hits for word in hit["text"].split() if "version" in word}
        assert len(versions) <= 1, versions
        self.counts["answered"] += 1
        self.counts["answered with the document"] += bool(hits)

    def _ask(self, client: httpx2.Client, url: str, document: int) -> None:
        body = {"question": f"What does {marker(document)} say about the harbour?"}
        response = client.post(f"{url}/v1/ask", json=body)
        assert response.status_code == 200, (response.status_code, response.text)
        self.counts["answered"] += 1


class Killer(_Busy):
    """SIGKILL for one of the processes at each random instant, `n_kills` times in all.

    A killed process is started again at once. One time in five the next one may be killed while
    this one still starts; else the web is up before, or a slow machine would never serve at all.
    """

    def __init__(
        self, processes: Sequence[ServerProcess], n_kills: int, *, mean_seconds: float, seed: int
    ) -> None:
        super().__init__(1)
        self._processes = processes
        self._n_kills = n_kills
        self._mean_seconds = mean_seconds
        self._random = random.Random(seed)
        self.counts: Counter[str] = Counter()

    def run(self, number: int) -> None:
        """Kill and start again."""
        for _ in range(self._n_kills):
            if self._random.random() > KILLED_STARTING:
                self._await_web()
            if self.stopping.wait(self._random.expovariate(1.0 / self._mean_seconds)):
                break
            victim = self._random.choice(list(self._processes))
            victim.kill()
            victim.launch()
            self.counts["killed worker" if victim.is_worker else "killed web"] += 1

    def _await_web(self) -> None:
        for process in self._processes:
            while not (process.is_worker or is_ready(process) or self.stopping.is_set()):
                time.sleep(0.05)


def is_ready(server: ServerProcess) -> bool:
    """Whether the server would serve."""
    try:
        return httpx2.get(f"{server.url}/readyz", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


def settle(client: httpx2.Client, timeout_seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until the ledger holds nothing unfinished."""

    def idle() -> bool:
        with suppress(httpx2.TransportError):
            pages = [
                client.get("/v1/jobs", params={"status": status, "limit": 1}).json()["jobs"]
                for status in ("pending", "processing")
            ]
            return pages == [[], []]
        return False

    until(idle, timeout_seconds)


def check(client: httpx2.Client, arrivals: Arrivals, data_dir: Path) -> Counter[str]:
    """Acknowledged is found, whole and once; through the API, then in the files; the counts."""
    counts: Counter[str] = Counter()
    assert len(arrivals.acknowledged) == arrivals.n_documents
    for document, version in arrivals.acknowledged.items():
        body = client.get(f"/v1/documents/d{document}").json()
        assert body["status"] == "done", body
        text = client.get(f"/v1/documents/d{document}/text").text
        counts["found"] += 1
        counts["torn"] += text != text_of(document, version)
    listed = _listed(client)
    counts["doubled"] = len(listed) - len(set(listed))
    counts["unexpected"] = len({*listed} - {f"d{n}" for n in arrivals.acknowledged})
    counts["failed jobs"] = len(
        client.get("/v1/jobs", params={"status": "failed", "limit": 1000}).json()["jobs"]
    )
    counts["chunks"] = client.get(f"/v1/collections/{COLLECTION}").json()["n_chunks"]
    _check_chunks(arrivals, data_dir, counts)
    _check_files(data_dir)
    return counts


def _listed(client: httpx2.Client) -> list[str]:
    listed: list[str] = []
    after = None
    while True:
        params: dict[str, Any] = {"limit": 1000} | ({"after": after} if after else {})
        page = client.get("/v1/documents", params=params).json()
        listed += [one["id"] for one in page["documents"]]
        after = page["next"]
        if after is None:
            return listed


def _check_chunks(arrivals: Arrivals, data_dir: Path, counts: Counter[str]) -> None:
    """Every document's chunks are its text's, from its first word to its last, each once."""
    store = SqliteStore(data_dir)
    n_chunks = 0
    with store.reader(COLLECTION) as reader:
        for document, version in arrivals.acknowledged.items():
            text = text_of(document, version)
            found = reader.lexical(marker(document), 5_000)
            hits = sorted(
                reader.hits([one.chunk_id for one in found]).values(), key=lambda hit: hit.start
            )
            whole = len(hits) == store.document(COLLECTION, f"d{document}").n_chunks
            end = 0
            for hit in hits:
                whole &= hit.document_id == f"d{document}" and text[hit.start : hit.end] == hit.text
                whole &= not text[end : hit.start].strip() and hit.start >= end
                end = hit.end
            counts["torn"] += not (whole and not text[end:].strip())
            n_chunks += len(hits)
        total = reader.collection.n_chunks
    counts["chunks of no document"] = total - n_chunks
    store.close()


def _check_files(data_dir: Path) -> None:
    for path in (data_dir / "catalogue.db", *(data_dir / "collections").glob("*.db")):
        connection = apsw.Connection(str(path))
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if path.parent != data_dir:
            connection.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")
        connection.close()


@contextmanager
def tmpfs(directory: Path, size_mb: int) -> Iterator[Path]:
    """A small disk of one's own; raises `PermissionError` where nothing may be mounted."""
    directory.mkdir()
    options = f"size={size_mb}m,mode=0755"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "ragdock-chaos", str(directory)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        raise PermissionError(mounted.stderr.decode().strip())
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)
