"""What ragdock costs on this machine, beside the floors that nothing could go below.

    make bench
    python bench/run.py [--only ingest,query,http] [--sizes 1000,10000,100000] [--json FILE] [--dry]
    python bench/run.py --only sizing --json FILE    constants for `ragdock sizing --constants FILE`

Each number stands beside its floor (the same work without ragdock's layers) or ceiling (the same
answer without the work), measured in the same run, and their ratio beside its aim. On a shared
machine compare ratios, not milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "bench"), str(ROOT)]

from corpus import Words, fill, texts  # noqa: E402
from load import Load, closed_loop, once, post  # noqa: E402

from ragdock.adapters.parsers.dispatch import ParserPool  # noqa: E402
from ragdock.bootstrap import DEFAULT_COLLECTION, Services, open_services  # noqa: E402
from ragdock.core.evaluation import percentile  # noqa: E402
from ragdock.core.keys import sha256_hex  # noqa: E402
from ragdock.samples import sample_questions  # noqa: E402
from ragdock.services.pipeline import embedded_text, passages  # noqa: E402
from ragdock.services.retrieve import Query, Timings  # noqa: E402
from ragdock.settings import Settings, cpu_quota  # noqa: E402
from ragdock.types import Upload  # noqa: E402

PARTS = ("ingest", "query", "http")
N_CLIENTS = (1, 8)
MEMORY_MB = 512


@dataclass(slots=True)
class Extent:
    """How much of each is measured."""

    n_queries: int = 200
    ingest_documents: int = 120
    ingest_passages: int = 8
    load_seconds: float = 2.0
    load_rounds: int = 3


EXTENT = Extent()
DRY = Extent(n_queries=4, ingest_documents=3, ingest_passages=2, load_seconds=0.1, load_rounds=1)

Row = dict[str, Any]


def main() -> None:
    """Run the parts that were asked for and print their tables."""
    arguments = _arguments()
    if arguments.dry:
        for name in Extent.__slots__:
            setattr(EXTENT, name, getattr(DRY, name))
    wanted = arguments.only.split(",")
    sizes = [int(size) for size in arguments.sizes.split(",")]
    print(
        f"{platform.machine()}, {_processor()}, {cpu_quota()} CPUs for this process, "
        f"Python {platform.python_version()}"
    )
    results: dict[str, Any] = {}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ragdock-bench-") as scratch:
        settings = Settings.load(
            data_dir=Path(scratch), samples=False, redis_host=None, llm_base_url=None, workers=1
        )
        words = Words(settings.model_dir / "vocab.txt", seed=1)
        if "ingest" in wanted:
            results["ingest"] = _show("Ingest", measure_ingest(settings, words))
        if "query" in wanted or "http" in wanted:
            with open_services(settings, work=False) as services:
                for size in sizes:
                    begun = time.monotonic()
                    fill(services, _collection(size), size, words)
                    print(f"  filled {size} chunks in {time.monotonic() - begun:.1f} s")
                if "query" in wanted:
                    rows = [row for size in sizes for row in measure_queries(services, size, words)]
                    results["query"] = _show("Hybrid search through the services, ms", rows)
        if "http" in wanted:
            results["http"] = measure_http(settings, sizes, words)
    if "sizing" in wanted:
        from loadtest.constants import measure

        results["sizing"] = measure()
        print(json.dumps(results["sizing"], indent=2))
    print(f"\n{time.monotonic() - started:.0f} s in all")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--sizes", default="1000,10000,100000", help="chunks of each collection")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    parser.add_argument("--dry", action="store_true", help="a little of all, to see that it runs")
    return parser.parse_args()


# Ingest


def measure_ingest(settings: Settings, words: Words) -> list[Row]:
    """Chunks a second from accepted to searchable, beside the embedder on the same chunks."""
    with tempfile.TemporaryDirectory(prefix="ragdock-bench-") as scratch:
        apart = settings.model_copy(update={"data_dir": Path(scratch)})
        with open_services(apart) as services:
            documents = texts(words, EXTENT.ingest_documents, EXTENT.ingest_passages)
            chunks = _chunks(services, documents)
            # Half before and half after: a machine that slows down slows both.
            half = len(chunks) // 2
            seconds = _embed(services, chunks[:half])
            started = time.perf_counter()
            services.ingester.submit(DEFAULT_COLLECTION, [_upload(text) for text in documents])
            if not services.ingester.drain(600.0):
                raise RuntimeError("Ingestion did not end within ten minutes.")
            ingest_seconds = time.perf_counter() - started
            n_chunks = services.store.collection(DEFAULT_COLLECTION).n_chunks
            seconds += _embed(services, chunks[half:])
    ours, floor = n_chunks / ingest_seconds, len(chunks) / seconds
    return [
        {
            "documents": len(documents),
            "chunks": n_chunks,
            "ingest chunks/s": ours,
            "embedder alone chunks/s": floor,
            "ratio": ours / floor,
            "aim": ">= 0.9",
            "met": ours / floor >= 0.9,
        }
    ]


def _chunks(services: Services, documents: Sequence[str]) -> list[str]:
    settings = services.settings
    parser = ParserPool(settings.parse_timeout_seconds, settings.parse_memory_mb or MEMORY_MB)
    with closing(parser):
        return [
            embedded_text(chunk)
            for text in documents
            for part in parser.parts(BytesIO(text.encode()), "bench.txt", "text/plain")
            for chunk in passages(part, services.embedder, settings.chunk_tokens)
        ]


def _embed(services: Services, chunks: Sequence[str]) -> float:
    started = time.perf_counter()
    services.embedder.embed(chunks)
    return time.perf_counter() - started


def _upload(text: str) -> Upload:
    content = text.encode()
    digest = sha256_hex(content)
    return Upload(f"d-{digest[:24]}", "bench.txt", "text/plain", content, digest)


# Queries through the services


def measure_queries(services: Services, size: int, words: Words) -> list[Row]:
    """Uncached and cached hybrid search, beside its three parts measured alone."""
    name = _collection(size)
    services.retriever.retrieve(Query("warm up", collection=name), Timings())
    floors: dict[str, list[float]] = {"embed": [], "lexical": [], "dense": []}
    questions, uncached = [], []
    for _ in range(EXTENT.n_queries):
        # In turns, so that a busy moment of the machine hits both; each with a question of its
        # own, so that neither finds the pages that the other has read.
        questions.append(words.question())
        uncached.append(_timed_search(services, questions[-1], name))
        _measure_floors(services, words.question(), name, floors)
    cached = [_timed_search(services, question, name) for question in questions]
    floor = sum(percentile(values, 0.5) for values in floors.values())
    p50 = percentile(uncached, 0.5)
    row: Row = {
        "chunks": size,
        "p50": p50,
        "p95": percentile(uncached, 0.95),
        "cached p50": percentile(cached, 0.5),
        "cached p95": percentile(cached, 0.95),
        **{f"{part} alone": percentile(values, 0.5) for part, values in floors.items()},
        "sum": floor,
        "ratio": p50 / floor,
        "aim": "<= 1.5" if size == 100_000 else "",
        "met": p50 / floor <= 1.5 if size == 100_000 else None,
    }
    return [row]


def _measure_floors(
    services: Services, question: str, name: str, floors: dict[str, list[float]]
) -> None:
    started = time.perf_counter()
    vector = services.embedder.embed([question], urgent=True)[0]
    floors["embed"].append(_ms_since(started))
    with services.store.reader(name) as reader:
        started = time.perf_counter()
        reader.lexical(question, services.settings.candidates)
        floors["lexical"].append(_ms_since(started))
        started = time.perf_counter()
        reader.dense(vector, services.settings.candidates)
        floors["dense"].append(_ms_since(started))


def _timed_search(services: Services, question: str, name: str) -> float:
    query = Query(question, collection=name, top_k=services.settings.top_k)
    started = time.perf_counter()
    services.retriever.search(query)
    return _ms_since(started)


# HTTP


def measure_http(settings: Settings, sizes: Sequence[int], words: Words) -> list[Row]:
    """Latency at each size, then requests a second at 1 and 8 clients, over loopback."""
    with _server(settings) as (port, pid):
        _wait_for_samples(port)
        latency = [_http_latency(port, size, words) for size in sizes]
        _show("Hybrid search over HTTP, one client, ms", latency)
        questions = [item.question for item in sample_questions() if item.file]
        asks = [post("/v1/ask", {"question": question}) for question in questions]
        bodies = [once(port, ask) for ask in asks]
        searches = [
            post("/v1/search", {"query": words.question(), "collection": _collection(sizes[-1])})
            for _ in range(EXTENT.n_queries)
        ]
        for search in searches:
            once(port, search)
        rows = []
        with _ceiling(bodies[0], settings.data_dir) as (ceiling_port, ceiling_pid):
            bare = [post("/answer", {"question": questions[0]})]
            for n_clients in N_CLIENTS:
                # In turns, so that a busy minute of the machine hits all of them.
                loads: dict[str, list[Load]] = {"ask": [], "search": [], "bare": []}
                for _ in range(EXTENT.load_rounds):
                    for kind, at, of, requests in (
                        ("ask", port, pid, asks),
                        ("search", port, pid, searches),
                        ("bare", ceiling_port, ceiling_pid, bare),
                    ):
                        load = closed_loop(
                            at, requests, n_clients, seconds=EXTENT.load_seconds, pid=of
                        )
                        loads[kind].append(_checked(load))
                rows.append(_throughput(n_clients, "cached ask", loads["ask"], loads["bare"]))
                rows.append(_throughput(n_clients, "cached search", loads["search"], loads["bare"]))
                rows.append(_uncached(port, pid, n_clients, sizes[-1], words))
        _show("Requests a second over HTTP", rows)
    return [*latency, *rows]


def _http_latency(port: int, size: int, words: Words) -> Row:
    searches = [
        post("/v1/search", {"query": words.question(), "collection": _collection(size)})
        for _ in range(EXTENT.n_queries)
    ]
    once(port, post("/v1/search", {"query": "warm up", "collection": _collection(size)}))
    uncached = _checked(closed_loop(port, searches, 1))
    cached = _checked(closed_loop(port, searches, 1))
    return {
        "chunks": size,
        "p50": percentile(uncached.latencies_ms, 0.5),
        "p95": percentile(uncached.latencies_ms, 0.95),
        "cached p50": percentile(cached.latencies_ms, 0.5),
        "cached p95": percentile(cached.latencies_ms, 0.95),
    }


def _uncached(port: int, pid: int, n_clients: int, size: int, words: Words) -> Row:
    searches = [
        post("/v1/search", {"query": words.question(), "collection": _collection(size)})
        for _ in range(EXTENT.n_queries)
    ]
    load = _checked(closed_loop(port, searches, n_clients, pid=pid))
    return _load_row(n_clients, f"uncached search, {size} chunks", load)


def _throughput(n_clients: int, what: str, ours: Sequence[Load], bare: Sequence[Load]) -> Row:
    mine = max(ours, key=lambda load: load.per_second)
    ceiling = max(bare, key=lambda load: load.per_second)
    ratio = mine.per_second / ceiling.per_second
    aimed = what == "cached ask"
    return {
        **_load_row(n_clients, what, mine),
        "bare route/s": ceiling.per_second,
        "bare CPU ms": ceiling.cpu_ms,
        "ratio": ratio,
        "aim": ">= 0.5" if aimed else "",
        "met": ratio >= 0.5 if aimed else None,
    }


def _load_row(n_clients: int, what: str, load: Load) -> Row:
    return {
        "clients": n_clients,
        "what": what,
        "requests/s": load.per_second,
        "p50 ms": percentile(load.latencies_ms, 0.5),
        "p95 ms": percentile(load.latencies_ms, 0.95),
        "CPU ms": load.cpu_ms,
    }


def _checked(load: Load) -> Load:
    if load.n_errors:
        raise RuntimeError(f"{load.n_errors} of {len(load.latencies_ms)} answers were not 200.")
    return load


@contextmanager
def _server(settings: Settings) -> Iterator[tuple[int, int]]:
    environment = {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        "RAG_DATA_DIR": str(settings.data_dir),
        "RAG_MODEL_DIR": str(settings.model_dir.resolve()),
        "RAG_LOG_LEVEL": "warning",
        # More than the clients in flight, or the server would rightly answer 503.
        "RAG_MAX_WAITING": "1024",
    }
    command = [sys.executable, "-m", "ragdock", "serve", "--samples", "--port"]
    with _running(command, environment) as running:
        yield running


@contextmanager
def _ceiling(body: bytes, scratch: Path) -> Iterator[tuple[int, int]]:
    file = scratch / "ceiling-body"
    file.write_bytes(body)
    command = [sys.executable, str(ROOT / "bench" / "ceiling.py")]
    with _running(command, {}, [str(file)]) as running:
        yield running


@contextmanager
def _running(
    command: Sequence[str], environment: dict[str, str], more: Sequence[str] = ()
) -> Iterator[tuple[int, int]]:
    """Start a server on a free port; port and process id once it listens, ended with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen(
        [*command, str(port), *more], env={**os.environ, **environment}, cwd=ROOT
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[-2]} didn't start") from None
                time.sleep(0.05)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for_samples(port: int) -> None:
    question = post("/v1/ask", {"question": "Who is the managing director?"})
    deadline = time.monotonic() + 60
    while not json.loads(once(port, question))["grounded"]:
        if time.monotonic() > deadline:
            raise RuntimeError("The sample corpus was not indexed within a minute.")
        time.sleep(0.5)


# Output


def _show(title: str, rows: list[Row]) -> list[Row]:
    print(f"\n{title}")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    return rows


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 1000 else f"{value:.2f}"
    return str(value)


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _collection(size: int) -> str:
    return f"bench-{size}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?"
    )


if __name__ == "__main__":
    main()
