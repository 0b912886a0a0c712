"""`advise`: Docker, a virtual machine, a bare machine or Kubernetes, with the reasons."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ragdock.cli.options import JsonOutput
from ragdock.cli.output import emit, emit_json, emit_table, note, on_terminal, progress
from ragdock.core.advice import Advice, OsDependencies, Place, Platform, Situation, advise
from ragdock.core.advice_texts import DOCS, NAMES, SUMMARIES, costs, next_steps
from ragdock.errors import UnavailableError

if TYPE_CHECKING:
    from ragdock.ops.advise import Measurement, Measurements

__all__ = ["register"]

MEASURE_SECONDS: Final = 55.0
_QUESTIONS: Final = {
    "developers": "How many people develop and run it?",
    "environments": "How many environments are there (development, test, production ...)?",
    "services": "How many services run together (API, Redis, an LLM, a proxy ...)?",
    "os_dependencies": "Does it need libraries of the operating system beside Python?",
    "latency_ms": "Which 95th percentile is promised, in ms (0: none)?",
    "requests_per_second": "How many requests a second at most?",
    "documents": "How many documents?",
    "platform": "Where will it run?",
    "gpu": "Will a GPU be used?",
    "regulated": "Does somebody demand a kernel of its own (regulation, audits)?",
    "offline": "Is it without a way to registries and PyPI?",
    "knows_docker": "Does the team know Docker?",
}


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("advise")(advise_command)


def advise_command(
    developers: Annotated[int | None, typer.Option(min=1, help="People.")] = None,
    environments: Annotated[int | None, typer.Option(min=1, help="Environments.")] = None,
    services: Annotated[int | None, typer.Option(min=1, help="Services that run together.")] = None,
    os_dependencies: Annotated[
        OsDependencies | None, typer.Option(help="Libraries of the system beside Python.")
    ] = None,
    latency_ms: Annotated[
        float | None, typer.Option(min=0, help="The 95th percentile promised; 0: none.")
    ] = None,
    requests_per_second: Annotated[
        float | None, typer.Option("--rps", min=0, help="Requests a second.")
    ] = None,
    documents: Annotated[int | None, typer.Option(min=0, help="Documents.")] = None,
    platform: Annotated[Platform | None, typer.Option(help="Where it will run.")] = None,
    gpu: Annotated[bool | None, typer.Option("--gpu/--no-gpu", help="A GPU is used.")] = None,
    regulated: Annotated[
        bool | None,
        typer.Option("--regulated/--not-regulated", help="A kernel of its own is demanded."),
    ] = None,
    offline: Annotated[
        bool | None, typer.Option("--offline/--online", help="No registry, no PyPI.")
    ] = None,
    knows_docker: Annotated[
        bool | None, typer.Option("--knows-docker/--no-docker-yet", help="What the team knows.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure what a container costs here (a minute).")
    ] = False,
    image: Annotated[str, typer.Option(help="The image to measure with.")] = "rag-api:latest",
    seconds: Annotated[
        float, typer.Option(min=1, max=75, help="How long to measure.")
    ] = MEASURE_SECONDS,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", file_okay=False, exists=True, help="The disk to measure [here]."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask; assume the rest.")] = False,
    json_output: JsonOutput = False,
) -> None:
    """Tell where to run it, why, what that costs, and what would change the answer.

    On a terminal it asks what no option says; with --yes, --json or in a pipe it assumes.
    """
    given = {
        "developers": developers,
        "environments": environments,
        "services": services,
        "os_dependencies": os_dependencies,
        "latency_ms": latency_ms,
        "requests_per_second": requests_per_second,
        "documents": documents,
        "platform": platform,
        "gpu": gpu,
        "regulated": regulated,
        "offline": offline,
        "knows_docker": knows_docker,
    }
    answers: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    asks = sys.stdin.isatty() and sys.stdout.isatty() and not (yes or json_output)
    assumed: list[str] = []
    for name in _QUESTIONS:
        if name not in answers:
            if asks:
                answers[name] = _asked(name)
            else:
                assumed.append(name)
    # Nobody can promise an answer in no time; it is how "none" is said in a number.
    answers["latency_ms"] = answers.get("latency_ms") or None
    situation = Situation(**answers)
    measurements, reason = _measured(directory, image, seconds) if measure else (None, None)
    if measurements is not None:
        situation = replace(situation, overhead=measurements.overhead)
    advice = advise(situation)
    if json_output:
        emit_json(_as_json(situation, advice, measurements, assumed, reason))
    else:
        _show(situation, advice, measurements, assumed)


def _asked(name: str) -> Any:
    default = getattr(Situation(), name)
    question = _QUESTIONS[name]
    if isinstance(default, bool):
        return typer.confirm(question, default=default)
    if isinstance(default, Platform | OsDependencies):
        choices = [member.value for member in type(default)]
        while True:
            said = typer.prompt(f"{question} ({', '.join(choices)})", default=default.value)
            if said in choices:
                return type(default)(said)
    if default is None:
        return typer.prompt(question, default=0.0, type=float)
    return typer.prompt(question, default=default, type=type(default))


def _measured(
    directory: Path | None, image: str, seconds: float
) -> tuple[Measurements | None, str | None]:
    """What was measured, or why nothing was."""
    from ragdock.ops.advise import measure

    try:
        with progress("measuring", 1) as bar:
            place = directory or Path.cwd()
            return measure(place, image=image, seconds=seconds, on_round=bar.stage), None
    except (UnavailableError, OSError) as exc:
        note(f"Not measured: {exc}")
        return None, str(exc)


def _as_json(
    situation: Situation,
    advice: Advice,
    measurements: Measurements | None,
    assumed: list[str],
    reason: str | None,
) -> dict[str, Any]:
    return {
        "place": advice.place,
        "name": NAMES[advice.place],
        **{key: value for key, value in asdict(advice).items() if key != "place"},
        "costs": costs(situation, advice.place),
        "next": next_steps(situation, advice.place),
        "docs": DOCS[advice.place],
        "situation": asdict(situation),
        "assumed": assumed,
        "measurements": None if measurements is None else asdict(measurements),
        "not_measured": reason,
    }


def _show(
    situation: Situation, advice: Advice, measurements: Measurements | None, assumed: list[str]
) -> None:
    if measurements is not None:
        _show_measurements(measurements)
    place = advice.place
    emit(f"Run it {'with' if place is Place.DOCKER else 'on'} {NAMES[place]}.")
    emit(f"  {SUMMARIES[place]}")
    points = ", ".join(f"{name} {points}" for name, points in advice.scores.items())
    emit(f"\nWhy: {points} points; against {NAMES[advice.runner_up]}, the next best:")
    rows = [
        (f"{one.weight:+d}", f"{one.question}: {one.value}", one.text)
        for one in advice.reasons
        if one.weight
    ]
    emit_table(("weight#", "answer", "reason"), rows)
    emit("What it costs:" if on_terminal() else "\nWhat it costs:")
    for line in costs(situation, place):
        emit(f"  - {line}")
    emit("\nWhat would change it:")
    for change in advice.changes:
        emit(f"  - {change.question}: {change.value} -> {NAMES[change.place]}")
    if not advice.changes:
        emit("  - no single answer")
    emit("\nNext:")
    for line in next_steps(situation, place):
        emit(f"  {line}")
    emit(f"\nMore: {', '.join(DOCS[place])}")
    if assumed:
        note(f"Assumed, because nothing was said: {', '.join(assumed)}.")


def _show_measurements(measurements: Measurements) -> None:
    rows = [
        (
            one.title,
            f"{one.bare_ms:.3f}",
            f"{one.container_ms:.3f}",
            f"{one.ratio:.2f}",
            f"{one.ratio_low:.2f}-{one.ratio_high:.2f}",
            "-" if one.sure_low is None else f"{one.sure_low:.2f}-{one.sure_high:.2f}",
            f"{one.noise:.2f}",
            _verdict(one),
        )
        for one in measurements.results
    ]
    columns = (
        "what",
        "bare ms#",
        "container ms#",
        "ratio#",
        "quartiles#",
        "99 %#",
        "noise#",
        "verdict",
    )
    n_rounds = measurements.results[0].n_rounds
    emit(
        f"Measured here: {measurements.image} on Docker {measurements.engine}, {n_rounds} rounds "
        f"of bare, container, bare in {measurements.seconds:.0f} s. Ratios are container by bare; "
        "noise is how far bare is from bare."
    )
    emit_table(columns, rows)
    for line in measurements.notes:
        emit(line)
    if any(one.sure_low is None for one in measurements.results):
        emit("Too few rounds to tell a difference from chance: give it more time (--seconds).")
    emit("")


def _verdict(one: Measurement) -> str:
    if one.sure_low is None:
        return "too few rounds"
    return "differs" if one.differs else "may be chance"
