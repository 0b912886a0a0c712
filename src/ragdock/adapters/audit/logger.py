"""The audit log as lines of the process's log, for machines that collect those."""

from __future__ import annotations

import logging
from collections.abc import Mapping

__all__ = ["LoggerAudit"]

log = logging.getLogger("ragdock.audit")


class LoggerAudit:
    """`AuditLog` that logs: message `audit`, the record as fields (`at` for its own time)."""

    def write(self, record: Mapping[str, object]) -> None:
        """Log one record, whatever the level of the rest."""
        fields = {("at" if name == "time" else name): value for name, value in record.items()}
        # The record's own request id is the same as the line's.
        fields.pop("request_id", None)
        log.info("audit", extra={f"audit_{name}": value for name, value in fields.items()})

    def close(self) -> None:
        """Nothing."""
