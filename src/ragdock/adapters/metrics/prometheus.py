"""Metrics for Prometheus, right with one server process and with several."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ragdock import __version__
from ragdock.adapters.metrics.tables import MEASURED, METRICS
from ragdock.ports import Measurement

__all__ = ["METRICS", "FleetMetrics", "PrometheusMetrics"]


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

    def render(self, measured: Iterable[Measurement] = ()) -> bytes:
        """The exposition text; of all server processes where there are several.

        What was measured holds for all of them, so it is told as it is and kept nowhere.
        """
        directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        registry = self._registry
        if directory is not None:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry, directory)  # type: ignore[no-untyped-call]
        now = CollectorRegistry()
        now.register(_Measured(measured))
        return generate_latest(registry) + generate_latest(now)


class _Measured:
    """A collector of values that are known already."""

    def __init__(self, measured: Iterable[Measurement]) -> None:
        self._measured = tuple(measured)

    def collect(self) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for name, value, labels in self._measured:
            kind, exposed, text, label_names = MEASURED[name]
            if name not in families:
                made = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
                families[name] = made(exposed, text, labels=label_names)
            families[name].add_metric([labels[label] for label in label_names], value)
        yield from families.values()


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
