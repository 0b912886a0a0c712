"""Who is alive, and at what: each worker holds a lock file that the kernel frees when it dies.

A lease alone would make a killed server's documents wait until it runs out. The lock is seen by
every process on the machine, in any container that mounts the data directory, whatever its PID
namespace; the lease stays as the guard against a worker that lives and hangs.

The file's first line names the jobs that the worker has begun. When it dies, only those can have
killed it; what it had merely claimed is innocent. The line is written without a sync: it outlives
the process, and after a power cut nobody is to blame.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote, unquote

from ragdock.errors import StoreError

__all__ = ["Owners"]

HOLD_ATTEMPTS: Final = 20
_SUFFIX: Final = ".lock"
_MAX_LINE_BYTES: Final = 65536


class Owners:
    """Lock files under one directory, one a worker."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: dict[str, IO[bytes]] = {}
        self._begun: dict[str, set[int]] = {}
        self._lock = threading.Lock()

    def hold(self, owner: str) -> None:
        """Announce that `owner` lives in this process; idempotent.

        Raises `StoreError` when another living process holds that name.
        """
        with self._lock:
            if owner in self._held:
                return
            try:
                self._directory.mkdir(exist_ok=True)
                for _ in range(HOLD_ATTEMPTS):
                    file = self._try(owner)
                    if file is not None:
                        self._held[owner] = file
                        self._begun[owner] = set()
                        self._write(owner)
                        return
                    # Somebody looks whether the name is dead, which takes microseconds.
                    time.sleep(0.01)
            except OSError as exc:
                raise StoreError("The worker's lock file can't be written.") from exc
        raise StoreError(f"Another process works as {owner!r}; give each worker its own name.")

    def _try(self, owner: str) -> IO[bytes] | None:
        path = self._path(owner)
        # Not truncated: what a dead worker of that name had begun is still to be judged.
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b", 0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever buried the dead may have removed the file between open and lock.
            if _is_at(path, file):
                return file
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            file.close()
            raise
        file.close()
        return None

    def begin(self, owner: str, job_id: int) -> None:
        """Note that the worker is at this job from now; nothing when it isn't of this process."""
        with self._lock:
            begun = self._begun.get(owner)
            if begun is not None and job_id not in begun:
                begun.add(job_id)
                self._write(owner)

    def end(self, job_id: int) -> None:
        """Note that whoever of this process was at this job has done with it."""
        with self._lock:
            for owner, begun in self._begun.items():
                if job_id in begun:
                    begun.discard(job_id)
                    self._write(owner)

    def _write(self, owner: str) -> None:
        line = b" ".join(b"%d" % job_id for job_id in sorted(self._begun[owner])) + b"\n"
        try:
            # What a longer, earlier line leaves behind the newline is never read.
            os.pwrite(self._held[owner].fileno(), line, 0)
        except OSError:
            return  # A full disk: the worst is a job that isn't blamed.

    def begun(self, owner: str) -> set[int]:
        """The jobs that the worker had begun and not ended, alive or dead; empty when unknown."""
        try:
            with self._path(owner).open("rb") as file:
                line, newline, _ = file.read(_MAX_LINE_BYTES).partition(b"\n")
        except OSError:
            return set()
        return {int(word) for word in line.split() if word.isdigit()} if newline else set()

    def is_dead(self, owner: str) -> bool:
        """True when nobody holds the owner's lock any more."""
        with self._lock:
            if owner in self._held:
                return False
        try:
            with self._path(owner).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def bury(self, owner: str) -> None:
        """Remove a dead owner's file, once its jobs are taken back."""
        path = self._path(owner)
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Only who holds the lock of the file at the path may remove it, so a name that was
                # taken anew since `open` isn't ours to remove.
                if _is_at(path, file):
                    path.unlink()
        except OSError:
            return

    def alive(self) -> tuple[str, ...]:
        """The owners that live, by name; the files of dead ones stay for who takes their jobs."""
        return tuple(owner for owner in self._names() if not self.is_dead(owner))

    def dead(self) -> tuple[str, ...]:
        """The owners whose files are there and who don't live."""
        return tuple(owner for owner in self._names() if self.is_dead(owner))

    def _names(self) -> list[str]:
        try:
            names = sorted(path.name for path in self._directory.iterdir())
        except FileNotFoundError:
            return []
        return [unquote(name.removesuffix(_SUFFIX)) for name in names if name.endswith(_SUFFIX)]

    def release(self, owner: str) -> None:
        """Let go of one lock."""
        with self._lock:
            file = self._held.pop(owner, None)
            self._begun.pop(owner, None)
            if file is not None:
                self._path(owner).unlink(missing_ok=True)
                file.close()

    def close(self) -> None:
        """Let go of every lock."""
        with self._lock:
            for owner, file in self._held.items():
                if not self._begun[owner]:
                    self._path(owner).unlink(missing_ok=True)
                file.close()
            self._held.clear()
            self._begun.clear()

    def _path(self, owner: str) -> Path:
        return self._directory / f"{quote(owner, safe='')}{_SUFFIX}"


def _is_at(path: Path, file: IO[bytes]) -> bool:
    return os.path.samestat(path.stat(), os.fstat(file.fileno()))
