"""What commands write: tables on a terminal, tab-separated lines in a pipe, JSON for programs.

Results go to stdout, everything else to stderr. Rich is imported only when a terminal is there to
be drawn on.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = [
    "Progress",
    "emit",
    "emit_json",
    "emit_table",
    "emit_text",
    "note",
    "on_terminal",
    "printable",
    "progress",
    "shorten",
]

# A document's text may hold escape sequences; a terminal must never run them.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Progress(Protocol):
    """A bar: `advance` after each step, `describe` or `stage` when the work changes."""

    def advance(self, steps: int = 1) -> None:
        """Some steps are done."""
        ...

    def describe(self, text: str) -> None:
        """Say what is going on."""
        ...

    def stage(self, text: str, done: int, total: int) -> None:
        """Show another piece of work, so far done."""
        ...


def on_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout.isatty()


def printable(value: object) -> str:
    """The value as text without control characters; None is a dash."""
    return "-" if value is None else _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(value))


def shorten(text: str, n_characters: int) -> str:
    """The text on one line, cut with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= n_characters else line[: n_characters - 1].rstrip() + "…"


def emit(text: str) -> None:
    """A line of result."""
    sys.stdout.write(printable(text) + "\n")


def emit_text(text: str) -> None:
    """A document's text: exact in a pipe, without control characters on a terminal."""
    sys.stdout.write(printable(text) + "\n" if on_terminal() else text)


def emit_json(value: Any) -> None:
    """The result for programs: indented on a terminal, one line in a pipe."""
    if on_terminal():
        sys.stdout.write(printable(json.dumps(value, ensure_ascii=False, indent=2)) + "\n")
    else:
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


def note(text: str) -> None:
    """A remark that isn't the result."""
    sys.stderr.write(printable(text) + "\n")


def emit_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = ""
) -> None:
    """A table; a column whose name ends in `#` is right-aligned (the mark isn't shown)."""
    if not on_terminal():
        lines = [[column.rstrip("#") for column in columns], *rows]
        for line in lines:
            sys.stdout.write("\t".join(shorten(printable(cell), 10_000) for cell in line) + "\n")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD, title=title or None, title_justify="left", header_style="bold"
    )
    for column in columns:
        table.add_column(column.rstrip("#"), justify="right" if column.endswith("#") else "left")
    for row in rows:
        # Text, not str: square brackets in a document aren't markup.
        table.add_row(*(Text(printable(cell), overflow="fold") for cell in row))
    Console().print(table)


@contextmanager
def progress(title: str, total: int) -> Iterator[Progress]:
    """A progress bar on stderr when that is a terminal; else nothing is shown."""
    if not sys.stderr.isatty():
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=total)
        yield _Bar(bars, task)


class _Silent:
    def advance(self, steps: int = 1) -> None:
        pass

    def describe(self, text: str) -> None:
        pass

    def stage(self, text: str, done: int, total: int) -> None:
        pass


class _Bar:
    def __init__(self, bars: RichProgress, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def advance(self, steps: int = 1) -> None:
        self._bars.advance(self._task, steps)

    def describe(self, text: str) -> None:
        self._bars.update(self._task, description=printable(text))

    def stage(self, text: str, done: int, total: int) -> None:
        self._bars.update(self._task, description=printable(text), completed=done, total=total)
