"""Archives: the files in a ZIP, a TAR (plain or compressed) or a compressed file, within bounds.

Members are streamed, so an archive costs no more memory than a piece of one. Nothing is written
anywhere: a member's path is but a name, and one that tries to be more is refused. Directories,
links and devices are passed over; so is what operating systems add of their own.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, BinaryIO, Final

from ragdock.core import media
from ragdock.errors import DocumentError
from ragdock.types import Bounds

__all__ = ["Bounds", "Member", "members"]

_PIECE_BYTES: Final = 2**18
_MAX_RATIO: Final = 1000  # An archive of logs shrinks 100 times; zeros in deflate 1,032 times.
_RATIO_FROM_BYTES: Final = 50 * 2**20
_MAX_DIRECTORY: Final = 200_000
_MAX_PATH_BYTES: Final = 1000
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_LITTER: Final = frozenset({"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini", ".git", ".svn"})
_TAR_AT: Final = 257
_OPENERS: Final[dict[str, Callable[..., Any]]] = {
    media.GZIP: gzip.open,
    media.BZIP2: bz2.open,
    media.XZ: lzma.open,
}
_SUFFIX: Final = re.compile(r"\.(?:gz|gzip|bz2|xz)$", re.IGNORECASE)
_BROKEN: Final = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, OSError,
    NotImplementedError, RuntimeError, OverflowError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive: its path, and its content in pieces, to be taken before the next."""

    path: str
    pieces: Iterator[bytes]


def members(file: BinaryIO, filename: str, media_type: str, bounds: Bounds) -> Iterator[Member]:
    """The files in order; raises `DocumentError`, also after some, naming what is wrong.

    `bomb` is over the bounds, `encrypted` and `unsafe_path` name the member, `damaged` and
    `truncated` are what they say, `no_text` is an archive without files.
    """
    meter = _Meter(file, bounds)
    found = False
    opened = _opened(file, filename, media_type, meter)
    while True:
        with _translated():
            member = next(opened, None)
        if member is None:
            break
        found = True
        yield member
    if not found:
        raise DocumentError("The archive holds no files.", code="no_text")


@contextmanager
def _translated() -> Iterator[None]:
    """What libraries say of a broken archive as a reason."""
    try:
        yield
    except DocumentError:
        raise
    except EOFError:
        raise DocumentError(
            "The archive ends early; upload the complete file.", code="truncated"
        ) from None
    except _BROKEN:
        raise DocumentError(
            "The archive is damaged and can't be unpacked; make it anew and upload it again.",
            code="damaged",
        ) from None


def _opened(file: BinaryIO, filename: str, media_type: str, meter: _Meter) -> Iterator[Member]:
    file.seek(0)
    if media_type == media.ZIP:
        yield from _zipped(file, meter)
        return
    if media_type == media.TAR:
        yield from _tarred(file, meter)
        return
    with _OPENERS[media_type](file, "rb") as inflated:
        head = inflated.read(_TAR_AT + 8)
        if head[_TAR_AT : _TAR_AT + 5] == b"ustar":
            inflated.seek(0)
            yield from _tarred(inflated, meter)
            return
        # One compressed file, named as the archive without its last extension.
        name = re.sub(r"\.t([gbx]z2?)$", ".tar", filename, flags=re.IGNORECASE)
        name = _SUFFIX.sub("", name) or "file"
        meter.count_file()
        yield Member(_safe(name), meter.pieces(inflated, head))


class _Meter:
    """Counts what comes out, and stops it."""

    def __init__(self, file: BinaryIO, bounds: Bounds) -> None:
        self._packed_bytes = file.seek(0, 2)
        self._bounds = bounds
        self._n_files = bounds.used_files
        self._n_bytes = bounds.used_bytes

    def count_file(self) -> None:
        self._n_files += 1
        if self._n_files > self._bounds.max_files:
            raise _bomb(
                f"it holds more than {self._bounds.max_files:,} files (RAG_MAX_ARCHIVE_FILES)"
            )

    def count(self, n_bytes: int) -> None:
        self._n_bytes += n_bytes
        if self._n_bytes > self._bounds.max_bytes:
            raise _bomb(
                f"it unpacks to more than {self._bounds.max_bytes // 2**20} MB (RAG_MAX_ARCHIVE_MB)"
            )
        own_bytes = self._n_bytes - self._bounds.used_bytes
        if own_bytes > max(_RATIO_FROM_BYTES, self._packed_bytes * _MAX_RATIO):
            raise _bomb(f"it inflates more than {_MAX_RATIO:,} times")

    def pieces(self, stream: IO[bytes], head: bytes = b"") -> Iterator[bytes]:
        """What the stream holds after its head; the reader's own errors are not its fault."""
        piece = head or self._read(stream)
        while piece:
            self.count(len(piece))
            yield piece
            piece = self._read(stream)

    @staticmethod
    def _read(stream: IO[bytes]) -> bytes:
        with _translated():
            return stream.read(_PIECE_BYTES)


def _zipped(file: BinaryIO, meter: _Meter) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if len(entries) > _MAX_DIRECTORY:
            raise _bomb(f"its directory has {len(entries):,} entries")
        _refuse_overlap(entries)
        for entry in entries:
            kind = entry.external_attr >> 28  # The file type of UNIX, 0 where none is kept.
            if entry.is_dir() or kind not in (0, 8) or _is_litter(entry.filename):
                continue
            path = _safe(entry.filename)
            if entry.flag_bits & 1:
                raise DocumentError(
                    f"The archive's file {path} is encrypted; remove the password and upload the "
                    "archive again.",
                    code="encrypted",
                )
            meter.count_file()
            with archive.open(entry) as stream:
                yield Member(path, meter.pieces(stream))


def _refuse_overlap(entries: list[zipfile.ZipInfo]) -> None:
    """Bombs let many entries share the same bytes (D. Fifield, https://www.bamsoftware.com/)."""
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise _bomb("its files lie over each other")
        end = entry.header_offset + entry.compress_size


def _tarred(file: IO[bytes], meter: _Meter) -> Iterator[Member]:
    # As a stream: nothing is sought, and only the headers of members are looked at.
    with tarfile.open(fileobj=file, mode="r|", errorlevel=2) as archive:
        n_entries = 0
        for entry in archive:
            n_entries += 1
            archive.members = []  # type: ignore[attr-defined]  # Else it keeps them all.
            if n_entries > _MAX_DIRECTORY:
                raise _bomb(f"it has more than {_MAX_DIRECTORY:,} entries")
            if not entry.isreg() or _is_litter(entry.name):
                continue
            path = _safe(entry.name)
            meter.count_file()
            if entry.issparse():
                raise _bomb("it holds sparse files")
            stream = archive.extractfile(entry)
            if stream is not None:
                with stream:
                    yield Member(path, meter.pieces(stream))


def _is_litter(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return any(part in _LITTER or part.startswith("._") for part in parts)


def _safe(path: str) -> str:
    """The path in NFC with plain slashes; `unsafe_path` when it leads out of the archive."""
    plain = unicodedata.normalize("NFC", path.replace("\\", "/"))
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    bad = (
        plain.startswith("/")
        or ".." in parts
        or not parts
        or _DRIVE.match(plain)
        or any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in plain)
        or len(plain.encode("utf-8", "replace")) > _MAX_PATH_BYTES
    )
    if bad:
        shown = ascii(path[:100])
        raise DocumentError(
            f"The archive holds a file with the unsafe path {shown}; pack it with plain relative "
            "paths and upload it again.",
            code="unsafe_path",
        )
    return "/".join(parts)


def _bomb(why: str) -> DocumentError:
    return DocumentError(
        f"The archive is refused as a possible decompression bomb: {why}. If it is yours, split "
        "it or raise the limit.",
        code="bomb",
    )
