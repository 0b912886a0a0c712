"""Who did what: one record for each write, and for each use of a key that is worth one.

A record that can't be written is counted and logged, and the request goes on. A disk that is full
would otherwise stop every delete, which is what frees it; and whoever can fill it would stop the
server. An operator who needs each record sends them to the log (`RAG_AUDIT=log`) and watches
`rag_audit_failures_total`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ragdock.ports import AuditLog, Metrics
from ragdock.types import Principal

__all__ = ["Audit", "Caller"]

QUIET_SECONDS: Final = 60.0
LOG_EVERY_SECONDS: Final = 60.0
MAX_REMEMBERED: Final = 10_000
MAX_DOCUMENTS: Final = 100

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asked, from where, in which request; a command has no request, and no key."""

    request_id: str
    principal: Principal | None
    address: str


@dataclass(slots=True)
class Audit:
    """Writes records; waits for the disk, so it belongs into a thread."""

    log: AuditLog
    metrics: Metrics
    clock: Callable[[], float] = time.time
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seen: OrderedDict[tuple[str, str, bool], float] = field(default_factory=OrderedDict)
    _told_at: float = -LOG_EVERY_SECONDS

    def write(
        self,
        action: str,
        caller: Caller,
        status: int,
        *,
        collection: str | None = None,
        documents: Sequence[str] = (),
        target: str | None = None,
    ) -> None:
        """Record a write, done or refused; `target` is what it was about, when no document."""
        self._write(
            {
                **self._head(action, caller, status),
                "collection": collection,
                "documents": list(documents[:MAX_DOCUMENTS]) or None,
                "n_documents": len(documents) if len(documents) > MAX_DOCUMENTS else None,
                "target": target,
            }
        )

    def is_new_use(self, caller: Caller, *, failed: bool) -> bool:
        """Whether a use of a key is the first in a minute, from that address; remembers it."""
        who = caller.principal.key_id if caller.principal else ""
        key, now = (who, caller.address, failed), self.clock()
        with self._lock:
            if now - self._seen.get(key, -QUIET_SECONDS) < QUIET_SECONDS:
                return False
            self._seen[key] = now
            self._seen.move_to_end(key)
            while len(self._seen) > MAX_REMEMBERED:
                self._seen.popitem(last=False)
        return True

    def use(self, caller: Caller, status: int) -> None:
        """Record that a key was used, or that a wrong one was tried."""
        self._write(self._head("keys.use" if status != 401 else "keys.refused", caller, status))

    def _head(self, action: str, caller: Caller, status: int) -> dict[str, object]:
        now = self.clock()
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        return {
            "time": f"{clock}.{int(now % 1 * 1000):03d}Z",
            "action": action,
            "status": status,
            "key_id": caller.principal.key_id if caller.principal else None,
            "key": caller.principal.name if caller.principal else None,
            "address": caller.address,
            "request_id": caller.request_id or None,
        }

    def _write(self, record: dict[str, object]) -> None:
        try:
            self.log.write({name: value for name, value in record.items() if value is not None})
        except OSError as exc:
            self.metrics.count("audit_failures")
            now = time.monotonic()
            with self._lock:
                if now - self._told_at < LOG_EVERY_SECONDS:
                    return
                self._told_at = now
            log.error(
                "audit records can't be written; requests go on without them",
                extra={"why": exc.strerror or type(exc).__name__},
            )
