"""Exact dense search: an int8 copy of a collection's vectors, scanned whole, rescored in float16.

The copy follows the file: before a search it applies what changed since (new chunk ids ascend,
removed ranges are logged). Views are immutable, so searches run side by side with a refresh.

Beyond `SHARE_FROM_ROWS` the bulk of the copy is a file that all processes map (one copy in the page
cache instead of one a process, and a start without reading the vectors out of SQLite). The file is
a cache: written under a lock, renamed into place when whole, rebuilt when absent or damaged.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import apsw
import numpy as np
from numpy.typing import NDArray

from ragdock.adapters.stores.sqlite.connections import fetch
from ragdock.types import DenseResult, Int8Matrix, ScoredChunk, Vector, Vectors

_cdist: Callable[..., Any] | None
try:
    from simsimd import cdist as _cdist
except ImportError:  # pragma: no cover - the wheel lacks some platforms; NumPy is the fallback.
    _cdist = None

__all__ = ["DenseIndex", "Ranges", "quantise", "scan"]

Ranges = NDArray[np.int64]
"""Shape (n, 2): first and last chunk id of the documents that a filter lets through, ascending."""

SHARE_FROM_ROWS: Final = 20_000
BLOCK_ROWS: Final = 16_384
BASELINE_TOP: Final = 1_000  # RETRIEVAL: t = mean cosine of the query's top 1,000.
RESCORE: Final = 3  # int8 with 3x rescoring finds the exact top k (recall 1.0 at 100k and 1M).
COMPACT_FROM_ROWS: Final = 10_000
GATHER_BELOW: Final = 0.25
_MAGIC: Final = b"RDOCKI8\x01"


def quantise(vectors: Vectors) -> tuple[Int8Matrix, NDArray[np.float32]]:
    """(n, dim) unit rows -> int8 rows and the (n,) scales that undo them: row = int8 * scale."""
    peak = np.abs(vectors).max(axis=1, initial=0.0)
    scales = np.where(peak > 0.0, peak, 1.0).astype(np.float32) / 127.0
    return np.rint(vectors / scales[:, None]).astype(np.int8), scales


def scan(query: Int8Matrix, rows: Int8Matrix) -> NDArray[np.float32]:
    """Dot products of one int8 query (1, dim) with int8 rows (n, dim): (n,) float32, exact."""
    if _cdist is not None:
        dots = _cdist(query, rows, metric="dot", out_dtype="float32")
        return cast("NDArray[np.float32]", np.asarray(dots, dtype=np.float32)[0])
    return cast("NDArray[np.float32]", rows.astype(np.float32) @ query[0].astype(np.float32))


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows in order of chunk id; `alive` is None while all are."""

    ids: NDArray[np.int64]
    scales: NDArray[np.float32]
    rows: Int8Matrix
    alive: NDArray[np.bool_] | None = None

    def without(self, first: int, last: int) -> _Block:
        low, high = np.searchsorted(self.ids, [first, last + 1])
        if low == high:
            return self
        alive = np.ones(len(self.ids), np.bool_) if self.alive is None else self.alive.copy()
        alive[low:high] = False
        return replace(self, alive=alive)

    def only(self, ranges: Ranges) -> NDArray[np.int64]:
        """Positions of the rows inside the ranges."""
        lows = np.searchsorted(self.ids, ranges[:, 0])
        highs = np.searchsorted(self.ids, ranges[:, 1], side="right")
        lengths = highs - lows
        if not lengths.any():
            return np.empty(0, np.int64)
        offsets = np.repeat(lows - np.concatenate(([0], np.cumsum(lengths)[:-1])), lengths)
        return cast("NDArray[np.int64]", offsets + np.arange(int(lengths.sum())))


@dataclass(frozen=True, slots=True)
class _View:
    generation: int
    last_id: int
    blocks: tuple[_Block, ...]

    @property
    def n_rows(self) -> int:
        return sum(len(block.ids) for block in self.blocks)

    @property
    def n_dead(self) -> int:
        return sum(
            int(len(b.ids) - np.count_nonzero(b.alive)) for b in self.blocks if b.alive is not None
        )


_EMPTY: Final = _View(generation=-1, last_id=0, blocks=())


class DenseIndex:
    """One process's copy of one collection's vectors."""

    def __init__(
        self, dim: int, share_dir: Path, *, share_from_rows: int = SHARE_FROM_ROWS
    ) -> None:
        self._dim = dim
        self._share_dir = share_dir
        self._share_from_rows = share_from_rows
        self._lock = threading.Lock()
        self._view = _EMPTY

    def search(
        self,
        connection: apsw.Connection,
        generation: int,
        vector: Vector,
        limit: int,
        ranges: Ranges | None,
    ) -> DenseResult:
        """The `limit` nearest chunks as of the connection's read transaction."""
        view = self._refreshed(connection, generation)
        ids, scores = _candidates(view, vector, max(limit * RESCORE, BASELINE_TOP), ranges)
        if not len(ids):
            return DenseResult((), 0.0)
        baseline = float(scores[:BASELINE_TOP].mean())
        hits = rescore(connection, ids[: limit * RESCORE].tolist(), vector)
        hits.sort(key=lambda hit: (-hit.score, hit.chunk_id))
        return DenseResult(tuple(hits[:limit]), baseline)

    def _refreshed(self, connection: apsw.Connection, generation: int) -> _View:
        view = self._view
        if view.generation >= generation:
            return view
        with self._lock:
            if self._view.generation < generation:
                self._view = self._follow(connection, generation)
            return self._view

    def _follow(self, connection: apsw.Connection, generation: int) -> _View:
        view = self._view
        if view is _EMPTY:
            view = self._load_shared() or _EMPTY
        (since,) = fetch(connection, "SELECT removals_since FROM state")[0]
        if view.generation < since:
            view = _EMPTY
        blocks = view.blocks
        removed = fetch(
            connection,
            "SELECT first_chunk, last_chunk FROM removals WHERE generation > ?",
            (view.generation,),
        )
        for first, last in removed:
            blocks = tuple(block.without(first, last) for block in blocks)
        added = _read_rows(connection, view.last_id, self._dim)
        if len(added.ids):
            blocks = (*blocks, added)
        last_id = int(added.ids[-1]) if len(added.ids) else view.last_id
        return self._tidy(_View(generation, last_id, blocks))

    def _tidy(self, view: _View) -> _View:
        """Join small blocks, drop dead rows once they are many, share what is large."""
        head, *tail = view.blocks or (None,)
        if head is None:
            return view
        n_dead, n_tail = view.n_dead, view.n_rows - len(head.ids)
        wasteful = n_dead > COMPACT_FROM_ROWS and n_dead * 3 > view.n_rows
        if wasteful or n_tail >= max(self._share_from_rows, len(head.ids) // 2):
            view = replace(view, blocks=(_joined(view.blocks, drop_dead=True),))
            if view.n_rows >= self._share_from_rows:
                return self._share(view)
        elif len(tail) > 8:
            view = replace(view, blocks=(head, _joined(tuple(tail), drop_dead=True)))
        return view

    # The shared file: magic, 8-byte header length, JSON header, ids, scales, rows.

    def _share(self, view: _View) -> _View:
        """Write the rows for all processes to map; without a writable directory keep our own."""
        block = view.blocks[0]
        header = json.dumps(
            {
                "dim": self._dim,
                "generation": view.generation,
                "last_id": view.last_id,
                "n": len(block.ids),
            }
        ).encode()
        header += b" " * (-len(header) % 8)
        with contextlib.suppress(OSError), self._share_lock():
            temporary = self._share_dir / f"vectors.{os.getpid()}.tmp"
            with temporary.open("wb") as file:
                file.write(_MAGIC + len(header).to_bytes(4, "little"))
                file.write(zlib.crc32(header).to_bytes(4, "little") + header)
                for array in (block.ids, block.scales, block.rows):
                    file.write(np.ascontiguousarray(array).data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._share_dir / "vectors.i8")
            shared = self._load_shared()
            if shared is not None and shared.generation == view.generation:
                return shared
        return view

    @contextlib.contextmanager
    def _share_lock(self) -> Iterator[None]:
        self._share_dir.mkdir(parents=True, exist_ok=True)
        with (self._share_dir / "lock").open("w") as file:
            # BlockingIOError is an OSError: another process is writing the same thing.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield

    def _load_shared(self) -> _View | None:
        path = self._share_dir / "vectors.i8"
        try:
            with path.open("rb") as file:
                prefix = file.read(16)
                size = int.from_bytes(prefix[8:12], "little")
                header = file.read(size)
                n_bytes = os.fstat(file.fileno()).st_size
                if prefix[:8] != _MAGIC or zlib.crc32(header) != int.from_bytes(
                    prefix[12:16], "little"
                ):
                    return None
                facts = json.loads(header)
                n, dim = facts["n"], facts["dim"]
                start = 16 + size
                if dim != self._dim or n_bytes != start + n * (8 + 4 + dim) or not n:
                    return None
                mapped = np.memmap(file, np.uint8, "r", start, (n * (12 + dim),))
        except (OSError, ValueError, KeyError):
            return None
        block = _Block(
            mapped[: 8 * n].view(np.int64),
            mapped[8 * n : 12 * n].view(np.float32),
            mapped[12 * n :].view(np.int8).reshape(n, dim),
        )
        return _View(facts["generation"], facts["last_id"], (block,))


def _read_rows(connection: apsw.Connection, after: int, dim: int) -> _Block:
    rows = fetch(
        connection,
        "SELECT chunk, scale, row FROM vectors8 WHERE chunk > ? ORDER BY chunk",
        (after,),
    )
    ids = np.fromiter((row[0] for row in rows), np.int64, len(rows))
    scales = np.fromiter((row[1] for row in rows), np.float32, len(rows))
    matrix = np.frombuffer(b"".join(row[2] for row in rows), np.int8).reshape(len(rows), dim)
    return _Block(ids, scales, matrix)


def _joined(blocks: Sequence[_Block], *, drop_dead: bool) -> _Block:
    keep = [
        slice(None) if b.alive is None or not drop_dead else np.flatnonzero(b.alive) for b in blocks
    ]
    return _Block(
        np.concatenate([b.ids[k] for b, k in zip(blocks, keep, strict=True)]),
        np.concatenate([b.scales[k] for b, k in zip(blocks, keep, strict=True)]),
        np.concatenate([b.rows[k] for b, k in zip(blocks, keep, strict=True)]),
    )


def _candidates(
    view: _View, vector: Vector, n_wanted: int, ranges: Ranges | None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The best `n_wanted` rows by int8 score, best first: ids and approximate cosines."""
    query8, query_scale = quantise(vector[None, :])
    ids: list[NDArray[np.int64]] = []
    scores: list[NDArray[np.float32]] = []
    for block in view.blocks:
        positions = None if ranges is None else block.only(ranges)
        for part_ids, part_scores in _block_scores(block, query8, positions):
            best = _top(part_scores, n_wanted)
            ids.append(part_ids[best])
            scores.append(part_scores[best] * query_scale[0])
    if not ids:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    all_ids, all_scores = np.concatenate(ids), np.concatenate(scores)
    best = _top(all_scores, n_wanted)
    order = best[np.lexsort((all_ids[best], -all_scores[best]))]
    order = order[np.isfinite(all_scores[order])]
    return all_ids[order], all_scores[order]


def _block_scores(block: _Block, query8: Int8Matrix, positions: NDArray[np.int64] | None):  # type: ignore[no-untyped-def]
    """Yield (ids, scores) by pieces of `BLOCK_ROWS`; dead or filtered rows score -inf."""
    n_rows = len(block.ids)
    if positions is not None and len(positions) < n_rows * GATHER_BELOW:
        for start in range(0, len(positions), BLOCK_ROWS):
            picked = positions[start : start + BLOCK_ROWS]
            part = scan(query8, block.rows[picked]) * block.scales[picked]
            if block.alive is not None:
                part[~block.alive[picked]] = -np.inf
            yield block.ids[picked], part
        return
    allowed = block.alive
    if positions is not None:
        allowed = np.zeros(n_rows, np.bool_)
        allowed[positions] = True
        if block.alive is not None:
            allowed &= block.alive
    for start in range(0, n_rows, BLOCK_ROWS):
        piece = slice(start, start + BLOCK_ROWS)
        part = scan(query8, block.rows[piece]) * block.scales[piece]
        if allowed is not None:
            part[~allowed[piece]] = -np.inf
        yield block.ids[piece], part


def _top(scores: NDArray[np.float32], n_wanted: int) -> NDArray[np.int64]:
    if len(scores) <= n_wanted:
        return np.arange(len(scores))
    return np.argpartition(scores, len(scores) - n_wanted)[len(scores) - n_wanted :]


def rescore(
    connection: apsw.Connection, chunk_ids: Sequence[int], vector: Vector
) -> list[ScoredChunk]:
    """Cosines from the float16 rows; ids that the transaction doesn't see are left out."""
    rows = fetch(
        connection,
        "SELECT chunk, row FROM vectors16 WHERE chunk IN (SELECT value FROM json_each(?))",
        (json.dumps(list(chunk_ids)),),
    )
    if not rows:
        return []
    matrix = np.frombuffer(b"".join(row[1] for row in rows), np.float16)
    cosines = matrix.reshape(len(rows), -1).astype(np.float32) @ vector
    return [ScoredChunk(row[0], float(cosine)) for row, cosine in zip(rows, cosines, strict=True)]
