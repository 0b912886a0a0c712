"""Measures a server under a growing number of clients, and draws that beside the queueing model."""

from __future__ import annotations

import http.client
import json
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from ragdock.core.evaluation import percentile
from ragdock.core.queueing import Flow, Station, predict
from ragdock.errors import UnavailableError

__all__ = ["Point", "draw", "measure", "predicted", "table"]

_BARS: Final = 40


@dataclass(frozen=True, slots=True)
class Point:
    """Answers a second and their latencies, with so many clients that ask without a pause."""

    clients: int
    per_second: float
    p50_ms: float
    p95_ms: float
    scv: float


def measure(
    url: str,
    bodies: Sequence[Mapping[str, Any]],
    *,
    path: str = "/v1/ask",
    headers: Mapping[str, str] | None = None,
    clients: Sequence[int] = (1, 2, 4, 8),
    seconds: float = 1.5,
) -> list[Point]:
    """A closed loop: each client asks the next question when it has its answer.

    It lasts `seconds` for each number of clients. Raises `UnavailableError` when an answer is not
    a 200, or when nothing listens.
    """
    return [_measured(url, path, bodies, dict(headers or {}), n, seconds) for n in clients]


def _measured(
    url: str,
    path: str,
    bodies: Sequence[Mapping[str, Any]],
    headers: dict[str, str],
    n_clients: int,
    seconds: float,
) -> Point:
    took: list[float] = []
    failures: list[str] = []
    begun = time.perf_counter()

    def ask(first: int) -> None:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=60)
        try:
            number = first
            while time.perf_counter() - begun < seconds and not failures:
                content = json.dumps(bodies[number % len(bodies)])
                asked = time.perf_counter()
                connection.request(
                    "POST", path, content, {"Content-Type": "application/json", **headers}
                )
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    failures.append(f"{response.status} {response.reason}")
                took.append((time.perf_counter() - asked) * 1000)
                number += 1
        except OSError as exc:
            failures.append(str(exc))
        finally:
            connection.close()

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(n_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise UnavailableError(f"{url}{path} answered {failures[0]} with {n_clients} clients.")
    elapsed = time.perf_counter() - begun
    mean = statistics.fmean(took)
    scv = statistics.pvariance(took, mean) / mean**2
    return Point(n_clients, len(took) / elapsed, percentile(took, 0.5), percentile(took, 0.95), scv)


def predicted(alone: Point, cpus: float, shares: Sequence[float]) -> list[tuple[float, float]]:
    """(requests a second, p95 in ms) of the model for shares of the capacity, from one client.

    The whole latency is taken for processor time, which errs on the safe side.
    """
    flow = Flow("ask", 0.0, alone.p50_ms, alone.p50_ms, alone.scv)
    capacity = cpus * 1000 / alone.p50_ms
    curve = []
    for share in shares:
        rate = share * capacity
        found = predict([_at(flow, rate)], Station(cpus))
        curve.append((rate, found.p95_ms))
    return curve


def _at(flow: Flow, rate: float) -> Flow:
    return Flow(flow.name, rate, flow.cpu_ms, flow.alone_ms, flow.scv)


def table(points: Sequence[Point]) -> str:
    """The measurement in text, with a bar for the throughput."""
    most = max(point.per_second for point in points)
    lines = ["clients  answers/s  p50 ms  p95 ms"]
    for point in points:
        bar = "#" * max(1, round(point.per_second / most * _BARS))
        lines.append(
            f"{point.clients:7}  {point.per_second:9.1f}  {point.p50_ms:6.1f}  "
            f"{point.p95_ms:6.1f}  {bar}"
        )
    return "\n".join(lines)


def draw(points: Sequence[Point], model: Sequence[tuple[float, float]], title: str) -> Any:
    """Throughput and latency by clients, and p95 by load; a figure, or None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    clients = [point.clients for point in points]
    left.plot(clients, [point.per_second for point in points], "o-", color="#2563eb")
    left.set(xlabel="clients", ylabel="answers a second", xscale="log", title=title)
    left.set_xticks(clients, [str(n) for n in clients])
    left.minorticks_off()
    left.set_ylim(0, 1.1 * max(point.per_second for point in points))
    right.plot(
        [point.per_second for point in points], [point.p95_ms for point in points], "o",
        color="#2563eb", label="measured p95, closed loop",
    )  # fmt: skip
    right.plot(*zip(*model, strict=True), "--", color="#dc2626", label="model p95, open loop")
    right.set(xlabel="answers a second", ylabel="ms", title="latency by load")
    highest = max(point.p95_ms for point in points)
    right.set_ylim(0, highest * 1.5)
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
