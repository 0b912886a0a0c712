"""Blocks and views: an immutable copy of a collection's int8 vectors at one generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ragdock.types import Int8Matrix

__all__ = ["EMPTY", "Block", "Event", "Ranges", "View", "joined"]

Ranges = NDArray[np.int64]
"""Shape (n, 2): first and last chunk id of the documents that a filter lets through, ascending."""

Event = tuple[int, int, int]
"""The generation that added or removed a range of chunk ids, its first and its last id."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows in order of chunk id; `alive` is None while all are."""

    ids: NDArray[np.int64]
    scales: NDArray[np.float32]
    rows: Int8Matrix
    alive: NDArray[np.bool_] | None = None

    def marked(self, ranges: Sequence[tuple[int, int]], *, alive: bool) -> Block:
        """The block with the rows in the ranges alive or dead."""
        bounds = [
            (int(low), int(high))
            for low, high in (
                np.searchsorted(self.ids, (first, last + 1)) for first, last in ranges
            )
            if low < high
        ]
        if not bounds:
            return self
        marks = np.ones(len(self.ids), np.bool_) if self.alive is None else self.alive.copy()
        for low, high in bounds:
            marks[low:high] = alive
        return replace(self, alive=marks)

    def holds(self, first: int, last: int) -> bool:
        """Whether it has a row in the range, dead ones too."""
        low, high = np.searchsorted(self.ids, (first, last + 1))
        return bool(low < high)

    def only(self, ranges: Ranges) -> NDArray[np.int64]:
        """Positions of the rows inside the ranges."""
        lows = np.searchsorted(self.ids, ranges[:, 0])
        lengths = np.searchsorted(self.ids, ranges[:, 1], side="right") - lows
        if not lengths.any():
            return np.empty(0, np.int64)
        starts = np.repeat(lows - np.concatenate(([0], np.cumsum(lengths)[:-1])), lengths)
        positions: NDArray[np.int64] = starts + np.arange(int(lengths.sum()))
        return positions


@dataclass(frozen=True, slots=True)
class View:
    """All rows as of `generation`; with what came and went it can go back as far as `floor`."""

    generation: int
    blocks: tuple[Block, ...]
    additions: tuple[Event, ...] = ()
    removals: tuple[Event, ...] = ()
    floor: int = -1
    mapped_at: int = -1
    """The generation of the shared file that is the first block; -1 when it is our own memory."""

    @property
    def n_rows(self) -> int:
        """Rows held, dead ones too."""
        return sum(len(block.ids) for block in self.blocks)

    @property
    def n_dead(self) -> int:
        """Rows held for nothing."""
        return sum(
            int(len(b.ids) - np.count_nonzero(b.alive)) for b in self.blocks if b.alive is not None
        )

    def back_at(self, generation: int) -> View:
        """This view as it was at an earlier generation."""
        revived = [(first, last) for at, first, last in self.removals if at > generation]
        unborn = [(first, last) for at, first, last in self.additions if at > generation]
        blocks = (
            block.marked(revived, alive=True).marked(unborn, alive=False) for block in self.blocks
        )
        return View(generation, tuple(blocks))


EMPTY = View(generation=-1, blocks=())


def joined(blocks: Sequence[Block]) -> Block:
    """One block of the living rows of several, in order of chunk id."""
    keep = [slice(None) if b.alive is None else np.flatnonzero(b.alive) for b in blocks]
    pairs = list(zip(blocks, keep, strict=True))
    ids = np.concatenate([b.ids[k] for b, k in pairs])
    scales = np.concatenate([b.scales[k] for b, k in pairs])
    if (ids[1:] > ids[:-1]).all():
        return Block(ids, scales, np.concatenate([b.rows[k] for b, k in pairs]))
    # What was staged long ago and committed late has lower ids than what came between.
    order = np.argsort(ids)
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    rows = np.empty((len(ids), blocks[0].rows.shape[1]), np.int8)
    start = 0
    for block, kept in pairs:
        n = len(block.ids[kept])
        rows[places[start : start + n]] = block.rows[kept]
        start += n
    return Block(ids[order], scales[order], rows)
