"""The generic cell rate algorithm: a leaky bucket that is a single number. Pure.

The number is the theoretical arrival time (TAT): when the next request would come if the caller
kept exactly to its rate. A request is allowed when it comes no earlier than a burst before that.
From ATM's traffic control, ITU-T I.371 annex A; as a rate limit for APIs described in
https://brandur.org/rate-limiting. `adapters/limits/redis.py` holds the same in Lua.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

__all__ = ["WINDOW_SECONDS", "Limit", "Verdict", "take"]

WINDOW_SECONDS: Final = 60.0
_ROUNDING: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Limit:
    """`per_minute` requests a minute; one who was silent for a minute may send them at once.

    `name` is the policy's name in the `RateLimit` headers, `holder` who is limited.
    """

    name: str
    holder: str
    per_minute: int

    @property
    def interval_seconds(self) -> float:
        """How long one request takes to be forgiven."""
        return WINDOW_SECONDS / self.per_minute


@dataclass(frozen=True, slots=True)
class Verdict:
    """`granted` requests may go on (0: refused), `remaining` more could right now.

    `retry_seconds` tells when one would be granted again, `reset_seconds` when all would.
    """

    granted: int
    remaining: int
    retry_seconds: float
    reset_seconds: float


def take(tat: float, now: float, limit: Limit, wanted: int) -> tuple[float, Verdict]:
    """Grant up to `wanted` requests at `now` (seconds, as `tat`); the new TAT, and the verdict."""
    interval = limit.interval_seconds
    # Never further ahead than a full bucket: a clock that was set back must not lock anybody out.
    tat = min(max(tat, now), now + WINDOW_SECONDS)
    room = math.floor((now + WINDOW_SECONDS - tat) / interval + _ROUNDING)
    granted = max(0, min(room, wanted))
    tat += granted * interval
    return tat, Verdict(
        granted=granted,
        remaining=room - granted,
        retry_seconds=max(0.0, tat + interval - WINDOW_SECONDS - now),
        reset_seconds=tat - now,
    )
