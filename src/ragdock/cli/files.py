"""Which files `ragdock ingest` sends, and under which ids.

A document's id derives from its path relative to the root (the current directory, unless `--root`
says otherwise), so ingesting a changed file again replaces its document and doubles nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ragdock.core.media import detect_media_type
from ragdock.errors import InputError

__all__ = ["LocalFile", "Skipped", "discover", "document_id"]

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~:@-]{0,199}")
_SLUG_CHARACTERS: Final = 160
_HEAD_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to send; `name` is its path relative to the root, with slashes.

    The server takes the last part of it for the file name, and the id tells namesakes apart.
    """

    path: Path
    name: str
    document_id: str

    @property
    def filename(self) -> str:
        """The last part of `name`."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or folder that is not sent; `reason` is `hidden`, `unsupported` or `empty`."""

    path: Path
    reason: str


def discover(arguments: Sequence[Path], root: Path) -> tuple[list[LocalFile], list[Skipped]]:
    """Resolve files and folders, these recursively and by name, without following folder links.

    A file that is named itself is always sent: the server says whether it can read it. In folders
    hidden, unsupported and empty files are skipped. Raises `InputError` when a path doesn't exist
    or two files would get the same id.
    """
    files: dict[str, LocalFile] = {}
    skipped: list[Skipped] = []
    for argument in arguments:
        if argument.is_dir():
            candidates = _walk(argument, skipped)
        elif argument.is_file():
            candidates = iter((argument,))
        else:
            raise InputError(f"{argument} doesn't exist; give a file, a folder, or - for stdin.")
        for path in candidates:
            name = _name(path, argument, root)
            found = LocalFile(path, name, document_id(name))
            other = files.setdefault(found.document_id, found)
            if other.path.resolve() != path.resolve():
                raise InputError(
                    f"{other.path} and {path} would get the same id, {found.document_id!r}; "
                    "name a folder that holds both with --root."
                )
    return list(files.values()), skipped


def document_id(name: str) -> str:
    """The id of a path: slashes become colons; anything else an id can't hold adds a digest."""
    plain = name.replace("/", ":")
    if ":" not in name and _ID.fullmatch(plain):
        return plain
    slug = re.sub(r"[^A-Za-z0-9._~@:-]+", "-", plain).lstrip("-._~:@")[:_SLUG_CHARACTERS]
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{slug or 'file'}-{digest}"


def _walk(folder: Path, skipped: list[Skipped]) -> Iterator[Path]:
    for directory, folders, names in os.walk(folder):
        here = Path(directory)
        skipped.extend(Skipped(here / name, "hidden") for name in folders if name.startswith("."))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = here / name
            reason = _reason_to_skip(path)
            if reason is None:
                yield path
            else:
                skipped.append(Skipped(path, reason))


def _reason_to_skip(path: Path) -> str | None:
    if path.name.startswith("."):
        return "hidden"
    if not path.is_file():
        return "unsupported"
    try:
        with path.open("rb") as content:
            head = content.read(_HEAD_BYTES)
    except OSError:
        return None  # Sending it will fail, and say why.
    if not head:
        return "empty"
    # The server decides in the same way.
    return "unsupported" if detect_media_type(path.name, None, head) is None else None


def _name(path: Path, argument: Path, root: Path) -> str:
    absolute, top = _absolute(path), _absolute(root)
    if not absolute.is_relative_to(top):
        # Outside the root the path down to here says nothing about the document.
        top = _absolute(argument).parent
    # File names are bytes; what isn't UTF-8 can't travel in an HTTP header.
    return os.fsencode(absolute.relative_to(top).as_posix()).decode("utf-8", "replace")


def _absolute(path: Path) -> Path:
    # Not resolve(): it would follow links, and the name would not be the one that the user sees.
    return Path(os.path.abspath(path))  # noqa: PTH100
