"""Where a server's curve bends: the knee, and where it is saturated.

The knee is the concurrency at which throughput / latency is greatest, Kleinrock's power (L.
Kleinrock, "Power and deterministic rules of thumb for probabilistic problems in computer
communications", ICC 1979; R. Jain, "The Art of Computer Systems Performance Analysis", 1991,
section 3.3). Below it, one more client is nearly all gain; above it, nearly all wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Knee", "Point", "find_knee"]

SATURATED = 0.95
"""A step is saturated when it reaches this share of the best throughput of all."""


@dataclass(frozen=True, slots=True)
class Point:
    """One step: so many requests in flight gave this throughput and this mean latency."""

    concurrency: int
    per_second: float
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Knee:
    """`at` is the knee; `saturated_at` the first step that can't be bettered by 5 %.

    `open_end` says that the last step was the best by power: the knee may lie beyond it.
    """

    at: Point
    saturated_at: Point
    peak_per_second: float
    open_end: bool


def find_knee(points: Sequence[Point]) -> Knee | None:
    """The knee of a closed loop's steps; None when nothing was answered.

    Of equally good steps the least is taken. Steps without answers are left out.
    """
    steps = sorted(
        (point for point in points if point.per_second > 0 and point.latency_ms > 0),
        key=lambda point: point.concurrency,
    )
    if not steps:
        return None
    peak = max(point.per_second for point in steps)
    best = max(steps, key=lambda point: (point.per_second / point.latency_ms, -point.concurrency))
    saturated = next(point for point in steps if point.per_second >= SATURATED * peak)
    return Knee(best, saturated, peak, open_end=len(steps) > 1 and best is steps[-1])
