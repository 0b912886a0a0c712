"""The audit log as files of JSON lines, one a day, that several processes append to."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

__all__ = ["JsonlAudit"]

KEEP_DAYS: Final = 90
MAX_FILE_BYTES: Final = 64 * 2**20
MAX_TOTAL_BYTES: Final = 2**30
_DAY_SECONDS: Final = 86_400
_encode: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=str).encode


class JsonlAudit:
    """`AuditLog` in `directory/audit-YYYYMMDD.jsonl` (`-1`, `-2`, ... when a day is large).

    A record is one `write` to a file that is open for appending, so the lines of several processes
    never mix. What is older than 90 days is removed, and the oldest files when all together are
    larger than a gigabyte: who fills the log must not fill the disk with the documents.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._clock = clock
        self._lock = threading.Lock()
        self._file: int | None = None
        self._day = ""
        self._part = 0

    def write(self, record: Mapping[str, object]) -> None:
        """Append one line; raises `OSError`."""
        line = (_encode(record) + "\n").encode()
        with self._lock:
            day = time.strftime("%Y%m%d", time.gmtime(self._clock()))
            if self._file is None or day != self._day:
                self._open(day, 0)
            elif os.fstat(self._file).st_size + len(line) > MAX_FILE_BYTES:
                self._open(day, self._part + 1)
            assert self._file is not None
            n_written = os.write(self._file, line)
            if n_written != len(line):
                # Whatever is written next begins a line of its own, and readers skip this one.
                os.write(self._file, b"\n")
                raise OSError("The disk took a part of the record only.")

    def close(self) -> None:
        """Close the file; the next record opens it again."""
        with self._lock:
            self._close()

    def _open(self, day: str, part: int) -> None:
        self._close()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._remove_old()
        while True:
            path = self._directory / f"audit-{day}{f'-{part}' if part else ''}.jsonl"
            # Only the owner may read it: it tells who works with what.
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if os.geteuid() == 0:
                # A command that root runs must not shut out a server that isn't root.
                owner = self._directory.parent.stat()
                os.chown(self._directory, owner.st_uid, owner.st_gid)
                os.fchown(file, owner.st_uid, owner.st_gid)
            if os.fstat(file).st_size < MAX_FILE_BYTES:
                break
            os.close(file)
            part += 1
        self._file, self._day, self._part = file, day, part

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _remove_old(self) -> None:
        oldest = time.strftime("%Y%m%d", time.gmtime(self._clock() - KEEP_DAYS * _DAY_SECONDS))
        total = 0
        for path in sorted(self._directory.glob("audit-*.jsonl"), key=_age, reverse=True):
            try:
                total += path.stat().st_size
                if path.name[6:14] < oldest or total > MAX_TOTAL_BYTES:
                    path.unlink()
            except FileNotFoundError:
                continue  # Another process was faster.


def _age(path: Path) -> tuple[str, int]:
    day, _, part = path.stem.removeprefix("audit-").partition("-")
    return day, int(part) if part.isdigit() else 0
