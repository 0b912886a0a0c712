"""Where a server's curve bends: the knee, and where it is saturated.

The knee is the concurrency at which throughput / latency is greatest, Kleinrock's power (L.
Kleinrock, "Power and deterministic rules of thumb for probabilistic problems in computer
communications", ICC 1979; R. Jain, "The Art of Computer Systems Performance Analysis", 1991,
section 3.3). Below it, one more client is nearly all gain; above it, nearly all wait.

A step in which requests are refused answers another mix than was sent: the dear ones are turned
away, and throughput rises by the cheap ones. Such a step is overloaded, neither knee nor peak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["OVERLOADED", "Knee", "Point", "find_knee"]

SATURATED = 0.95
"""A step is saturated when it reaches this share of the best throughput of all."""
OVERLOADED = 0.01
"""A step is overloaded when more than this share of its requests is refused."""


@dataclass(frozen=True, slots=True)
class Point:
    """One step: so many requests in flight gave this throughput and this mean latency."""

    concurrency: int
    per_second: float
    latency_ms: float
    refused_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Knee:
    """`at` is the knee; `saturated_at` the first step that can't be bettered by 5 %.

    `open_end` says that the last step was the best by power: the knee may lie beyond it.
    `overloaded_at` is the first step that refused requests, if one did.
    """

    at: Point
    saturated_at: Point
    peak_per_second: float
    open_end: bool
    overloaded_at: Point | None = None


def find_knee(points: Sequence[Point]) -> Knee | None:
    """The knee of a closed loop's steps; None when none is without refusals.

    Of equally good steps the least is taken. Steps without answers are left out, and all from the
    first overloaded one on.
    """
    steps = sorted(
        (point for point in points if point.per_second > 0 and point.latency_ms > 0),
        key=lambda point: point.concurrency,
    )
    overloaded = next((point for point in steps if point.refused_share > OVERLOADED), None)
    if overloaded is not None:
        steps = steps[: steps.index(overloaded)]
    if not steps:
        return None
    peak = max(point.per_second for point in steps)
    best = max(steps, key=lambda point: (point.per_second / point.latency_ms, -point.concurrency))
    saturated = next(point for point in steps if point.per_second >= SATURATED * peak)
    open_end = len(steps) > 1 and best is steps[-1] and overloaded is None
    return Knee(best, saturated, peak, open_end, overloaded)
