"""Which files `ragdock ingest` sends, and under which ids.

A document's id derives from its path relative to the root (the current directory, unless `--root`
says otherwise), so ingesting a changed file again replaces its document and doubles nothing. Files
found in folders also carry where they come from, so that a later run knows which documents are
this folder's.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from ragdock.cli.ignoring import VCS_FOLDERS, IgnoreRules, is_temporary
from ragdock.core.media import detect_media_type
from ragdock.errors import InputError

__all__ = [
    "Discovery",
    "LocalFile",
    "Skipped",
    "Source",
    "discover",
    "document_id",
    "reason_to_skip",
    "sha256_of",
]

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~:@-]{0,199}")
_SLUG_CHARACTERS: Final = 160
_HEAD_BYTES: Final = 4096
_WILD: Final = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Source:
    """A folder that documents come from; `id` names it in their metadata."""

    folder: Path
    id: str

    @classmethod
    def of(cls, folder: Path, name: str | None = None) -> Source:
        """The folder under a name, or under one that tells it from all other paths."""
        path = folder.resolve()
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
        return cls(folder, name or f"{_text(path.name) or 'root'}-{digest}")


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to send; `name` is its path relative to the root, with slashes.

    The server takes the last part of it for the file name, and the id tells namesakes apart.
    """

    path: Path
    name: str
    document_id: str
    source: Source | None = None

    @property
    def filename(self) -> str:
        """The last part of `name`."""
        return self.name.rpartition("/")[2]

    @property
    def origin(self) -> dict[str, str]:
        """The metadata that say which folder the file comes from."""
        if self.source is None:
            return {}
        relative = _absolute(self.path).relative_to(_absolute(self.source.folder))
        return {"source_root": self.source.id, "source_path": _text(relative.as_posix())}


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or folder that is not sent.

    `reason` is `hidden`, `vcs`, `ignored`, `temporary`, `unsupported`, `empty`, `duplicate` or
    `unreadable`.
    """

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Discovery:
    """How files are found and named; see `discover`."""

    root: Path = field(default_factory=Path)
    respect_ignore_files: bool = True
    hidden: bool = False
    id_from: Literal["path", "content"] = "path"
    source_name: str | None = None

    def walk(
        self,
        folder: Path,
        skipped: list[Skipped],
        pattern: re.Pattern[str] | None = None,
        depth: int | None = None,
    ) -> Iterator[Path]:
        """The files below a folder by name, unless hidden, ignored or somebody's temporary file.

        Links to folders are not followed, so a link can't make the walk endless. `pattern` has to
        match the path below the folder; `depth` is how far down to look.
        """
        top = _absolute(folder)
        rules = {top: IgnoreRules.above(top) if self.respect_ignore_files else IgnoreRules()}

        def unreadable(error: OSError) -> None:
            skipped.append(Skipped(Path(error.filename), "unreadable"))

        for directory, folders, names in os.walk(folder, onerror=unreadable):
            here, absolute = Path(directory), _absolute(Path(directory))
            above = rules.pop(absolute)
            rule = above.within(absolute) if self.respect_ignore_files else above
            level = len(absolute.relative_to(top).parts) + 1
            kept = []
            for name in sorted(folders):
                reason = self._reason(absolute / name, rule, is_folder=True)
                if reason is not None:
                    skipped.append(Skipped(here / name, reason))
                elif (depth is None or level < depth) and not (here / name).is_symlink():
                    kept.append(name)
                    rules[absolute / name] = rule
            folders[:] = kept
            for name in sorted(names):
                path = here / name
                if pattern and not pattern.fullmatch((absolute / name).relative_to(top).as_posix()):
                    continue
                reason = self._reason(absolute / name, rule, is_folder=False)
                if reason is None:
                    yield path
                else:
                    skipped.append(Skipped(path, reason))

    def _reason(self, path: Path, rules: IgnoreRules, *, is_folder: bool) -> str | None:
        name = path.name
        if name.startswith(".") and not self.hidden:
            return "hidden"
        if is_folder and name in VCS_FOLDERS:
            return "vcs"
        if not is_folder and is_temporary(name):
            return "temporary"
        return "ignored" if rules.ignores(path, is_folder=is_folder) else None

    def local_file(self, path: Path, argument: Path, source: Source | None) -> LocalFile:
        """A file with its name and id. Raises `InputError` when it can't be read."""
        name = _name(path, argument, self.root)
        if self.id_from == "path":
            return LocalFile(path, name, document_id(name), source)
        return LocalFile(path, name, f"sha256-{sha256_of(path)[:40]}", source)


def discover(
    arguments: Sequence[str | Path], discovery: Discovery
) -> tuple[list[LocalFile], list[Skipped], list[Source]]:
    """Resolve files, folders and globs: what to send, what not, and the folders that were read.

    A file that is named itself is always sent: the server says whether it can read it. In folders,
    and where a pattern with `*`, `**`, `?` or `[..]` leads, hidden, ignored, unsupported and empty
    files are skipped. Raises `InputError` when a path doesn't exist or two files would get the
    same id.
    """
    files: dict[str, LocalFile] = {}
    skipped: list[Skipped] = []
    sources: list[Source] = []
    for text in arguments:
        argument = Path(text)
        source = None
        if argument.is_dir():
            source = Source.of(argument, discovery.source_name)
            sources.append(source)
            found = _sendable(discovery.walk(argument, skipped), skipped)
        elif argument.is_file():
            found = iter((argument,))
        elif _WILD.search(str(text)):
            argument, pattern, depth = _glob(str(text))
            found = _sendable(discovery.walk(argument, skipped, pattern, depth), skipped)
        else:
            raise InputError(f"{argument} doesn't exist; give a file, a folder, or - for stdin.")
        for path in found:
            _add(files, skipped, discovery.local_file(path, argument, source))
    return list(files.values()), skipped, sources


def document_id(name: str) -> str:
    """The id of a path: slashes become colons; anything else an id can't hold adds a digest."""
    plain = name.replace("/", ":")
    if ":" not in name and _ID.fullmatch(plain):
        return plain
    slug = re.sub(r"[^A-Za-z0-9._~@:-]+", "-", plain).lstrip("-._~:@")[:_SLUG_CHARACTERS]
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{slug or 'file'}-{digest}"


def sha256_of(path: Path) -> str:
    """The hash of a file, read piece by piece; `InputError` when it can't be read."""
    try:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as exc:
        raise InputError(f"{path} can't be read: {exc.strerror}", code="unreadable_file") from None


def reason_to_skip(path: Path) -> str | None:
    """Why a file in a folder isn't sent, judged by its content."""
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


def _sendable(paths: Iterator[Path], skipped: list[Skipped]) -> Iterator[Path]:
    for path in paths:
        reason = reason_to_skip(path)
        if reason is None:
            yield path
        else:
            skipped.append(Skipped(path, reason))


def _add(files: dict[str, LocalFile], skipped: list[Skipped], found: LocalFile) -> None:
    other = files.setdefault(found.document_id, found)
    if other.path.resolve() == found.path.resolve():
        return
    if found.document_id.startswith("sha256-"):
        skipped.append(Skipped(found.path, "duplicate"))
        return
    raise InputError(
        f"{other.path} and {found.path} would get the same id, {found.document_id!r}; "
        "name a folder that holds both with --root."
    )


def _glob(text: str) -> tuple[Path, re.Pattern[str], int | None]:
    """The folder before a pattern's first wild part, the rest as a regex, and how deep it goes."""
    parts = Path(text).parts
    first = next(number for number, part in enumerate(parts) if _WILD.search(part))
    base, rest = Path(*parts[:first]), parts[first:]
    if not base.is_dir():
        raise InputError(f"{text} matches nothing: {base} is no folder.")
    regex = ""
    for number, part in enumerate(rest):
        is_last = number == len(rest) - 1
        if part == "**":
            regex += "(?:[^/]+/)*" + ("[^/]+" if is_last else "")
        else:
            regex += _part(part) + ("" if is_last else "/")
    return base, re.compile(regex, re.DOTALL), None if "**" in rest else len(rest)


def _part(glob: str) -> str:
    """One part of a path with `*`, `?` and `[..]` as a regex."""
    regex, at = "", 0
    while at < len(glob):
        character = glob[at]
        end = glob.find("]", at + 2) if character == "[" else -1
        if end > 0:
            inner = re.sub(r"([\\\[&~|])", r"\\\1", glob[at + 1 : end])
            regex += f"(?!/)[{'^' + inner[1:] if inner[0] in '!^' else inner}]"
            at = end
        else:
            # A leading dot is hidden from wild cards by the walk, unless --hidden says otherwise.
            regex += {"*": "[^/]*", "?": "[^/]"}.get(character, re.escape(character))
        at += 1
    return regex


def _name(path: Path, argument: Path, root: Path) -> str:
    absolute, top = _absolute(path), _absolute(root)
    if not absolute.is_relative_to(top):
        # Outside the root the path down to here says nothing about the document.
        top = _absolute(argument).parent
    return _text(absolute.relative_to(top).as_posix())


def _text(name: str) -> str:
    # File names are bytes; what isn't UTF-8 can't travel in an HTTP header.
    return os.fsencode(name).decode("utf-8", "replace")


def _absolute(path: Path) -> Path:
    # Not resolve(): it would follow links, and the name would not be the one that the user sees.
    return Path(os.path.abspath(path))  # noqa: PTH100
