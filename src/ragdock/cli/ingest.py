"""`ingest`: send files and wait until they are searchable."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ragdock.cli.client import Api, path
from ragdock.cli.files import LocalFile, Skipped, discover, document_id
from ragdock.cli.options import DEFAULT_URL, Collection, JsonOutput, Url, key_values
from ragdock.cli.output import Progress, emit, emit_json, note, progress
from ragdock.errors import InputError, RagdockError

__all__ = ["register"]

BUSY_PATIENCE_SECONDS: Final = 600.0
POLL_SECONDS: Final = (0.05, 1.0)
# Jobs finish nearly in order, so looking at the oldest few finds most that are done.
POLL_WINDOW: Final = 16
_HOPELESS: Final = frozenset({"collection_not_found", "connection", "not_ragdock", "timeout"})
_UNFINISHED: Final = frozenset({"pending", "processing"})


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(ingest)


@dataclass(slots=True)
class _Run:
    """What has happened so far: a record for each file that was sent, by document id."""

    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)

    def failures(self) -> int:
        return sum(record["status"] in ("failed", "cancelled") for record in self.records.values())

    def unfinished(self) -> list[dict[str, Any]]:
        return [record for record in self.records.values() if record["status"] in _UNFINISHED]


def ingest(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Files and folders; - is stdin.")
    ],
    collection: Collection = "default",
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", "-m", metavar="KEY=VALUE", help="For all files; repeatable."),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Ids are paths relative to this [current folder]."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="File name of what comes from stdin.")] = "stdin.txt",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Until everything is searchable.")
    ] = True,
    url: Url = DEFAULT_URL,
    json_output: JsonOutput = False,
) -> None:
    """Send files, and folders with all they hold. Sending a changed file again replaces it."""
    fields = key_values(metadata, option="--metadata")
    from_stdin = Path("-") in paths
    files, skipped = discover([item for item in paths if item != Path("-")], root or Path())
    if from_stdin:
        files.append(LocalFile(Path("-"), name, document_id(name)))
    run = _Run(skipped=skipped)
    with Api(url, patience_seconds=BUSY_PATIENCE_SECONDS) as api:
        try:
            with progress("sending", len(files)) as bar:
                _send(api, files, run, bar, collection, fields)
            if wait and run.unfinished():
                with progress("indexing", len(run.unfinished())) as bar:
                    _wait(api, run, bar)
        except (RagdockError, KeyboardInterrupt):
            if run.unfinished():
                note(f"{len(run.unfinished())} documents were accepted and will still be indexed.")
            raise
    _report(run, collection, json_output=json_output)
    if run.failures() or not run.records:
        raise typer.Exit(1)


def _send(
    api: Api,
    files: Iterable[LocalFile],
    run: _Run,
    bar: Progress,
    collection: str,
    metadata: dict[str, Any],
) -> None:
    fields = {"metadata": json.dumps(metadata, ensure_ascii=False)} if metadata else {}
    for file in files:
        bar.describe(f"sending {file.name}")
        try:
            accepted = api.put_file(
                path("documents", file.document_id),
                file.filename,
                _content(file),
                params={"collection": collection},
                fields=fields,
            )["documents"][0]
        except RagdockError as exc:
            # Without a server, or without the collection, no other file would do better.
            if exc.code in _HOPELESS:
                raise
            accepted = {
                "id": file.document_id,
                "filename": file.filename,
                "status": "failed",
                "error": {"code": exc.code, "message": str(exc)},
            }
        _record(run, accepted, file.path)
        bar.advance()


def _content(file: LocalFile) -> bytes:
    try:
        return sys.stdin.buffer.read() if file.path == Path("-") else file.path.read_bytes()
    except OSError as exc:
        raise InputError(f"can't be read: {exc.strerror}", code="unreadable_file") from None


def _wait(api: Api, run: _Run, bar: Progress) -> None:
    pause = POLL_SECONDS[0]
    while waiting := run.unfinished():
        finished = 0
        for record in waiting[:POLL_WINDOW]:
            job = api.get(path("jobs", str(record["job_id"])))
            if job.get("stage"):
                bar.describe(f"{record['filename']}: {job['stage']} {job['percent']} %")
            if job["status"] not in _UNFINISHED:
                finished += 1
                bar.advance()
                _record(
                    run, {**record, **{key: job[key] for key in ("status", "outcome", "error")}}
                )
        pause = POLL_SECONDS[0] if finished else min(pause * 2, POLL_SECONDS[1])
        if not finished:
            time.sleep(pause)


def _record(run: _Run, record: dict[str, Any], source: Path | None = None) -> None:
    if source is not None:
        record = {**record, "path": str(source)}
    run.records[record["id"]] = record
    if record["status"] == "failed":
        error = record.get("error") or {}
        note(f"Error: {record['path']}: {error.get('message', 'failed')}")


def _report(run: _Run, collection: str, *, json_output: bool) -> None:
    if json_output:
        skipped = [{"path": str(item.path), "reason": item.reason} for item in run.skipped]
        emit_json(
            {
                "collection": collection,
                "documents": list(run.records.values()),
                "skipped": skipped,
                "n_failed": run.failures(),
            }
        )
        return
    states = Counter(record.get("outcome") or record["status"] for record in run.records.values())
    counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
    emit(f"{_count(len(run.records), 'document')} in {collection!r}: {counts or 'nothing sent'}")
    if run.skipped:
        emit(f"skipped {_skips(run.skipped)}")


def _skips(skipped: Sequence[Skipped]) -> str:
    reasons = Counter(
        f"{item.reason} {item.path.suffix}".strip() if item.reason == "unsupported" else item.reason
        for item in skipped
    )
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
