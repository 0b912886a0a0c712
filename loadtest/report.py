"""One HTML file out of the results: tables, pictures inside it, what each number means."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtest.watch import DISTURBED

__all__ = ["build", "write"]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; max-width: 70rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums;
        display: block; overflow-x: auto; }
th, td { padding: .25rem .55rem; border-bottom: 1px solid #ddd; text-align: right; }
th { border-bottom: 2px solid #999; } td.text, th.text { text-align: left; }
tr.knee td { background: #eef4f7; } .bad { color: #b3261e; font-weight: 600; }
.note { color: #555; } img { max-width: 100%; height: auto; }
"""

KNEE = ' class="knee"'

ALTS = {
    "concurrency": "Throughput and latency by requests in flight, the knee marked",
    "workers": "One and more server processes compared",
    "open_loop": "Latency by rate of arrival",
    "faults": "Latency and errors while things break",
    "sizing": "The sizing model's latencies beside the measured ones",
    "soak": "Memory, descriptors, threads and latency over time",
}


def write(directory: Path, results: Mapping[str, Any], pictures: Mapping[str, bytes]) -> Path:
    """`report.html`, `results.json` and the pictures in a directory; the report's path."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(results), indent=2)
    (directory / "results.json").write_text(text + "\n", encoding="utf-8")
    for name, picture in pictures.items():
        (directory / f"{name}.png").write_bytes(picture)
    path = directory / "report.html"
    path.write_text(build(results, pictures), encoding="utf-8")
    return path


def build(results: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page; needs nothing but itself. Sections of what the results don't hold are left out."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>ragdock load test</title><style>{STYLE}</style></head><body>",
        "<h1>Load test</h1>",
        _environment(results),
    ]
    runs = results.get("runs") or []
    if runs:
        stepped = [run for run in runs if run["steps"]]
        if stepped:
            parts.append(_closed(stepped))
            parts += [_picture(pictures, "concurrency"), _picture(pictures, "workers")]
            parts += [_steps(run) for run in stepped]
        parts.append(_open(runs, pictures))
    for name, section in (("faults", _faults), ("sizing", _sizing), ("soak", _soak)):
        if results.get(name):
            parts += [section(results[name]), _picture(pictures, name)]
    parts.append("</body></html>")
    return "\n".join(part for part in parts if part) + "\n"


def _environment(results: Mapping[str, Any]) -> str:
    facts = results.get("environment") or {}
    rows = [(key.replace("_", " "), value) for key, value in facts.items()]
    mix = results.get("mix") or {}
    if mix:
        rows.append(("mix", ", ".join(f"{key} {value:g}" for key, value in mix.items())))
    busy = max(_busy_elsewhere(results), default=0.0)
    note = ""
    if busy > DISTURBED:
        note = (
            f'<p class="bad">The machine was not quiet: other programs used up to {busy:.1f} '
            "processors meanwhile (the column others' CPUs; what a hypervisor took is in it). What "
            "was disturbed was measured again, twice at most. Don't trust such rows.</p>"
        )
    return _table(("", ""), rows, text=2) + note


def _busy_elsewhere(results: Mapping[str, Any]) -> list[float]:
    """Of every measurement that knows it."""
    runs = results.get("runs") or []
    found = [row for run in runs for row in (*run["steps"], *(run.get("open") or []))]
    found += (results.get("sizing") or {}).get("rows", [])
    found.append(results.get("faults") or {})
    return [row["busy_elsewhere_cpus"] for row in found if row.get("busy_elsewhere_cpus")]


def _closed(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for run in runs:
        knee = run["knee"]
        if knee is None:
            rows.append((run["workers"], "-", "-", "-", "-", "-", _n(run["memory_mb"])))
            continue
        at = f"{knee['at']['concurrency']}{' or more' if knee['open_end'] else ''}"
        overloaded = knee["overloaded_at"]
        rows.append(
            (
                run["workers"],
                at,
                _n(knee["at"]["per_second"]),
                knee["saturated_at"]["concurrency"],
                _n(knee["peak_per_second"]),
                overloaded["concurrency"] if overloaded else "not reached",
                _n(run["memory_mb"]),
            )
        )
    engine = html.escape(str(runs[0].get("engine", "")))
    return (
        "<h2>Closed loop: how much</h2>"
        f'<p class="note">So many requests are in flight at any time ({engine}); each visitor asks '
        "again when it is answered. This finds throughput. It hides waiting: a server that stalls "
        "is asked less. The knee is where throughput over latency is greatest; saturated is the "
        "first step within 5 % of the best throughput. From the step on that refuses more than 1 % "
        "of its requests the server is overloaded: it turns the dear ones away and answers more "
        "of the cheap ones, so neither the knee nor the best is looked for there.</p>"
        + _table(
            ("server processes", "knee, in flight", "answers/s there", "saturated at",
             "best answers/s", "overloaded at", "memory, MB"),
            rows,
        )
        + "".join(_early_knee(run) for run in runs)
    )  # fmt: skip


def _early_knee(run: Mapping[str, Any]) -> str:
    """Why the knee is at the first step, when it is."""
    knee, first = run["knee"], run["steps"][0]
    if knee is None or knee["at"]["concurrency"] != first["concurrency"] or not first["cpus"]:
        return ""
    processes = f"{run['workers']} process{'es' if run['workers'] > 1 else ''}"
    return (
        f'<p class="note">{processes}: the knee is the first step. With {first["concurrency"]} in '
        f"flight the server keeps {first['cpus']:.1f} processors busy already, for one question "
        "that no cache answers embeds its passages' sentences on all of them at once; more in "
        "flight mostly wait.</p>"
    )


def _steps(run: Mapping[str, Any]) -> str:
    knee = run["knee"]["at"]["concurrency"] if run["knee"] else None
    rows = [
        (step["concurrency"], _n(step["per_second"]), _n(step["made_per_second"]),
         f"{step['refused_share']:.0%}", *_percentiles(step), _n(step["cpus"], 2),
         _n(step["busy_elsewhere_cpus"], 2), _errors(step))
        for step in run["steps"]
    ]  # fmt: skip
    marks = {number for number, step in enumerate(run["steps"]) if step["concurrency"] == knee}
    last = run["steps"][-1]["kinds"] if run["steps"] else {}
    kinds = [
        (name, values["n"], f"{values['share']:.0%}", _n(values["p50_ms"]), _n(values["p95_ms"]),
         _n(values["p99_ms"]))
        for name, values in last.items()
    ]  # fmt: skip
    return (
        f"<h2>{run['workers']} server process{'es' if run['workers'] > 1 else ''}</h2>"
        + _table(
            (
                "in flight",
                "answers/s",
                "of them not cached",
                "refused",
                "p50 ms",
                "p95 ms",
                "p99 ms",
                "server's CPUs",
                "others' CPUs",
                "errors",
            ),
            rows,
            last_is_text=True,
            marks=marks,
        )
        + '<p class="note">By kind, at the last step:</p>'
        + _table(("kind", "answers", "share", "p50 ms", "p95 ms", "p99 ms"), kinds, text=1)
    )


def _open(runs: Sequence[Mapping[str, Any]], pictures: Mapping[str, bytes]) -> str:
    rows = [
        (run["workers"], _n(row["rate"]), _n(row["per_second"]), _n(row["made_per_second"]),
         f"{row['refused_share']:.0%}", *_percentiles(row), _n(row["service_p95_ms"]),
         _n(row["cpus"], 2), _n(row["busy_elsewhere_cpus"], 2), _errors(row))
        for run in runs
        for row in run.get("open") or []
    ]  # fmt: skip
    if not rows:
        return ""
    return (
        "<h2>Open loop: how long</h2>"
        '<p class="note">Requests arrive at a rate, at random (Poisson), whether or not the server '
        "keeps up, and a latency counts from the arrival. These are the percentiles that people "
        "see. Where the closed loop's p95 at the same throughput is lower, that is the waiting "
        "that it hides. &ldquo;From sending&rdquo; shows the generator: where it is much less than "
        "the p95, the generator was late itself, or had no connection left. Percentiles are of "
        "answers: where requests are refused, those are the lucky ones.</p>"
        + _table(
            ("processes", "arrivals/s", "answers/s", "of them not cached", "refused", "p50 ms",
             "p95 ms", "p99 ms", "p95 from sending",
             "server's CPUs", "others' CPUs", "errors"),
            rows,
            last_is_text=True,
        )
        + _picture(pictures, "open_loop")
    )  # fmt: skip


def _faults(run: Mapping[str, Any]) -> str:
    rows = []
    for fault in run["faults"]:
        recovery = fault["recovery_seconds"]
        verdict = "as designed" if fault["as_designed"] else "NOT as designed"
        rows.append(
            (
                fault["title"],
                fault["design"],
                fault["during"]["n"],
                _errors(fault["during"]),
                _errors(fault["after"]),
                fault["refused"],
                fault["fallbacks"],
                _n(fault["during"]["p95_ms"]),
                "-" if recovery is None else f"{recovery:.1f} s",
                verdict,
            )
        )
    base = run["baseline"]
    return (
        "<h2>Faults under load</h2>"
        f'<p class="note">{run["rate"]:.0f} requests a second arrive (open loop), '
        f"{run['workers']} server processes. Before anything breaks the p95 is "
        f"{_n(base['p95_ms'])} ms with {sum(base['errors'].values())} errors. Recovery counts from "
        "the mending (a killed process: from the kill) to the last half-second with an unexpected "
        "error or a p90 above twice that p95.</p>"
        + _table(
            ("fault", "the design", "requests", "errors meanwhile", "errors after",
             "refused", "answered without LLM", "p95 ms meanwhile", "recovered after", "verdict"),
            rows,
            text=2,
            last_is_text=True,
        )
    )  # fmt: skip


def _sizing(check: Mapping[str, Any]) -> str:
    rows = []
    for row in check["rows"]:
        cells: list[object] = [f"{row['share']:.0%}", _n(row["per_second"])]
        for name in ("p50_ms", "p95_ms", "p99_ms"):
            one = row[name]
            error = "-" if one["error"] is None else f"{one['error']:+.0%}"
            cells += [_n(one["predicted"]), _n(one["measured"]), error]
        rows.append((*cells, f"{row['busy_elsewhere_cpus']:.2f}"))
    kinds = [
        (name, *(_n(cost[key], 2) for key in ("cpu_ms", "alone_ms", "scv", "serial_ms",
                                              "client_ms")))
        for name, cost in check["costs"].items()
    ]  # fmt: skip
    return (
        "<h2>Sizing: predicted and measured</h2>"
        '<p class="note">The model of docs/sizing.md, with the constants below measured in this '
        f"run; {check['workers']} server process, capacity "
        f"{check['capacity_per_second']:.1f} requests a second. The load generator's own time is "
        "counted, for it shares the processors.</p>"
        + _table(
            ("load", "arrivals/s", "p50 predicted", "measured", "error", "p95 predicted",
             "measured", "error", "p99 predicted", "measured", "error", "CPUs used by others"),
            rows,
        )
        + _table(
            ("kind", "CPU ms", "alone ms", "scv", "serial ms", "generator's CPU ms"), kinds, text=1
        )
    )  # fmt: skip


def _soak(run: Mapping[str, Any]) -> str:
    rows = [
        (name.replace("_", " "), _n(trend["first"]), _n(trend["last"]),
         f"{trend['per_hour']:+.1f}", "GROWS" if trend["grows"] else "steady")
        for name, trend in run["trends"].items()
    ]  # fmt: skip
    total = run["summary"]
    return (
        "<h2>Soak</h2>"
        f'<p class="note">{run["visitors"]} visitors who think {run["think_seconds"]:g} s, for '
        f"{run['seconds'] / 60:.1f} minutes: {total['n']} requests, {_errors(total) or 'no'} "
        "errors. The first third is left out of the trends; growth is more than 5 % and more "
        "than noise.</p>"
        + _table(("what", "first", "last", "an hour", ""), rows, text=1, last_is_text=True)
    )


def _percentiles(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return _n(row["p50_ms"]), _n(row["p95_ms"]), _n(row["p99_ms"])


def _errors(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{count} × {kind}" for kind, count in sorted(row["errors"].items()))


def _n(value: float | None, digits: int = 1) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def _table(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    text: int = 0,
    last_is_text: bool = False,
    marks: set[int] | frozenset[int] = frozenset(),
) -> str:
    """The first `text` columns, and the last if so, are aligned left."""

    def of(tag: str, cells: Sequence[object]) -> str:
        found = []
        for number, cell in enumerate(cells):
            left = number < text or (last_is_text and number == len(cells) - 1)
            words = html.escape(str(cell))
            bad = ' class="bad"' if words in ("NOT as designed", "GROWS") else ""
            kind = ' class="text"' if left else ""
            inner = f"<span{bad}>{words}</span>" if bad else words
            found.append(f"<{tag}{kind}>{inner}</{tag}>")
        return "".join(found)

    body = "".join(
        f"<tr{KNEE if number in marks else ''}>{of('td', row)}</tr>"
        for number, row in enumerate(rows)
    )
    first = f"<thead><tr>{of('th', head)}</tr></thead>" if any(head) else ""
    return f"<table>{first}<tbody>{body}</tbody></table>"


def _picture(pictures: Mapping[str, bytes], name: str) -> str:
    if name not in pictures:
        return ""
    data = base64.b64encode(pictures[name]).decode()
    return f'<p><img alt="{ALTS[name]}" src="data:image/png;base64,{data}"></p>'


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: null stands for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
