"""The report's pictures, by matplotlib, which only the load test's environment has."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

from loadtest.knee import OVERLOADED

__all__ = ["plots"]

COLOURS = ("#0b6e99", "#c4561d", "#3f7d3a", "#7a4f9c")
GREY = "#666666"
RED = "#b3261e"
KEYS = (("p50_ms", "p50", ":"), ("p95_ms", "p95", "-"), ("p99_ms", "p99", "--"))


def plots(results: dict[str, Any]) -> dict[str, bytes]:
    """PNG by name, of what the results hold."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#dddddd",
            "legend.frameon": False,
        }
    )
    found: dict[str, bytes] = {}
    stepped = [run for run in results.get("runs") or [] if run["steps"]]
    drawings: tuple[tuple[str, Any, Callable[[Any, Any], Any]], ...] = (
        ("concurrency", stepped, _concurrency),
        ("workers", stepped, _workers),
        ("open_loop", results.get("runs"), _open_loop),
        ("faults", results.get("faults"), _faults),
        ("sizing", results.get("sizing"), _sizing),
        ("soak", results.get("soak"), _soak),
    )
    for name, wanted, draw in drawings:
        if wanted and (figure := draw(plt, wanted)) is not None:
            file = io.BytesIO()
            figure.savefig(file, format="png", bbox_inches="tight")
            plt.close(figure)
            found[name] = file.getvalue()
    return found


def _concurrency(plt: Any, runs: Sequence[dict[str, Any]]) -> Any:
    figure, rows = plt.subplots(
        2, len(runs), figsize=(5.6 * len(runs), 7), squeeze=False, sharex="col", sharey="row"
    )
    for column, run in enumerate(runs):
        upper, lower = rows[0][column], rows[1][column]
        levels = [step["concurrency"] for step in run["steps"]]
        rates = [step["per_second"] for step in run["steps"]]
        upper.plot(levels, rates, "o-", color=COLOURS[0], label="answers")
        made = [step["made_per_second"] for step in run["steps"]]
        upper.plot(levels, made, "s--", color=COLOURS[2], label="of them not cached")
        refused = [step["n_refused"] / step["seconds"] for step in run["steps"]]
        upper.plot(levels, refused, "x-", color=RED, label="refused")
        upper.set_title(f"{run['workers']} server process{'es' if run['workers'] > 1 else ''}")
        for (key, label, style), colour in zip(KEYS, COLOURS[1:], strict=True):
            values = [step[key] or math.nan for step in run["steps"]]
            lower.plot(levels, values, "o" + style, color=colour, label=label)
        lower.set_xscale("log", base=2)
        lower.set_yscale("log")
        lower.set_xticks(levels, [str(level) for level in levels])
        lower.minorticks_off()
        lower.set_xlabel("requests in flight")
        _plain_log(lower.yaxis)
        _shade_overload((upper, lower), run)
        knee = run["knee"]
        if knee:
            at = knee["at"]["concurrency"]
            for axis in (upper, lower):
                axis.axvline(at, color=GREY, linestyle="--", linewidth=1)
            beyond = " or more" if knee["open_end"] else ""
            right = at > levels[len(levels) // 2]
            upper.annotate(
                f"knee: {at}{beyond} in flight,\n{knee['at']['per_second']:.0f}/s",
                (at, 0.5),
                (-5 if right else 5, 0),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                color=GREY,
                ha="right" if right else "left",
                va="bottom",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            )
        if column == 0:
            upper.set_ylabel("requests a second")
            upper.legend(loc="upper left", fontsize=9)
            lower.set_ylabel("latency, ms (log)")
        lower.legend(loc="upper right", ncols=3, fontsize=9)
    # Once for all: the panels of a row share their limits.
    best = max(step["per_second"] for run in runs for step in run["steps"])
    rows[0][0].set_ylim(0, 1.3 * best or 1)  # Room for the legend.
    low, high = rows[1][0].get_ylim()
    rows[1][0].set_ylim(low, high * 2)  # Room for the legend.
    figure.suptitle("Closed loop: throughput and latency by requests in flight")
    figure.tight_layout()
    return figure


def _shade_overload(axes: Sequence[Any], run: dict[str, Any]) -> None:
    """Beyond the first step that refuses, the answers are another mix than what was asked."""
    found = [s["concurrency"] for s in run["steps"] if s["refused_share"] > OVERLOADED]
    if not found:
        return
    # The axis is of powers of two: halfway to the step before.
    begin = found[0] / math.sqrt(2)
    for axis in axes:
        axis.axvspan(begin, run["steps"][-1]["concurrency"] * math.sqrt(2), color="#f2d7c9",
                     alpha=0.5, linewidth=0, zorder=0)  # fmt: skip
    axes[1].annotate("overloaded", (begin, 0.02), (4, 2), color=RED, fontsize=9,
                     xycoords=("data", "axes fraction"), textcoords="offset points")  # fmt: skip


def _workers(plt: Any, runs: Sequence[dict[str, Any]]) -> Any:
    if len(runs) < 2:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.2, 3.8))
    for run, colour in zip(runs, COLOURS, strict=False):
        label = f"{run['workers']} process{'es' if run['workers'] > 1 else ''}"
        # What an overloaded server answers is another mix: not to be compared.
        steps = [step for step in run["steps"] if step["refused_share"] <= OVERLOADED]
        levels = [step["concurrency"] for step in steps]
        left.plot(levels, [step["per_second"] for step in steps], "o-", color=colour, label=label)
        right.plot(
            [step["per_second"] for step in steps],
            [step["p95_ms"] or math.nan for step in steps],
            "o-",
            color=colour,
            label=label,
        )
    left.set_xscale("log", base=2)
    levels = [step["concurrency"] for step in runs[0]["steps"]]
    left.set_xticks(levels, [str(level) for level in levels])
    left.minorticks_off()
    left.set_ylim(bottom=0)
    left.set_xlabel("requests in flight")
    left.set_ylabel("good answers a second")
    right.set_yscale("log")
    _plain_log(right.yaxis)
    right.set_xlim(left=0)
    right.set_xlabel("good answers a second")
    right.set_ylabel("p95, ms (log)")
    left.legend(loc="best")
    figure.suptitle("Server processes compared (closed loop, up to the first refusals)")
    figure.tight_layout()
    return figure


def _open_loop(plt: Any, runs: Sequence[dict[str, Any]]) -> Any:
    shown = [run for run in runs if run.get("open")]
    if not shown:
        return None
    figure, axes = plt.subplots(
        1, len(shown), figsize=(5.6 * len(shown), 4), squeeze=False, sharey=True
    )
    for axis, run in zip(axes[0], shown, strict=True):
        rates = [row["rate"] for row in run["open"]]
        for (key, label, style), colour in zip(KEYS, COLOURS[1:], strict=True):
            values = [row[key] or math.nan for row in run["open"]]
            axis.plot(rates, values, "o" + style, color=colour, label=label)
        steps = [step for step in run["steps"] if step["refused_share"] <= OVERLOADED]
        axis.plot(
            [step["per_second"] for step in steps],
            [step["p95_ms"] or math.nan for step in steps],
            "x",
            color=GREY,
            label="p95 of the closed loop, at its throughput",
        )
        for row in run["open"]:
            if row["refused_share"] > OVERLOADED:
                axis.annotate(
                    f"{row['refused_share']:.0%}\nrefused",
                    (row["rate"], row["p99_ms"] or 1.0),
                    (0, 7),
                    textcoords="offset points", color=RED, ha="center", fontsize=8,
                )  # fmt: skip
        axis.set_yscale("log")
        _plain_log(axis.yaxis)
        axis.margins(y=0.15)
        axis.set_xlim(left=0)
        axis.set_xlabel("arrivals a second (Poisson)")
        axis.set_title(f"{run['workers']} server process{'es' if run['workers'] > 1 else ''}")
    axes[0][0].set_ylabel("latency, ms (log)")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle("Open loop: latency by rate of arrival")
    figure.tight_layout()
    return figure


def _faults(plt: Any, run: dict[str, Any]) -> Any:
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(11.2, 6), sharex=True, height_ratios=(2.2, 1)
    )
    seconds = [row["at"] + 0.5 for row in run["seconds"]]
    for key, label, colour in (("p95_ms", "p95", COLOURS[1]), ("p50_ms", "p50", COLOURS[0])):
        upper.plot(seconds, [row[key] or math.nan for row in run["seconds"]], color=colour,
                   label=label)  # fmt: skip
    upper.set_yscale("log")
    _plain_log(upper.yaxis)
    low, high = upper.get_ylim()
    upper.set_ylim(low, high * 6)  # Room for the names.
    upper.set_ylabel("latency, ms (log)")
    lower.bar(
        seconds, [row["n"] for row in run["seconds"]], color="#8fb3c6", label="requests", zorder=2
    )
    errors = [row["errors"] for row in run["seconds"]]
    lower.bar(seconds, errors, color=RED, label=f"errors ({sum(errors)} in all)", zorder=3)
    lower.set_ylabel("a second")
    lower.set_xlabel("seconds")
    for fault in run["faults"]:
        for axis in (upper, lower):
            axis.axvspan(
                fault["begin"], fault["end"], color="#f2d7c9", alpha=0.7, linewidth=0, zorder=0
            )
        upper.text((fault["begin"] + fault["end"]) / 2, high * 4.4, fault["name"], ha="center",
                   va="top", fontsize=9)  # fmt: skip
    upper.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    lower.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    upper.set_xlim(0, seconds[-1] + 0.5)
    upper.set_title(
        f"What breaks under {run['rate']:.0f} requests a second (shaded while it is broken)"
    )
    figure.tight_layout()
    return figure


def _sizing(plt: Any, check: dict[str, Any]) -> Any:
    figure, axis = plt.subplots(figsize=(7.5, 4.4))
    x = [point["per_second"] for point in check["curve"]]
    for (key, label, style), colour in zip(KEYS, COLOURS, strict=False):
        axis.plot(x, [point[key] or math.nan for point in check["curve"]], style, color=colour,
                  label=f"{label} predicted")  # fmt: skip
        axis.plot([row["per_second"] for row in check["rows"]],
                  [row[key]["measured"] for row in check["rows"]], "o", color=colour,
                  label=f"{label} measured")  # fmt: skip
    axis.axvline(check["capacity_per_second"], color=GREY, linestyle="--", linewidth=1)
    axis.annotate("capacity ", (check["capacity_per_second"], 1), (-4, 0), color=GREY,
                  xycoords=("data", "axes fraction"), textcoords="offset points", ha="right",
                  va="top")  # fmt: skip
    axis.set_yscale("log")
    _plain_log(axis.yaxis)
    axis.set_xlim(left=0)
    axis.set_xlabel("arrivals a second")
    axis.set_ylabel("latency, ms (log)")
    axis.set_title("The sizing model beside what was measured")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    return figure


def _plain_log(axis: Any) -> None:
    """10, 20, 50, 100 ... written as such on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _soak(plt: Any, run: dict[str, Any]) -> Any:
    names = {"rss_mb": "memory (RSS), MB", "cgroup_mb": "memory of the cgroup, MB",
             "fds": "open descriptors", "threads": "threads", "p95_ms": "p95, ms"}  # fmt: skip
    shown = [name for name in names if run["series"].get(name)]
    figure, axes = plt.subplots(len(shown), 1, figsize=(9, 1.9 * len(shown)), sharex=True,
                                squeeze=False)  # fmt: skip
    for axis, name in zip(axes[:, 0], shown, strict=True):
        values = run["series"][name]
        axis.plot([at / 60 for at, _ in values], [value for _, value in values], color=COLOURS[0])
        axis.set_ylim(bottom=0, top=1.25 * max(value for _, value in values))
        axis.set_ylabel(names[name].replace(", ", ",\n"))
        trend = run["trends"].get(name)
        if trend:
            word = "grows" if trend["grows"] else "steady"
            axis.set_title(f"{word}: {trend['per_hour']:+.1f} an hour", loc="right", fontsize=9,
                           color=RED if trend["grows"] else GREY)  # fmt: skip
    axes[-1, 0].set_xlabel("minutes")
    figure.suptitle(f"Soak: {run['visitors']} visitors, {run['seconds'] / 60:.0f} minutes")
    figure.tight_layout()
    return figure
