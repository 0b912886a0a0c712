"""Shows text, figures and widgets: in a notebook as they are, elsewhere as text or not at all."""

from __future__ import annotations

import re
import sys
import textwrap
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any, Final

__all__ = ["PAGE_WIDTH", "fitted", "say", "show_card", "show_figure", "show_widget"]

PAGE_WIDTH: Final = 120
"""Characters that fit on a line of a notebook's page; it breaks longer ones anywhere."""

# All columns but the last, so that what is continued stands below where it began.
_COLUMNS: Final = re.compile(r"\s*(?:\S+(?: \S+)*\s{2,})*")
# What the doctor says to paste must stay one line.
_PASTED: Final = re.compile(r"\s*fix\s")


def say(text: str) -> None:
    """Some output, so that a page shows it well."""
    sys.stdout.write(f"{fitted(text)}\n")
    sys.stdout.flush()


def fitted(text: str) -> str:
    """The text with tab-separated lines as columns, and with long lines broken at blanks.

    Commands write tabs where there is no terminal, and a page shows them as ragged columns.
    """
    lines: list[str] = []
    for tabbed, group in groupby(text.split("\n"), key=lambda line: "\t" in line):
        together = list(group)
        lines += _columns([line.split("\t") for line in together]) if tabbed else together
    return "\n".join(part for line in lines for part in _broken(line))


def _columns(rows: list[list[str]]) -> list[str]:
    n_columns = max(len(row) for row in rows)
    widths = [max(len(row[n]) for row in rows if n < len(row)) for n in range(n_columns)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    ]


def _broken(line: str) -> list[str]:
    found = _COLUMNS.match(line)
    if len(line) <= PAGE_WIDTH or _PASTED.match(line) or found is None:
        return [line]
    hanging = found.end() if found.end() <= PAGE_WIDTH // 2 else 0
    return textwrap.wrap(
        line,
        PAGE_WIDTH,
        subsequent_indent=" " * hanging,
        drop_whitespace=True,
        break_long_words=False,
        break_on_hyphens=False,
    )


def show_card(markdown: str) -> None:
    """A Markdown table; its text where nothing renders Markdown."""
    kit = _notebook()
    if kit is None:
        say(markdown)
    else:
        kit.display(kit.Markdown(markdown))


def show_figure(figure: Any, file: Path | None = None, *, words: str) -> bool:
    """A figure of matplotlib as a picture; False where there is none, or nowhere to show it.

    `words` say what it shows, to who can't see it. With `file` it is written there too.
    """
    if figure is None:
        return False
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    if file is not None:
        file.write_bytes(picture.getvalue())
    kit = _notebook()
    if kit is None:
        return False
    kit.display(kit.Image(data=picture.getvalue(), format="png", alt=words))
    return True


def show_widget(widget: Any) -> bool:
    """A widget; False where there is none, or nowhere to show it."""
    kit = _notebook()
    if widget is None or kit is None:
        return False
    kit.display(widget)
    return True


def _notebook() -> Any:
    """IPython's display module, in a kernel of Jupyter; else None."""
    if "ipykernel" not in sys.modules:
        return None
    from IPython import display

    return display
