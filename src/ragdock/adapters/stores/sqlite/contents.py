"""Uploads until they are indexed: small ones are values in the catalogue, large ones files.

A file belongs to the job whose row in `contents` names it, and to nobody else. Before that row is
committed it belongs to the process that holds its lock, which the kernel frees when the process
dies. A trigger notes the file of every row that goes (`discarded`), whatever deleted it. So a file
without row and without lock is what a crash left, and any process may remove it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

import apsw

from ragdock.adapters.stores.sqlite.connections import Database, fetch
from ragdock.errors import IntegrityError, NotFoundError, StoreError
from ragdock.types import SpooledFile, Upload

__all__ = ["INLINE_BYTES", "Contents", "disk_errors", "drop_settled", "insert_content"]

# A value goes through SQLite's page cache and twice to the disk: 50 MB took 143 MB of memory.
INLINE_BYTES: Final = 2**20
PIECE_BYTES: Final = 2**20
MAX_SPOOL_SECONDS: Final = 86_400.0
_NAME: Final = re.compile("[0-9a-f]{32}")


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn an OS error of the data directory into one of ours."""
    try:
        yield
    except OSError as exc:
        full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StoreError(
            "The store's disk is full; free space and retry."
            if full
            else "The data directory can't be written.",
            retry_after_seconds=30.0,
            code="disk_full" if full else None,
        ) from exc


class Contents:
    """The uploads of jobs that are not done."""

    def __init__(self, catalogue: Database, directory: Path, *, keep_failed_hours: float) -> None:
        self._catalogue = catalogue
        self._directory = directory
        self._keep_seconds = keep_failed_hours * 3600.0
        self._lock = threading.Lock()
        self._spools: dict[str, _FileSpool] = {}
        with disk_errors():
            directory.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Let go of what was spooled and not accepted."""
        with self._lock:
            spools = list(self._spools.values())
        for spool in spools:
            # Without the catalogue nobody can tell whether a job owns it: the next start does.
            spool.release()

    # Receiving

    def spool(self) -> _FileSpool:
        """A new file, which this process owns until it is accepted or discarded."""
        with disk_errors():
            while True:
                spool = _FileSpool(self, self._directory / uuid.uuid4().hex)
                if spool.hold():
                    break
        with self._lock:
            self._spools[spool.path.name] = spool
        return spool

    @contextmanager
    def on_disk(self, uploads: Sequence[Upload]) -> Iterator[tuple[Upload, ...]]:
        """The uploads with every large value as a file, for as long as the block runs."""
        made: list[_FileSpool] = []
        ready: list[Upload] = []
        try:
            for upload in uploads:
                if isinstance(upload.content, SpooledFile):
                    self._require_whole(upload.content)
                elif len(upload.content) > INLINE_BYTES:
                    made.append(self.spool())
                    made[-1].write(upload.content)
                    upload = _with_file(upload, made[-1].finish())
                ready.append(upload)
            yield tuple(ready)
            self._hand_over(ready)
        finally:
            for spool in made:
                spool.discard()

    def whole(self, upload: Upload) -> Upload:
        """The upload; `StoreError` when it was spooled and its file is not whole."""
        if isinstance(upload.content, SpooledFile):
            self._require_whole(upload.content)
        return upload

    def _require_whole(self, file: SpooledFile) -> None:
        with suppress(OSError):
            in_place = file.path.parent == self._directory and _NAME.fullmatch(file.path.name)
            if in_place and file.path.stat().st_size == file.size_bytes:
                return
        raise StoreError("The spooled upload is gone; send it again.")

    def _hand_over(self, uploads: Sequence[Upload]) -> None:
        """Let go of the files that a job owns now."""
        for upload in uploads:
            if isinstance(upload.content, SpooledFile):
                name = upload.content.path.name
                if self.is_owned(name):
                    with self._lock:
                        spool = self._spools.get(name)
                    if spool is not None:
                        spool.release()

    def is_owned(self, name: str) -> bool:
        """Whether a job owns the file of that name."""
        return bool(self._catalogue.query("SELECT 1 FROM contents WHERE file = ?", (name,)))

    def forget(self, name: str) -> None:
        """The file isn't this process's any more."""
        with self._lock:
            self._spools.pop(name, None)

    # Reading

    def open(self, job_id: int) -> BinaryIO:
        """The upload of a job, as a real file at its start."""
        with self._catalogue.read() as connection:
            rows = fetch(
                connection,
                "SELECT file, length(content) FROM contents WHERE job_id = ? AND EXISTS "
                "(SELECT 1 FROM ledger WHERE id = job_id AND state <> 'cancelled')",
                (job_id,),
            )
            if rows and rows[0][0] is None:
                return self._copied(connection, job_id, rows[0][1])
        if rows:
            name: str = rows[0][0]
            try:
                return (self._directory / name).open("rb")
            except FileNotFoundError as exc:
                if self.is_owned(name):
                    raise IntegrityError("The upload's file is gone from the disk.") from exc
            except OSError as exc:
                raise StoreError("The upload's file can't be read.") from exc
        raise NotFoundError(f"The upload of job {job_id} is not kept any more.")

    def _copied(self, connection: apsw.Connection, job_id: int, size_bytes: int) -> BinaryIO:
        """A value as a nameless file: in memory when it is small, as all are since 0.2."""
        with disk_errors():
            file: BinaryIO
            if size_bytes <= INLINE_BYTES and hasattr(os, "memfd_create"):
                file = os.fdopen(os.memfd_create("upload"), "w+b")
            else:
                file = cast("BinaryIO", tempfile.TemporaryFile(dir=self._directory))  # noqa: SIM115
            try:
                with connection.blob_open("main", "contents", "content", job_id, False) as blob:
                    while piece := blob.read(PIECE_BYTES):
                        file.write(piece)
                file.seek(0)
            except BaseException:
                file.close()
                raise
        return file

    # Cleaning

    def remove_discarded(self) -> None:
        """Remove the files whose rows are gone."""
        names = [row[0] for row in self._catalogue.query("SELECT file FROM discarded LIMIT 1000")]
        if not names:
            return
        for name in names:
            with suppress(OSError):
                (self._directory / name).unlink(missing_ok=True)
        with self._catalogue.write(durable=False) as connection:
            connection.executemany(
                "DELETE FROM discarded WHERE file = ?", [(name,) for name in names]
            )

    def sweep(self) -> None:
        """Remove uploads that were kept long enough, and files that a crash left."""
        self._expire()
        self.remove_discarded()
        with self._lock:
            old = [spool for spool in self._spools.values() if spool.age() > MAX_SPOOL_SECONDS]
        for spool in old:
            spool.discard()
        with disk_errors():
            names = {entry.name for entry in os.scandir(self._directory)}
        for name in filter(_NAME.fullmatch, names):
            with self._lock:
                if name in self._spools:
                    continue
            if not self.is_owned(name):
                with suppress(OSError):
                    self._remove_orphan(self._directory / name)

    def _expire(self) -> None:
        condition = (
            "FROM contents WHERE job_id IN (SELECT id FROM ledger "
            "WHERE state IN ('failed', 'cancelled') AND updated_at < ?)"
        )
        before = (time.time() - self._keep_seconds,)
        if self._catalogue.query(f"SELECT 1 {condition} LIMIT 1", before):
            with self._catalogue.write() as connection:
                connection.execute(f"DELETE {condition}", before)
            self._catalogue.give_back_space()

    def _remove_orphan(self, path: Path) -> None:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its process may have accepted it and let go of it since we asked.
            if not self.is_owned(path.name) and _is_at(path, file):
                path.unlink()


class _FileSpool:
    """`Spool` as a locked file in the contents' directory."""

    def __init__(self, contents: Contents, path: Path) -> None:
        self.path = path
        self._contents = contents
        self._began = time.monotonic()
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        self._file = path.open("xb", buffering=0)

    def hold(self) -> bool:
        """Lock the file; False when somebody took it for an orphan before that."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(self.path, self._file):
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        self._file.close()
        return False

    def age(self) -> float:
        """Seconds since it was begun."""
        return time.monotonic() - self._began

    def write(self, piece: bytes) -> None:
        """Append; what doesn't fit takes the whole file with it."""
        try:
            with disk_errors():
                rest = memoryview(piece)
                while rest:
                    rest = rest[self._file.write(rest) :]
        except StoreError:
            self.discard()
            raise
        self._digest.update(piece)
        self._size_bytes += len(piece)

    def finish(self) -> SpooledFile:
        """Make the file and its name durable."""
        try:
            with disk_errors():
                os.fsync(self._file.fileno())
                _sync_directory(self.path.parent)
        except StoreError:
            self.discard()
            raise
        return SpooledFile(self.path, self._size_bytes, self._digest.hexdigest())

    def release(self) -> None:
        """Let go of the file and leave it where it is."""
        self._contents.forget(self.path.name)
        self._file.close()

    def discard(self) -> None:
        """Remove the file unless a job owns it."""
        if self._file.closed:
            return
        try:
            if not self._contents.is_owned(self.path.name):
                with suppress(OSError):  # The next sweep tries again.
                    self.path.unlink(missing_ok=True)
        finally:
            self.release()


def insert_content(connection: apsw.Connection, job_id: int, content: bytes | SpooledFile) -> None:
    """Make the job the owner of its upload; part of the transaction that makes the job."""
    name = content.path.name if isinstance(content, SpooledFile) else None
    value = content if isinstance(content, bytes) else b""
    connection.execute(
        "INSERT INTO contents (job_id, content, file) VALUES (?, ?, ?)", (job_id, value, name)
    )


def drop_settled(connection: apsw.Connection, collection_id: str, document_id: str) -> None:
    """Drop the uploads that were kept for a retry, which a later write rules out."""
    connection.execute(
        "DELETE FROM contents WHERE job_id IN (SELECT id FROM ledger WHERE collection_id = ? "
        "AND document_id = ? AND state NOT IN ('pending', 'processing'))",
        (collection_id, document_id),
    )


def _with_file(upload: Upload, file: SpooledFile) -> Upload:
    return Upload(
        document_id=upload.document_id,
        filename=upload.filename,
        media_type=upload.media_type,
        content=file,
        sha256=upload.sha256,
        metadata=upload.metadata,
    )


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_at(path: Path, file: IO[bytes]) -> bool:
    return os.path.samestat(path.stat(), os.fstat(file.fileno()))
