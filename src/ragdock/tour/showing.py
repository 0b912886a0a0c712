"""Shows text, figures and widgets: in a notebook as they are, elsewhere as text or not at all."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

__all__ = ["say", "show_card", "show_figure", "show_widget"]


def say(text: str) -> None:
    """A line of the output."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def show_card(markdown: str) -> None:
    """A Markdown table; its text where nothing renders Markdown."""
    kit = _notebook()
    if kit is None:
        say(markdown)
    else:
        kit.display(kit.Markdown(markdown))


def show_figure(figure: Any, file: Path | None = None) -> bool:
    """A figure of matplotlib as a picture; False where there is none, or nowhere to show it.

    With `file` it is written there too.
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
    kit.display(kit.Image(data=picture.getvalue(), format="png"))
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
