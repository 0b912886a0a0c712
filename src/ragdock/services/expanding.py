"""From an archive to the documents in it.

What is unpacked goes to the store's disk before any of it is accepted: small files one after the
other into a scratch file, large ones into a file each, which the store takes over. An archive in
the archive is unpacked with it, within the same bounds; one in that is refused.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from typing import BinaryIO, Final

from ragdock.core import media
from ragdock.core.keys import member_id, sha256_hex
from ragdock.core.media import detect_media_type
from ragdock.errors import DocumentError
from ragdock.ports import Parser, Spool, Store
from ragdock.types import Bounds, Job, SpooledFile, Upload

__all__ = ["Expander"]

HEAD_BYTES: Final = 4096
SMALL_BYTES: Final = 2**20
"""Uploads up to here are values in the store's database."""
MAX_LARGE: Final = 400
"""Larger files at once: the store keeps each open until its job owns it (1,024 may be open)."""
MIDDLING_BYTES: Final = 2**17
MAX_MIDDLING: Final = 200
"""So many smaller ones are files too, and keep the transaction short in which all are accepted."""

log = logging.getLogger(__name__)


class Expander:
    """Makes the files of an archive jobs of their own."""

    def __init__(self, store: Store, parser: Parser, bounds: Bounds) -> None:
        self._store = store
        self._parser = parser
        self._bounds = bounds

    def run(self, job: Job, content: BinaryIO, check: Callable[[], None]) -> Job:
        """Unpack the archive and accept its files; the job as it is then.

        `check` is called again and again, and raises when the work is to end. Raises
        `DocumentError` when there is nothing in it to read, or anything that makes it unsafe.
        """
        with closing(_Tray(self._store)) as tray:
            work = _Unpacking(self._parser, self._bounds, tray, check)
            work.unpack(content, job.filename, job.media_type)
            n_skipped = work.skipped.total()
            if not tray.files:
                raise DocumentError(
                    f"None of the archive's {n_skipped:,} files is of a format that can be read "
                    "and has anything in it; see the README for the formats.",
                    code="no_text",
                )
            expanded = self._store.expand(job, _Uploads(job, tray))
        log.info(
            "archive unpacked",
            extra={
                "job_id": job.id,
                "document_id": job.document_id,
                "files": len(tray.files),
                "skipped": n_skipped,
                "skipped_types": dict(work.skipped.most_common(10)),
            },
        )
        return expanded


class _Unpacking:
    """Sorts what is in an archive, and in the archives in it."""

    def __init__(
        self, parser: Parser, bounds: Bounds, tray: _Tray, check: Callable[[], None]
    ) -> None:
        self._parser = parser
        self._bounds = bounds
        self._tray = tray
        self._check = check
        self.skipped: Counter[str] = Counter()

    def unpack(self, content: BinaryIO, filename: str, media_type: str, within: str = "") -> None:
        """Take all that can be read; `within` is the path of the archive that this one is in."""
        inner: list[tuple[str, str, SpooledFile]] = []
        with closing(self._parser.members(content, filename, media_type, self._bounds)) as members:
            for name, pieces in members:
                path = f"{within}/{name}" if within else name
                self._count(n_files=1)
                head, whole = _headed(self._counted(pieces))
                found = detect_media_type(name.rpartition("/")[2], None, head) if head else None
                if found in media.ARCHIVES and within:
                    raise DocumentError(
                        f"The archive holds an archive in an archive in it ({path}); unpack one of "
                        "them and upload it again.",
                        code="nested",
                    )
                if found in media.ARCHIVES:
                    inner.append((path, found, self._tray.set_aside(whole)))
                elif found is None or not self._tray.add(path, found, whole):
                    self.skipped[_kind(name) if head else "empty"] += 1
        # Afterwards, so that one child at a time is taken for this archive.
        for path, found, file in inner:
            self._unpack_inner(path, found, file)

    def _unpack_inner(self, path: str, media_type: str, file: SpooledFile) -> None:
        try:
            with file.path.open("rb") as content:
                self.unpack(content, path.rpartition("/")[2], media_type, within=path)
        except DocumentError as exc:
            if exc.code == "nested":
                raise
            raise DocumentError(f"In its file {path}: {exc}", code=exc.code) from exc

    def _counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._count(n_bytes=len(piece))
            yield piece

    def _count(self, n_files: int = 0, n_bytes: int = 0) -> None:
        """What the archives in this one have left; the child counts too, but it may be fooled."""
        self._check()
        bounds = self._bounds = replace(
            self._bounds,
            used_files=self._bounds.used_files + n_files,
            used_bytes=self._bounds.used_bytes + n_bytes,
        )
        if bounds.used_files > bounds.max_files or bounds.used_bytes > bounds.max_bytes:
            raise DocumentError(
                "The archive holds more than it may (RAG_MAX_ARCHIVE_FILES, RAG_MAX_ARCHIVE_MB); "
                "split it or raise the limit.",
                code="bomb",
            )


@dataclass(frozen=True, slots=True)
class _File:
    """A file that was unpacked: in a file of its own, or from `at` in the scratch file."""

    media_type: str
    sha256: str
    size_bytes: int
    at: int
    own: SpooledFile | None


class _Tray:
    """What was unpacked, by path, on the store's disk; of two files with one path the later."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._spools: list[Spool] = []
        self._scratch = self._spool()
        self._scratch_bytes = self._n_middling = self._n_large = 0
        self.files: dict[str, _File] = {}

    def add(self, path: str, media_type: str, pieces: Iterator[bytes]) -> bool:
        """Keep a file; False when there is nothing but white space in it."""
        small = bytearray()
        limit_bytes = MIDDLING_BYTES if self._n_middling < MAX_MIDDLING else SMALL_BYTES
        for piece in pieces:
            small += piece
            if len(small) > limit_bytes:
                own = self.set_aside(chain((bytes(small),), pieces))
                self.files[path] = _File(media_type, own.sha256, own.size_bytes, 0, own)
                return True
        if not small.strip():
            return False
        content = bytes(small)
        self._scratch.write(content)
        self.files[path] = _File(
            media_type, sha256_hex(content), len(content), self._scratch_bytes, None
        )
        self._scratch_bytes += len(content)
        return True

    def set_aside(self, pieces: Iterator[bytes]) -> SpooledFile:
        """A file of its own."""
        spool = self._spool()
        for piece in pieces:
            spool.write(piece)
        own = spool.finish()
        if own.size_bytes <= SMALL_BYTES:
            self._n_middling += 1
        else:
            self._n_large += 1
        if self._n_large > MAX_LARGE or len(self._spools) > MAX_LARGE + MAX_MIDDLING:
            raise DocumentError(
                f"The archive holds more than {MAX_LARGE} files of more than 1 MB, or archives; "
                "split it.",
                code="too_complex",
            )
        return own

    def finish(self) -> SpooledFile:
        """The scratch file, when all is unpacked."""
        return self._scratch.finish()

    def close(self) -> None:
        """Remove what the store has not taken over."""
        for spool in self._spools:
            spool.discard()

    def _spool(self) -> Spool:
        self._spools.append(self._store.spool())
        return self._spools[-1]


class _Uploads:
    """What was unpacked as uploads, each read when it is wanted."""

    def __init__(self, job: Job, tray: _Tray) -> None:
        self._job = job
        self._files = tray.files
        self._scratch = tray.finish()

    def __iter__(self) -> Iterator[Upload]:
        metadata = {**self._job.metadata, "archive": self._job.filename}
        with self._scratch.path.open("rb") as scratch:
            for path, file in self._files.items():
                content: bytes | SpooledFile | None = file.own
                if content is None:
                    scratch.seek(file.at)
                    content = scratch.read(file.size_bytes)
                yield Upload(
                    document_id=member_id(self._job.document_id, path),
                    filename=path,
                    media_type=file.media_type,
                    content=content,
                    sha256=file.sha256,
                    metadata=metadata,
                )


def _headed(pieces: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes of a file, and all of it."""
    begun = bytearray()
    for piece in pieces:
        begun += piece
        if len(begun) >= HEAD_BYTES:
            break
    head = bytes(begun)
    return head[:HEAD_BYTES], chain((head,), pieces)


def _kind(name: str) -> str:
    """What to call a kind of file that is skipped: its extension, if that is one."""
    extension = name.rpartition("/")[2].rpartition(".")[2].lower()
    return extension if 0 < len(extension) <= 10 and extension.isalnum() else "other"
