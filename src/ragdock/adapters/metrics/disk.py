"""The data directory: what it holds, and how much room is left."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Final

from ragdock.core.names import BACKUP_STAMP
from ragdock.ports import Measurement

__all__ = ["DataDirectory"]

FRESH_SECONDS: Final = 30.0
_PARTS: Final = ("collections", "contents", "audit")


class DataDirectory:
    """Measures the file system at every call, and the files every 30 seconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}
        self._sized_at = -FRESH_SECONDS

    def measure(self) -> tuple[Measurement, ...]:
        """Bytes by part, room, and the last backup; without what can't be read."""
        try:
            space = os.statvfs(self._path)
        except OSError:
            return ()
        found = [
            Measurement("data_free", float(space.f_bavail * space.f_frsize)),
            Measurement("data_size", float(space.f_blocks * space.f_frsize)),
        ]
        for part, n_bytes in self._parts().items():
            found.append(Measurement("data_bytes", float(n_bytes), {"part": part}))
        try:
            backed_up_at = (self._path / BACKUP_STAMP).stat().st_mtime
        except OSError:
            pass
        else:
            found.append(Measurement("backup", backed_up_at))
        return tuple(found)

    def _parts(self) -> dict[str, int]:
        with self._lock:
            now = time.monotonic()
            if now - self._sized_at >= FRESH_SECONDS:
                self._sizes = {part: _files(self._path / part, "") for part in _PARTS}
                self._sizes["catalogue"] = _files(self._path, "catalogue.db")
                self._sized_at = now
            return self._sizes


def _files(directory: Path, prefix: str) -> int:
    """The sizes of the files in it whose names start so; files may go while they are counted."""
    n_bytes = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith(prefix):
                    try:
                        n_bytes += entry.stat().st_size if entry.is_file() else 0
                    except OSError:
                        continue
    except OSError:
        return n_bytes
    return n_bytes
