"""From a corpus and a load to processors, processes, memory, disk and money.

`plan` takes what was measured (`Constants`) and what is wanted (`Demand`), and answers with the
smallest machine that keeps the target, and what it was computed from. `queueing` holds the model of
the latencies; memory and disk are linear in passages and characters. The constants belong to the
processor that they were measured on: another one is faster or slower by the ratio of their clocks
at best, so measure yours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from ragdock.core.queueing import (
    Delay,
    Flow,
    Prediction,
    Station,
    knee_per_second,
    load_of,
    predict,
    scaled,
)
from ragdock.core.sizing_inputs import Constants, Demand, Kind, Prices

__all__ = [
    "HOURS_A_MONTH",
    "Constants",
    "Cost",
    "Demand",
    "Disk",
    "Kind",
    "Memory",
    "Plan",
    "Prices",
    "flows",
    "passages",
    "plan",
]

HOURS_A_MONTH: Final = 730.0
SECONDS_A_DAY: Final = 86_400.0
MEMORY_HEADROOM: Final = 1.25
"""Allocators and page cache: a limit at what was measured is an OOM kill on a busy day."""
STORE_FULL: Final = 0.7
"""A volume is planned to be so full: SQLite's WAL, temporary files and growth take the rest."""


@dataclass(frozen=True, slots=True)
class Memory:
    """MiB of one replica's server, and what of it is what; `redis_mb` is beside it."""

    needed_mb: float
    limit_mb: int
    processes_mb: float
    vectors_mb: float
    caches_mb: float
    parser_mb: float
    redis_mb: int


@dataclass(frozen=True, slots=True)
class Disk:
    """GB (10**9 bytes) of one replica; `volume_gb` has room for a reindex beside the live index."""

    store_gb: float
    reindex_gb: float
    volume_gb: float


@dataclass(frozen=True, slots=True)
class Cost:
    """A month of everything, and its parts."""

    month: float
    cpu: float
    memory: float
    disk: float
    llm: float
    currency: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. `feasible` is False when nothing within the limits keeps the target.

    `prediction` is of one replica at its share of the load; `knee_per_second` is where a replica's
    waiting begins to cost more than its throughput gains, `max_per_second` the most that it takes
    within the target. `warnings` say where the model doesn't hold.
    """

    feasible: bool
    replicas: int
    cpus: int
    workers: int
    chunks: int
    prediction: Prediction
    knee_per_second: float
    max_per_second: float
    background_cpus: float
    memory: Memory
    disk: Disk
    cost: Cost
    warnings: tuple[str, ...]
    settings: dict[str, str] = field(default_factory=dict)


def plan(demand: Demand, constants: Constants, prices: Prices | None = None) -> Plan:
    """The cheapest number of machines and processors that keeps the target p95.

    Replicas before processors where both would do: one data directory is one machine's, so a second
    replica is a copy. Raises `InputError` for a demand that contradicts itself.
    """
    n_chunks = passages(demand, constants)
    ingest_cpus = (
        demand.uploads_per_day
        / SECONDS_A_DAY
        * (_chunks_a_document(demand, constants) * constants.ingest_cpu_ms_per_chunk / 1000)
    )
    best = _cheapest(demand, constants, n_chunks, ingest_cpus)
    feasible = best is not None
    if best is None:
        replicas, cpus, workers = demand.min_replicas, demand.max_cpus, demand.max_cpus
        wanted = flows(demand, constants, n_chunks, 1 / replicas, workers)
        best = (replicas, cpus, workers, predict(wanted, _station(cpus, workers, ingest_cpus)))
    replicas, cpus, workers, prediction = best
    station = _station(cpus, workers, ingest_cpus)
    wanted = flows(demand, constants, n_chunks, 1 / replicas, workers)
    memory = _memory(demand, constants, n_chunks, workers)
    disk = _disk(demand, constants, n_chunks)
    return Plan(
        feasible=feasible,
        replicas=replicas,
        cpus=cpus,
        workers=workers,
        chunks=n_chunks,
        prediction=prediction,
        knee_per_second=knee_per_second(wanted, station),
        max_per_second=_most_within(wanted, station, demand.target_p95_ms),
        background_cpus=ingest_cpus,
        memory=memory,
        disk=disk,
        cost=_cost(demand, prices or Prices(), replicas, cpus, memory, disk),
        warnings=tuple(
            _warnings(demand, constants, feasible, n_chunks, replicas, prediction, ingest_cpus)
        ),
        settings={
            "RAG_WORKERS": str(workers),
            "RAG_LLM_CONCURRENCY": str(demand.llm_concurrency),
        },
    )


def passages(demand: Demand, constants: Constants) -> int:
    """How many passages the corpus makes."""
    if demand.chunks is not None:
        return demand.chunks
    return math.ceil(demand.documents * _chunks_a_document(demand, constants))


def flows(
    demand: Demand, constants: Constants, n_chunks: int, share: float = 1.0, workers: int = 1
) -> list[Flow]:
    """The requests of one replica that gets `share` of the load; only asks, searches, uploads."""
    more_ms = (n_chunks - constants.n_chunks) / 100_000 * constants.scan_ms_per_100k
    delay = None
    if demand.llm_median_ms:
        places = demand.llm_concurrency * workers
        delay = Delay(demand.llm_median_ms, demand.llm_p95_ms, places)
    uncached = "ask_llm" if delay else "ask"
    rates: tuple[tuple[str, float, Delay | None], ...] = (
        ("hit", demand.asks_per_second * demand.hit_share, None),
        (uncached, demand.asks_per_second * (1 - demand.hit_share), delay),
        ("search_hit", demand.searches_per_second * demand.hit_share, None),
        ("search", demand.searches_per_second * (1 - demand.hit_share), None),
        ("upload", demand.uploads_per_day / SECONDS_A_DAY, None),
    )
    found = []
    for name, rate, elsewhere in rates:
        kind = constants.kinds[name]
        # A cached answer reads no passage, and an upload none but its own.
        extra = max(more_ms, -0.9 * kind.alone_ms) if name in ("ask", "ask_llm", "search") else 0.0
        found.append(
            Flow(
                name,
                rate * share,
                max(kind.cpu_ms + extra, 0.0),
                kind.alone_ms + extra,
                kind.scv,
                kind.serial_ms,
                elsewhere,
            )
        )
    return found


def _cheapest(
    demand: Demand, constants: Constants, n_chunks: int, ingest_cpus: float
) -> tuple[int, int, int, Prediction] | None:
    """Machines, processors and processes of each, and what to expect; None when nothing will do."""
    most = demand.max_cpus
    wanted = flows(demand, constants, n_chunks, 1.0, most)
    if _idle_p95_ms(wanted, most) > demand.target_p95_ms:
        # More machines make no single request faster.
        return None
    load = load_of(wanted, _station(most, most, ingest_cpus))
    needed = max(load.utilisation, load.llm) / demand.max_utilisation
    replicas = max(demand.min_replicas, math.ceil(needed))
    # A machine that ingests more than it can has nothing left, however little it is asked.
    limit = max(demand.min_replicas, math.ceil(20 * needed))
    while replicas <= limit:
        best = _smallest(demand, constants, n_chunks, replicas, ingest_cpus)
        if best is not None:
            return best
        replicas = max(replicas + 1, math.ceil(replicas * 1.2))
    return None


def _smallest(
    demand: Demand, constants: Constants, n_chunks: int, replicas: int, ingest_cpus: float
) -> tuple[int, int, int, Prediction] | None:
    for cpus in range(1, demand.max_cpus + 1):
        for workers in range(1, cpus + 1):
            station = _station(cpus, workers, ingest_cpus)
            wanted = flows(demand, constants, n_chunks, 1 / replicas, workers)
            load = load_of(wanted, station)
            if max(load.utilisation, load.llm) <= demand.max_utilisation:
                found = predict(wanted, station)
                if found.p95_ms <= demand.target_p95_ms:
                    return replicas, cpus, workers, found
            # More processes help only where one process, or its calls of the LLM, are short.
            if load.bound == "cpus" and load.llm <= demand.max_utilisation:
                break
    return None


def _idle_p95_ms(wanted: list[Flow], cpus: int) -> float:
    return predict(scaled(wanted, 1e-6), Station(cpus, cpus)).p95_ms


def _station(cpus: int, workers: int, ingest_cpus: float) -> Station:
    # Ingestion yields to questions text by text; taking all of it off is on the safe side.
    return Station(max(cpus - ingest_cpus, 0.05), workers)


def _most_within(wanted: list[Flow], station: Station, target_ms: float) -> float:
    """The highest rate whose p95 is within the target, to 1 %."""
    rate = math.fsum(flow.per_second for flow in wanted)
    low, high = 0.0, 0.99 * predict(wanted, station).capacity_per_second
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        kept = predict(scaled(wanted, middle / rate), station).p95_ms <= target_ms
        low, high = (middle, high) if kept else (low, middle)
        if high < 1e-6:
            return 0.0
    return low


def _memory(demand: Demand, constants: Constants, n_chunks: int, workers: int) -> Memory:
    processes = constants.process_mb + (workers - 1) * constants.extra_process_mb
    vectors = n_chunks * constants.memory_bytes_per_chunk / 2**20
    caches = workers * constants.cache_mb
    parser = constants.parser_mb if demand.uploads_per_day else 0.0
    needed = processes + vectors + caches + parser
    # An hour's answers (RAG_CACHE_TTL_SECONDS), at the rate of the busiest minute, in Redis.
    answers = (demand.asks_per_second + demand.searches_per_second) * (1 - demand.hit_share) * 3600
    redis = constants.redis_mb + min(answers, 1e6) * constants.answer_kb / 1024
    limit = math.ceil(needed * MEMORY_HEADROOM / 64) * 64
    return Memory(needed, limit, processes, vectors, caches, parser, math.ceil(redis / 64) * 64)


def _disk(demand: Demand, constants: Constants, n_chunks: int) -> Disk:
    characters = n_chunks * constants.characters_per_chunk
    if demand.chunks is None:
        characters = demand.documents * demand.mean_kb * 1024
    store = (
        constants.base_disk_mb * 2**20
        + n_chunks * constants.disk_bytes_per_chunk
        + characters * constants.disk_bytes_per_character
    ) / 1e9
    return Disk(store, store, max(1.0, math.ceil(2 * store / STORE_FULL * 10) / 10))


def _cost(
    demand: Demand, prices: Prices, replicas: int, cpus: int, memory: Memory, disk: Disk
) -> Cost:
    cpu = replicas * cpus * prices.per_vcpu_hour * HOURS_A_MONTH
    gb = (replicas * memory.limit_mb + memory.redis_mb) / 1024
    ram = gb * prices.per_gb_hour * HOURS_A_MONTH
    volume = replicas * disk.volume_gb * prices.per_disk_gb_month
    llm = 0.0
    if demand.llm_median_ms:
        uncached = demand.asks_per_second * (1 - demand.hit_share)
        llm = uncached * 3600 * HOURS_A_MONTH * prices.per_llm_ask
    return Cost(cpu + ram + volume + llm, cpu, ram, volume, llm, prices.currency)


def _warnings(
    demand: Demand,
    constants: Constants,
    feasible: bool,
    n_chunks: int,
    replicas: int,
    prediction: Prediction,
    ingest_cpus: float,
) -> list[str]:
    found = []
    if not feasible:
        alone = _idle_p95_ms(flows(demand, constants, n_chunks), demand.max_cpus)
        found.append(
            f"target_p95_ms={demand.target_p95_ms:g} can't be kept: on an idle server the p95 is "
            f"{alone:.0f} ms. Raise the target, the hit share, or use a faster processor or LLM."
            if alone > demand.target_p95_ms
            else f"nothing with up to {demand.max_cpus} processors a machine is enough; "
            "raise max_cpus or max_utilisation."
        )
    if replicas > 1:
        found.append(
            "One data directory is one machine's in this release: each further replica serves a "
            "copy (backup and restore), and what is written to one doesn't reach the others."
        )
    if n_chunks > 1_000_000:
        found.append(
            f"{n_chunks:,} passages: one collection was measured up to a million. Divide the "
            "corpus into collections."
        )
    if ingest_cpus > 0.5 * demand.max_cpus:
        found.append(
            f"Ingestion alone wants {ingest_cpus:.1f} processors: run `ragdock worker` apart."
        )
    if prediction.llm_busy_share > 0.01:
        found.append(
            f"{prediction.llm_busy_share:.0%} of the uncached asks find no place at the LLM within "
            "a second and are answered without it: raise llm_concurrency."
        )
    if demand.hit_share > 0.5:
        found.append(
            f"hit_share={demand.hit_share:g} is high: a write makes all cached answers of its "
            "collection stale. Look at rag_cache_lookups_total before you rely on it."
        )
    return found


def _chunks_a_document(demand: Demand, constants: Constants) -> float:
    if demand.chunks is not None and demand.documents:
        return demand.chunks / demand.documents
    # The last passage of a document is half full on average.
    return max(1.0, demand.mean_kb * 1024 / constants.characters_per_chunk + 0.5)
