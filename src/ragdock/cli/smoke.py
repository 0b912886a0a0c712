"""`smoke`: prove that a deployment works, from the first upload to the last trace."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ragdock.cli.client import api_key
from ragdock.cli.options import DEFAULT_URL, JsonOutput
from ragdock.cli.output import emit, emit_json, note, on_terminal, printable

if TYPE_CHECKING:
    from ragdock.ops.smoke import Report, Step

__all__ = ["register"]

_COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "bright_black"}
_INTERRUPTED: Final = 130


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(smoke)


def smoke(
    url: Annotated[
        str, typer.Argument(envvar="RAGDOCK_URL", metavar="URL", help="The server.")
    ] = DEFAULT_URL,
    collection: Annotated[
        str | None,
        typer.Option("--collection", "-c", help="One that is there [a new one, removed again]."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(min=1, max=3600, help="Longest run, in seconds.", metavar="SECONDS"),
    ] = 120.0,
    skip: Annotated[
        list[str] | None, typer.Option(metavar="STEP", help="Leave out: cache, metrics.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 1 for a warning as for a failure.")
    ] = False,
    json_output: JsonOutput = False,
) -> None:
    """Ingest, search, ask, check the citation, delete, check that it is gone; then clean up.

    Wants a key with the rights read and write, and metrics for the metrics. Exit code 1: a step
    failed; what it says is the reason.
    """
    from ragdock.ops.smoke import smoke as run

    with _terminated_as_interrupted():
        report = run(
            url,
            key=api_key(),
            collection=collection,
            timeout_seconds=timeout,
            skip=skip or (),
            on_step=None if json_output else _printer(),
        )
    if json_output:
        emit_json(
            {"ok": report.ok, **asdict(report), "steps": [asdict(one) for one in report.steps]}
        )
    else:
        _conclude(report)
    if report.interrupted:
        raise typer.Exit(_INTERRUPTED)
    if not report.ok or (strict and report.warned):
        raise typer.Exit(1)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, by which CI and `timeout` end a program, is a Ctrl-C: it cleans up as well."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _printer() -> Callable[[Step], None]:
    """Writes each step as it ends: columns on a terminal, tabs in a pipe."""
    colourful = on_terminal()

    def show(step: Step) -> None:
        milliseconds = f"{1000 * step.seconds:.0f} ms"
        if not colourful:
            emit(f"{step.status}\t{step.name}\t{milliseconds}\t{step.detail}".rstrip("\t"))
            return
        status = typer.style(f"{step.status:<4}", fg=_COLOURS[step.status], bold=True)
        line = f"{step.name:<10} {milliseconds:>9}  "
        typer.echo(f"  {status}  {line}{printable(step.detail)}".rstrip())

    return show


def _conclude(report: Report) -> None:
    for trace in report.left_behind:
        note(f"Left behind: {trace}")
    counts = {
        "failed": len(report.failed),
        "warned": len(report.warned),
        "skipped": sum(step.status == "skip" for step in report.steps),
    }
    ran = len(report.steps) - counts["skipped"]
    extra = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    verdict = "interrupted" if report.interrupted else "works" if report.ok else "FAILED"
    note(
        f"{report.url}: {verdict}; {ran} steps in {report.seconds:.1f} s"
        + (f", {extra}" if extra else "")
    )
