"""`reindex`: build a collection's index anew while servers answer from the old one."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragdock.cli.keeping import DataDir, settings_of
from ragdock.cli.options import JsonOutput
from ragdock.cli.output import emit, emit_json, note, progress
from ragdock.errors import InputError

if TYPE_CHECKING:
    from ragdock.bootstrap import Reindexing
    from ragdock.cli.output import Progress
    from ragdock.services.reindex import Estimate, Outcome, Status

__all__ = ["register", "reindex", "run"]

NICENESS = 10
NOTE_SECONDS = 10.0


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(reindex)


def reindex(
    collections: Annotated[
        list[str] | None, typer.Argument(metavar="COLLECTION", help="The collections.")
    ] = None,
    all_collections: Annotated[
        bool, typer.Option("--all", help="Every collection that isn't indexed so.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also what is indexed so already.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is to be done, and how long it takes.")
    ] = False,
    discard: Annotated[
        bool, typer.Option("--discard", help="Remove what an unfinished run left.")
    ] = False,
    data_dir: DataDir = None,
    json_output: JsonOutput = False,
) -> None:
    """Index collections anew with the settings as they are now, beside the running server.

    Stop it whenever you like: the same command goes on where it was.
    """
    from ragdock.bootstrap import open_reindexing

    if all_collections == bool(collections):
        raise InputError("Name collections, or say --all.", field="COLLECTION")
    settings = settings_of(data_dir)
    # Queries go first.
    os.nice(NICENESS)
    with open_reindexing(settings) as reindexing:
        names = collections or [one.name for one in reindexing.collections()]
        done = [
            run(reindexing, name, force=force, dry_run=dry_run, discard=discard) for name in names
        ]
    if json_output:
        emit_json({"fingerprint": reindexing.fingerprint, "collections": done})


def run(
    reindexing: Reindexing,
    name: str,
    *,
    force: bool = False,
    dry_run: bool = False,
    discard: bool = False,
) -> dict[str, Any]:
    """Reindex one collection and tell of it; the facts."""
    if discard:
        found = reindexing.discard(name)
        note(f"{name}: {'removed the unfinished index' if found else 'nothing to remove'}.")
        return {"name": name, "action": "discarded" if found else "none"}
    was_begun = reindexing.is_begun(name)
    build = reindexing.build(name, force=force)
    if build is None:
        note(f"{name}: indexed with {reindexing.fingerprint} already.")
        return {"name": name, "action": "none"}
    if dry_run:
        estimate = reindexing.reindexer.estimate(build)
        build.close()
        if not was_begun:
            reindexing.discard(name)
        _show_estimate(name, estimate)
        return {"name": name, "action": "estimated", **asdict(estimate)}
    try:
        with progress(name, 100) as bar:
            outcome = reindexing.reindexer.run(build, _Teller(name, bar))
    finally:
        build.close()
    _show_outcome(name, outcome)
    return {"name": name, "action": "reindexed", **asdict(outcome)}


class _Teller:
    """Moves the bar; where there is no terminal, writes a line now and then."""

    def __init__(self, name: str, bar: Progress) -> None:
        self._name, self._bar = name, bar
        self._next = time.monotonic() + NOTE_SECONDS

    def __call__(self, status: Status) -> None:
        left = "" if status.seconds_left is None else f", {_duration(status.seconds_left)} left"
        self._bar.stage(f"{self._name} ({status.n_documents} documents)", status.percent, 100)
        if not sys.stderr.isatty() and time.monotonic() >= self._next:
            self._next = time.monotonic() + NOTE_SECONDS
            note(f"{self._name}: {status.n_written} documents, {status.percent} %{left}")


def _show_estimate(name: str, estimate: Estimate) -> None:
    left = estimate.n_characters_left
    duration = "nothing" if estimate.seconds is None else _duration(estimate.seconds)
    emit(
        f"{name}: {estimate.n_documents} documents, {left} of {estimate.n_characters} characters "
        f"to index, about {duration}"
    )


def _show_outcome(name: str, outcome: Outcome) -> None:
    emit(
        f"{name}: {outcome.n_written} of {outcome.n_documents} documents indexed anew in "
        f"{_duration(outcome.seconds)}; writers waited {outcome.locked_seconds:.2f} s"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
