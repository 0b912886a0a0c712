"""`load`, `soak`, `sizing-check` and `url`: what is run, how long, and where the report goes."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import ipaddress
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadtest import runs
from loadtest.facts import environment
from loadtest.mix import Mix
from loadtest.plain import Client, open_loop
from loadtest.records import summarise
from loadtest.report import write
from loadtest.target import ROOT, Target

__all__ = ["main"]

LLM = "lognormal:150:450"
MAX_REMOTE_RATE = 20.0
"""Requests a second at most to a server that isn't on this machine."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long everything takes; the whole of `load` is about the sum."""

    levels: tuple[int, ...]
    step_seconds: float
    open_shares: tuple[float, ...]
    open_seconds: float
    baseline_seconds: float
    fault_seconds: float
    recovery_seconds: float
    n_documents: int
    n_popular: int


FULL = Plan((1, 2, 4, 8, 16, 32), 8.0, (0.3, 0.6, 0.8, 0.95, 1.3), 10.0, 10.0, 6.0, 6.0, 60, 100)
QUICK = Plan((1, 4, 16), 2.5, (0.3, 0.7), 3.5, 3.0, 2.5, 2.5, 10, 30)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, 1 when something was not as designed or grows, 2 for a wrong option."""
    options = _arguments(argv)
    try:
        return int(options.run(options))
    except (ValueError, RuntimeError) as exc:
        print(f"Error: {exc}", file=sys.stderr)
        return 2 if isinstance(exc, ValueError) else 1


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        added.add_argument("--mix", default="", help="as in ask=80,upload=0,popular_share=.5")
        added.add_argument("--out", type=Path, default=ROOT / ".cache" / "loadtest",
                           help="where report.html, results.json and the pictures go")  # fmt: skip
        return added

    def own(added: argparse.ArgumentParser) -> None:
        added.add_argument("--python", default=sys.executable, help="runs the server")
        added.add_argument("--hashed", action="store_true",
                           help="a server without the model, for tests of the test")  # fmt: skip

    load = command("load", _load, "Steps, rates and faults against a server of its own.")
    own(load)
    load.add_argument("--quick", action="store_true", help="below 2 minutes")
    load.add_argument("--workers", default="1,2", help="server processes to compare")
    load.add_argument("--engine", choices=("locust", "plain"), default=None,
                      help="of the closed loop [locust where it is installed]")  # fmt: skip
    load.add_argument("--scale", type=float, default=1.0, help="times all durations")
    soak = command("soak", _soak, "Visitors for a long time; says what grows.")
    own(soak)
    soak.add_argument("--minutes", type=float, default=30.0)
    soak.add_argument("--visitors", type=int, default=8)
    soak.add_argument("--workers", type=int, default=1)
    check = command("sizing-check", _check, "The sizing model beside a load test.")
    own(check)
    check.add_argument("--seconds", type=float, default=25.0, help="of each of three loads")
    check.add_argument("--calibrate", type=float, default=6.0, help="seconds for each kind")
    check.add_argument("--workers", type=int, default=1)
    check.add_argument("--shares", default="0.3,0.6,0.8", help="of the capacity")
    url = command("url", _url, "An open loop against a server that runs already; reads only.")
    url.add_argument("url")
    url.add_argument("--rate", type=float, default=5.0, help="requests a second")
    url.add_argument("--seconds", type=float, default=30.0)
    url.add_argument("--key-file", type=Path)
    url.add_argument("--writes", action="store_true",
                     help="upload and delete too, in the collection load-writes")  # fmt: skip
    url.add_argument("--yes-this-is-mine", action="store_true",
                     help="needed for an address that isn't this machine's")  # fmt: skip
    return parser.parse_args(argv)


def _load(options: argparse.Namespace) -> int:
    began = time.monotonic()
    plan = QUICK if options.quick else FULL
    mix = replace(Mix(n_popular=plan.n_popular), **_given(options.mix))
    scale = options.scale
    plan = replace(
        plan,
        **{name: getattr(plan, name) * scale for name in (
            "step_seconds", "open_seconds", "baseline_seconds", "fault_seconds",
            "recovery_seconds")},
    )  # fmt: skip
    workers = [int(number) for number in options.workers.split(",")]
    engine = options.engine or ("locust" if importlib.util.find_spec("locust") else "plain")
    results: dict[str, Any] = {"environment": environment(), "mix": asdict(mix), "runs": []}
    with _scratch() as scratch:
        for number in workers:
            _say(f"{number} server process{'es' if number > 1 else ''}")
            with _target(options, scratch / f"w{number}", number) as target:
                results["environment"]["chunks"] = target.fill(plan.n_documents)
                target.warm(mix)
                run = runs.closed(
                    target, mix, plan.levels, plan.step_seconds, engine=engine, scratch=scratch,
                    say=_say,
                )  # fmt: skip
                if run["knee"]:
                    peak = run["knee"]["peak_per_second"]
                    rates = [peak * share for share in plan.open_shares]
                    run["open"] = runs.opened(target, mix, rates, plan.open_seconds, _say)
                results["runs"].append(run)
        peak = max((run["knee"] or {}).get("peak_per_second", 0) for run in results["runs"])
        _say(f"faults, with an LLM ({LLM}) and {workers[-1]} server processes")
        settings = {"RAG_LLM_TIMEOUT_SECONDS": "2"}
        with _target(options, scratch / "faults", workers[-1], llm=LLM, **settings) as target:
            target.fill(plan.n_documents)
            target.warm(mix)
            results["faults"] = runs.fault_run(
                target, mix, min(max(0.5 * peak, 5.0), 60.0), plan.baseline_seconds,
                plan.fault_seconds, plan.recovery_seconds, _say,
            )  # fmt: skip
    results["environment"]["took_seconds"] = round(time.monotonic() - began)
    return _reported(options, results)


def _soak(options: argparse.Namespace) -> int:
    mix = replace(Mix.parse("think_seconds=1,delete=4"), **_given(options.mix))
    results: dict[str, Any] = {"environment": environment(), "mix": asdict(mix)}
    with _scratch() as scratch, _target(options, scratch / "soak", options.workers) as target:
        target.fill(FULL.n_documents)
        target.warm(mix)
        results["soak"] = runs.soak(target, mix, options.visitors, options.minutes * 60, _say)
    return _reported(options, results)


def _check(options: argparse.Namespace) -> int:
    mix = Mix.parse(options.mix)
    results: dict[str, Any] = {"environment": environment(), "mix": asdict(mix)}
    with _scratch() as scratch, _target(options, scratch / "check", options.workers) as target:
        target.fill(FULL.n_documents)
        target.warm(mix)
        shares = [float(share) for share in options.shares.split(",")]
        results["sizing"] = runs.sizing_check(
            target, mix, options.calibrate, options.seconds, shares, _say
        )
    return _reported(options, results)


def _url(options: argparse.Namespace) -> int:
    parts = urlsplit(options.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url={options.url!r} must start with http:// or https://")
    if not 0 < options.rate <= 1000 or not 0 < options.seconds <= 3600:
        raise ValueError("--rate is 0 to 1000 a second, --seconds 0 to 3600")
    if not _is_local(parts.hostname):
        if not options.yes_this_is_mine:
            raise ValueError(
                f"{parts.hostname} isn't this machine. A load test of somebody else's server is an "
                "attack; add --yes-this-is-mine if it is yours."
            )
        if options.rate > MAX_REMOTE_RATE:
            raise ValueError(f"--rate={options.rate:g}: at most {MAX_REMOTE_RATE:g} to a remote")
    mix = Mix.parse(options.mix)
    if not options.writes:
        mix = replace(mix, upload=0.0, delete=0.0)
    key = options.key_file.read_text(encoding="utf-8").strip() if options.key_file else None
    client = Client(options.url.rstrip("/"), key)
    run = f"url{time.time_ns()}"
    start, end = asyncio.run(open_loop(client, mix, options.rate, options.seconds, run=run))
    summary = summarise(client.records, start, end)
    _say(
        f"{summary.n} requests at {options.rate:g}/s: p50 {summary.p50_ms:.1f}, p95 "
        f"{summary.p95_ms:.1f}, p99 {summary.p99_ms:.1f} ms, errors {summary.errors or 'none'}"
    )
    row = {"rate": options.rate, **summary.as_json(), "cpus": None, "busy_elsewhere_cpus": None}
    run_result = {
        "workers": 0, "engine": "open loop", "steps": [], "knee": None, "memory_mb": None,
        "open": [row],
    }  # fmt: skip
    results = {"environment": environment() | {"server": options.url}, "mix": asdict(mix),
               "runs": [run_result]}  # fmt: skip
    return _reported(options, results)


def _reported(options: argparse.Namespace, results: dict[str, Any]) -> int:
    pictures: dict[str, bytes] = {}
    if importlib.util.find_spec("matplotlib"):
        from loadtest.plots import plots

        pictures = plots(results)
    else:
        _say("no matplotlib here: the report has no pictures (`make load` installs it)")
    path = write(options.out, results, pictures)
    _say(f"report: {path}")
    faults = (results.get("faults") or {}).get("faults", [])
    trends = (results.get("soak") or {}).get("trends", {})
    wrong = [fault["name"] for fault in faults if not fault["as_designed"]]
    wrong += [f"{name} grows" for name, found in trends.items() if found["grows"]]
    if wrong:
        _say("NOT as it should be: " + ", ".join(wrong))
    return int(bool(wrong))


def _target(
    options: argparse.Namespace, directory: Path, workers: int, llm: str | None = None,
    **settings: str,
) -> Target:  # fmt: skip
    target = Target(directory, workers=workers, llm=llm, python=options.python)
    target.settings = settings
    if options.hashed:
        target.command = ("-m", "support.serve", "--hashed")
        target.settings |= {"RAG_MIN_SCORE": "0", "RAG_THREADS": "1"}
    return target


def _given(text: str) -> dict[str, Any]:
    """Only what the notation names."""
    named = {pair.partition("=")[0].strip() for pair in text.split(",") if pair.strip()}
    return {name: value for name, value in asdict(Mix.parse(text)).items() if name in named}


def _is_local(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        raise ValueError(f"{host!r} is no host that can be found") from None
    return all(ipaddress.ip_address(str(item[4][0])).is_loopback for item in found)


@contextmanager
def _scratch() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="ragdock-load-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _say(text: str) -> None:
    print(f"  {text}", flush=True)
