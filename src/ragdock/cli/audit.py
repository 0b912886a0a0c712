"""`audit`: who did what, from the files of the data directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ragdock.cli.options import JsonOutput
from ragdock.cli.output import emit, emit_table, note
from ragdock.errors import InputError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(audit)


def audit(
    since: Annotated[
        str, typer.Option(metavar="TIME", help="From then on: 90m, 7d, 2026-11-22T10:00 (UTC).")
    ] = "24h",
    key: Annotated[str | None, typer.Option(help="Only this key, by name or id.")] = None,
    action: Annotated[
        str | None, typer.Option(help="Only this action (documents.delete) or kind (documents).")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the store lives [RAG_DATA_DIR].")
    ] = None,
    json_output: JsonOutput = False,
) -> None:
    """Show the audit log: writes and key use, oldest first; with --json a line for each record."""
    from ragdock.ops.auditlog import audit_directory, read_audit, since_when
    from ragdock.settings import Settings

    settings = Settings.load(**({} if data_dir is None else {"data_dir": data_dir}))
    directory = audit_directory(settings.data_dir)
    if not directory.is_dir():
        raise InputError(
            f"There is no audit log in {directory}; it is written while RAG_AUDIT is `file`."
        )
    records = read_audit(directory, since=since_when(since), key=key, action=action)
    if json_output:
        for record in records:
            emit(json.dumps(record, ensure_ascii=True))
        return
    rows = [
        (
            record.get("time"),
            record.get("action"),
            record.get("status"),
            record.get("key"),
            record.get("address"),
            record.get("collection"),
            ", ".join(record.get("documents") or [str(record.get("target") or "")]),
        )
        for record in records
    ]
    emit_table(("time", "action", "status#", "key", "address", "collection", "what"), rows)
    if not rows:
        note("nothing is recorded for that")
