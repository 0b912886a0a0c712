"""Jupyter notebooks: Markdown cells as Markdown, code and its text outputs as code."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from ragdock.adapters.parsers import markdown
from ragdock.adapters.parsers.building import TextBuilder
from ragdock.adapters.parsers.decoding import decode_text
from ragdock.errors import DocumentError
from ragdock.types import BlockKind, ParsedDocument

__all__ = ["parse"]

_MAX_CELLS: Final = 100_000
_MAX_OUTPUT_CHARACTERS: Final = 20_000  # Of one cell: the rest is a log that nobody reads.
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_ILLEGAL: Final = {0: "\ufffd"} | dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


def parse(content: bytes) -> ParsedDocument:
    """Cells in order; the title is the first heading of level 1."""
    notebook = _load(decode_text(content))
    language = _language(notebook)
    builder = TextBuilder()
    title = ""
    for cell in _cells(notebook):
        source = _joined(cell.get("source", cell.get("input")))
        kind = cell.get("cell_type")
        if kind in ("markdown", "raw", "heading"):
            if kind == "heading":
                source = "#" * min(int(cell.get("level") or 1), 6) + " " + source
            parsed = markdown.parse(source.encode())
            title = title or parsed.title
            builder.include(parsed)
        elif kind == "code":
            builder.add(source, BlockKind.CODE, label=f"{language} cell".strip())
            outputs = cell.get("outputs")
            for text in map(_output, outputs if isinstance(outputs, list) else ()):
                builder.add(text[:_MAX_OUTPUT_CHARACTERS], BlockKind.CODE, label="Output")
    return builder.document(title)


def _load(text: str) -> dict[str, Any]:
    try:
        notebook = json.loads(text, parse_int=_small_int, parse_float=str, parse_constant=str)
    except json.JSONDecodeError as exc:
        raise DocumentError(
            f"The notebook is not valid JSON at line {exc.lineno:,}, column {exc.colno:,}; save it "
            "anew and upload it again.",
            code="damaged",
        ) from None
    except RecursionError:
        raise DocumentError(
            "The notebook is nested too deeply; save it anew or upload it as a script.",
            code="too_complex",
        ) from None
    if not isinstance(notebook, dict):
        raise _no_notebook()
    return notebook


def _small_int(digits: str) -> int:
    return int(digits) if len(digits) < 10 else 0


def _cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    cells = notebook.get("cells")
    if not isinstance(cells, list):  # Format 3 and before kept them in worksheets.
        sheets = notebook.get("worksheets")
        first = sheets[0] if isinstance(sheets, list) and sheets else {}
        cells = first.get("cells") if isinstance(first, dict) else None
    if not isinstance(cells, list):
        raise _no_notebook()
    if len(cells) > _MAX_CELLS:
        raise DocumentError(
            f"The notebook has more than {_MAX_CELLS:,} cells; split it.", code="too_complex"
        )
    return [cell for cell in cells if isinstance(cell, dict)]


def _no_notebook() -> DocumentError:
    return DocumentError(
        "The file is JSON and no Jupyter notebook: it has no cells. Upload it as .json.",
        code="damaged",
    )


def _language(notebook: dict[str, Any]) -> str:
    metadata = notebook.get("metadata")
    for name in ("kernelspec", "language_info"):
        info = metadata.get(name) if isinstance(metadata, dict) else None
        language = (info.get("language") or info.get("name")) if isinstance(info, dict) else None
        if isinstance(language, str):
            return language[:40].translate(_ILLEGAL)
    return ""


def _joined(source: Any) -> str:
    """Text is a string, or a list of lines."""
    if isinstance(source, list):
        source = "".join(line for line in source if isinstance(line, str))
    return source.translate(_ILLEGAL) if isinstance(source, str) else ""


def _output(output: Any) -> str:
    """The text of one output; "" for pictures, and for what is shown better in another form."""
    if not isinstance(output, dict):
        return ""
    if output.get("output_type") in ("error", "pyerr"):
        text = f"{output.get('ename', '')}: {output.get('evalue', '')}".translate(_ILLEGAL)
    elif output.get("output_type") == "stream":
        text = _joined(output.get("text"))
    else:
        data = output.get("data", output)
        text = _joined(data.get("text/plain", data.get("text"))) if isinstance(data, dict) else ""
        if text.startswith(("<Figure", "<matplotlib", "<Axes")):
            return ""
    return _COLOUR.sub("", text).strip()
