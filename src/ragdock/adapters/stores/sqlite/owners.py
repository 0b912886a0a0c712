"""Who is alive: each worker holds a lock file that the kernel frees when the process dies.

A lease alone would make a killed server's documents wait until it runs out. The lock is seen by
every process on the machine, in any container that mounts the data directory, whatever its PID
namespace; the lease stays as the guard against a worker that lives and hangs.
"""

from __future__ import annotations

import fcntl
import re
import threading
from pathlib import Path
from typing import IO

__all__ = ["Owners"]


class Owners:
    """Lock files under one directory, one a worker."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: dict[str, IO[bytes]] = {}
        self._lock = threading.Lock()

    def hold(self, owner: str) -> None:
        """Announce that `owner` lives in this process; idempotent."""
        with self._lock:
            if owner in self._held:
                return
            self._directory.mkdir(exist_ok=True)
            file = self._path(owner).open("wb")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._held[owner] = file

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
        self._path(owner).unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """Let go of every lock."""
        with self._lock:
            for owner, file in self._held.items():
                self._path(owner).unlink(missing_ok=True)
                file.close()
            self._held.clear()

    def _path(self, owner: str) -> Path:
        return self._directory / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', owner)}.lock"
