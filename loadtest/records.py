"""What came back, one record a request, and what a pile of records says.

Times are of CLOCK_MONOTONIC, which all processes of a machine share, in seconds. `due` is when the
request ought to have been sent: in an open loop its arrival, in a closed one the same as `sent`. A
latency counts from `due`; a server that stalls makes later requests late, and counting from `sent`
would leave that out (coordinated omission, Gil Tene).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Record", "Summary", "load", "quantile", "save", "summarise"]

REFUSALS = frozenset({"overloaded", "embedder_busy", "queue_full", "deadline_exceeded", "stopping"})
"""Codes of a 503 that the design allows: a limit was reached, nothing broke."""


@dataclass(frozen=True, slots=True)
class Record:
    """One request. `status` 0: no answer came, and `code` says why (refused, reset, timeout)."""

    kind: str
    cache: str
    due: float
    sent: float
    done: float
    status: int
    code: str
    ok: bool
    generator: str = ""

    @property
    def latency_ms(self) -> float:
        """From when it was due to the end of the answer."""
        return (self.done - self.due) * 1000

    @property
    def service_ms(self) -> float:
        """From when it was sent to the end of the answer."""
        return (self.done - self.sent) * 1000

    @property
    def name(self) -> str:
        """The kind, for reads with what the cache knew: `ask hit`."""
        return f"{self.kind} {self.cache}" if self.cache else self.kind

    @property
    def error(self) -> str:
        """What kind of error it was: `503 overloaded`, `reset`; empty when there was none."""
        if self.ok:
            return ""
        return f"{self.status} {self.code}".strip() if self.status else self.code

    @property
    def refused(self) -> bool:
        """Whether a limit turned it away, with a code that names the limit."""
        return not self.ok and (
            self.status == 429 or (self.status == 503 and self.code in REFUSALS)
        )

    @property
    def unexpected(self) -> bool:
        """Whether the design doesn't allow it: any 5xx but a refusal, any wrong 4xx."""
        return not self.ok and not self.refused


@dataclass(slots=True)
class Summary:
    """What a pile of records says; latencies in milliseconds.

    `made_per_second` are the good answers of `per_second` that no cache had. A server that refuses
    what is dear answers more of what is cheap: then `per_second` rises and this doesn't.
    """

    n: int = 0
    n_ok: int = 0
    seconds: float = 0.0
    per_second: float = 0.0
    made_per_second: float = 0.0
    n_refused: int = 0
    refused_share: float = 0.0
    mean_ms: float = math.nan
    p50_ms: float = math.nan
    p90_ms: float = math.nan
    p95_ms: float = math.nan
    p99_ms: float = math.nan
    max_ms: float = math.nan
    errors: dict[str, int] = field(default_factory=dict)
    n_unexpected: int = 0
    kinds: dict[str, dict[str, float]] = field(default_factory=dict)
    service_p95_ms: float = math.nan

    def as_json(self) -> dict[str, Any]:
        """Numbers only; what was not measured is null."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0..1) lie, linearly interpolated; NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def summarise(records: Sequence[Record], start: float, end: float) -> Summary:
    """Of the requests that were due in [start, end): latencies, errors; and the throughput."""
    chosen = [record for record in records if start <= record.due < end]
    seconds = max(end - start, 1e-9)
    good = [record for record in chosen if record.ok]
    latencies = [record.latency_ms for record in good]
    # Throughput is what was done within the window, whenever it was due: at saturation, what was
    # only begun in it would count as well.
    done = [record for record in records if record.ok and start <= record.done < end]
    summary = Summary(n=len(chosen), n_ok=len(good), seconds=seconds)
    summary.per_second = len(done) / seconds
    summary.made_per_second = sum(record.cache != "hit" for record in done) / seconds
    summary.n_refused = sum(record.refused for record in chosen)
    summary.refused_share = summary.n_refused / max(len(chosen), 1)
    if latencies:
        summary.mean_ms = math.fsum(latencies) / len(latencies)
        summary.p50_ms, summary.p90_ms, summary.p95_ms, summary.p99_ms, summary.max_ms = (
            quantile(latencies, share) for share in (0.5, 0.9, 0.95, 0.99, 1.0)
        )
        summary.service_p95_ms = quantile([record.service_ms for record in good], 0.95)
    summary.errors = dict(Counter(record.error for record in chosen if not record.ok))
    summary.n_unexpected = sum(record.unexpected for record in chosen)
    summary.kinds = _by(good, lambda record: record.name)
    return summary


def _by(records: Sequence[Record], key: Callable[[Record], str]) -> dict[str, dict[str, float]]:
    piles: dict[str, list[float]] = {}
    for record in records:
        piles.setdefault(key(record), []).append(record.latency_ms)
    return {
        name: {
            "n": len(values),
            "share": len(values) / len(records),
            "mean_ms": math.fsum(values) / len(values),
            "p50_ms": quantile(values, 0.5),
            "p95_ms": quantile(values, 0.95),
            "p99_ms": quantile(values, 0.99),
        }
        for name, values in sorted(piles.items())
    }


def save(path: Path, records: Iterable[Record]) -> None:
    """One JSON array a line."""
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(astuple(record)) + "\n")


def load(path: Path) -> list[Record]:
    """What `save` wrote."""
    return [Record(*json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 3)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
