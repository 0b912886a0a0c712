"""One file out of the tar archive that the Engine answers, as text of which a character is a byte.

See "ustar interchange format" of POSIX pax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Member", "file_in", "first_member"]

BLOCK: Final = 512


@dataclass(frozen=True, slots=True)
class Member:
    """The first member: `kind` is the type flag ("0" a file, "2" a link, "5" a directory)."""

    kind: str
    mode: int
    target: str
    content: str


def first_member(archive: Any) -> Member | None:
    """What comes first in the archive, extended headers left out; None when it is no archive."""
    text = archive if isinstance(archive, str) else ""
    at = 0
    while len(text) >= at + BLOCK and text[at + 257 : at + 262] == "ustar":
        header = text[at : at + BLOCK]
        size, mode = _octal(header[124:136]), _octal(header[100:108])
        if size is None or mode is None:
            return None
        body = text[at + BLOCK : at + BLOCK + size]
        if header[156] not in "xg":
            target = header[157:257].split("\0")[0]
            return Member(header[156].replace("\0", "0"), mode, target, body)
        at += BLOCK + -(-size // BLOCK) * BLOCK
    return None


def file_in(archive: Any) -> str | None:
    """The content of the file that the archive holds."""
    found = first_member(archive)
    return found.content if found is not None and found.kind == "0" else None


def _octal(field: str) -> int | None:
    try:
        return int(field.strip("\0 ") or "0", 8)
    except ValueError:
        return None
