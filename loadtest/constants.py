"""`make sizing-constants`: measures what `ragdock sizing` computes with, as JSON."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtest.calibrate import Cost, costs, storage
from loadtest.facts import environment
from loadtest.mix import WRITES, Mix, corpus
from loadtest.target import Target
from loadtest.watch import busy_elsewhere

__all__ = ["measure"]

N_DOCUMENTS = 100
SECONDS = 6.0
KINDS = {
    "hit": "ask hit",
    "ask": "ask miss",
    "search_hit": "search hit",
    "search": "search miss",
}


def measure(python: str = sys.executable, seconds: float = SECONDS) -> dict[str, Any]:
    """The constants; takes about `seconds` for each of six kinds and a minute besides."""
    facts = environment()
    mix = Mix()
    directory = Path(tempfile.mkdtemp(prefix="ragdock-sizing-"))
    try:
        _say("one process, answers from the documents")
        with Target(directory / "one", python=python, redis=False) as target:
            idle = target.facts()
            with busy_elsewhere() as others:
                before = target.facts()
                n_chunks = target.fill(N_DOCUMENTS)
                ingest_ms = (target.facts().cpu_seconds - before.cpu_seconds) / n_chunks * 1000
                target.warm(mix)
                found = costs(target, mix, seconds, list(KINDS.values()))
                one = target.facts()
                busy = others()
        _say("with an LLM of no latency, which leaves ragdock's own part")
        with Target(directory / "llm", python=python, redis=False, llm="fixed:0") as target:
            target.fill(N_DOCUMENTS)
            found["ask_llm"] = costs(target, mix, seconds, ["ask miss"])["ask miss"]
        _say("without ingestion, which leaves the acceptance of an upload")
        alone = {"RAG_INGEST": "false"}
        with Target(directory / "accept", python=python, redis=False, settings=alone) as target:
            target.ask("POST", "/v1/collections", {"name": WRITES})
            found["upload"] = costs(target, mix, seconds, ["upload"])["upload"]
        _say("two processes, for their memory")
        with Target(directory / "two", python=python, redis=False, workers=2) as target:
            target.fill(N_DOCUMENTS)
            target.warm(mix)
            two = target.facts()
        _say("stores of several shapes, for bytes a passage")
        stored = storage(python)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    characters = sum(len(document["text"]) for document in corpus(N_DOCUMENTS))
    kinds = {name: _kind(found[kind]) for name, kind in KINDS.items()}
    noise = f", others used {busy:.1f} processors meanwhile" if busy > 0.25 else ""
    return {
        "origin": f"make sizing-constants, {facts['at']}, commit {facts['commit']}{noise}",
        "machine": facts["machine"],
        "busy_elsewhere_cpus": round(busy, 2),
        "kinds": kinds | {name: _kind(found[name]) for name in ("ask_llm", "upload")},
        "n_chunks": n_chunks,
        # Both measured at 100,000 passages by `make bench`: lexical and dense alone.
        "scan_ms_per_100k": 12.8,
        "ingest_cpu_ms_per_chunk": round(ingest_ms, 2),
        "characters_per_chunk": round(characters / n_chunks, 1),
        "process_mb": round(idle.pss_mb, 1),
        "extra_process_mb": round(max(two.pss_mb - one.pss_mb, 0.0), 1),
        "cache_mb": round(stored["page_cache_mb"] + 32, 1),
        "memory_bytes_per_chunk": round(stored["memory_bytes_per_chunk"], 1),
        "disk_bytes_per_chunk": round(stored["disk_bytes_per_chunk"], 1),
        "disk_bytes_per_character": round(stored["disk_bytes_per_character"], 3),
        # Allowances, not measured here.
        "parser_mb": 60.0,
        "base_disk_mb": 0.5,
        "redis_mb": 10.0,
        "answer_kb": 3.0,
    }


def _kind(cost: Cost) -> dict[str, float]:
    values = asdict(cost)
    return {name: round(values[name], 3) for name in ("cpu_ms", "alone_ms", "scv", "serial_ms")}


def _say(text: str) -> None:
    print(f"  {text} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(), indent=2) + "\n")
