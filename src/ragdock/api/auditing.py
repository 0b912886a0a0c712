"""Which requests are recorded, and what of them. A route that writes need not think of it.

Whatever isn't known to only read is recorded, so a route that is added later can't be forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fastapi import Request
from starlette.types import Scope

from ragdock.api.gate import Gate
from ragdock.errors import UnavailableError
from ragdock.logs import request_id
from ragdock.ports import Metrics
from ragdock.services.audit import Audit, Caller
from ragdock.types import Principal

__all__ = ["Auditor", "about"]

ANONYMOUS: Final = "anonymous"
_READING_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_READING_PATHS: Final = frozenset({"/v1/ask", "/v1/search"})
_VERBS: Final = {"POST": "create", "PUT": "replace", "PATCH": "change", "DELETE": "delete"}


def about(
    request: Request, *, collection: str | None = None, documents: Sequence[str] = ()
) -> None:
    """Say what a write is about, where the path alone doesn't tell."""
    request.scope["audit_about"] = (collection, tuple(documents))


class Auditor:
    """Records requests once their status is known, before their answer is sent."""

    def __init__(self, audit: Audit, threads: Gate, metrics: Metrics) -> None:
        self._audit = audit
        self._threads = threads
        self._metrics = metrics

    async def answered(self, scope: Scope, address: str, status: int) -> None:
        """Record what is to be recorded; the request goes on whatever becomes of it."""
        try:
            await self._record(scope, address, status)
        except UnavailableError:  # More records wait than the disk takes.
            self._metrics.count("audit_failures")

    async def _record(self, scope: Scope, address: str, status: int) -> None:
        """Record what is to be recorded of a request. A write is recorded before it's answered."""
        writes = scope["method"] not in _READING_METHODS and scope["path"] not in _READING_PATHS
        principal = scope.get("principal")
        known = principal if isinstance(principal, Principal) else None
        with_key = known is not None and known.key_id != ANONYMOUS
        if not (writes or with_key or status == 401):
            return
        caller = Caller(request_id.get() or "", known, address)
        refused = status == 401 and scope.get("token") is not None
        if (refused or with_key) and self._audit.is_new_use(caller, failed=refused):
            await self._threads.run(self._audit.use, caller, status)
        # What was refused without a key or at a limit has changed nothing, and anybody can do it.
        if writes and "route" in scope and status not in (401, 429):
            collection, documents = scope.get("audit_about", (None, ()))
            await self._threads.run(
                self._audit.write,
                _action(scope),
                caller,
                status,
                collection=collection or _collection(scope),
                documents=documents or _documents(scope),
                target=_target(scope),
            )


def _action(scope: Scope) -> str:
    """`documents.replace`, `jobs.retry`, ...: from the route, not from what the caller wrote."""
    parts = [part for part in scope["route"].path.split("/") if part and part != "v1"]
    last = parts[-1]
    verb = _VERBS.get(scope["method"], scope["method"].lower())
    return f"{parts[0]}.{verb if last.startswith('{') or len(parts) == 1 else last}"


def _collection(scope: Scope) -> str | None:
    path = scope.get("path_params", {})
    if scope["route"].path.startswith("/v1/collections"):
        return str(path["name"]) if "name" in path else None
    query = Request(scope).query_params.get("collection")
    if query is None and scope["route"].path.startswith("/v1/documents"):
        return "default"
    return query


def _documents(scope: Scope) -> tuple[str, ...]:
    path = scope.get("path_params", {})
    return (str(path["document_id"]),) if "document_id" in path else ()


def _target(scope: Scope) -> str | None:
    path = scope.get("path_params", {})
    known = ("name", "document_id")
    return next((str(value) for name, value in path.items() if name not in known), None)
