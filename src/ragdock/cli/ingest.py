"""`ingest`: send files, folders, globs, URLs and stdin, and wait until they are searchable."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from ragdock.cli.client import Api, path
from ragdock.cli.files import Discovery, LocalFile, Skipped, Source, discover, document_id
from ragdock.cli.options import DEFAULT_URL, Collection, JsonOutput, Url, key_values
from ragdock.cli.output import Progress, emit, emit_json, emit_table, note, progress
from ragdock.cli.sending import HOPELESS, Outgoing, Record, local, send_all, stdin, unpacked
from ragdock.cli.syncing import Remote, gone, remove
from ragdock.cli.watch import Watcher
from ragdock.cli.web import is_url, remote
from ragdock.errors import InputError, RagdockError

__all__ = ["register"]

BUSY_PATIENCE_SECONDS: Final = 600.0
POLL_SECONDS: Final = (0.05, 1.0)
# Jobs finish nearly in order, so looking at the oldest few finds most that are done.
POLL_WINDOW: Final = 16
_UNFINISHED: Final = frozenset({"pending", "processing"})


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(ingest)


@dataclass(slots=True)
class _Run:
    """What has happened so far: a record for each document, by id; `order` is that of the input."""

    collection: str
    metadata: dict[str, Any]
    records: dict[str, Record] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    pruned: list[str] = field(default_factory=list)
    order: dict[str, int] = field(default_factory=dict)

    def failures(self) -> int:
        return sum(record["status"] in ("failed", "cancelled") for record in self.records.values())

    def unfinished(self) -> list[Record]:
        return [record for record in self.records.values() if record["status"] in _UNFINISHED]

    def add(self, record: Record) -> None:
        self.records[record["id"] or record["path"]] = record
        if record["status"] == "failed":
            error = record.get("error") or {}
            note(f"Error: {record['path']}: {error.get('message', 'failed')}")

    def ordered(self) -> list[Record]:
        last = len(self.order)
        return sorted(self.records.values(), key=lambda item: self.order.get(item["path"], last))


@dataclass(frozen=True, slots=True)
class _Input:
    """What the arguments mean: files with the folders they come from, and everything else."""

    files: list[LocalFile]
    others: list[Outgoing]
    skipped: list[Skipped]
    sources: list[Source]


def ingest(
    items: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE", help="Files, folders, globs, URLs; - is stdin."),
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
    filename: Annotated[
        str, typer.Option("--filename", "--name", help="File name of what comes from stdin.")
    ] = "stdin.txt",
    document: Annotated[
        str | None, typer.Option("--id", help="The id, for one document (stdin or a URL).")
    ] = None,
    id_from: Annotated[
        Literal["path", "content"],
        typer.Option(
            help="`content`: a file that moves keeps its id, one that changes gets a new one."
        ),
    ] = "path",
    source: Annotated[
        str | None,
        typer.Option(help="The folder's name in metadata, the same on every machine [its path]."),
    ] = None,
    ignore: Annotated[
        bool, typer.Option("--ignore/--no-ignore", help="Heed .gitignore and .ragdockignore.")
    ] = True,
    hidden: Annotated[bool, typer.Option("--hidden", help="Hidden files and folders too.")] = False,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Delete documents of these folders whose files are gone."),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on: send what changes, delete what vanishes.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be sent and pruned.")
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Uploads at once.")] = 4,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Until everything is searchable.")
    ] = True,
    url: Url = DEFAULT_URL,
    json_output: JsonOutput = False,
) -> None:
    """Send files, folders, globs, URLs or stdin. Sending a changed one again replaces it."""
    discovery = Discovery(root or Path(), ignore, hidden, id_from, source)
    run = _Run(collection, key_values(metadata, option="--metadata"))
    if watch:
        _watch(items, discovery, run, url, concurrency, dry_run=dry_run, json_output=json_output)
        return
    given = _resolved(items, discovery, filename, document)
    run.skipped = given.skipped
    with Api(url, patience_seconds=BUSY_PATIENCE_SECONDS) as api:
        known = Remote.of(api, collection) if prune else None
        vanished = gone(known, given.sources, given.files, given.skipped) if known else []
        if dry_run:
            _preview(given, vanished, run, json_output=json_output)
            return
        try:
            _send(api, given, run, known, concurrency)
            _prune(api, vanished, run)
            if wait and run.unfinished():
                with progress("indexing", len(run.unfinished())) as bar:
                    _wait(api, run, bar)
        except (RagdockError, KeyboardInterrupt):
            if run.unfinished():
                note(f"{len(run.unfinished())} documents were accepted and will still be indexed.")
            raise
    _report(run, json_output=json_output)
    if run.failures() or not (run.records or run.pruned):
        raise typer.Exit(1)


def _resolved(
    items: Sequence[str], discovery: Discovery, filename: str, wanted_id: str | None
) -> _Input:
    if wanted_id is not None and (len(items) > 1 or not (items[0] == "-" or is_url(items[0]))):
        raise InputError("--id goes with one document from stdin or a URL; files have their path.")
    distinct = list(dict.fromkeys(items))
    paths = [item for item in distinct if item != "-" and not is_url(item)]
    files, skipped, sources = discover(paths, discovery)
    others = [remote(item, document_id=wanted_id) for item in distinct if is_url(item)]
    if "-" in distinct:
        others.append(stdin(filename, wanted_id or document_id(filename)))
    return _Input(files, others, skipped, sources)


def _send(api: Api, given: _Input, run: _Run, known: Remote | None, concurrency: int) -> None:
    run.order = {str(file.path): number for number, file in enumerate(given.files)}
    items: list[Outgoing] = []
    for file in given.files:
        if known is not None and known.has(file, run.metadata):
            run.add(_unchanged(file, known))
        else:
            items.append(local(file))
    items += given.others
    with progress("sending", len(items)) as bar:
        for record in send_all(api, items, run.collection, run.metadata, concurrency=concurrency):
            bar.describe(f"sent {record['path']}")
            run.add(record)
            bar.advance()


def _unchanged(file: LocalFile, known: Remote) -> Record:
    held = known.documents[file.document_id]
    return {
        "id": file.document_id,
        "filename": file.filename,
        "status": held["status"],
        "job_id": held["job_id"],
        "outcome": "unchanged",
        "error": None,
        "path": str(file.path),
    }


def _prune(api: Api, vanished: Sequence[str], run: _Run) -> None:
    for key in vanished:
        try:
            if remove(api, key, run.collection):
                run.pruned.append(key)
        except RagdockError as exc:
            if exc.code in HOPELESS:
                raise
            error = {"code": exc.code, "message": str(exc)}
            run.add({"id": key, "path": key, "status": "failed", "outcome": None, "error": error})


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
                run.add({**record, **{key: job[key] for key in ("status", "outcome", "error")}})
                if job["outcome"] == "expanded":
                    for member in unpacked(api, record, run.collection):
                        run.add(member)
        pause = POLL_SECONDS[0] if finished else min(pause * 2, POLL_SECONDS[1])
        if not finished:
            time.sleep(pause)


def _preview(given: _Input, vanished: Sequence[str], run: _Run, *, json_output: bool) -> None:
    sends = [(file.document_id, str(file.path)) for file in given.files]
    sends += [(item.document_id or "", item.label) for item in given.others]
    if json_output:
        emit_json(
            {
                "collection": run.collection,
                "would_send": [{"id": key, "path": label} for key, label in sends],
                "would_prune": list(vanished),
                "skipped": _skipped_bodies(run.skipped),
            }
        )
        return
    rows = [("send", *row) for row in sends] + [("prune", key, "") for key in vanished]
    emit_table(("would", "id", "path"), rows)
    if run.skipped:
        emit(f"would skip {_skips(run.skipped)}")


def _watch(
    items: Sequence[str],
    discovery: Discovery,
    run: _Run,
    url: str,
    concurrency: int,
    *,
    dry_run: bool,
    json_output: bool,
) -> None:
    folders = [Path(item) for item in dict.fromkeys(items)]
    wrong = next((folder for folder in folders if not folder.is_dir()), None)
    if wrong is not None or dry_run or discovery.id_from == "content":
        what = f"{wrong} is none" if wrong else "--dry-run and --id-from content don't go with it"
        raise InputError(f"--watch follows folders; {what}.")
    watcher = Watcher(
        folders,
        discovery,
        run.collection,
        run.metadata,
        concurrency=concurrency,
        json_output=json_output,
    )
    with Api(url) as api:
        n_failed = watcher.run(api)
    if n_failed:
        raise typer.Exit(1)


def _report(run: _Run, *, json_output: bool) -> None:
    records = run.ordered()
    states = Counter(record.get("outcome") or record["status"] for record in records)
    if run.pruned:
        states["pruned"] = len(run.pruned)
    if json_output:
        emit_json(
            {
                "collection": run.collection,
                "documents": records,
                "skipped": _skipped_bodies(run.skipped),
                "pruned": run.pruned,
                "counts": dict(states),
                "n_failed": run.failures(),
            }
        )
        return
    counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
    n_documents = f"{len(records)} document" + ("" if len(records) == 1 else "s")
    emit(f"{n_documents} in {run.collection!r}: {counts or 'nothing sent'}")
    if run.skipped:
        emit(f"skipped {_skips(run.skipped)}")


def _skipped_bodies(skipped: Sequence[Skipped]) -> list[dict[str, str]]:
    return [{"path": str(item.path), "reason": item.reason} for item in skipped]


def _skips(skipped: Sequence[Skipped]) -> str:
    reasons = Counter(
        f"{item.reason} {item.path.suffix}".strip() if item.reason == "unsupported" else item.reason
        for item in skipped
    )
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
