"""A stream of named files with their hashes: a tar that `tar` can read, read back with distrust.

Format 1: `ragdock-backup.json` (format, version, time), the store's files, and `manifest.json`
(size and SHA-256 of each file before it, the store's notes), which comes last because nothing is
known of a stream before it has passed. A stream without it was cut short. Only regular files with
names that the store knows are taken, each once; links, directories and paths are refused.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, TypeAlias

from ragdock.errors import IntegrityError
from ragdock.ports import Member

__all__ = ["FORMAT", "Manifest", "read_archive", "write_archive"]

FORMAT: Final = 1
HEAD: Final = "ragdock-backup.json"
MANIFEST: Final = "manifest.json"
MAX_JSON_BYTES: Final = 256 * 2**20
PIECE_BYTES: Final = 1 << 20
_BLOCK: Final = tarfile.BLOCKSIZE
_NOT_OURS: Final = "This isn't a backup of ragdock."

Manifest: TypeAlias = dict[str, Any]


def write_archive(
    target: BinaryIO,
    head: dict[str, Any],
    members: Iterator[Member],
    notes: Callable[[], dict[str, Any]],
    progress: Callable[[str, int], None],
) -> Manifest:
    """Write the members, then the manifest, which is answered."""
    head = {"format": FORMAT, **head}
    files: dict[str, dict[str, Any]] = {}
    _write(target, _member(HEAD, head))
    n_bytes = 0
    for member in members:
        progress(member.name, n_bytes)
        digest = _write(target, member)
        files[member.name] = {"size_bytes": member.size_bytes, "sha256": digest}
        n_bytes += member.size_bytes
        progress(member.name, n_bytes)
    manifest = {**head, "files": files, "notes": notes()}
    _write(target, _member(MANIFEST, manifest))
    target.write(bytes(2 * _BLOCK))
    return manifest


def _member(name: str, value: object) -> Member:
    data = json.dumps(value, indent=1, sort_keys=True).encode()
    return Member(name, len(data), iter((data,)))


def _write(target: BinaryIO, member: Member) -> str:
    info = tarfile.TarInfo(member.name)
    info.size, info.mode = member.size_bytes, 0o600
    target.write(info.tobuf(tarfile.GNU_FORMAT))
    digest = hashlib.sha256()
    n_bytes = 0
    for piece in member.pieces:
        target.write(piece)
        digest.update(piece)
        n_bytes += len(piece)
    if n_bytes != member.size_bytes:
        raise IntegrityError(f"{member.name} changed its size while it was copied.")
    target.write(bytes(-n_bytes % _BLOCK))
    return digest.hexdigest()


def read_archive(
    source: BinaryIO,
    is_member: Callable[[str], bool],
    write: Callable[[str, Iterator[bytes]], None],
) -> Manifest:
    """Hand every file to `write`, and answer the manifest when all are as it says.

    Raises `IntegrityError` for anything that isn't a whole backup, possibly after some files.
    """
    stream = _Stream(source)
    try:
        found = _read_head(stream)
        files: dict[str, dict[str, Any]] = {}
        while True:
            name, size = _next(stream)
            if name == MANIFEST:
                break
            if not is_member(name) or name in files:
                raise IntegrityError(f"The backup holds {name!r}, which doesn't belong there.")
            digest = hashlib.sha256()
            write(name, _hashed(stream.pieces(size), digest))
            files[name] = {"size_bytes": size, "sha256": digest.hexdigest()}
        manifest = _json(stream, size)
    except (EOFError, OSError, zlib.error, tarfile.HeaderError) as exc:
        raise IntegrityError("The backup is damaged or cut short; take another.") from exc
    if manifest.get("format") != found.get("format") or manifest.get("files") != files:
        wrong = [n for n in files if dict(manifest.get("files", {})).get(n) != files[n]]
        raise IntegrityError(
            f"The backup is damaged ({', '.join(wrong[:3]) or 'files are missing'}); take another."
        )
    return manifest


def _hashed(pieces: Iterator[bytes], digest: Any) -> Iterator[bytes]:
    for piece in pieces:
        digest.update(piece)
        yield piece


class _Stream:
    """Exact reads of a stream that may be compressed with gzip."""

    def __init__(self, source: BinaryIO) -> None:
        magic = source.read(2)
        joined = _Joined(magic, source)
        self._file: Any = gzip.GzipFile(fileobj=joined) if magic == b"\x1f\x8b" else joined  # type: ignore[call-overload]

    def exactly(self, n_bytes: int) -> bytes:
        return b"".join(self.pieces(n_bytes, padded=False))

    def pieces(self, n_bytes: int, *, padded: bool = True) -> Iterator[bytes]:
        left = n_bytes
        while left:
            piece = self._file.read(min(left, PIECE_BYTES))
            if not piece:
                raise EOFError
            left -= len(piece)
            yield piece
        if padded and n_bytes % _BLOCK:
            self.exactly(-n_bytes % _BLOCK)


class _Joined:
    """A stream with its first bytes put back."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    def read(self, n_bytes: int = -1) -> bytes:
        if self._head:
            head, self._head = self._head[:n_bytes], self._head[n_bytes:]
            return head
        return self._rest.read(n_bytes)


def _read_head(stream: _Stream) -> Manifest:
    try:
        name, size = _next(stream)
        head = _json(stream, size) if name == HEAD else {}
    except (EOFError, OSError, zlib.error, tarfile.HeaderError) as exc:
        raise IntegrityError(_NOT_OURS) from exc
    if "format" not in head:
        raise IntegrityError(_NOT_OURS)
    if head["format"] != FORMAT:
        raise IntegrityError(
            f"The backup has format {head['format']!r}, written by ragdock "
            f"{head.get('version')}; this one reads format {FORMAT}."
        )
    return head


def _next(stream: _Stream) -> tuple[str, int]:
    info = tarfile.TarInfo.frombuf(stream.exactly(_BLOCK), "utf-8", "strict")
    if info.type != tarfile.REGTYPE or info.size < 0:
        raise IntegrityError(f"The backup holds {info.name!r}, which isn't a plain file.")
    return info.name, info.size


def _json(stream: _Stream, size: int) -> Manifest:
    if size > MAX_JSON_BYTES:
        raise IntegrityError(_NOT_OURS)
    data = b"".join(stream.pieces(size))
    try:
        value = json.loads(data)
    except ValueError as exc:
        raise IntegrityError(_NOT_OURS) from exc
    return value if isinstance(value, dict) else {}
