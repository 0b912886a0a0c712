"""Speed and memory of the embedded store on synthetic data: `python bench/store.py [n_chunks]...`.

Texts draw from a Zipf vocabulary of 50,000 words, 120 words a chunk, 10 chunks a document; vectors
are clustered. Times are wall-clock milliseconds, p50 and p95.
"""

from __future__ import annotations

import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ragdock.adapters.stores.sqlite import SqliteStore
from ragdock.core.filters import parse_filter
from ragdock.types import Chunk, Metadata, ParsedDocument, Upload, Vectors

DIM = 384
CHUNKS_A_DOCUMENT = 10
WORDS_A_CHUNK = 120
N_WORDS = 50_000
N_QUERIES = 60


class Corpus:
    """Texts and vectors by document number, the same every time."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self.words = np.array([f"w{n}x" for n in range(N_WORDS)])
        weights = 1.0 / np.arange(10, N_WORDS + 10)
        self._cumulative = np.cumsum(weights / weights.sum())
        self._centres = rng.standard_normal((200, DIM)).astype(np.float32)

    def texts(self, seed: int, n: int) -> list[str]:
        """`n` chunks of text."""
        rng = np.random.default_rng(seed)
        drawn = np.searchsorted(self._cumulative, rng.random((n, WORDS_A_CHUNK)))
        return [" ".join(self.words[np.minimum(row, N_WORDS - 1)]) for row in drawn]

    def vectors(self, seed: int, n: int) -> Vectors:
        """(n, DIM) unit rows around the centres."""
        rng = np.random.default_rng(seed + 10**6)
        rows = self._centres[rng.integers(0, 200, n)] + rng.standard_normal((n, DIM)).astype(
            np.float32
        )
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def _upload(name: str, texts: list[str], metadata: Metadata) -> Upload:
    content = "\n".join(texts).encode()
    return Upload(
        name, f"{name}.txt", "text/plain", content, hashlib.sha256(content).hexdigest(), metadata
    )


def _commit(store: SqliteStore, corpus: Corpus, seed: int, owner: str = "bench") -> None:
    for job in store.claim(owner, 100, 600.0):
        with store.open_content(job.id) as file:
            parts = file.read().decode().split("\n")
        text = "\n".join(parts)
        chunks, start = [], 0
        for ordinal, part in enumerate(parts):
            chunks.append(Chunk(ordinal, start, start + len(part), part))
            start += len(part) + 1
        store.commit_document(
            job, ParsedDocument(text, ()), chunks, corpus.vectors(seed, len(parts))
        )


def fill(store: SqliteStore, corpus: Corpus, n_chunks: int) -> None:
    """Write the documents, in batches of 100 uploads, and print the rates."""
    n_documents = n_chunks // CHUNKS_A_DOCUMENT
    accepting = committing = 0.0
    for first in range(0, n_documents, 100):
        batch = [
            _upload(
                f"d{n}",
                corpus.texts(n, CHUNKS_A_DOCUMENT),
                {"percent": n % 100, "half": n % 2 == 0, "n": n},
            )
            for n in range(first, min(first + 100, n_documents))
        ]
        start = time.perf_counter()
        store.accept("bench", batch)
        accepting += time.perf_counter() - start
        start = time.perf_counter()
        _commit(store, corpus, first)
        committing += time.perf_counter() - start
    print(
        f"  accept {n_documents / accepting:.0f} documents/s in batches of 100, "
        f"claim + commit {n_documents / committing:.0f} documents/s "
        f"({n_chunks / committing:.0f} chunks/s)"
    )


def _measure(name: str, call: Callable[[int], object], n: int = N_QUERIES) -> None:
    first = time.perf_counter()
    call(0)
    first = time.perf_counter() - first
    times = []
    for k in range(1, n + 1):
        start = time.perf_counter()
        call(k)
        times.append(1000 * (time.perf_counter() - start))
    p50, p95 = np.percentile(times, [50, 95])
    print(f"  {name:34} p50 {p50:7.2f} ms   p95 {p95:7.2f} ms   first {1000 * first:7.1f} ms")


def search(directory: Path) -> None:
    """Open in this process, ask, and print times and memory."""
    corpus = Corpus()
    queries = corpus.vectors(10**7, N_QUERIES + 1)
    words = [" ".join(text.split()[:6]) for text in corpus.texts(10**7, N_QUERIES + 1)]
    before = _rss_mb()
    start = time.perf_counter()
    store = SqliteStore(directory)
    with store.reader("bench") as reader:
        reader.dense(queries[0], 100)
    print(f"  open and first dense query {1000 * (time.perf_counter() - start):.0f} ms")
    filters = {
        "1 %": parse_filter({"percent": 7}),
        "50 %": parse_filter({"half": True}),
        "99 %": parse_filter({"percent": {"ne": 7}}),
    }

    def dense(where: str | None) -> Callable[[int], object]:
        def call(k: int) -> object:
            with store.reader("bench") as reader:
                return reader.dense(queries[k], 100, filters[where] if where else None)

        return call

    def lexical(where: str | None) -> Callable[[int], object]:
        def call(k: int) -> object:
            with store.reader("bench") as reader:
                return reader.lexical(words[k], 100, filters[where] if where else None)

        return call

    for where in (None, *filters):
        _measure(f"dense, {where or 'no'} filter", dense(where))
        _measure(f"lexical, {where or 'no'} filter", lexical(where))
    _measure("state_key", lambda _: store.state_key("bench"))
    print(f"  memory of searching: +{_rss_mb() - before:.0f} MB (peak {_peak_mb():.0f} MB)")

    def write(k: int) -> None:
        store.accept("bench", [_upload(f"d{k}", corpus.texts(k + 10**8, 10), {"percent": 7})])
        _commit(store, corpus, k)

    _measure("replace a document, start to end", write, 20)

    def write_and_ask(k: int) -> None:
        write(k + 10**4)
        dense(None)(k)

    _measure("the same and a dense query", write_and_ask, 20)
    texts = corpus.texts(5, 2_500)
    store.accept("bench", [_upload("book", texts, {})])
    _measure("commit of 2,500 chunks", lambda _: _commit(store, corpus, 5), 0 + 1)
    start = time.perf_counter()
    store.delete_document("bench", "book")
    print(f"  delete of 2,500 chunks {1000 * (time.perf_counter() - start):.0f} ms")
    before = _peak_mb()
    store.accept(
        "bench",
        [Upload("big", "b", "text/plain", b"x" * 50_000_000, hashlib.sha256(b"").hexdigest())],
    )
    print(f"  accept of 50 MB: peak memory +{_peak_mb() - before:.0f} MB (50 MB of it the upload)")
    store.close()


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Fill one store a size; ask in a process of its own."""
    if sys.argv[1:2] == ["--search"]:
        search(Path(sys.argv[2]))
        return
    for n_chunks in map(int, sys.argv[1:] or ["20000", "100000"]):
        with tempfile.TemporaryDirectory() as name:
            print(f"{n_chunks:,} chunks x {DIM}")
            store = SqliteStore(Path(name))
            store.create_collection("bench", "bench", DIM)
            fill(store, Corpus(), n_chunks)
            store.close()
            n_bytes = sum(path.stat().st_size for path in Path(name).rglob("*") if path.is_file())
            print(f"  disk {n_bytes / 2**20:.0f} MB", flush=True)
            subprocess.run([sys.executable, __file__, "--search", name], check=True)


if __name__ == "__main__":
    main()
