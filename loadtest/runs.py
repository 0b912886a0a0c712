"""The measurements: a closed loop's steps, an open one's rates, faults, sizing check, soak."""

from __future__ import annotations

import asyncio
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from loadtest import faults, plain
from loadtest.calibrate import KINDS, Cost, costs
from loadtest.facts import cpus
from loadtest.knee import OVERLOADED, Point, find_knee
from loadtest.mix import Mix
from loadtest.plain import Client, open_loop
from loadtest.records import Record, load, summarise
from loadtest.target import ROOT, Target
from loadtest.trends import trend
from loadtest.watch import DISTURBED, REPEATS, Sampler, busy_elsewhere, quietest

__all__ = ["closed", "fault_run", "opened", "sizing_check", "soak", "vantage"]

RAMP_SECONDS = 0.5
"""What is left out at the start of a step: users arrive, connections open."""


def closed(
    target: Target,
    mix: Mix,
    levels: Sequence[int],
    seconds: float,
    *,
    engine: str,
    scratch: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Each level for some seconds; the steps and the knee.

    What others disturbed is measured again; see `watch.quietest`.
    """
    found: dict[int, dict[str, Any]] = {}
    again, client_cpu, n_steps = list(levels), 0.0, 0
    for attempt in range(1 + REPEATS):
        run = f"w{target.workers}.{attempt}"
        cpu_before = _cpu_of_children_and_self()
        with Sampler(target) as sampler:
            if engine == "locust":
                records, spans = _locust(target, mix, again, seconds, run, scratch)
            else:
                client = Client(target.url)
                spans = plain.steps(client, mix, again, seconds, run=run)
                records = client.records
        client_cpu += _cpu_of_children_and_self() - cpu_before
        n_steps += len(again)
        for level, start, end in spans:
            step = _step(level, records, sampler, start, end, say)
            if level not in found or _busy(step) < _busy(found[level]):
                found[level] = step
        again = [level for level in levels if _busy(found[level]) > DISTURBED]
        if not again or attempt == REPEATS:
            break
        say(f"others used the processors at {', '.join(map(str, again))} in flight: again")
    steps = [found[level] for level in levels]
    points = [
        Point(s["concurrency"], s["per_second"], s["mean_ms"] or 0.0, s["refused_share"])
        for s in steps
    ]
    knee = find_knee(points)
    return {
        "workers": target.workers,
        "engine": engine,
        "steps": steps,
        "knee": None if knee is None else asdict(knee),
        "client_cpus": client_cpu / (seconds * n_steps),
        "busy_elsewhere_cpus": max(map(_busy, steps)),
        "memory_mb": target.facts().pss_mb,
    }


def _step(
    level: int,
    records: Sequence[Record],
    sampler: Sampler,
    start: float,
    end: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    start += min(RAMP_SECONDS, (end - start) / 4)
    summary = summarise(records, start, end)
    say(
        f"{level:>4} in flight: {summary.per_second:7.1f}/s  p50 {summary.p50_ms:7.1f}  "
        f"p95 {summary.p95_ms:7.1f}  p99 {summary.p99_ms:7.1f} ms  "
        f"{sum(summary.errors.values())} errors"
        + (
            f"; overloaded, {summary.refused_share:.0%} refused"
            if summary.refused_share > OVERLOADED
            else ""
        )
    )
    return {
        "concurrency": level,
        **summary.as_json(),
        "cpus": sampler.cpus(start, end),
        "busy_elsewhere_cpus": sampler.elsewhere(start, end),
    }


def _busy(found: dict[str, Any]) -> float:
    return float(found["busy_elsewhere_cpus"])


def opened(
    target: Target,
    mix: Mix,
    rates: Sequence[float],
    seconds: float,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Poisson arrivals at each rate; what others disturbed again."""

    def at(number: int, rate: float, attempt: int) -> dict[str, Any]:
        client = Client(target.url)
        run = f"o{target.workers}.{number}.{attempt}"
        with Sampler(target) as sampler:
            start, end = asyncio.run(open_loop(client, mix, rate, seconds, run=run))
        start += min(RAMP_SECONDS, seconds / 4)
        summary = summarise(client.records, start, end)
        say(
            f"{rate:6.1f}/s arrive: p50 {summary.p50_ms:7.1f}  p95 {summary.p95_ms:7.1f} "
            f"(from sending {summary.service_p95_ms:.1f})  p99 {summary.p99_ms:7.1f} ms  "
            f"{sum(summary.errors.values())} errors"
        )
        return {
            "rate": rate,
            **summary.as_json(),
            "cpus": sampler.cpus(start, end),
            "busy_elsewhere_cpus": sampler.elsewhere(start, end),
        }

    return [quietest(partial(at, number, rate), say) for number, rate in enumerate(rates)]


def fault_run(
    target: Target,
    mix: Mix,
    rate: float,
    baseline_seconds: float,
    fault_seconds: float,
    recovery_seconds: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """An open loop at a rate, while one thing after the other breaks and is mended."""
    names = faults.possible(target)
    schedule = faults.schedule(names, baseline_seconds, fault_seconds, recovery_seconds)
    total = schedule[-1].until if schedule else baseline_seconds
    client = Client(target.url, timeout_seconds=20.0)
    began = time.monotonic()
    with faults.breaking(target, schedule, began) as happened, Sampler(target) as sampler:
        start, end = asyncio.run(open_loop(client, mix, rate, total, run="faults"))
    found = faults.judged(client.records, happened, began, began + baseline_seconds)
    for fault in found:
        recovery = fault["recovery_seconds"]
        say(
            f"{fault['name']:<14} {fault['during']['n']:>4} requests, "
            f"errors {fault['during']['errors'] or 'none'}, p95 "
            f"{fault['during']['p95_ms'] or math.nan:.0f} ms, recovered after "
            + (f"{recovery:.1f} s" if recovery is not None else "more than was waited")
            + ("" if fault["as_designed"] else "  NOT AS DESIGNED")
        )
    return {
        "rate": rate,
        "workers": target.workers,
        "busy_elsewhere_cpus": sampler.elsewhere(start, end),
        "baseline": summarise(client.records, began, began + baseline_seconds).as_json(),
        "faults": found,
        "seconds": timeline(client.records, start, end),
        "end": end - start,
    }


def timeline(records: Sequence[Record], start: float, end: float) -> list[dict[str, Any]]:
    """One row a second: rate, median, p95, errors."""
    rows = []
    for second in range(math.ceil(end - start)):
        summary = summarise(records, start + second, start + second + 1)
        rows.append(
            {
                "at": second,
                "n": summary.n,
                "p50_ms": summary.as_json()["p50_ms"],
                "p95_ms": summary.as_json()["p95_ms"],
                "errors": sum(summary.errors.values()),
            }
        )
    return rows


def vantage(mix: Mix) -> dict[str, float]:
    """The share of each kind that the mix makes, with what the cache is meant to say."""
    total = sum(mix.weights.values())
    shares: dict[str, float] = {}
    for kind, weight in mix.weights.items():
        share = weight / total
        if kind in ("ask", "search"):
            shares[f"{kind} hit"] = share * mix.popular_share
            shares[f"{kind} miss"] = share * (1 - mix.popular_share)
        else:
            shares[kind] = share
    return {kind: share for kind, share in shares.items() if share}


def sizing_check(
    target: Target,
    mix: Mix,
    calibrate_seconds: float,
    load_seconds: float,
    shares_of_capacity: Sequence[float],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Constants of this very run, the model's percentiles, and the measured ones beside them."""
    from ragdock.core.queueing import Flow, Station, predict, scaled

    shares = vantage(mix)
    kinds = [kind for kind in KINDS if kind in shares]

    def calibrate(_: int) -> dict[str, Any]:
        with busy_elsewhere() as others:
            found = costs(target, mix, calibrate_seconds, kinds)
            return {"costs": found, "busy_elsewhere_cpus": others()}

    calibrated = quietest(calibrate, say)
    found: dict[str, Cost] = calibrated["costs"]
    busy = _busy(calibrated)
    station = Station(cpus(), target.workers)

    def flow(kind: str, cost: Cost, per_second: float) -> Flow:
        # The generator shares the processors with the server here, so its time counts too.
        cpu = cost.cpu_ms + cost.client_ms
        return Flow(kind, per_second, cpu, cost.alone_ms, cost.scv, cost.serial_ms)

    planned = [flow(kind, found[kind], share) for kind, share in shares.items()]
    capacity = predict(planned, station).capacity_per_second
    say(f"capacity by the model: {capacity:.1f}/s; others used {busy:.2f} processors meanwhile")

    def at(share: float, attempt: int) -> dict[str, Any]:
        client = Client(target.url)
        run = f"size{share}.{attempt}"
        with Sampler(target) as sampler:
            start, end = asyncio.run(
                open_loop(client, mix, capacity * share, load_seconds, run=run)
            )
        busy_then = sampler.elsewhere(start, end)
        summary = summarise(client.records, start, end)
        # The mix as it came: the model predicts latencies, not what is asked.
        seen = [
            flow(kind, found[kind], values["n"] / (end - start))
            for kind, values in summary.kinds.items()
            if kind in found
        ]
        expected = predict(seen, station)
        # What others took meanwhile was not there: beyond .25 processors no model can know.
        left = predict(seen, Station(max(station.cpus - busy_then, 0.05), station.processes))
        row: dict[str, Any] = {
            "share": share,
            "per_second": expected.per_second,
            "utilisation": expected.utilisation,
            "cpus_predicted": expected.cpu_utilisation * station.cpus,
            "cpus_measured": sampler.cpus(start, end),
            "busy_elsewhere_cpus": busy_then,
            "p95_ms_with_what_was_left": left.p95_ms if left.stable else None,
            "errors": summary.errors,
            "n": summary.n_ok,
        }
        for name in ("p50_ms", "p95_ms", "p99_ms"):
            measured, predicted = getattr(summary, name), getattr(expected, name)
            row[name] = {
                "predicted": predicted if math.isfinite(predicted) else None,
                "measured": measured,
                "error": predicted / measured - 1 if math.isfinite(predicted) else None,
            }
        error = row["p95_ms"]["error"]
        say(
            f"{share:4.0%} of capacity, {row['per_second']:6.1f}/s: p95 predicted "
            f"{expected.p95_ms:7.1f}, measured {summary.p95_ms:7.1f} ms, error "
            + (f"{error:+.0%}" if error is not None else "endless")
            + f"; others used {busy_then:.2f} processors"
            + ("" if left.stable else ", more than this load left free")
        )
        return row

    rows = [quietest(partial(at, share), say) for share in shares_of_capacity]
    curve = [
        asdict(predict(scaled(planned, capacity * step / 50), station)) for step in range(1, 48)
    ]
    return {
        "capacity_per_second": capacity,
        "workers": target.workers,
        "costs": {kind: asdict(cost) for kind, cost in found.items()},
        "busy_elsewhere_cpus": busy,
        "rows": rows,
        "curve": [
            {"per_second": one["per_second"], "p50_ms": one["p50_ms"], "p95_ms": one["p95_ms"],
             "p99_ms": one["p99_ms"]} for one in curve
        ],
    }  # fmt: skip


def soak(
    target: Target, mix: Mix, n_visitors: int, seconds: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Visitors with think time for long; whether memory, descriptors, threads or latency grow."""
    every = max(1.0, seconds / 400)
    client = Client(target.url)
    # Within one second nothing is done twice: the windows are as long as the samples are apart.
    with Sampler(target, every) as sampler:
        start, end = asyncio.run(plain.closed_loop(client, mix, n_visitors, seconds, run="soak"))
    n_windows = min(40, max(6, int(seconds // 15)))
    width = (end - start) / n_windows
    windows = []
    for number in range(n_windows):
        summary = summarise(client.records, start + number * width, start + (number + 1) * width)
        errors = sum(summary.errors.values())
        at = (number + 0.5) * width
        windows.append(
            {"at": at, "p95_ms": summary.p95_ms, "p50_ms": summary.p50_ms, "errors": errors}
        )
    series = {
        "rss_mb": [(f.at - start, f.rss_mb) for f in sampler.facts],
        "cgroup_mb": [(f.at - start, f.cgroup_mb) for f in sampler.facts if f.cgroup_mb],
        "fds": [(f.at - start, float(f.n_fds)) for f in sampler.facts],
        "threads": [(f.at - start, float(f.n_threads)) for f in sampler.facts],
        "p95_ms": [(w["at"], w["p95_ms"]) for w in windows if not math.isnan(w["p95_ms"])],
    }
    # The cgroup's memory holds page cache, and whatever else runs in it: shown, and not judged.
    slack = {"rss_mb": 16.0, "cgroup_mb": math.inf, "fds": 8.0, "threads": 4.0, "p95_ms": 10.0}
    trends = {
        name: asdict(trend(values, slack=slack[name])) for name, values in series.items() if values
    }
    for name, found in trends.items():
        word = "GROWS" if found["grows"] else "steady"
        say(
            f"{name:<10} {found['first']:8.1f} -> {found['last']:8.1f}, "
            f"{found['per_hour']:+.1f} an hour: {word}"
        )
    summary = summarise(client.records, start, end)
    return {
        "visitors": n_visitors,
        "think_seconds": mix.think_seconds,
        "seconds": end - start,
        "summary": summary.as_json(),
        "windows": windows,
        "series": {name: thinned(values, 400) for name, values in series.items()},
        "trends": trends,
    }


def thinned(values: Sequence[tuple[float, float]], n: int) -> list[tuple[float, float]]:
    """At most `n` of the values, evenly."""
    step = max(1, math.ceil(len(values) / n))
    return [(round(at, 1), round(value, 2)) for at, value in values[::step]]


def _locust(
    target: Target, mix: Mix, levels: Sequence[int], seconds: float, run: str, scratch: Path
) -> tuple[list[Record], list[tuple[int, float, float]]]:
    """Run Locust over the steps; its records, and each step's level, start and end."""
    path = scratch / f"{run}.records"
    given = ",".join(f"{name}={value}" for name, value in asdict(mix).items())
    done = subprocess.run(
        [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"),
         "--headless", "--only-summary", "--loglevel", "WARNING", "--host", target.url,
         # What is in flight at the end is waited for: it is the slow requests that would be lost.
         "--stop-timeout", "60"],
        cwd=scratch,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LOADTEST_MIX": given,
            "LOADTEST_RUN": run,
            "LOADTEST_STEPS": ",".join(f"{level}:{seconds:g}" for level in levels),
            "LOADTEST_RECORDS": str(path),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds * len(levels) + 180,
    )  # fmt: skip
    if not path.exists():
        raise RuntimeError(f"locust failed:\n{done.stderr[-2000:]}")
    starts = json.loads(path.with_suffix(".steps").read_text(encoding="utf-8"))
    ends = [at for _, at in starts[1:]] + [starts[-1][1] + seconds]
    spans = [(level, at, end) for (level, at), end in zip(starts, ends, strict=True)]
    return load(path), spans


def _cpu_of_children_and_self() -> float:
    used = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        used += usage.ru_utime + usage.ru_stime
    return used
