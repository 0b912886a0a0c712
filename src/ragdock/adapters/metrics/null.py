"""Metrics that nobody reads."""

from __future__ import annotations

from collections.abc import Iterable

from ragdock.ports import Measurement

__all__ = ["NullMetrics"]


class NullMetrics:
    """`Metrics` that keeps nothing."""

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Nothing."""

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Nothing."""

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Nothing."""

    def render(self, measured: Iterable[Measurement] = ()) -> bytes:  # noqa: ARG002 (the Protocol's)
        """An empty exposition."""
        return b""
