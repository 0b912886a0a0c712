"""What `ragdock ingest` leaves out of folders: .gitignore, .ragdockignore, editors' leavings.

The patterns mean what they mean to git: those of a folder go before those above it, the last one
that matches decides, `!` takes back, and nothing below an ignored folder comes back. In one folder
.ragdockignore has the last word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ragdock.errors import InputError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

__all__ = ["VCS_FOLDERS", "IgnoreRules", "is_temporary"]

VCS_FOLDERS: Final = frozenset({".git", ".hg", ".svn", ".bzr", ".jj", "CVS", "_darcs"})
_FILES: Final = (".gitignore", ".ragdockignore")
# Emacs, vim (4913 is how it asks whether it may write), JetBrains, Office, browsers, rsync.
_TEMPORARY: Final = re.compile(
    r".*~|#.*#|\.#.*|~\$.*|\.~lock\..*|4913|.*___jb_(tmp|old)___"
    r"|.*\.(swp|swo|swx|tmp|temp|part|partial|crdownload|download)",
    re.IGNORECASE | re.DOTALL,
)


def is_temporary(name: str) -> bool:
    """Whether a file is what an editor or a download has beside the real one for a while."""
    return _TEMPORARY.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The rules that hold in one folder: those of the folder itself, and those above it."""

    levels: tuple[tuple[Path, GitIgnoreSpec], ...] = ()

    @classmethod
    def above(cls, folder: Path) -> IgnoreRules:
        """The rules that a folder (absolute) inherits from the git work tree that it lies in.

        None of them when they ignore the folder: whoever names it means it.
        """
        parents = [folder, *folder.parents]
        top = next((path for path in parents if (path / ".git").exists()), None)
        if top is None:
            return cls()
        rules = cls().joined(top, [top / ".git" / "info" / "exclude"])
        for parent in reversed(folder.parents):
            if parent.is_relative_to(top):
                rules = rules.within(parent)
            if any(
                rules.ignores(path, is_folder=True)
                for path in parents
                if path.parent == parent and path != top
            ):
                return cls()
        return rules

    def within(self, folder: Path) -> IgnoreRules:
        """The rules in a folder below, with its own files read."""
        return self.joined(folder, [folder / name for name in _FILES])

    def ignores(self, path: Path, *, is_folder: bool) -> bool:
        """Whether an entry (absolute) of the folder is left out."""
        for folder, spec in reversed(self.levels):
            if path.is_relative_to(folder):
                relative = path.relative_to(folder).as_posix() + ("/" if is_folder else "")
                verdict = spec.check_file(relative).include
                if verdict is not None:
                    return verdict
        return False

    def joined(self, folder: Path, files: list[Path]) -> IgnoreRules:
        """These rules, and above them those in files, whose patterns start at the folder."""
        lines = [line for file in files for line in _lines(file)]
        if not lines:
            return self
        from pathspec import GitIgnoreSpec

        try:
            spec = GitIgnoreSpec.from_lines(lines)
        except ValueError as exc:
            raise InputError(f"The ignore file of {folder} can't be read: {exc}") from exc
        return IgnoreRules((*self.levels, (folder, spec)))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError:
        return []
