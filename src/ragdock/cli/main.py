"""The command line: `ragdock --help`.

Exit codes: 0 done, 1 failed (the reason is on stderr), 2 wrong usage or a wrong setting. Modules of
commands import nothing heavy at the top, so that help and completion answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from ragdock import __version__
from ragdock.cli import (
    advise,
    audit,
    doctor,
    documents,
    exporter,
    ingest,
    jobs,
    keeping,
    keys,
    query,
    reindex,
    server,
    sizing,
    smoke,
    tools,
    transfer,
    worker,
)
from ragdock.cli.options import add_key_file
from ragdock.cli.output import emit, note
from ragdock.errors import ConfigurationError, InputError, RagdockError

__all__ = ["app", "main"]

app = typer.Typer(
    name="ragdock",
    help="Documents in, cited answers out: serve the API, and talk to it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Rich's help panels double the time of --help.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        emit(f"ragdock {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Documents in, cited answers out: serve the API, and talk to it."""


server.register(app)
worker.register(app)
exporter.register(app)
ingest.register(app)
query.register(app)
documents.register(app)
jobs.register(app)
keys.register(app)
audit.register(app)
keeping.register(app)
reindex.register(app)
transfer.register(app)
smoke.register(app)
advise.register(app)
sizing.register(app)
tools.register(app)
doctor.register(app)
add_key_file(app)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; leaves by `SystemExit` with 0, 1 or 2 (130 when interrupted)."""
    try:
        app(args=None if argv is None else list(argv), prog_name="ragdock")
    except (ConfigurationError, InputError) as exc:
        # What the server finds wrong arrives as a plain RagdockError: these two are local.
        note(f"Error: {exc}")
        sys.exit(2)
    except RagdockError as exc:
        note(f"Error: {exc}")
        sys.exit(1)
