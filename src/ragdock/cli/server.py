"""`serve`, `health` and `version`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ragdock import __version__
from ragdock.cli.client import Api
from ragdock.cli.options import DEFAULT_URL, JsonOutput, Url
from ragdock.cli.output import emit, emit_json, emit_table
from ragdock.cli.privileges import RunAs, become

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(serve)
    app.command()(health)
    app.command()(version)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [RAG_HOST].")] = None,
    port: Annotated[
        int | None, typer.Option("--port", "-p", min=0, max=65535, help="Port [PORT].")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", min=1, max=64, help="Processes [RAG_WORKERS].")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the store lives [RAG_DATA_DIR].")
    ] = None,
    samples: Annotated[
        bool | None,
        typer.Option("--samples/--no-samples", help="Ingest the sample corpus [RAG_SAMPLES]."),
    ] = None,
    run_as: RunAs = None,
) -> None:
    """Run the server. Settings come from the environment and .env; options win."""
    from ragdock.settings import Settings

    options = {
        "host": host,
        "port": port,
        "workers": workers,
        "data_dir": data_dir,
        "samples": samples,
    }
    settings = Settings.load(**{key: value for key, value in options.items() if value is not None})
    if run_as is not None:
        become(run_as, settings.data_dir)
    from ragdock.api.server import run

    run(settings)


def health(
    url: Url = DEFAULT_URL,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=300, help="Longest wait, in seconds.", metavar="SECONDS")
    ] = 5.0,
    json_output: JsonOutput = False,
) -> None:
    """Show the server's health; exit 0 when it can serve (ok or degraded), else 1."""
    with Api(url, timeout_seconds=timeout) as api:
        status, report = api.health()
    if json_output:
        emit_json(report)
    elif "version" not in report:
        emit(f"{report.get('status')}: ragdock at {api.url}; the details need a key")
    else:
        uptime = int(report.get("uptime_seconds") or 0)
        emit(
            f"{report.get('status')}: ragdock {report.get('version')} at {api.url}, "
            f"{report.get('environment')}, up {uptime} s"
        )
        rows = [
            (
                part.get("name"),
                part.get("status"),
                "yes" if part.get("required") else "no",
                part.get("latency_ms"),
                part.get("detail") or "",
            )
            for part in report.get("dependencies", [])
        ]
        emit_table(("dependency", "status", "required", "latency ms#", "detail"), rows)
        queue = report.get("queue") or {}
        emit("queue: " + (", ".join(f"{count} {name}" for name, count in queue.items()) or "-"))
    if status != 200:
        raise typer.Exit(1)


def version(json_output: JsonOutput = False) -> None:
    """Show the version."""
    if json_output:
        emit_json({"name": "ragdock", "version": __version__})
    else:
        emit(f"ragdock {__version__}")
