"""How long requests take on a server of so many processors: a queueing model with its sources.

The processors are one station that all running requests share (M/G/m-PS): the system shares its
processors, and the embedder's pool takes turns text by text, so a short request isn't stuck behind
a long one. With m the number of requests that can run at full speed at once, rho the utilisation
and x what a request takes alone:

    E[T(x)] = x (1 + W),  W = rho ** (sqrt(2 (m + 1)) - 1) / (m (1 - rho))

For m = 1 that is x / (1 - rho), exact for any distribution (L. Kleinrock, Queueing Systems II,
1976, section 4.4). For m > 1 the numerator is H. Sakasegawa's approximation of the probability of
a wait ("An approximation formula Lq = a rho**b / (1 - rho)", Ann. Inst. Statist. Math. 29, 1977),
which the Allen-Cunneen formula is often computed with as well. The spread around that mean is the
conditional variance of processor sharing (E. Coffman, R. Muntz, H. Trotter, "Waiting time
distributions for processor-sharing systems", J. ACM 17, 1970), with the mean residual work for the
mean, as it is for long requests under general service times (A. Zwart, O. Boxma, Queueing Systems
35, 2000).

An LLM is a station of its own with as many places as calls at once (M/G/k), whose waiting time is
Allen and Cunneen's: Erlang's C, times (1 + scv) / 2 (A. Allen, Probability, Statistics and Queueing
Theory, 1990, section 5.3).

Arrivals are Poisson. Where that isn't so (a crowd at nine, clients that retry), it is worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

__all__ = [
    "Delay",
    "Flow",
    "Load",
    "Prediction",
    "Station",
    "knee_per_second",
    "load_of",
    "predict",
    "sakasegawa_wait",
    "scaled",
    "waiting_probability",
]

Weighted: TypeAlias = list[tuple[float, float]]
"""A distribution as (value, weight) pairs."""

N_POINTS: Final = 24
Z95: Final = 1.6448536269514722
BUSY_SECONDS: Final = 1.0
"""The server's own: a call that finds no place for so long is answered without the LLM."""


@dataclass(frozen=True, slots=True)
class Delay:
    """A lognormal time elsewhere, an LLM's; `places` calls at once, all processes together."""

    median_ms: float
    p95_ms: float
    places: int


@dataclass(frozen=True, slots=True)
class Flow:
    """Requests of one kind.

    `cpu_ms` is the processor time of one (all processors), `alone_ms` its mean latency on an idle
    server, `scv` the squared coefficient of variation of that latency, `serial_ms` what one process
    can't do for two requests at once (the interpreter's lock, the event loop).
    """

    name: str
    per_second: float
    cpu_ms: float
    alone_ms: float
    scv: float = 0.0
    serial_ms: float = 0.0
    delay: Delay | None = None

    @property
    def shared_ms(self) -> float:
        """The part of the latency that grows when others run: never more than processor time."""
        return min(self.cpu_ms, self.alone_ms)

    @property
    def fixed_ms(self) -> float:
        """The part that others don't lengthen: a disk's sync, the network."""
        return self.alone_ms - self.shared_ms


@dataclass(frozen=True, slots=True)
class Station:
    """`cpus` are what is left for requests, so background work is taken off before."""

    cpus: float
    processes: int = 1


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says. Beyond the capacity (`stable` False) the times are infinite.

    `bound` is what gives out first. `llm_busy_share` of the uncached asks find no place at the LLM
    within a second and are answered without it.
    """

    per_second: float
    capacity_per_second: float
    utilisation: float
    cpu_utilisation: float
    process_utilisation: float
    bound: Literal["cpus", "processes"]
    stable: bool
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    llm_utilisation: float = 0.0
    llm_busy_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a station is, without the latencies, which cost a thousand times more to compute."""

    cpus: float
    processes: float
    llm: float
    llm_busy_share: float

    @property
    def utilisation(self) -> float:
        """Of what gives out first, the LLM aside."""
        return max(self.cpus, self.processes, 1e-9)

    @property
    def bound(self) -> Literal["cpus", "processes"]:
        """What that is."""
        return "cpus" if self.cpus >= self.processes else "processes"


def load_of(flows: Sequence[Flow], station: Station) -> Load:
    """Utilisations; 1 is the capacity, and more can't be served."""
    cpu = math.fsum(flow.per_second * flow.cpu_ms for flow in flows) / 1000
    serial = math.fsum(flow.per_second * flow.serial_ms for flow in flows) / 1000
    return Load(cpu / station.cpus, serial / station.processes, *_llm(flows))


def predict(flows: Sequence[Flow], station: Station) -> Prediction:
    """Latencies of the flows' mixture and the station's utilisation."""
    flows = [_fitted(flow, station) for flow in flows if flow.per_second > 0]
    rate = math.fsum(flow.per_second for flow in flows)
    load = load_of(flows, station)
    capacity = rate / load.utilisation
    times = (math.inf, math.inf, math.inf, math.inf)
    if load.utilisation < 1:
        times = _times(flows, rate, load.utilisation)
    return Prediction(
        rate,
        capacity,
        load.utilisation,
        load.cpus,
        load.processes,
        load.bound,
        load.utilisation < 1,
        *times,
        load.llm,
        load.llm_busy_share,
    )


def _times(flows: Sequence[Flow], rate: float, rho: float) -> tuple[float, float, float, float]:
    """Mean, p50, p95 and p99 in ms, below the capacity."""
    capacity = rate / rho
    shared = max(_mean(flows, rate, lambda flow: flow.shared_ms), 1e-9)
    n_servers = max(1.0, capacity * shared / 1000)
    second = _mean(flows, rate, lambda flow: flow.shared_ms**2 * (1 + flow.scv))
    points = [
        (value, weight * flow.per_second / rate)
        for flow in flows
        for value, weight in _latencies(flow, rho, n_servers, second / shared / 2, capacity)
    ]
    mean = math.fsum(value * weight for value, weight in points)
    p50, p95, p99 = (_quantile(points, share) for share in (0.5, 0.95, 0.99))
    return mean, p50, p95, p99


def scaled(flows: Iterable[Flow], factor: float) -> list[Flow]:
    """The same mixture at another rate."""
    return [
        Flow(f.name, f.per_second * factor, f.cpu_ms, f.alone_ms, f.scv, f.serial_ms, f.delay)
        for f in flows
    ]


def knee_per_second(flows: Sequence[Flow], station: Station, n_steps: int = 100) -> float:
    """The rate at which throughput / mean latency is greatest (Kleinrock's power, ICC 1979).

    The LLM's time is left out: it doesn't bend with this station's load.
    """
    own = [
        _fitted(Flow(f.name, f.per_second, f.cpu_ms, f.alone_ms, f.scv, f.serial_ms), station)
        for f in flows
    ]
    rate = math.fsum(flow.per_second for flow in own)
    capacity = rate / load_of(own, station).utilisation
    shared = max(_mean(own, rate, lambda flow: flow.shared_ms), 1e-9)
    n_servers = max(1.0, capacity * shared / 1000)

    def power(rho: float) -> float:
        return rho / (1 + sakasegawa_wait(rho, n_servers))

    return capacity * max((step / n_steps for step in range(1, n_steps)), key=power)


def waiting_probability(rho: float, n_servers: float) -> float:
    """That an arrival finds all `n_servers` (1 or more, not necessarily whole) taken; approximate.

    Exact for one server. Sakasegawa 1977.
    """
    return float(rho ** (math.sqrt(2 * (n_servers + 1)) - 1))


def sakasegawa_wait(rho: float, n_servers: float) -> float:
    """Mean wait in units of the mean service time, rho < 1: Lq by Little's law."""
    return waiting_probability(rho, n_servers) / (n_servers * (1 - rho))


def _fitted(flow: Flow, station: Station) -> Flow:
    """As it is here: a request that ran on several processors alone has at most these."""
    alone = max(flow.alone_ms, flow.cpu_ms / station.cpus)
    return Flow(
        flow.name, flow.per_second, flow.cpu_ms, alone, flow.scv, flow.serial_ms, flow.delay
    )


def _latencies(
    flow: Flow, rho: float, n_servers: float, residual: float, capacity: float
) -> Weighted:
    """The flow's latencies in ms as equally likely points."""
    own: Weighted = []
    for service in _lognormal_points(flow.shared_ms, flow.scv):
        for extra, weight in _sharing(service, rho, n_servers, residual, capacity):
            own.append((flow.fixed_ms + service + extra, weight / N_POINTS))
    if flow.delay is None:
        return own
    elsewhere = _elsewhere(flow.delay, flow.per_second)
    # Thinned, for N times N points of each would be all that this function ever does.
    own = _thinned(own, 4 * N_POINTS)
    return [(a + b, v * w) for a, v in own for b, w in elsewhere]


def _sharing(x: float, rho: float, n_servers: float, residual: float, capacity: float) -> Weighted:
    """What others add to a request of `x` ms: nothing, or a Weibull of the right two moments."""
    waits = waiting_probability(rho, n_servers)
    if x <= 0 or waits < 1e-9:
        return [(0.0, 1.0)]
    mean = x * sakasegawa_wait(rho, n_servers)
    free = 1 - rho
    # Coffman, Muntz and Trotter, for one server.
    variance = 2 * rho * residual * x / free**3 - 2 * rho * residual**2 / free**4 * -math.expm1(
        -free * x / residual
    )
    # For several: by the ratio of the variances of what an arrival finds (M/M/m to M/M/1).
    variance *= waits * (1 + rho - waits) / n_servers**2 / rho
    # Untouched is who finds a free server and sees nobody come who would share it.
    crowding = waits * rho * capacity / 1000 * x
    touched = 1 - (1 - waits) * math.exp(-crowding)
    conditional_mean = mean / touched
    scv = max((variance + mean**2) / touched / conditional_mean**2 - 1, 0.01)
    points: Weighted = [(0.0, 1 - touched)]
    points += [(value, touched / N_POINTS) for value in _weibull_points(conditional_mean, scv)]
    return points


def _elsewhere(delay: Delay, per_second: float) -> Weighted:
    """The LLM's times, with the wait for a place."""
    mean, scv = _lognormal_moments(delay)
    waits, mean_wait = _allen_cunneen(per_second, mean, scv, delay.places)
    points: Weighted = []
    sigma = math.log(delay.p95_ms / delay.median_ms) / Z95
    # Not scaled to the mean, for median and p95 are what was measured.
    for k in range(N_POINTS):
        service = delay.median_ms * math.exp(sigma * _normal_quantile((k + 0.5) / N_POINTS))
        points.append((service, (1 - waits) / N_POINTS))
        for wait in _weibull_points(mean_wait, 1.0, 8):
            # Longer than a second nobody waits.
            shown = service + wait if wait <= BUSY_SECONDS * 1000 else BUSY_SECONDS * 1000
            points.append((shown, waits / N_POINTS / 8))
    return points


def _llm(flows: Sequence[Flow]) -> tuple[float, float]:
    """Utilisation of the LLM's places, and the share of calls that wait longer than a second."""
    for flow in flows:
        if flow.delay is not None:
            mean, scv = _lognormal_moments(flow.delay)
            load = flow.per_second * mean / 1000 / flow.delay.places
            waits, mean_wait = _allen_cunneen(flow.per_second, mean, scv, flow.delay.places)
            if load >= 1:
                return load, 1 - 1 / load
            busy = waits * math.exp(-BUSY_SECONDS * 1000 / mean_wait) if mean_wait else 0.0
            return load, busy
    return 0.0, 0.0


def _allen_cunneen(
    per_second: float, mean_ms: float, scv: float, places: int
) -> tuple[float, float]:
    """Probability of a wait at M/G/k, and its mean in ms for those who wait."""
    offered = per_second * mean_ms / 1000
    rho = min(offered / places, 0.99)
    term = total = 1.0
    for n in range(1, places):
        term *= rho * places / n
        total += term
    last = term * rho * places / places / (1 - rho)
    return last / (total + last), mean_ms / places / (1 - rho) * (1 + scv) / 2


def _lognormal_moments(delay: Delay) -> tuple[float, float]:
    """Mean in ms and squared coefficient of variation."""
    sigma = math.log(delay.p95_ms / delay.median_ms) / Z95
    return delay.median_ms * math.exp(sigma**2 / 2), math.expm1(sigma**2)


def _lognormal_points(mean: float, scv: float, n: int = N_POINTS) -> list[float]:
    """`n` equally likely values of a lognormal, scaled to its mean."""
    if scv <= 0 or mean <= 0:
        return [mean] * n
    sigma = math.sqrt(math.log1p(scv))
    values = [math.exp(sigma * _normal_quantile((k + 0.5) / n)) for k in range(n)]
    scale = mean * n / math.fsum(values)
    return [value * scale for value in values]


def _weibull_points(mean: float, scv: float, n: int = N_POINTS) -> list[float]:
    """`n` equally likely values of a Weibull, scaled to its mean.

    The shape is cv ** -1.086 (C. Justus et al., J. Applied Meteorology 17, 1978).
    """
    power = 1 / math.sqrt(scv) ** -1.086
    values = [(-math.log1p(-(k + 0.5) / n)) ** power for k in range(n)]
    scale = mean * n / math.fsum(values)
    return [value * scale for value in values]


def _normal_quantile(share: float) -> float:
    """Acklam's rational approximation, right to nine digits of a ten-digit argument."""
    a = (
        -39.69683028665376,
        220.9460984245205,
        -275.9285104469687,
        138.3577518672690,
        -30.66479806614716,
        2.506628277459239,
    )
    b = (
        -54.47609879822406,
        161.5858368580409,
        -155.6989798598866,
        66.80131188771972,
        -13.28068155288572,
        1.0,
    )
    c = (
        -0.007784894002430293,
        -0.3223964580411365,
        -2.400758277161838,
        -2.549732539343734,
        4.374664141464968,
        2.938163982698783,
    )
    d = (0.007784695709041462, 0.3224671290700398, 2.445134137142996, 3.754408661907416, 1.0)
    if share > 0.5:
        return -_normal_quantile(1 - share)
    if share < 0.02425:
        q = math.sqrt(-2 * math.log(share))
        return _polynomial(c, q) / _polynomial(d, q)
    q = share - 0.5
    return _polynomial(a, q * q) * q / _polynomial(b, q * q)


def _polynomial(coefficients: Sequence[float], x: float) -> float:
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value


def _quantile(points: Weighted, share: float) -> float:
    ordered = sorted(points)
    total = math.fsum(weight for _, weight in ordered)
    reached = 0.0
    for value, weight in ordered:
        reached += weight
        if reached >= share * total:
            return value
    return ordered[-1][0]


def _thinned(points: Weighted, n: int) -> Weighted:
    """At most `n` points with the same mean: neighbours become their average."""
    ordered = sorted(points)
    total = math.fsum(weight for _, weight in ordered)
    found: Weighted = []
    value_sum = weight_sum = 0.0
    for value, weight in ordered:
        value_sum += value * weight
        weight_sum += weight
        if weight_sum >= total / n:
            found.append((value_sum / weight_sum, weight_sum))
            value_sum = weight_sum = 0.0
    if weight_sum:
        found.append((value_sum / weight_sum, weight_sum))
    return found


def _mean(flows: Sequence[Flow], rate: float, value: Callable[[Flow], float]) -> float:
    return math.fsum(flow.per_second * value(flow) for flow in flows) / rate if rate else 0.0
