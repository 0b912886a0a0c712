"""Who is alive: each worker holds a lock file that the kernel frees when the process dies.

A lease alone would make a killed server's documents wait until it runs out. The lock is seen by
every process on the machine, in any container that mounts the data directory, whatever its PID
namespace; the lease stays as the guard against a worker that lives and hangs.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote

from ragdock.errors import StoreError

__all__ = ["Owners"]

HOLD_ATTEMPTS: Final = 20


class Owners:
    """Lock files under one directory, one a worker."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: dict[str, IO[bytes]] = {}
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
                        return
                    # Somebody looks whether the name is dead, which takes microseconds.
                    time.sleep(0.01)
            except OSError as exc:
                raise StoreError("The worker's lock file can't be written.") from exc
        raise StoreError(f"Another process works as {owner!r}; give each worker its own name.")

    def _try(self, owner: str) -> IO[bytes] | None:
        path = self._path(owner)
        file = path.open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever looked for the dead may have removed the file between open and lock.
            if _is_at(path, file):
                return file
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            file.close()
            raise
        file.close()
        return None

    def is_dead(self, owner: str) -> bool:
        """True when nobody holds the owner's lock any more."""
        with self._lock:
            if owner in self._held:
                return False
        path = self._path(owner)
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Only who holds the lock of the file at the path may remove it, so a name that was
                # taken anew since `open` isn't ours to remove.
                if not _is_at(path, file):
                    return False
                path.unlink()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of every lock."""
        with self._lock:
            for owner, file in self._held.items():
                self._path(owner).unlink(missing_ok=True)
                file.close()
            self._held.clear()

    def _path(self, owner: str) -> Path:
        return self._directory / f"{quote(owner, safe='')}.lock"


def _is_at(path: Path, file: IO[bytes]) -> bool:
    return os.path.samestat(path.stat(), os.fstat(file.fileno()))
