"""Source code and configuration: a block for each definition at the top level, the text exact.

No grammar is used: a definition starts where a line stands at the left margin after a blank line,
and takes the comments and decorators directly above it along. That holds for every language that
people indent, and costs nothing.
"""

from __future__ import annotations

import re
from typing import Final

from ragdock.adapters.parsers import parts
from ragdock.adapters.parsers.building import BlockList
from ragdock.types import Block, BlockKind, ParsedDocument

__all__ = ["Scanner", "parse"]

_LINE: Final = re.compile(r"[^\n]*\n|[^\n]+")
_CLOSER: Final = re.compile(
    r"[)\]{}]|\*/|(?:end|fi|done|esac|else|elif|elsif|except|finally|catch|rescue)\b"
)
_DEFINITION: Final = re.compile(
    r"(?:[\w(),<>\[\]*&:]+\s+){0,6}?"
    r"(?:def|class|function|func|fn|impl|struct|enum|trait|interface|module|namespace|record"
    r"|protocol|extension|sub|procedure|macro_rules!|table|view|message|service|resource)\b",
    re.IGNORECASE,
)
_OPENING: Final = ("{", "(", ")", ":", "do", "->", "=>")
_MAX_LABEL: Final = 120


def parse(content: bytes) -> ParsedDocument:
    """Blocks at top-level definitions, labelled with their first line."""
    return Scanner().whole(content)


class Scanner(parts.Scanner):
    """Of code in windows."""

    def scan(self, text: str, *, final: bool) -> list[Block]:  # noqa: ARG002
        return _blocks(text)


def _blocks(text: str) -> list[Block]:
    blocks = BlockList(text)
    start, label = 0, ""
    comments: int | None = None  # Where the comments begin that belong to the next definition.
    after_blank = True
    for match in _LINE.finditer(text):
        body = match.group().rstrip()
        if not body:
            after_blank, comments = True, None
            continue
        at_margin = not body[0].isspace() and not _CLOSER.match(body)
        defines = at_margin and _is_definition(body)
        if at_margin and (after_blank or comments is not None or defines):
            if _is_comment(body):
                comments = match.start() if comments is None else comments
            else:
                begin = match.start() if comments is None else comments
                blocks.add(start, begin, BlockKind.CODE, label=label)
                start, label = begin, body[:_MAX_LABEL] if defines else ""
                comments = None
        after_blank = False
    blocks.add(start, len(text), BlockKind.CODE, label=label)
    return blocks.blocks


def _is_comment(line: str) -> bool:
    """Whether the line is a comment, decorator or attribute, which belongs to what follows."""
    if line.startswith("#"):
        return not line.startswith(("#include", "#define", "#if", "#pragma"))
    return line.startswith(("//", "--", "/*", "*", "@", "#["))


def _is_definition(line: str) -> bool:
    return line.endswith(_OPENING) or _DEFINITION.match(line[:_MAX_LABEL]) is not None
