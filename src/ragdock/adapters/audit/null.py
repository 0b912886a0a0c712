"""No audit log."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["NullAudit"]


class NullAudit:
    """`AuditLog` that keeps nothing."""

    def write(self, record: Mapping[str, object]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
