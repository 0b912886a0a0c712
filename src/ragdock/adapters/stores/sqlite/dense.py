"""Exact dense search: an int8 copy of a collection's vectors, scanned whole, rescored in float16.

The copy follows the file: before a search it applies what became live and what was removed since,
by the generations in `segments` and `removals`. Views are immutable, so searches run side by side
with a refresh.

Beyond `SHARE_FROM_ROWS` the bulk of the copy is a file that all processes map: one copy in the page
cache instead of one a process, and a start without reading the vectors out of SQLite.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import apsw
import numpy as np
from numpy.typing import NDArray

from ragdock.adapters.stores.sqlite.blocks import EMPTY, Block, Event, Ranges, View, joined
from ragdock.adapters.stores.sqlite.connections import fetch
from ragdock.adapters.stores.sqlite.segments import (
    Range,
    coalesced,
    complement,
    hidden_ranges,
)
from ragdock.adapters.stores.sqlite.shared import SharedFile
from ragdock.errors import IntegrityError
from ragdock.types import DenseResult, Int8Matrix, ScoredChunk, Vector, Vectors

_cdist: Callable[..., Any] | None
try:
    from simsimd import cdist as _cdist
except ImportError:  # pragma: no cover - the wheel lacks some platforms; NumPy is the fallback.
    _cdist = None

__all__ = ["DenseIndex", "quantise", "scan"]

SHARE_FROM_ROWS: Final = 20_000
BLOCK_ROWS: Final = 16_384
BASELINE_TOP: Final = 1_000  # RETRIEVAL: t = mean cosine of the query's top 1,000.
RESCORE: Final = 3  # int8 with 3x rescoring finds the exact top k (recall 1.0 at 100k and 1M).
COMPACT_FROM_ROWS: Final = 10_000
GATHER_BELOW: Final = 0.25
MAX_TAIL_BLOCKS: Final = 8
KEEP_EVENTS: Final = 256  # How far back a view serves readers that are slower than the writers.
SHARE_PAUSE_SECONDS: Final = 30.0


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


class DenseIndex:
    """One process's copy of one collection's vectors."""

    def __init__(
        self, dim: int, share_dir: Path, *, share_from_rows: int = SHARE_FROM_ROWS
    ) -> None:
        self._dim = dim
        self._shared = SharedFile(share_dir, dim)
        self._share_from_rows = share_from_rows
        self._next_share = 0.0
        self._lock = threading.Lock()
        self._view = EMPTY

    def search(
        self,
        connection: apsw.Connection,
        generation: int,
        vector: Vector,
        limit: int,
        ranges: Ranges | None,
    ) -> DenseResult:
        """The `limit` nearest chunks as of the connection's read transaction."""
        if vector.shape != (self._dim,):
            raise IntegrityError(
                f"The query's vector has shape {vector.shape}, the collection's ({self._dim},)."
            )
        view = self._view_at(connection, generation)
        ids, scores = _candidates(view, vector, max(limit * RESCORE, BASELINE_TOP), ranges)
        if not len(ids):
            return DenseResult((), 0.0)
        baseline = float(scores[:BASELINE_TOP].mean())
        hits = _rescored(connection, ids[: limit * RESCORE].tolist(), vector)
        hits.sort(key=lambda hit: (-hit.score, hit.chunk_id))
        return DenseResult(tuple(hits[:limit]), baseline)

    def _view_at(self, connection: apsw.Connection, generation: int) -> View:
        """The vectors as the transaction sees them, which others may have moved on from."""
        view = self._view
        if view.generation < generation:
            with self._lock:
                view = self._view
                if view.generation < generation:
                    view = self._view = self._follow(connection, view, generation)
        if view.generation == generation:
            return view
        if generation < view.floor:  # It was compacted under a slow reader: rare, so just read.
            return _follow(connection, EMPTY, generation, self._dim)
        return view.back_at(generation)

    def _follow(self, connection: apsw.Connection, view: View, generation: int) -> View:
        if view is EMPTY:
            view = self._shared.load(connection, generation) or EMPTY
        view = _follow(connection, view, generation, self._dim)
        if not view.blocks:
            return view
        head, *tail = view.blocks
        n_tail = view.n_rows - len(head.ids)
        n_dead = view.n_dead
        share = n_tail >= max(self._share_from_rows, len(head.ids) // 2) or (
            view.mapped_at < 0 and view.n_rows >= self._share_from_rows
        )
        if n_dead > COMPACT_FROM_ROWS and n_dead * 3 > view.n_rows:
            return self._compact(connection, view)
        if share and time.monotonic() >= self._next_share:
            return self._compact(connection, view)
        if len(tail) > MAX_TAIL_BLOCKS:
            return replace(view, blocks=(head, joined(tail)), floor=view.generation)
        return view

    def _compact(self, connection: apsw.Connection, view: View) -> View:
        """One block of living rows: the shared file, once they are many."""
        # Another process may have written a file since ours was mapped.
        theirs = self._shared.load(connection, view.generation)
        n_alive = view.n_rows - view.n_dead
        newer = theirs is not None and theirs.mapped_at > view.mapped_at
        if theirs is not None and newer and abs(theirs.n_rows - n_alive) * 4 <= n_alive:
            return _follow(connection, theirs, view.generation, self._dim)
        block = view.blocks[0] if len(view.blocks) == 1 else joined(view.blocks)
        if block.alive is not None:
            block = joined([block])
        if not len(block.ids):
            return View(view.generation, (), floor=view.generation)
        view = View(view.generation, (block,), floor=view.generation)
        if len(block.ids) < self._share_from_rows:
            return view
        # Where the file can't be written, or another process is just writing it, ask again later.
        self._next_share = time.monotonic() + SHARE_PAUSE_SECONDS
        return self._shared.write(view)


def _follow(connection: apsw.Connection, view: View, generation: int, dim: int) -> View:
    """The view moved on to the transaction's generation; read whole when the log is too short."""
    (since,) = fetch(connection, "SELECT removals_since FROM state")[0]
    if view.generation < since:
        view = EMPTY
    if view is EMPTY:
        ranges = complement(hidden_ranges(connection))
        block = _read_rows(connection, ranges, dim)
        # What was read whole knows nothing of the time before.
        return View(generation, (block,) if len(block.ids) else (), floor=generation)
    removed: list[Event] = fetch(
        connection,
        "SELECT generation, first_chunk, last_chunk FROM removals WHERE generation > ? "
        "ORDER BY generation",
        (view.generation,),
    )
    added: list[Event] = fetch(
        connection,
        "SELECT added, first_chunk, last_chunk FROM segments WHERE live = 1 AND added > ?",
        (view.generation,),
    )
    floor = view.floor
    for at, first, last in removed:
        # Came and went since we looked: readers in between must look for themselves.
        if not any(block.holds(first, last) for block in view.blocks):
            floor = max(floor, at)
    dead = [(first, last) for _, first, last in removed]
    blocks = tuple(block.marked(dead, alive=False) for block in view.blocks)
    ranges = coalesced(sorted((first, last) for _, first, last in added))
    block = _read_rows(connection, ranges, dim)
    if len(block.ids):
        blocks = (*blocks, block)
    additions, floor = _newest((*view.additions, *sorted(added)), floor)
    removals, floor = _newest((*view.removals, *removed), floor)
    return View(generation, blocks, additions, removals, floor, view.mapped_at)


def _newest(events: tuple[Event, ...], floor: int) -> tuple[tuple[Event, ...], int]:
    """The latest of the events, and how far back they reach."""
    if len(events) <= KEEP_EVENTS:
        return events, floor
    return events[-KEEP_EVENTS:], max(floor, events[-KEEP_EVENTS - 1][0])


def _read_rows(connection: apsw.Connection, ranges: Sequence[Range], dim: int) -> Block:
    """The ranges' rows, in pieces: a million rows as Python objects would take a gigabyte."""
    cursor = itertools.chain.from_iterable(
        connection.execute(
            "SELECT chunk, scale, row FROM vectors8 WHERE chunk BETWEEN ? AND ? ORDER BY chunk",
            each,
        )
        for each in ranges
    )
    pieces: list[Block] = []
    while rows := list(itertools.islice(cursor, BLOCK_ROWS)):
        ids = np.fromiter((row[0] for row in rows), np.int64, len(rows))
        scales = np.fromiter((row[1] for row in rows), np.float32, len(rows))
        matrix = np.frombuffer(b"".join([row[2] for row in rows]), np.int8)
        pieces.append(Block(ids, scales, matrix.reshape(len(rows), dim)))
    if len(pieces) == 1:
        return pieces[0]
    n_rows = sum(len(piece.ids) for piece in pieces)
    whole = np.empty((n_rows, dim), np.int8)
    ids = np.concatenate([np.empty(0, np.int64), *(piece.ids for piece in pieces)])
    scales = np.concatenate([np.empty(0, np.float32), *(piece.scales for piece in pieces)])
    start = 0
    pieces.reverse()
    while pieces:  # Each piece is freed as soon as it is copied.
        piece = pieces.pop()
        whole[start : start + len(piece.ids)] = piece.rows
        start += len(piece.ids)
    return Block(ids, scales, whole)


def _candidates(
    view: View, vector: Vector, n_wanted: int, ranges: Ranges | None
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


def _block_scores(
    block: Block, query8: Int8Matrix, positions: NDArray[np.int64] | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
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


def _rescored(
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
