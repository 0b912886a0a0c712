"""Whether something grows: the slope that half of all pairs of samples agree on.

Theil and Sen's estimator (P. K. Sen, J. Amer. Statist. Assoc. 63, 1968): the median of the slopes
between samples. One spike, or a garbage collection, doesn't move it as it would a least-squares
line. The first third is left out: caches fill, pools start their threads.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Trend", "trend"]

WARM_UP = 1 / 3
MAX_SAMPLES = 150
GROWTH = 0.05
"""Less than 5 % over what was watched isn't called growth."""


@dataclass(frozen=True, slots=True)
class Trend:
    """`first` and `last` are medians of the watched part's ends; the slope is per hour."""

    grows: bool
    per_hour: float
    first: float
    last: float


def trend(samples: Sequence[tuple[float, float]], *, slack: float) -> Trend:
    """Of (seconds, value) samples in order. Growth is more than 5 % and more than `slack`."""
    if not samples:
        return Trend(False, math.nan, math.nan, math.nan)
    start, end = samples[0][0], samples[-1][0]
    kept = [sample for sample in samples if sample[0] >= start + WARM_UP * (end - start)]
    step = max(1, math.ceil(len(kept) / MAX_SAMPLES))
    kept = kept[::step]
    slopes = [
        (b[1] - a[1]) / (b[0] - a[0])
        for number, a in enumerate(kept)
        for b in kept[number + 1 :]
        if b[0] > a[0]
    ]
    edge = max(1, len(kept) // 5)
    first = statistics.median(value for _, value in kept[:edge])
    last = statistics.median(value for _, value in kept[-edge:])
    slope = statistics.median(slopes) if slopes else 0.0
    grown = slope * (kept[-1][0] - kept[0][0])
    # Both the slope and the ends: a sawtooth has the one, a single step the other.
    grows = grown > max(slack, GROWTH * abs(first)) and last - first > slack / 2
    return Trend(grows, slope * 3600, first, last)
