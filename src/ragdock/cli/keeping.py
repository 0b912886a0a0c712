"""`backup`, `restore` and `verify`: a data directory as a whole, beside the server."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, cast

import typer

from ragdock.cli.options import JsonOutput
from ragdock.cli.output import emit, emit_json, emit_table, note, progress
from ragdock.core.names import BACKUP_STAMP
from ragdock.errors import InputError

if TYPE_CHECKING:
    from ragdock.ports import Verdict
    from ragdock.settings import Settings

__all__ = ["DataDir", "opened", "register", "settings_of"]

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where the store lives [RAG_DATA_DIR].")
]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(backup)
    app.command()(restore)
    app.command()(verify)


def backup(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file to write; - is stdout.")],
    data_dir: DataDir = None,
    json_output: JsonOutput = False,
) -> None:
    """Copy the whole store into one file while the server runs (.gz compresses).

    The file holds documents, hashes of API keys and the server's secrets: keep it safe.
    """
    from ragdock.bootstrap import keeper_of
    from ragdock.ops.backup import backup as run

    directory = _data_dir(data_dir)
    target: Path | BinaryIO = Path(file)
    if file == "-":
        if sys.stdout.isatty():
            raise InputError("A backup can't be written to a terminal; name a file.", field="FILE")
        target = sys.stdout.buffer
    with progress("backup", 1) as bar:
        manifest = run(keeper_of(directory), target, scratch=directory, progress=bar.stage)
    # What `rag_backup_time_seconds` tells; a backup is none the worse without it.
    with suppress(OSError):
        (directory / BACKUP_STAMP).touch(mode=0o600)
    if json_output and file != "-":
        emit_json(manifest)
    else:
        note(f"Backed up {_counts(manifest)} to {file}.")


def restore(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The backup; - is stdin.")],
    data_dir: DataDir = None,
    force: Annotated[
        bool, typer.Option("--force", help="Move the store that is there aside.")
    ] = False,
    json_output: JsonOutput = False,
) -> None:
    """Put a backup in an empty data directory, after checking it whole; stop the server first."""
    from ragdock.bootstrap import keeper_of
    from ragdock.ops.backup import restore as run

    directory = _data_dir(data_dir)
    with opened(file) as source, progress("restore", 1) as bar:
        restored = run(keeper_of(directory), source, force=force, progress=bar.stage)
    if json_output:
        emit_json(
            {
                "data_dir": str(directory),
                "aside": restored.aside and str(restored.aside),
                "manifest": restored.manifest,
            }
        )
        return
    if restored.aside is not None:
        note(f"The former store is in {restored.aside}; remove it when it isn't needed.")
    emit(f"Restored {_counts(restored.manifest)} to {directory}.")


def verify(
    file: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="A backup; else the data directory."),
    ] = None,
    data_dir: DataDir = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave texts and vectors unread.")] = False,
    json_output: JsonOutput = False,
) -> None:
    """Check the store, or a backup: files, counts, orphans, texts, vectors. Exit code 1: faults."""
    from ragdock.bootstrap import keeper_of

    with progress("verify", 1) as bar:
        if file is None:
            verdict = keeper_of(_data_dir(data_dir)).verify(quick=quick, progress=bar.stage)
        else:
            verdict = _verify_backup(file, quick=quick, stage=bar.stage)
    if json_output:
        from dataclasses import asdict

        emit_json({"ok": not verdict.findings, **asdict(verdict)})
    else:
        _show(verdict)
    if verdict.findings:
        raise typer.Exit(1)


def _verify_backup(file: Path, *, quick: bool, stage: Any) -> Verdict:
    from ragdock.bootstrap import keeper_of
    from ragdock.ops.backup import restore as run

    with tempfile.TemporaryDirectory(prefix=".ragdock-verify-", dir=file.parent) as name:
        keeper = keeper_of(Path(name))
        with file.open("rb") as source:
            run(keeper, source, force=False, progress=stage)
        return keeper.verify(quick=quick, progress=stage)


def _show(verdict: Verdict) -> None:
    if verdict.findings:
        rows = [(one.check, one.where, one.what, one.remedy) for one in verdict.findings]
        emit_table(("check", "where", "what", "remedy"), rows)
    checked = ", ".join(f"{count} {what}" for what, count in verdict.checked.items())
    note(f"Checked {checked}: {len(verdict.findings) or 'no'} findings.")


def settings_of(data_dir: Path | None) -> Settings:
    """The settings; the option wins."""
    from ragdock.settings import Settings

    return Settings.load(**({} if data_dir is None else {"data_dir": data_dir}))


def _data_dir(given: Path | None) -> Path:
    return settings_of(given).data_dir


@contextmanager
def opened(file: str) -> Iterator[BinaryIO]:
    """The file to read; - is stdin."""
    if file == "-":
        yield cast("BinaryIO", sys.stdin.buffer)
        return
    try:
        opened = Path(file).open("rb")  # noqa: SIM115
    except OSError as exc:
        raise InputError(f"{file} can't be read: {exc.strerror}.", field="FILE") from exc
    with opened:
        yield opened


def _counts(manifest: dict[str, Any]) -> str:
    collections = manifest["notes"].get("collections", [])
    n_documents = sum(one["n_documents"] for one in collections)
    size = sum(one["size_bytes"] for one in manifest["files"].values())
    noun = "collection" if len(collections) == 1 else "collections"
    return f"{len(collections)} {noun}, {n_documents} documents, {size / 1e6:.1f} MB"
