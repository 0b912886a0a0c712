"""`doctor`: what is wrong with this deployment, and how to mend it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ragdock.cli.options import JsonOutput
from ragdock.cli.output import emit_json, emit_table

if TYPE_CHECKING:
    from ragdock.ops.doctor.model import Scope
    from ragdock.ops.doctor.world import World

__all__ = ["register"]

Place = Literal["auto", "host", "inside"]
Names = Annotated[
    list[str] | None,
    typer.Option(metavar="ID", help="Only these checks: --only D35 --only D30,D31."),
]
Unwanted = Annotated[
    list[str] | None, typer.Option(metavar="ID", help="All but these checks.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(doctor)


def doctor(
    only: Names = None,
    skip: Unwanted = None,
    project: Annotated[
        str | None, typer.Option("--project", "-p", help="The compose project to look at.")
    ] = None,
    scope: Annotated[Place, typer.Option(help="Where to look from [found out].")] = "auto",
    strict: Annotated[bool, typer.Option(help="A warning makes the exit code 1 as well.")] = False,
    record: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, help="Write all that was seen, without secrets."
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(metavar="FILE", exists=True, dir_okay=False, help="Look at a recording."),
    ] = None,
    list_checks: Annotated[bool, typer.Option("--list", help="Name all checks.")] = False,
    color: Annotated[bool, typer.Option(help="Colours on a terminal [also NO_COLOR].")] = True,
    json_output: JsonOutput = False,
) -> None:
    """Say what is wrong with this deployment, and how to mend it.

    On the host it looks at the containers of this folder's compose project, in a container at what
    is seen from there. It changes nothing and shows no secrets. Exit 1 when a check failed.
    """
    from ragdock.cli.doctor_view import show
    from ragdock.ops.doctor.live import LiveWorld
    from ragdock.ops.doctor.recorded import Recorder, read_recording, write_recording
    from ragdock.ops.doctor.registry import chosen
    from ragdock.ops.doctor.report import examine

    checks = chosen(_split(only), _split(skip))
    if list_checks:
        columns = ("id", "scope", "what it holds", "what you see when it doesn't hold")
        rows = [(check.id, check.scope.value, check.title, check.symptom) for check in checks]
        emit_table(columns, rows)
        return
    world = Recorder(read_recording(replay) if replay else LiveWorld(project))
    report = examine(checks, world, _scopes(scope, world))
    if record is not None:
        write_recording(world.recording(), record)
    if json_output:
        emit_json(report.as_json())
    else:
        show(report, color=color)
    raise typer.Exit(report.exit_code(strict=strict))


def _scopes(place: Place, world: World) -> frozenset[Scope]:
    from ragdock.ops.doctor.model import Scope
    from ragdock.ops.doctor.report import where_to_look

    if place == "auto":
        return where_to_look(world)
    return frozenset({Scope.HOST} if place == "host" else {Scope.INSIDE, Scope.BOTH})


def _split(names: list[str] | None) -> list[str]:
    return [name for text in names or () for name in text.replace(",", " ").split()]
