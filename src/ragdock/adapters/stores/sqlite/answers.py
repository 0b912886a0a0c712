"""`SqliteAnswers`: the first answers to writes, by idempotency key; a table of the catalogue."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Final

from ragdock.adapters.stores.sqlite.clock import Clock, SystemClock
from ragdock.adapters.stores.sqlite.connections import Database, fetch
from ragdock.adapters.stores.sqlite.migrations import CATALOGUE
from ragdock.adapters.stores.sqlite.owners import Owners
from ragdock.errors import ConflictError
from ragdock.types import KeptAnswer

__all__ = ["SqliteAnswers"]

KEEP_SECONDS: Final = 86_400.0
EXPIRE_EVERY_SECONDS: Final = 60.0


class SqliteAnswers:
    """`Answers` in the catalogue of the data directory.

    Who works on a request holds a lock, as workers do, so a request that a dead process left is
    known to be nobody's.
    """

    def __init__(self, directory: Path, *, clock: Clock | None = None) -> None:
        """Open or create the catalogue."""
        directory.mkdir(parents=True, exist_ok=True)
        self._catalogue = Database(directory / "catalogue.db", CATALOGUE, cache_mb=1)
        self._owners = Owners(directory / "answering")
        self._owner = f"{os.getpid()}-{uuid.uuid4().hex}"
        self._clock = clock or SystemClock()
        self._expired_at: float | None = None

    def close(self) -> None:
        """Let go of what is being worked on."""
        self._owners.close()
        self._catalogue.close()

    def begin(self, scope: str, key: str) -> KeptAnswer | None:
        """The first answer, or None: the request is the caller's to work on from now."""
        self._owners.hold(self._owner)
        self._expire()
        # Lost with the power, it is begun anew, and the write itself then finds its work done.
        with self._catalogue.write(durable=False) as connection:
            rows = fetch(
                connection,
                "SELECT request, status, headers, body, owner FROM idempotency "
                "WHERE scope = ? AND key = ?",
                (scope, key),
            )
            if rows and rows[0][1] is not None:
                request, status, headers, body, _ = rows[0]
                pairs = tuple((name, value) for name, value in json.loads(headers))
                return KeptAnswer(request, status, pairs, bytes(body))
            if rows and not self._owners.is_dead(rows[0][4]):
                raise ConflictError(
                    "The first request with this Idempotency-Key is still being worked on.",
                    field="header.idempotency-key",
                    code="idempotency_running",
                )
            connection.execute(
                "INSERT OR REPLACE INTO idempotency "
                "(scope, key, request, owner, clock, since, created_at) "
                "VALUES (?, ?, '', ?, ?, ?, ?)",
                (
                    scope,
                    key,
                    self._owner,
                    self._clock.id,
                    self._clock.steady(),
                    self._clock.wall(),
                ),
            )
            return None

    def finish(self, scope: str, key: str, answer: KeptAnswer) -> None:
        """Keep the answer to a request that was begun here."""
        with self._catalogue.write() as connection:
            connection.execute(
                "UPDATE idempotency SET request = ?, status = ?, headers = ?, body = ?, "
                "owner = NULL WHERE scope = ? AND key = ? AND owner = ?",
                (
                    answer.request,
                    answer.status,
                    json.dumps(answer.headers),
                    answer.body,
                    scope,
                    key,
                    self._owner,
                ),
            )

    def forget(self, scope: str, key: str) -> None:
        """Have a request that was begun here begin anew next time."""
        with self._catalogue.write(durable=False) as connection:
            connection.execute(
                "DELETE FROM idempotency WHERE scope = ? AND key = ? AND owner = ?",
                (scope, key, self._owner),
            )

    def _expire(self) -> None:
        now = self._clock.steady()
        if self._expired_at is not None and now - self._expired_at < EXPIRE_EVERY_SECONDS:
            return
        self._expired_at = now
        # By the clock that can't be stepped where that was the same; else by the wall's.
        where = "(clock IS ? AND since < ?) OR (clock IS NOT ? AND created_at < ?)"
        bindings = (
            self._clock.id,
            now - KEEP_SECONDS,
            self._clock.id,
            self._clock.wall() - KEEP_SECONDS,
        )
        if self._catalogue.query(f"SELECT 1 FROM idempotency WHERE {where} LIMIT 1", bindings):
            with self._catalogue.write(durable=False) as connection:
                connection.execute(f"DELETE FROM idempotency WHERE {where}", bindings)
