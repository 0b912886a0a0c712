"""The lines of a compose file with the keys above them: enough YAML to look for an option.

No YAML reader is among the dependencies, and what is looked for are keys in block style, as every
compose file has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["Line", "children", "outline"]

_KEY: Final = re.compile(
    r"""^(?P<name>[A-Za-z0-9_.<-]+|"[^"]*"|'[^']*')\s*:(?:\s+(?P<value>.*))?$"""
)


@dataclass(frozen=True, slots=True)
class Line:
    """A key or list item: the keys from the top to it, and what stands behind it."""

    path: tuple[str, ...]
    value: str
    number: int


def outline(text: str) -> list[Line]:
    """The lines that hold something, in order. A list's item has the path of its list and "-"."""
    found: list[Line] = []
    above: list[tuple[int, str]] = []
    block: int | None = None
    for number, raw in enumerate(text.splitlines(), 1):
        line = _without_comment(raw)
        depth = len(line) - len(line.lstrip(" "))
        if not line.strip():
            continue
        if block is not None and depth > block:
            continue  # The lines of a block scalar, `|` or `>`.
        block = depth if re.search(r"(?::|-)\s+[|>][+-]?\d?$", line) else None
        body = line.strip()
        is_item = body.startswith("- ") or body == "-"
        while above and (above[-1][0] > depth or (above[-1][0] == depth and not is_item)):
            above.pop()
        while is_item and above and above[-1][0] == depth and above[-1][1] == "-":
            above.pop()
        path = tuple(name for _, name in above)
        if is_item:
            above.append((depth, "-"))
            found.append(Line((*path, "-"), body[1:].strip(), number))
        elif key := _KEY.match(body):
            name = key["name"].strip("\"'")
            above.append((depth, name))
            found.append(Line((*path, name), (key["value"] or "").strip(), number))
    return found


def children(lines: list[Line], *path: str) -> Iterator[Line]:
    """The lines directly below a key."""
    for line in lines:
        if line.path[:-1] == path:
            yield line


def _without_comment(line: str) -> str:
    if "#" not in line:
        return line.rstrip()
    quote = ""
    for at, character in enumerate(line):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character == "#" and (at == 0 or line[at - 1] in " \t"):
            return line[:at].rstrip()
    return line.rstrip()
