"""`SqliteKeys`: API keys, a table of the catalogue file.

Authentication reads one row by its primary key on a connection that never waits, in some 10
microseconds. So there is no cache of keys that a revocation by another process would have to reach.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import apsw

from ragdock.adapters.stores.sqlite.connections import Database, require_safe_sqlite, translated
from ragdock.adapters.stores.sqlite.migrations import CATALOGUE
from ragdock.adapters.stores.sqlite.writable import make_writable
from ragdock.errors import ConflictError, StoreError
from ragdock.types import ApiKey, Right

__all__ = ["SqliteKeys"]

_COLUMNS: Final = (
    "id, name, hash, rights, collections, rate_per_minute, created_at, expires_at, revoked_at, "
    "last_used_at"
)
_ONE: Final = f"SELECT {_COLUMNS} FROM api_keys WHERE id = ?"


class SqliteKeys:
    """`KeyStore` in the catalogue of the data directory."""

    def __init__(self, directory: Path) -> None:
        """Open or create; raises `ConfigurationError` when the directory can't be written."""
        require_safe_sqlite()
        make_writable(directory, directory)
        self._path = directory / "catalogue.db"
        self._catalogue = Database(self._path, CATALOGUE, cache_mb=1)
        self._lock = threading.Lock()
        self._peeking: apsw.Connection | None = None
        self._closed = False

    def add(self, key: ApiKey) -> None:
        """Keep a key."""
        try:
            with self._catalogue.write() as connection:
                connection.execute(
                    f"INSERT INTO api_keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        key.id,
                        key.name,
                        key.hash,
                        json.dumps(sorted(key.rights)),
                        None if key.collections is None else json.dumps(sorted(key.collections)),
                        key.rate_per_minute,
                        key.created_at,
                        key.expires_at,
                        key.revoked_at,
                        key.last_used_at,
                    ),
                )
        except StoreError as exc:
            if isinstance(exc.__cause__, apsw.ConstraintError):
                raise ConflictError(
                    f"There is a key named {key.name!r} already; revoke it, or take another name.",
                    field="name",
                ) from exc
            raise

    def all(self) -> tuple[ApiKey, ...]:
        """All keys, oldest first."""
        rows = self._catalogue.query(f"SELECT {_COLUMNS} FROM api_keys ORDER BY created_at, id")
        return tuple(map(_key, rows))

    def revoke(self, key_id: str, at: float) -> None:
        """From now on it opens nothing."""
        with self._catalogue.write() as connection:
            connection.execute(
                "UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?",
                (at, key_id),
            )

    def touch(self, used: Mapping[str, float]) -> None:
        """Note when keys were last used."""
        with self._catalogue.write() as connection:
            connection.executemany(
                "UPDATE api_keys SET last_used_at = max(coalesce(last_used_at, 0), ?) WHERE id = ?",
                [(at, key_id) for key_id, at in used.items()],
            )

    def peek(self, key_id: str) -> ApiKey | None:
        """One key as of now, without waiting."""
        rows = self._peek(_ONE, (key_id,))
        return _key(rows[0]) if rows else None

    def peek_count(self) -> int:
        """How many keys there are."""
        return int(self._peek("SELECT count(*) FROM api_keys", ())[0][0])

    def _peek(self, sql: str, bindings: tuple[str, ...]) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                if self._peeking is not None:
                    return list(self._peeking.execute(sql, bindings))
            except apsw.Error:
                # A connection that failed once isn't trusted again.
                self._forget()
            # Only here, because it costs as much as the look itself.
            with translated():
                if self._closed:
                    raise StoreError("The store is closed.")
                self._peeking = _connect(self._path)
                return list(self._peeking.execute(sql, bindings))

    def _forget(self) -> None:
        if self._peeking is not None:
            with contextlib.suppress(apsw.Error):
                self._peeking.close(True)
            self._peeking = None

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            self._closed = True
            self._forget()
        self._catalogue.close()


def _connect(path: Path) -> apsw.Connection:
    # No busy timeout: the event loop must not wait for a lock, and readers of a WAL never need to.
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.execute("PRAGMA query_only = on").fetchall()
    return connection


@lru_cache(maxsize=4096)
def _key(row: tuple[Any, ...]) -> ApiKey:
    key_id, name, digest, rights, collections, *rest = row
    return ApiKey(
        key_id,
        name,
        digest,
        frozenset(map(Right, json.loads(rights))),
        None if collections is None else frozenset(json.loads(collections)),
        *rest,
    )
