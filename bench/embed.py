"""Speed of the local embedder: chunks a second, and how long a query takes.

    PYTHONPATH=src python bench/embed.py TEXT_FILE [--model-dir models] [--seconds 10]

Cuts the file into passages of about 900 characters, as the chunker would. Each figure is from a
run of `--seconds`; the floor is the same text on one thread, in the same run.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import resource
import textwrap
import threading
import time
from pathlib import Path

import numpy as np

from ragdock.adapters.embedders.minilm import MiniLmEmbedder

PASSAGE_CHARACTERS = 900


def passages(text: str) -> list[str]:
    """The text in pieces that end between words."""
    return textwrap.wrap(" ".join(text.split()), PASSAGE_CHARACTERS) or [""]


def queries(text: str) -> list[str]:
    """Openings of the text's sentences, as long as questions are."""
    sentences = re.split(r"(?<=[.!?])\s+", " ".join(text.split()))
    return [" ".join(sentence.split()[:12]) for sentence in sentences if sentence] or [""]


def chunks_per_second(
    embedder: MiniLmEmbedder, texts: list[str], seconds: float
) -> tuple[float, float]:
    """Bulk throughput of one caller with 64 texts at a time: per second, and per CPU second.

    The second figure holds on a machine that others use too.
    """
    supply = itertools.cycle(texts)
    n_done, started, cpu = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - started) < seconds:
        n_done += len(embedder.embed(list(itertools.islice(supply, 64))))
    return n_done / elapsed, n_done / (time.process_time() - cpu)


def query_milliseconds(embedder: MiniLmEmbedder, texts: list[str], seconds: float) -> str:
    """Median and 95th percentile of single urgent texts."""
    supply, times = itertools.cycle(texts), []
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        embedder.embed([next(supply)], urgent=True)
        times.append((time.perf_counter() - started) * 1000)
    p50, p95 = np.percentile(times, [50, 95])
    return f"p50 {p50:6.2f} ms   p95 {p95:6.2f} ms   ({len(times)} queries)"


def query_beside_bulk(
    embedder: MiniLmEmbedder, asked: list[str], texts: list[str], seconds: float
) -> str:
    """Query times while another caller keeps the pool full."""
    stop = threading.Event()

    def bulk() -> None:
        while not stop.is_set():
            embedder.embed(texts[:16])

    thread = threading.Thread(target=bulk)
    thread.start()
    try:
        return query_milliseconds(embedder, asked, seconds)
    finally:
        stop.set()
        thread.join()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--model-dir", type=Path, default=Path("models"))
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    text = options.file.read_text(encoding="utf-8", errors="replace")
    texts, asked = passages(text), queries(text)
    floor = 0.0
    for threads in (1, 2):
        embedder = MiniLmEmbedder(options.model_dir, threads)
        if threads == 1:
            mean = np.mean([embedder.n_tokens(passage) for passage in texts])
            print(f"{embedder.id}: {len(texts)} passages of {mean:.0f} tokens, ", end="")
            print(f"{os.cpu_count()} processors")
        embedder.embed(texts[:8])
        speed, per_cpu = chunks_per_second(embedder, texts, options.seconds)
        floor = floor or speed
        print(f"threads {threads}: {speed:6.1f} chunks/s   {speed / floor:4.2f} x floor   ", end="")
        print(f"{per_cpu:6.1f} chunks per CPU second")
        print(f"  query, idle        {query_milliseconds(embedder, asked, options.seconds / 2)}")
        beside = query_beside_bulk(embedder, asked, texts, options.seconds / 2)
        print(f"  query beside bulk  {beside}")
        embedder.close()
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
