"""Backup, restore and verify: a store as one file, and back."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from ragdock import __version__
from ragdock.errors import InputError, StoreError
from ragdock.ops.archive import Manifest, read_archive, write_archive
from ragdock.ports import Keeper

__all__ = ["Restored", "appearing", "backup", "restore"]

GZIP_LEVEL: Final = 1  # Texts are deflated already and vectors hardly shrink: more buys nothing.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put back, and where the store went that was there before."""

    manifest: Manifest
    aside: Path | None


def backup(
    keeper: Keeper, target: Path | BinaryIO, *, scratch: Path, progress: Progress
) -> Manifest:
    """Copy the store while it is in use; a file appears under its name only when it is whole.

    A target that ends in `.gz` or `.tgz` is compressed. The copy holds keys' hashes and the
    server's secrets, so only the owner may read it. `scratch` is where one file at a time is
    copied to. Raises `StoreError` when the target can't be written.
    """
    with ExitStack() as stack:
        try:
            if isinstance(target, Path):
                stream = stack.enter_context(appearing(target))
                scratch = target.parent
            else:
                stream = target
            name = tempfile.mkdtemp(prefix=".ragdock-copy-", dir=scratch)
            stack.callback(shutil.rmtree, name, ignore_errors=True)
            copy = keeper.copy(Path(name))
            total = copy.size_bytes
            manifest = write_archive(
                stream,
                {
                    "version": __version__,
                    "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
                },
                copy.members(),
                copy.notes,
                lambda member, done: progress(member, min(done, total), total),
            )
            stream.flush()
            stack.close()
        except OSError as exc:
            raise StoreError(
                f"The backup can't be written: {os.strerror(exc.errno or 0)}."
            ) from exc
        return manifest


@contextmanager
def appearing(target: Path) -> Iterator[BinaryIO]:
    """A file that is written under another name, and renamed when the block ends well."""
    if target.is_dir():
        raise InputError(f"{target} is a directory; name a file.", field="FILE")
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if target.suffix in (".gz", ".tgz"):
                with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=GZIP_LEVEL) as packed:
                    yield cast("BinaryIO", packed)
            else:
                yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def restore(keeper: Keeper, source: BinaryIO, *, force: bool, progress: Progress) -> Restored:
    """Put a backup in the store's place, once every hash is right; on an error nothing changes."""
    aside: list[Path] = []
    with keeper.adopt(force=force) as (staging, moved):
        aside = moved
        manifest = unpack(keeper, source, staging, progress)
    return Restored(manifest, aside[0] if aside else None)


def unpack(keeper: Keeper, source: BinaryIO, staging: Path, progress: Progress) -> Manifest:
    """Write a backup's files to a directory, check them, and make them one store."""
    n_bytes = 0

    def write(name: str, pieces: Iterator[bytes]) -> None:
        nonlocal n_bytes
        with _disk_errors():
            path = staging / name
            path.parent.mkdir(mode=0o700, exist_ok=True)
            file = path.open("xb")
        with file:
            for piece in pieces:
                with _disk_errors():
                    file.write(piece)
                n_bytes += len(piece)
                progress(name, n_bytes, n_bytes)

    manifest = read_archive(source, keeper.is_member, write)
    keeper.settle(staging, cast("dict[str, Any]", manifest.get("notes", {})))
    return manifest


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StoreError(f"The backup can't be unpacked: {os.strerror(exc.errno or 0)}.") from exc
