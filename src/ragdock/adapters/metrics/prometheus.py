"""Metrics for Prometheus, right with one server process and with several."""

from __future__ import annotations

import os
from typing import Any, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from ragdock import __version__

__all__ = ["METRICS", "FleetMetrics", "PrometheusMetrics"]

_FAST: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SLOW: Final = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

# short name -> (kind, exposed name, help, labels, buckets)
METRICS: Final[dict[str, tuple[str, str, str, tuple[str, ...], tuple[float, ...]]]] = {
    "requests": (
        "histogram",
        "rag_request_seconds",
        "Time to answer a request, by route, method and status.",
        ("route", "method", "status"),
        _FAST,
    ),
    "in_flight": ("gauge", "rag_requests_in_flight", "Requests being worked on.", (), ()),
    "refused": (
        "counter",
        "rag_refused_total",
        "Requests refused because a limit was reached, by reason.",
        ("reason",),
        (),
    ),
    "rate_limit_fallback": (
        "counter",
        "rag_rate_limit_fallback_total",
        "Rate limits that a process decided alone, because Redis was away.",
        (),
        (),
    ),
    "audit_failures": (
        "counter",
        "rag_audit_failures_total",
        "Audit records that could not be written.",
        (),
        (),
    ),
    "connections_closed": (
        "counter",
        "rag_connections_closed_total",
        "Connections closed by the server, by reason (full, header, slow_reader).",
        ("reason",),
        (),
    ),
    "cache": (
        "counter",
        "rag_cache_lookups_total",
        "Cache look-ups by kind (answer, search, embedding) and result (hit, miss).",
        ("kind", "result"),
        (),
    ),
    "cache_errors": ("counter", "rag_cache_errors_total", "Failed calls of the cache.", (), ()),
    "ingested": (
        "counter",
        "rag_ingest_documents_total",
        "Documents finished, by outcome (indexed, unchanged, superseded, failed, retried).",
        ("outcome",),
        (),
    ),
    "ingested_chunks": ("counter", "rag_ingest_chunks_total", "Chunks indexed.", (), ()),
    "ingest_stage": (
        "histogram",
        "rag_ingest_stage_seconds",
        "Time of a document in a stage (parse, chunk, embed, commit).",
        ("stage",),
        _SLOW,
    ),
    "fetches": (
        "counter",
        "rag_url_fetches_total",
        "URLs fetched for POST /v1/urls, by outcome (fetched, or the error's code).",
        ("outcome",),
        (),
    ),
    "queue": (
        "gauge",
        "rag_queue_documents",
        "Documents in the ledger by state (pending, processing, failed).",
        ("state",),
        (),
    ),
    "stage": (
        "histogram",
        "rag_query_stage_seconds",
        "Time of a query in a stage (embed, lexical, dense, fuse, generate).",
        ("stage",),
        _FAST,
    ),
    "answers": (
        "counter",
        "rag_answers_total",
        "Answers by generator (extractive, llm) and result (grounded, unknown, fallback).",
        ("generator", "result"),
        (),
    ),
    "trace_spans": (
        "counter",
        "rag_trace_spans_total",
        "Spans by what became of them (exported, failed, dropped); only while tracing.",
        ("result",),
        (),
    ),
    "dependency": (
        "gauge",
        "rag_dependency_up",
        "1 when the dependency answered its last check, else 0.",
        ("dependency",),
        (),
    ),
    "build": (
        "gauge",
        "rag_build_info",
        "Constant 1, labelled with the version.",
        ("version",),
        (),
    ),
}


class PrometheusMetrics:
    """`Metrics` as Prometheus collectors of one registry."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._collectors = {name: self._make(*spec) for name, spec in METRICS.items()}
        self._children: dict[tuple[str, ...], Counter | Gauge | Histogram] = {}
        self.gauge("build", 1, version=__version__)

    def _make(
        self,
        kind: str,
        exposed: str,
        help_text: str,
        labels: tuple[str, ...],
        buckets: tuple[float, ...],
    ) -> Counter | Gauge | Histogram:
        if kind == "histogram":
            return Histogram(exposed, help_text, labels, registry=self._registry, buckets=buckets)
        if kind == "gauge":
            if exposed == "rag_requests_in_flight":
                return Gauge(
                    exposed, help_text, registry=self._registry, multiprocess_mode="livesum"
                )
            return Gauge(
                exposed,
                help_text,
                labels,
                registry=self._registry,
                multiprocess_mode="livemostrecent",
            )
        return Counter(exposed, help_text, labels, registry=self._registry)

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter (or to a gauge that counts up and down)."""
        self._child(name, labels).inc(amount)

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Record a duration."""
        self._child(name, labels).observe(seconds)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._child(name, labels).set(value)

    def _child(self, name: str, labels: dict[str, str]) -> Any:
        """The collector for these label values, remembered: finding it costs more than using it."""
        if not labels:
            return self._collectors[name]
        key = (name, *labels, *labels.values())
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._collectors[name].labels(**labels)
        return child

    def render(self) -> bytes:
        """The exposition text; of all server processes where there are several."""
        directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if directory is None:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, directory)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


class FleetMetrics:
    """The numbers of other processes, which keep them in files of a directory."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def render(self) -> bytes:
        """The exposition text of all of them together."""
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(  # type: ignore[no-untyped-call]
            registry, self._directory
        )
        return generate_latest(registry)

    def forget(self, pid: int) -> None:
        """A process ended: what it counted stays, its current values go."""
        multiprocess.mark_process_dead(pid, self._directory)  # type: ignore[no-untyped-call]
