"""JSON as readable lines, and JSON Lines as it is.

A JSON document's text is rendered: one line `path: value` for each value, and for an array of
objects one record an element, so that a passage reads like a record and not like syntax. JSON Lines
keep their text, so that citations point into the file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any, Final

from ragdock.adapters.parsers import parts
from ragdock.adapters.parsers.building import BlockList, TextBuilder
from ragdock.adapters.parsers.decoding import decode_text
from ragdock.errors import DocumentError
from ragdock.types import Block, BlockKind, ParsedDocument

__all__ = ["LineScanner", "parse", "parse_lines"]

_MAX_VALUES: Final = 2_000_000
_MAX_DEPTH: Final = 200
_ILLEGAL: Final = {0: "\ufffd"} | dict.fromkeys(range(0xD800, 0xE000), "\ufffd")
_LINES_A_BLOCK: Final = 50


def parse(content: bytes) -> ParsedDocument:
    """Lines `a.b[0].c: value`; records of an array are set apart by a blank line."""
    root = _load(decode_text(content))
    builder = TextBuilder()
    lines: list[str] = []
    current: str | None = None
    gap = "\n\n"
    for n_values, (record, path, value) in enumerate(_flatten(root)):
        if n_values >= _MAX_VALUES:
            raise _too_complex(f"has more than {_MAX_VALUES:,} values")
        if record != current or len(lines) >= _LINES_A_BLOCK:
            builder.add("\n".join(lines), BlockKind.RECORD, gap=gap)
            gap = "\n" if record == current else "\n\n"
            lines = []
            current = record
        lines.append(f"{path}: {value}" if path else value)
    builder.add("\n".join(lines), BlockKind.RECORD, gap=gap)
    return builder.document(_title(root))


def parse_lines(content: bytes) -> ParsedDocument:
    """One record a line, the text exact; `damaged` names the first line that is not JSON."""
    return LineScanner().whole(content)


class LineScanner(parts.Scanner):
    """Of JSON Lines in windows, which hold a whole line however long it is."""

    longest_block = sys.maxsize

    def __init__(self) -> None:
        self._n_lines = 0

    def scan(self, text: str, *, final: bool) -> list[Block]:
        blocks = BlockList(text)
        start = 0
        lines = text.split("\n")
        for number, line in enumerate(lines, self._n_lines + 1):
            end = start + len(line)
            if line.strip():
                # The last line of a window is whole in the next one.
                if final or end < len(text):
                    _load(line, number)
                blocks.add(start, end, BlockKind.RECORD)
            start = end + 1
        return blocks.blocks

    def take(self, text: str) -> None:
        self._n_lines += text.count("\n")


def _load(text: str, line: int | None = None) -> Any:
    try:
        # Numbers stay as they are written: 129.00 is not 129.0, and huge ones cost nothing.
        return json.loads(text, parse_float=str, parse_int=str, parse_constant=str)
    except json.JSONDecodeError as exc:
        where = f"line {exc.lineno:,}, column {exc.colno:,}" if line is None else f"line {line:,}"
        raise DocumentError(
            f"The file is not valid JSON at {where}; correct it and upload it again.",
            code="damaged",
        ) from None
    except RecursionError:
        raise _too_complex("is nested too deeply") from None


def _flatten(root: Any) -> Iterator[tuple[str, str, str]]:
    """(record, path, value) of every scalar; `record` names the array element it belongs to."""
    stack: list[tuple[str, str, Any, int]] = [("", "", root, 0)]
    while stack:
        record, path, value, depth = stack.pop()
        if depth > _MAX_DEPTH:
            raise _too_complex("is nested too deeply")
        if isinstance(value, dict):
            dot = f"{path}." if path else ""
            items = [(record, f"{dot}{key}", item, depth + 1) for key, item in value.items()]
            stack.extend(reversed(items))
        elif isinstance(value, list):
            stack.extend(reversed(list(_elements(record, path, value, depth))))
        elif value is not None and value != "":
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            yield record, path.translate(_ILLEGAL), shown.translate(_ILLEGAL)


def _elements(
    record: str, path: str, values: list[Any], depth: int
) -> Iterator[tuple[str, str, Any, int]]:
    """The elements of an array: objects of an outer array are records, with their own paths."""
    for number, value in enumerate(values):
        name = f"{path}[{number}]"
        if record == "" and isinstance(value, dict):
            yield name, "" if path == "" else name, value, depth + 1
        else:
            yield record, name, value, depth + 1


def _title(root: Any) -> str:
    title = root.get("title") if isinstance(root, dict) else None
    return title.translate(_ILLEGAL).strip()[:300] if isinstance(title, str) else ""


def _too_complex(what: str) -> DocumentError:
    return DocumentError(
        f"The JSON document {what}; split it into several files or upload it as JSON Lines.",
        code="too_complex",
    )
