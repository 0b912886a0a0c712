"""A paired measurement: bare, container, bare again, round after round, until the time is over.

Machines drift, and shared ones jump. So each round compares neighbours in time, and each container
sample stands between two bare ones; how far these two differ is the noise that a difference has to
exceed before it counts.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from ragdock.core.advice import Overhead
from ragdock.errors import UnavailableError
from ragdock.ops.advise.sides import Fleet

__all__ = ["DEFAULT_IMAGE", "Measurement", "Measurements", "measure", "overhead_of", "summarised"]

DEFAULT_IMAGE: Final = "rag-api:latest"
MIN_ROUNDS: Final = 3
MAX_ROUNDS: Final = 25
REQUESTS: Final = 150
CONNECTIONS: Final = 30

OnRound = Callable[[str, int, int], None]
Samples = dict[str, list[tuple[float, float, float]]]
"""By name: (bare, container, bare) of each round, in seconds."""

TITLES: Final[Mapping[str, str]] = {
    "cpu": "processor: SHA-256 of 16 MB",
    "memory": "memory: 256 MB copied",
    "disk": "disk: 4 kB written and synced, 8 times",
    "read": "disk: 16 MB read",
    "published": "HTTP: a request, published port",
    "host": "HTTP: a request, host's network",
    "published_new": "HTTP: connection and request, published port",
    "host_new": "HTTP: connection and request, host's network",
}


@dataclass(frozen=True, slots=True)
class Measurement:
    """One thing done on both sides; times are medians over the rounds.

    `ratio` is container by bare, the median of the rounds' own ratios, with its quartiles and the
    interval that holds the true median with 99 % (1 to 1 stands for: too few rounds to tell).
    `noise` is what two neighbouring bare samples differ by, as a ratio: half of them by less.
    """

    name: str
    title: str
    bare_ms: float
    container_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    sure_low: float | None
    sure_high: float | None
    noise: float
    n_rounds: int

    @property
    def differs(self) -> bool:
        """Whether the two sides differ, and not by chance; too few rounds say nothing."""
        if self.sure_low is None or self.sure_high is None:
            return False
        return self.sure_low > 1 or self.sure_high < 1


@dataclass(frozen=True, slots=True)
class Measurements:
    """All that was measured, and how; `notes` say what has to be known to read it."""

    image: str
    engine: str
    seconds: float
    results: tuple[Measurement, ...]
    notes: tuple[str, ...]

    @property
    def overhead(self) -> Overhead:
        """What the advice needs of it."""
        return overhead_of(self.results)


def measure(
    directory: Path,
    *,
    image: str = DEFAULT_IMAGE,
    seconds: float = 60.0,
    on_round: OnRound | None = None,
) -> Measurements:
    """Compare a container of `image` with bare processes; at most `seconds` and some for starting.

    `directory` is where files are written, on both sides: the disk of the data. Raises
    `UnavailableError` where there is no Docker, or not that image; nothing is left behind.
    """
    started = time.monotonic()
    told = on_round or (lambda *_: None)
    with Fleet(directory, image) as fleet:
        begun = time.monotonic()
        samples: Samples = {}
        n_rounds = 0
        while n_rounds < MAX_ROUNDS:
            elapsed = time.monotonic() - begun
            if n_rounds >= MIN_ROUNDS and elapsed * (n_rounds + 1) / n_rounds > seconds:
                break
            told("measuring", n_rounds, MAX_ROUNDS)
            _round(fleet, samples)
            n_rounds += 1
        notes = tuple(fleet.notes())
        engine = fleet.engine
    results = tuple(summarised(name, rounds) for name, rounds in samples.items() if rounds)
    if not results:
        raise UnavailableError("Nothing could be measured.", code="measure")
    return Measurements(image, engine, time.monotonic() - started, results, notes)


def _round(fleet: Fleet, samples: Samples) -> None:
    for name in ("cpu", "memory", "disk", "read"):
        bare, container = fleet.works(name)
        _sandwiched(samples, name, bare, container)
    for mode, address in fleet.addresses.items():
        for name, n_times, fresh in ((mode, REQUESTS, False), (f"{mode}_new", CONNECTIONS, True)):
            ask = partial(fleet.latency, n_times=n_times, fresh=fresh)
            _sandwiched(samples, name, partial(ask, fleet.bare_address), partial(ask, address))


def _sandwiched(
    samples: Samples, name: str, bare: Callable[[], float], container: Callable[[], float]
) -> None:
    before = bare()
    between = container()
    samples.setdefault(name, []).append((before, between, bare()))


def summarised(name: str, rounds: Sequence[tuple[float, float, float]]) -> Measurement:
    """The medians of the rounds; `rounds` are (bare, container, bare) in seconds."""
    bares = [(before + after) / 2 for before, _, after in rounds]
    ratios = [between / ((before + after) / 2) for before, between, after in rounds]
    noises = [max(before, after) / min(before, after) for before, _, after in rounds]
    low, middle, high = _quartiles(ratios)
    sure_low, sure_high = _interval(ratios)
    return Measurement(
        name=name,
        title=TITLES[name],
        bare_ms=1000 * statistics.median(bares),
        container_ms=1000 * statistics.median(between for _, between, _ in rounds),
        ratio=middle,
        ratio_low=low,
        ratio_high=high,
        sure_low=sure_low,
        sure_high=sure_high,
        noise=statistics.median(noises),
        n_rounds=len(rounds),
    )


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _interval(values: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    """Where the median lies with 99 %, by order statistics (the sign test's interval).

    Fewer than eight values can't say it.
    """
    n, below, k = len(values), 0.0, 0
    while (below := below + math.comb(n, k) / 2**n) <= 0.005:
        k += 1
    if k == 0:
        return None, None
    ordered = sorted(values)
    return ordered[k - 1], ordered[n - k]


def overhead_of(results: Sequence[Measurement]) -> Overhead:
    """What a container adds; what doesn't exceed the noise counts as nothing,
    and what too few rounds were spent on as what was seen.
    """
    by_name = {result.name: result for result in results}

    def ratio(*names: str) -> float:
        found = [by_name[name] for name in names if name in by_name]
        return max([1.0, *(one.ratio for one in found if one.differs)])

    def added_ms(name: str) -> float | None:
        one = by_name.get(name)
        if one is None:
            return None
        if one.differs or one.sure_low is None:
            return max(0.0, one.container_ms - one.bare_ms)
        return 0.0

    published, host = added_ms("published"), added_ms("host")
    return Overhead(
        request_ms=0.0 if published is None else published,
        cpu_ratio=ratio("cpu"),
        memory_ratio=ratio("memory"),
        disk_ratio=ratio("disk", "read"),
        host_request_ms=host,
    )
