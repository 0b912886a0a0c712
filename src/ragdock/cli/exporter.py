"""`exporter`: what Docker knows of our containers, for Prometheus."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from ragdock.cli.worker import answering, stop_on_signals

__all__ = ["register"]

log = logging.getLogger(__name__)


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(exporter)


def exporter(
    port: Annotated[
        int, typer.Option("--port", "-p", min=0, max=65535, help="Answer /metrics here.")
    ] = 9101,
    host: Annotated[str, typer.Option(help="Address of that port.")] = "127.0.0.1",
    engine: Annotated[
        str, typer.Option(help="The Engine's socket, or http://host:port of a socket proxy.")
    ] = "unix:///var/run/docker.sock",
    project: Annotated[
        str | None, typer.Option(help="Tell this Compose project's containers [its own].")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Tell all containers of the Engine.")
    ] = False,
) -> None:
    """Tell Prometheus about containers: restarts, memory, CPU, health, OOM kills (only reads)."""
    from ragdock.logs import configure_logging
    from ragdock.ops.exporter.engine import Engine
    from ragdock.ops.exporter.exporter import Exporter

    configure_logging("info", "auto")
    stop = stop_on_signals()
    source = Exporter(Engine(engine), project=project, everything=everything)
    with source, answering(host, port, source):
        log.info("the exporter is ready", extra={"port": port})
        stop.wait()
