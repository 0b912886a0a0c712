"""Bytes of a passage on disk and in memory: fills stores and fits a line. Prints one JSON object.

Needs the package and `bench/corpus.py`; `calibrate.storage` runs it with the server's Python.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import corpus

from ragdock.bootstrap import open_services
from ragdock.services.retrieve import Query
from ragdock.settings import Settings

N_CHUNKS = 5_000
N_SHARED = 24_000  # Above 20,000, where the vectors are a file that all processes map.
WORDS = (40, 130, 200)


def store_bytes(n_chunks: int, words: int, *, ask: bool = False) -> tuple[float, float, float]:
    """Bytes on disk, characters of all passages, and the growth of this process's memory.

    With `ask` the disk's bytes are those of the vectors' mapped file alone.
    """
    corpus.WORDS_PER_CHUNK = words
    with tempfile.TemporaryDirectory() as name:
        settings = Settings.load(
            data_dir=Path(name), samples=False, redis_host=None, llm_base_url=None, workers=1
        )
        source = corpus.Words(settings.model_dir / "vocab.txt", seed=1)
        with open_services(settings, work=False) as services:
            empty = _disk(Path(name))
            corpus.fill(services, "sizing", n_chunks, source)
        characters = sum(len(source.passage(words)) for _ in range(200)) / 200
        grown = 0.0
        if ask:
            with open_services(settings, work=False) as services:
                services.embedder.embed(["warm up"])
                before = _memory()
                for _ in range(20):
                    services.retriever.search(Query(source.question(), collection="sizing"))
                grown = _memory() - before
            mapped = sum(file.stat().st_size for file in Path(name).rglob("vectors.i8"))
            return mapped, characters * n_chunks, grown
        return _disk(Path(name)) - empty, characters * n_chunks, grown


def main() -> None:
    """Fit disk = a * passages + b * characters, by least squares over the shapes."""
    rows = [store_bytes(N_CHUNKS, words) for words in WORDS]
    x = [characters / N_CHUNKS for _, characters, _ in rows]
    y = [disk / N_CHUNKS for disk, _, _ in rows]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum(
        (a - mean_x) ** 2 for a in x
    )
    mapped, _, grown = store_bytes(N_SHARED, WORDS[1], ask=True)
    found = {
        "disk_bytes_per_chunk": mean_y - slope * mean_x + mapped / N_SHARED,
        "disk_bytes_per_character": slope,
        # The vectors; what else a search makes a process keep is SQLite's bounded page cache.
        "memory_bytes_per_chunk": mapped / N_SHARED,
        "page_cache_mb": max(grown - mapped, 0.0) / 2**20,
    }
    sys.stdout.write(json.dumps(found) + "\n")


def _disk(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _memory() -> float:
    """Proportional set size of this process in bytes."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024.0


if __name__ == "__main__":
    main()
