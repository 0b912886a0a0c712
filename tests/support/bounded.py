"""A server in a container of 512 MB that takes in large files while it answers questions."""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from support.large_files import vocabulary, write_pdf, write_text

__all__ = ["Measured", "Memory", "Queries", "embeddings_process", "measure"]

LIMIT_MB = 512
PAUSE_SECONDS = 0.1
SAMPLE_SECONDS = 0.25


class Memory:
    """What a container's cgroup (v1 or v2) says of its memory, sampled while it runs."""

    def __init__(self, pid: int) -> None:
        self._path, self._is_v2 = _cgroup(pid)
        self.peak_anon_mb = 0.0
        self.peak_file_mb = 0.0

    def sample(self) -> None:
        """Look once."""
        stat = dict(line.split() for line in (self._path / "memory.stat").read_text().splitlines())
        anon, file = ("anon", "file") if self._is_v2 else ("total_rss", "total_cache")
        self.peak_anon_mb = max(self.peak_anon_mb, int(stat[anon]) / 2**20)
        self.peak_file_mb = max(self.peak_file_mb, int(stat[file]) / 2**20)

    @property
    def limit_mb(self) -> float:
        """What the kernel holds it to."""
        name = "memory.max" if self._is_v2 else "memory.limit_in_bytes"
        return int((self._path / name).read_text()) / 2**20

    @property
    def peak_mb(self) -> float:
        """The most that it had, page cache included (the kernel's own count)."""
        name = "memory.peak" if self._is_v2 else "memory.max_usage_in_bytes"
        return int((self._path / name).read_text()) / 2**20

    @property
    def n_killed(self) -> int:
        """How many processes the kernel killed for want of memory."""
        name = "memory.events" if self._is_v2 else "memory.oom_control"
        lines = dict(line.split() for line in (self._path / name).read_text().splitlines())
        return int(lines["oom_kill"])


def _cgroup(pid: int) -> tuple[Path, bool]:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            return Path(f"/sys/fs/cgroup/memory{path}"), False
        if not controllers and Path(f"/sys/fs/cgroup{path}/memory.stat").exists():
            return Path(f"/sys/fs/cgroup{path}"), True
    raise AssertionError(f"process {pid} is in no cgroup that counts memory")


class Queries:
    """Asks every 100 ms, until it is told to stop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.milliseconds: list[float] = []
        self.failures: list[str] = []

    def __enter__(self) -> Queries:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def percentile(self, share: float) -> float:
        """The time that so many of the queries took at most, in milliseconds."""
        ordered = sorted(self.milliseconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

    def _ask(self) -> None:
        words = vocabulary()
        with httpx2.Client(base_url=self._url, timeout=30, trust_env=False) as client:
            for number in itertools.count():
                if self._stop.wait(PAUSE_SECONDS):
                    return
                # Another question each time: the cache would answer the same one.
                question = f"{words[number % 3000]} {words[-1 - number % 9000]} marker{number}"
                begin = time.perf_counter()
                try:
                    response = client.post("/v1/search", json={"query": question})
                except httpx2.HTTPError as exc:
                    self.failures.append(repr(exc))
                    continue
                self.milliseconds.append((time.perf_counter() - begin) * 1000)
                if response.status_code != 200:
                    self.failures.append(response.text)


@dataclass
class Measured:
    """What came of one run."""

    seconds: dict[str, float] = field(default_factory=dict)
    n_chunks: dict[str, int] = field(default_factory=dict)
    n_pages: dict[str, int] = field(default_factory=dict)
    percents: dict[str, list[int]] = field(default_factory=dict)
    found: dict[str, bool] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def measure(
    url: str, memory: Memory, directory: Path, *, text_mb: int, n_pages: int, hours: float = 1.0
) -> Measured:
    """Ingest both files, one after the other, while queries run; raises when one fails."""
    text, pdf = directory / "prose.txt", directory / "handbook.pdf"
    write_text(text, text_mb * 2**20)
    write_pdf(pdf, n_pages)
    measured = Measured()
    with (
        httpx2.Client(base_url=url, timeout=600, trust_env=False) as client,
        Queries(url) as queries,
    ):
        for path, words in ((pdf, ("sheet1", f"sheet{n_pages}")), (text, ("marker0", "marker7"))):
            _ingest(client, path, memory, measured, hours * 3600)
            for word in words:
                hits = client.post("/v1/search", json={"query": word, "mode": "lexical"}).json()
                measured.found[word] = any(word in hit["text"] for hit in hits["hits"])
    size_mb = pdf.stat().st_size / 2**20
    measured.lines = [
        f"{n_pages} pages ({size_mb:.0f} MB): {measured.seconds[pdf.name]:.0f} s, "
        f"{measured.n_chunks[pdf.name]} passages",
        f"{text_mb} MB of text: {measured.seconds[text.name]:.0f} s, "
        f"{measured.n_chunks[text.name]} passages",
        f"memory: limit {memory.limit_mb:.0f} MB, peak {memory.peak_mb:.0f} MB with page cache, "
        f"{memory.peak_anon_mb:.0f} MB without, {memory.n_killed} killed",
        f"queries meanwhile: {len(queries.milliseconds)}, {len(queries.failures)} failed, "
        f"p50 {statistics.median(queries.milliseconds):.0f} ms, "
        f"p95 {queries.percentile(0.95):.0f} ms, max {max(queries.milliseconds):.0f} ms",
    ]
    assert not queries.failures, queries.failures[:3]
    return measured


def _ingest(
    client: httpx2.Client, path: Path, memory: Memory, measured: Measured, limit_seconds: float
) -> None:
    begin = time.monotonic()
    with path.open("rb") as file:
        response = client.put(f"/v1/documents/{path.stem}", files={"file": (path.name, file)})
    assert response.status_code == 202, response.text
    job_id = response.json()["documents"][0]["job_id"]
    percents: list[int] = []
    while True:
        memory.sample()
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
        percents.append(job["percent"])
        if job["status"] not in ("pending", "processing"):
            break
        assert time.monotonic() - begin < limit_seconds, job
        time.sleep(SAMPLE_SECONDS)
    assert job["status"] == "done", job
    measured.seconds[path.name] = time.monotonic() - begin
    measured.percents[path.name] = percents
    document = client.get(f"/v1/documents/{path.stem}").json()
    measured.n_chunks[path.name] = document["n_chunks"]
    measured.n_pages[path.name] = document["n_pages"]


@contextmanager
def embeddings_process(dim: int = 64) -> Iterator[str]:
    """The URL of an embeddings server in a process of its own, which takes no time of this one."""
    code = (
        "import sys, time\n"
        "from support.embeddings_server import serve_embeddings\n"
        f"with serve_embeddings({dim}, '') as server:\n"
        "    server.requests = type('Nothing', (), {'append': lambda *_: None})()\n"
        "    print(server.url, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{root / 'src'}:{root / 'tests'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def pid_of(name: str) -> int:
    """The process id of a container."""
    shown = subprocess.run(
        ["docker", "inspect", name], capture_output=True, text=True, check=True
    ).stdout
    return int(json.loads(shown)[0]["State"]["Pid"])
