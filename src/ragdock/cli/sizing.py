"""`sizing`: what a corpus and a load need."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragdock.cli.options import JsonOutput
from ragdock.cli.output import emit, emit_json, emit_table

if TYPE_CHECKING:
    from ragdock.core.sizing import Constants, Demand, Plan

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(sizing)


def sizing(
    documents: Annotated[int, typer.Option(help="Documents in the corpus.")] = 1000,
    mean_kb: Annotated[
        float, typer.Option(help="KB of text in a document, on average (not of its file).")
    ] = 8.0,
    chunks: Annotated[
        int | None, typer.Option(help="Passages, when known [from documents and their size].")
    ] = None,
    asks_per_second: Annotated[float, typer.Option(help="Questions in the busiest minute.")] = 1.0,
    searches_per_second: Annotated[float, typer.Option(help="Searches in it.")] = 0.0,
    hit_share: Annotated[
        float, typer.Option(help="Share that was asked before, with no write since; 0 to 1.")
    ] = 0.3,
    uploads_per_day: Annotated[float, typer.Option(help="Documents added or replaced.")] = 0.0,
    llm_median_ms: Annotated[float, typer.Option(help="The LLM's median time; 0 is no LLM.")] = 0.0,
    llm_p95_ms: Annotated[float, typer.Option(help="Its p95 [2.5 times the median].")] = 0.0,
    llm_concurrency: Annotated[
        int, typer.Option(help="Calls at once of a process, RAG_LLM_CONCURRENCY.")
    ] = 8,
    target_p95_ms: Annotated[
        float, typer.Option(help="How long 95 of 100 answers may take, at most.")
    ] = 1000.0,
    max_utilisation: Annotated[
        float, typer.Option(help="How busy the processors may be; 0.05 to 0.95.")
    ] = 0.7,
    max_cpus: Annotated[int, typer.Option(help="Processors of the largest machine.")] = 8,
    min_replicas: Annotated[int, typer.Option(help="Machines at least.")] = 1,
    constants: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, help="Your machine's, by `make sizing-constants`."
        ),
    ] = None,
    price_per_vcpu_hour: Annotated[float, typer.Option(help="An assumption: give yours.")] = 0.03,
    price_per_gb_hour: Annotated[float, typer.Option(help="Memory; an assumption.")] = 0.004,
    price_per_disk_gb_month: Annotated[float, typer.Option(help="An assumption.")] = 0.10,
    price_per_llm_ask: Annotated[float, typer.Option(help="Of one answer by the LLM.")] = 0.0,
    currency: Annotated[str, typer.Option(help="Of the prices.")] = "USD",
    json_output: JsonOutput = False,
) -> None:
    """Say what a corpus and a load need: processors, processes, memory, disk, and the cost."""
    from ragdock.core.sizing import Demand, Prices, plan
    from ragdock.ops.sizing import read_constants, shipped_constants

    demand = Demand(
        documents=documents,
        mean_kb=mean_kb,
        chunks=chunks,
        asks_per_second=asks_per_second,
        searches_per_second=searches_per_second,
        hit_share=hit_share,
        uploads_per_day=uploads_per_day,
        llm_median_ms=llm_median_ms,
        llm_p95_ms=llm_p95_ms,
        llm_concurrency=llm_concurrency,
        target_p95_ms=target_p95_ms,
        max_utilisation=max_utilisation,
        max_cpus=max_cpus,
        min_replicas=min_replicas,
    )
    prices = Prices(
        price_per_vcpu_hour, price_per_gb_hour, price_per_disk_gb_month, price_per_llm_ask, currency
    )
    measured = read_constants(constants) if constants else shipped_constants()
    found = plan(demand, measured, prices)
    if json_output:
        emit_json(
            {
                "demand": asdict(demand),
                "prices": asdict(prices),
                "constants": {"origin": measured.origin, "machine": measured.machine},
                "plan": _finite(asdict(found)),
            }
        )
    else:
        _show(demand, measured, found)
    if not found.feasible:
        raise typer.Exit(1)


def _show(demand: Demand, constants: Constants, plan: Plan) -> None:
    expected, memory, disk, cost = plan.prediction, plan.memory, plan.disk, plan.cost
    settings = " ".join(f"{name}={value}" for name, value in plan.settings.items())
    rows = [
        ("machines", plan.replicas, f"processors of each: {plan.cpus}"),
        ("processes", plan.workers, f"a machine: {settings}"),
        ("memory", f"{memory.limit_mb} MB", f"a machine, {memory.needed_mb:.0f} MB of it in use"),
        ("Redis", f"{memory.redis_mb} MB", "answers of an hour"),
        ("disk", f"{disk.volume_gb:.1f} GB", f"a machine; {disk.store_gb:.2f} GB of it the store"),
        ("passages", f"{plan.chunks:,}", f"{demand.documents:,} documents"),
        (
            "p50, p95, p99",
            " / ".join(_ms(value) for value in (expected.p50_ms, expected.p95_ms, expected.p99_ms)),
            f"target p95 {demand.target_p95_ms:g} ms",
        ),
        ("utilisation", f"{expected.utilisation:.0%}", f"of a machine's {expected.bound}"),
        ("knee", f"{plan.knee_per_second:.1f} /s", "a machine; beyond it waiting grows faster"),
        ("most", f"{plan.max_per_second:.1f} /s", "a machine within the target"),
        (
            "cost",
            f"{cost.month:.2f} {cost.currency}",
            f"a month: CPU {cost.cpu:.2f}, memory {cost.memory:.2f}, disk {cost.disk:.2f}, "
            f"LLM {cost.llm:.2f}",
        ),
    ]
    emit_table(("what", "how much#", "which is"), rows)
    emit(f"Measured on: {constants.machine} ({constants.origin}).")
    emit("Prices are assumptions unless you gave yours; docs/sizing.md tells the model.")
    for warning in plan.warnings:
        emit(f"Note: {warning}")


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if math.isfinite(value) else "endless"


def _finite(value: Any) -> Any:
    """JSON has no infinity: null stands for it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
