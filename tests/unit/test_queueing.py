"""The queueing model against what is known exactly, and against a simulation."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence

import pytest

from ragdock.core.queueing import (
    Delay,
    Flow,
    Station,
    knee_per_second,
    predict,
    sakasegawa_wait,
    scaled,
    waiting_probability,
)

pytestmark = pytest.mark.timing

MIX = [
    Flow("hit", 70, cpu_ms=0.6, alone_ms=0.6, scv=0.3),
    Flow("ask", 18, cpu_ms=60, alone_ms=60, scv=0.2),
    Flow("search", 12, cpu_ms=8, alone_ms=8, scv=0.2),
]


def erlang_c(offered: float, n_servers: int) -> float:
    """The exact probability of waiting at M/M/c."""
    top = offered**n_servers / math.factorial(n_servers) * n_servers / (n_servers - offered)
    return top / (sum(offered**k / math.factorial(k) for k in range(n_servers)) + top)


def simulated(flows: Sequence[Flow], n_servers: float, n: int, seed: int = 1) -> list[float]:
    """Sorted sojourn times in ms of an egalitarian M/G/m-PS queue, event by event."""
    source = random.Random(seed)
    rate = sum(flow.per_second for flow in flows)
    now = work = 0.0
    running: list[tuple[float, int, float]] = []
    arrival, number, found = source.expovariate(rate / 1000), 0, []
    while len(found) < n:
        speed = min(1.0, n_servers / len(running)) if running else 1.0
        end = now + (running[0][0] - work) / speed if running else math.inf
        if arrival < end:
            work += (arrival - now) * speed
            now, arrival = arrival, arrival + source.expovariate(rate / 1000)
            (flow,) = source.choices(flows, [flow.per_second for flow in flows])
            sigma = math.sqrt(math.log1p(flow.scv))
            service = flow.shared_ms * source.lognormvariate(-(sigma**2) / 2, sigma)
            number += 1
            heapq.heappush(running, (work + service, number, now))
        else:
            work, _, began = heapq.heappop(running)
            now = end
            found.append(now - began)
    return sorted(found[n // 10 :])


def test_one_server_is_exact() -> None:
    """For one processor the mean is that of M/G/1-PS, x / (1 - rho), for any service times."""
    for scv in (0.0, 1.0, 4.0):
        found = predict([Flow("a", 60, 10, 10, scv)], Station(1))
        assert found.utilisation == pytest.approx(0.6)
        assert found.mean_ms == pytest.approx(10 / 0.4, rel=1e-6)


@pytest.mark.parametrize("n_servers", [1, 2, 4, 16])
@pytest.mark.parametrize("rho", [0.3, 0.6, 0.8, 0.95])
def test_the_wait_is_near_erlangs(n_servers: int, rho: float) -> None:
    """Sakasegawa's wait is within .03 of a service time of Erlang's, or 6 %."""
    exact = erlang_c(rho * n_servers, n_servers) / (n_servers * (1 - rho))
    assert sakasegawa_wait(rho, n_servers) == pytest.approx(exact, rel=0.06, abs=0.03)
    assert 0 < waiting_probability(rho, n_servers) < 1


@pytest.mark.parametrize("cpus", [1, 4])
@pytest.mark.parametrize("rho", [0.3, 0.6, 0.8])
def test_percentiles_are_those_of_a_simulation(cpus: int, rho: float) -> None:
    """For a mixture of cached and uncached requests the p95 is within 20 % of a simulation's."""
    capacity = predict(MIX, Station(cpus)).capacity_per_second
    flows = scaled(MIX, capacity * rho / 100)
    found = predict(flows, Station(cpus))
    times = simulated(flows, cpus, 25_000)
    assert found.utilisation == pytest.approx(rho)
    assert found.p95_ms == pytest.approx(times[int(0.95 * len(times))], rel=0.2)
    assert found.mean_ms == pytest.approx(sum(times) / len(times), rel=0.2)


def test_percentiles_are_in_order_and_grow_with_the_load() -> None:
    """p50 <= p95 <= p99, and each is longer at a higher load."""
    capacity = predict(MIX, Station(2)).capacity_per_second
    found = [predict(scaled(MIX, capacity * rho / 100), Station(2)) for rho in (0.1, 0.5, 0.9)]
    for one in found:
        assert one.p50_ms <= one.p95_ms <= one.p99_ms
    assert [one.p95_ms for one in found] == sorted(one.p95_ms for one in found)


def test_beyond_its_capacity_a_server_never_answers() -> None:
    """At a utilisation of 1 or more the times are infinite, and it says so."""
    found = predict([Flow("a", 200, 10, 10)], Station(1))
    assert not found.stable
    assert found.p95_ms == math.inf
    assert found.capacity_per_second == pytest.approx(100)


def test_what_gives_out_first_is_named() -> None:
    """One process on many processors is bound by its lock, many processes on one by it."""
    flow = Flow("a", 10, cpu_ms=20, alone_ms=20, serial_ms=10)
    assert predict([flow], Station(8, processes=1)).bound == "processes"
    assert predict([flow], Station(1, processes=8)).bound == "cpus"


def test_a_parallel_request_is_slower_on_fewer_processors() -> None:
    """60 ms of work that took 15 ms on four processors takes 60 on one."""
    flow = Flow("ask", 0.001, cpu_ms=60, alone_ms=15)
    assert predict([flow], Station(4)).p50_ms == pytest.approx(15, rel=0.01)
    assert predict([flow], Station(1)).p50_ms == pytest.approx(60, rel=0.01)


def test_an_llm_adds_its_time_and_its_queue() -> None:
    """With free places it adds its own distribution; with too few, waits and busy calls."""

    def asked(rate: float, places: int) -> Flow:
        return Flow("ask", rate, 5, 5, delay=Delay(400, 1500, places))

    free = predict([asked(1, 64)], Station(4))
    assert free.p50_ms == pytest.approx(405, rel=0.05)
    assert free.p95_ms == pytest.approx(1505, rel=0.1)
    assert free.llm_busy_share < 0.001
    short = predict([asked(12, 8)], Station(4))
    assert short.p50_ms > free.p50_ms
    assert short.llm_utilisation > 0.8
    assert short.llm_busy_share > 0.01
    drowned = predict([asked(40, 8)], Station(4))
    assert drowned.llm_busy_share == pytest.approx(1 - 1 / drowned.llm_utilisation)


def test_the_knee_of_one_server_is_half_its_capacity() -> None:
    """Kleinrock: the power of M/M/1 is greatest at a utilisation of one half."""
    assert knee_per_second([Flow("a", 1, 10, 10, 1.0)], Station(1)) == pytest.approx(50, rel=0.03)
    assert knee_per_second([Flow("a", 1, 10, 10, 1.0)], Station(8)) > 0.6 * 800
