"""What sizing is computed from: measured constants, what is wanted, prices. All checked here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from ragdock.errors import InputError

__all__ = ["KINDS", "Constants", "Demand", "Kind", "Prices"]

KINDS: Final = ("hit", "ask", "ask_llm", "search_hit", "search", "upload")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a request of one kind costs; the terms are those of `queueing.Flow`."""

    cpu_ms: float
    alone_ms: float
    scv: float
    serial_ms: float


@dataclass(frozen=True, slots=True)
class Constants:
    """What was measured, where and when.

    `kinds` are a cached ask (`hit`), an uncached one answered from the documents (`ask`), an
    uncached one without the LLM's own time (`ask_llm`), searches, and the acceptance of a document
    (`upload`). `scan_ms_per_100k` is what 100,000 more passages add to an uncached question.
    """

    origin: str
    machine: str
    kinds: Mapping[str, Kind]
    n_chunks: int
    scan_ms_per_100k: float
    ingest_cpu_ms_per_chunk: float
    characters_per_chunk: float
    process_mb: float
    extra_process_mb: float
    parser_mb: float
    cache_mb: float
    memory_bytes_per_chunk: float
    disk_bytes_per_chunk: float
    disk_bytes_per_character: float
    base_disk_mb: float
    redis_mb: float
    answer_kb: float

    @classmethod
    def parse(cls, given: object, where: str = "constants") -> Constants:
        """Read what JSON holds. Raises `InputError`, which names the field and the remedy."""
        remedy = "measure anew with `make sizing-constants`, or leave --constants out"
        if not isinstance(given, Mapping):
            raise InputError(f"{where} is no JSON object; {remedy}.", field=where)
        values: dict[str, Any] = {}
        for item in fields(cls):
            path = f"{where}.{item.name}"
            if item.name not in given:
                raise InputError(f"{path} is missing; {remedy}.", field=path)
            value = given[item.name]
            if item.name == "kinds":
                values["kinds"] = _kinds(value, path, remedy)
            elif item.type == "str":
                values[item.name] = str(value)
            else:
                values[item.name] = _number(value, path, remedy)
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Demand:
    """What is wanted. `chunks` is computed from documents and their size when None.

    `mean_kb` is text, not file size: a PDF of 1 MB may hold 30 KB of it. `hit_share` of the asks
    and searches were asked before and nothing was written since. `llm_median_ms` 0: answers are
    sentences of the documents. Several `copies` of one data directory serve reads; what is written
    to one doesn't reach the others.
    """

    documents: int = 1000
    mean_kb: float = 8.0
    chunks: int | None = None
    asks_per_second: float = 1.0
    searches_per_second: float = 0.0
    hit_share: float = 0.3
    uploads_per_day: float = 0.0
    llm_median_ms: float = 0.0
    llm_p95_ms: float = 0.0
    llm_concurrency: int = 8
    target_p95_ms: float = 1000.0
    max_utilisation: float = 0.7
    max_cpus: int = 8
    min_replicas: int = 1

    def __post_init__(self) -> None:
        for name, low, high, remedy in _LIMITS:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(
                    f"{name}={value!r} must be {low:g} to {high:g}; {remedy}.", field=name
                )
        if self.llm_median_ms and not self.llm_p95_ms:
            object.__setattr__(self, "llm_p95_ms", 2.5 * self.llm_median_ms)
        if self.llm_p95_ms < self.llm_median_ms or (self.llm_p95_ms and not self.llm_median_ms):
            raise InputError(
                f"llm_p95_ms={self.llm_p95_ms!r} must not be below llm_median_ms="
                f"{self.llm_median_ms!r}; give both, or the median alone.",
                field="llm_p95_ms",
            )
        if not self.asks_per_second + self.searches_per_second:
            raise InputError(
                "asks_per_second=0 and searches_per_second=0: nothing would be asked; give one.",
                field="asks_per_second",
            )


_BIG: Final = 1e12
_LIMITS: Final = (
    ("documents", 0, _BIG, "count what is to be searched"),
    ("mean_kb", 0.001, 1e6, "give the mean text of a document in KB"),
    ("chunks", 0, _BIG, "leave it out to have it computed"),
    ("asks_per_second", 0, 1e6, "give the rate of the busiest minute"),
    ("searches_per_second", 0, 1e6, "give the rate of the busiest minute"),
    ("hit_share", 0, 1, "it is a share; rag_cache_lookups_total tells yours"),
    ("uploads_per_day", 0, _BIG, "count documents added or replaced a day"),
    ("llm_median_ms", 0, 600_000, "0 is no LLM"),
    ("llm_p95_ms", 0, 600_000, "0 is no LLM"),
    ("llm_concurrency", 1, 1024, "it is RAG_LLM_CONCURRENCY"),
    ("target_p95_ms", 1, 600_000, "say how long 95 of 100 answers may take"),
    ("max_utilisation", 0.05, 0.95, "above .8 small errors of the load are large ones of latency"),
    ("max_cpus", 1, 1024, "give the processors of the largest machine"),
    ("min_replicas", 1, 10_000, "2 is the least for a deployment without pause"),
)


@dataclass(frozen=True, slots=True)
class Prices:
    """What a month costs is these times what is needed.

    The defaults are assumptions of the size of an ordinary cloud's, and no vendor's: give yours.
    """

    per_vcpu_hour: float = 0.03
    per_gb_hour: float = 0.004
    per_disk_gb_month: float = 0.10
    per_llm_ask: float = 0.0
    currency: str = "USD"

    def __post_init__(self) -> None:
        for name in ("per_vcpu_hour", "per_gb_hour", "per_disk_gb_month", "per_llm_ask"):
            value = getattr(self, name)
            if not 0 <= value < 1e6:
                raise InputError(f"{name}={value!r} is no price; give 0 or more.", field=name)


def _number(value: object, path: str, remedy: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= float(value) < math.inf:  # type: ignore[arg-type]
        raise InputError(f"{path}={value!r} must be a number, 0 or more; {remedy}.", field=path)
    return float(value)  # type: ignore[arg-type]


def _kinds(value: object, path: str, remedy: str) -> dict[str, Kind]:
    if not isinstance(value, Mapping):
        raise InputError(f"{path} is no JSON object; {remedy}.", field=path)
    found = {}
    for name in KINDS:
        kind = value.get(name)
        if not isinstance(kind, Mapping):
            raise InputError(f"{path}.{name} is missing; {remedy}.", field=f"{path}.{name}")
        found[name] = Kind(
            **{
                item.name: _number(kind.get(item.name), f"{path}.{name}.{item.name}", remedy)
                for item in fields(Kind)
            }
        )
    return found
