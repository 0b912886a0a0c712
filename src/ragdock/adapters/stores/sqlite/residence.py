"""Who lives in a data directory: every open store, or one restore, never both.

Each store holds a shared lock that the kernel frees with the process; whoever replaces the files
takes it whole. A replacement that a crash cut short leaves a mark, and no store opens such a
directory: it would take the files that are still there for orphans and remove them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from ragdock.errors import ConfigurationError, ConflictError

__all__ = ["LOCK", "MARK", "Residence", "exclusive", "half_done", "sync_directory"]

LOCK: Final = ".store.lock"
MARK: Final = ".restoring"


class Residence:
    """Holds the directory's shared lock until it is closed."""

    def __init__(self, directory: Path) -> None:
        """Raises `ConfigurationError` while a restore works there, or when one was cut short."""
        self._file: IO[bytes] | None = (directory / LOCK).open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise ConfigurationError(
                f"RAG_DATA_DIR={str(directory)!r} is being restored; start when that is done."
            ) from None
        if (directory / MARK).exists():
            self.close()
            raise ConfigurationError(
                f"A restore into RAG_DATA_DIR={str(directory)!r} was cut short; run the same "
                "`ragdock restore` again."
            )

    def close(self) -> None:
        """Let go."""
        if self._file is not None:
            self._file.close()
            self._file = None


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """The directory for one's own; raises `ConflictError` while a store is open there."""
    with (directory / LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"A server or a worker uses {directory}; stop it first.", code="in_use"
            ) from None
        yield


@contextmanager
def half_done(directory: Path) -> Iterator[None]:
    """Marks the directory, so that no store opens it unless the block ends well."""
    mark = directory / MARK
    mark.touch()
    sync_directory(directory)
    yield
    mark.unlink()
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """Make renames in the directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
