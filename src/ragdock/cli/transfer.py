"""`export` and `import`: a collection as JSON lines, beside the running server."""

from __future__ import annotations

import gzip
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, cast

import typer

from ragdock.cli.keeping import DataDir, opened, settings_of
from ragdock.cli.options import JsonOutput
from ragdock.cli.output import emit_json, note, progress
from ragdock.errors import InputError

if TYPE_CHECKING:
    from ragdock.bootstrap import Reindexing

__all__ = ["export_from", "import_into", "register"]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("export")(export)
    app.command("import")(import_)


def export(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file to write; - is stdout.")],
    data_dir: DataDir = None,
) -> None:
    """Write a collection's documents, passages and vectors as JSON lines (.gz compresses)."""
    from ragdock.bootstrap import open_reindexing

    with open_reindexing(settings_of(data_dir)) as reindexing:
        n_documents = export_from(reindexing, collection, file)
    note(f"Exported {n_documents} documents of {collection} to {file}.")


def export_from(reindexing: Reindexing, collection: str, file: str) -> int:
    """Write the file; how many documents it were."""
    from ragdock.ops.backup import appearing
    from ragdock.services.transfer import export_collection

    found = reindexing.collection(collection)
    with ExitStack() as stack:
        stream: BinaryIO = sys.stdout.buffer
        if file != "-":
            stream = stack.enter_context(appearing(Path(file)))
        bar = stack.enter_context(progress("export", found.n_documents))
        return export_collection(
            reindexing.transfer, found, stream, lambda done, total: bar.stage("export", done, total)
        )


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The export; - is stdin.")],
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="Where to [where it came from].")
    ] = None,
    data_dir: DataDir = None,
    json_output: JsonOutput = False,
) -> None:
    """Write an export's documents into a collection; vectors of other settings are made anew."""
    from ragdock.bootstrap import open_reindexing

    with open_reindexing(settings_of(data_dir)) as reindexing:
        facts = import_into(reindexing, file, collection)
    if json_output:
        emit_json(facts)
    else:
        how = ", embedded anew" if facts["embedded"] else ""
        note(f"Imported {facts['n_written']} documents{how}; {facts['n_unchanged']} were there.")


def import_into(reindexing: Reindexing, file: str, collection: str | None) -> dict[str, int]:
    """Read the file; what came of it."""
    from ragdock.services.transfer import import_collection, read_header

    with opened(file) as raw, progress("import", 1) as bar:
        stream = raw
        if file.endswith((".gz", ".tgz")):
            stream = cast("BinaryIO", gzip.GzipFile(fileobj=raw, mode="rb"))
        header = read_header(stream)
        name = collection or header.get("collection")
        if not isinstance(name, str) or not name:
            raise InputError("Name the collection with --collection.", field="--collection")
        done = import_collection(
            reindexing.transfer,
            reindexing.collection(name, create=True),
            header,
            stream,
            reindexer=reindexing.reindexer,
            fingerprint=reindexing.fingerprint,
            progress=lambda n: bar.stage("import", n, n),
        )
    return asdict(done)
