"""The shared file: a collection's int8 vectors as one file that all processes map.

It is a cache and never the truth: written under a lock, renamed into place when whole, checked when
opened (form, checksum, and some rows against the database), and ignored when anything is wrong.

Layout: magic (8 bytes), header length and CRC (4 + 4), JSON header, then ids (int64), scales
(float32) and rows (int8), with the CRC of those three in the header.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import apsw
import numpy as np

from ragdock.adapters.stores.sqlite.blocks import Block, View
from ragdock.adapters.stores.sqlite.connections import fetch

__all__ = ["SharedFile"]

N_SAMPLES: Final = 64
_MAGIC: Final = b"RDOCKI8\x03"
_CRC_STEP_BYTES: Final = 1 << 24


class SharedFile:
    """`vectors.i8` in a directory of its own beside the collection's file."""

    def __init__(self, directory: Path, dim: int) -> None:
        self._directory = directory
        self._path = directory / "vectors.i8"
        self._dim = dim

    def write(self, view: View) -> View:
        """Write the view's only block and answer it mapped; the view itself if that fails.

        No fsync: after a power cut the checksum tells a torn file, and the database has the rows.
        """
        block = view.blocks[0]
        parts = [np.ascontiguousarray(a).data.cast("B") for a in (block.ids, block.scales)]
        parts.append(np.ascontiguousarray(block.rows).data.cast("B"))
        crc = 0
        for part in parts:
            crc = _crc(part, crc)
        header = json.dumps(
            {
                "dim": self._dim,
                "generation": view.generation,
                "n": len(block.ids),
                "crc": crc,
            }
        ).encode()
        header += b" " * (-len(header) % 8)
        with contextlib.suppress(OSError), self._lock():
            temporary = self._directory / "vectors.tmp"
            with temporary.open("wb") as file:
                file.write(_MAGIC + len(header).to_bytes(4, "little"))
                file.write(zlib.crc32(header).to_bytes(4, "little") + header)
                for part in parts:
                    file.write(part)
            temporary.replace(self._path)
            mapped = self._map(check=False)
            if mapped is not None and mapped.generation == view.generation:
                return mapped
        return view

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        self._directory.mkdir(exist_ok=True)
        with (self._directory / "lock").open("w") as file:
            # BlockingIOError is an OSError: another process is writing the same thing.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield

    def load(self, connection: apsw.Connection, generation: int) -> View | None:
        """The file as a view, if it is whole and no newer than `generation` of this database."""
        view = self._map(check=True)
        if view is None or view.generation > generation or not _agrees(connection, view.blocks[0]):
            return None
        return view

    def _map(self, *, check: bool) -> View | None:
        try:
            with self._path.open("rb") as file:
                prefix = file.read(16)
                size = int.from_bytes(prefix[8:12], "little")
                if prefix[:8] != _MAGIC or size > 4096:
                    return None
                header = file.read(size)
                if zlib.crc32(header) != int.from_bytes(prefix[12:16], "little"):
                    return None
                facts = json.loads(header)
                n, dim, start = facts["n"], facts["dim"], 16 + size
                n_bytes = n * (8 + 4 + dim)
                if dim != self._dim or not n:
                    return None
                if os.fstat(file.fileno()).st_size != start + n_bytes:
                    return None
                mapped = np.asarray(np.memmap(file, np.uint8, "r", start, (n_bytes,)))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if check and _crc(mapped.data.cast("B"), 0) != facts["crc"]:
            return None
        block = Block(
            mapped[: 8 * n].view(np.int64),
            mapped[8 * n : 12 * n].view(np.float32),
            mapped[12 * n :].view(np.int8).reshape(n, dim),
        )
        at = facts["generation"]
        return View(at, (block,), floor=at, mapped_at=at)


def _crc(data: memoryview, crc: int) -> int:
    for start in range(0, len(data), _CRC_STEP_BYTES):
        crc = zlib.crc32(data[start : start + _CRC_STEP_BYTES], crc)
    return crc


def _agrees(connection: apsw.Connection, block: Block) -> bool:
    """Whether the file's last rows, and some others, are the database's.

    A database restored from a backup goes on from an earlier state, and its generations and chunk
    ids then mean other contents than the file's; the last rows tell.
    """
    n = len(block.ids)
    picked = np.unique(
        np.concatenate(
            (np.arange(max(0, n - N_SAMPLES), n), np.linspace(0, n - 1, N_SAMPLES).astype(np.int64))
        )
    )
    by_id = {int(block.ids[i]): block.rows[i].tobytes() for i in picked}
    rows = fetch(
        connection,
        "SELECT chunk, row FROM vectors8 WHERE chunk IN (SELECT value FROM json_each(?))",
        (json.dumps(list(by_id)),),
    )
    return all(by_id[chunk] == row for chunk, row in rows)
