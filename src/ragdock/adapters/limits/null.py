"""No limit at all."""

from __future__ import annotations

from ragdock.core.gcra import Limit, Verdict

__all__ = ["NullLimiter"]


class NullLimiter:
    """`RateLimiter` that grants everything."""

    @property
    def instant(self) -> bool:
        """Always."""
        return True

    def take(self, limit: Limit, wanted: int = 1) -> Verdict:
        """Granted."""
        return Verdict(wanted, limit.per_minute, 0.0, 0.0)

    def close(self) -> None:
        """Nothing."""
