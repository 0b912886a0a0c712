"""What the doctor asks the store: quick, read-only, beside a running server, as JSON.

Connections are opened read-only, so they migrate nothing, write nothing and take no lock that a
writer waits for; each question ends at its deadline, with what was found until then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import apsw

from ragdock.adapters.stores.sqlite.clock import SystemClock
from ragdock.adapters.stores.sqlite.connections import OLDEST_SAFE_SQLITE, fetch, translated
from ragdock.adapters.stores.sqlite.migrations import CATALOGUE
from ragdock.adapters.stores.sqlite.owners import Owners
from ragdock.errors import NotFoundError

__all__ = ["files_of", "survey"]

BUSY_MS: Final = 250
STEPS: Final = 2_000
MAX_COLLECTIONS: Final = 100
MAX_FILES: Final = 1_000
# Several -wal and -shm files of a large store are looked at in a millisecond.
_SUFFIXES: Final = (".db", ".db-wal", ".db-shm")

_COUNTS: Final = (
    "SELECT state, count(*) FROM ledger WHERE state IN ('pending', 'processing', 'failed') "
    "GROUP BY state"
)
_FAILED: Final = (
    "SELECT coalesce(error_code, ''), count(*) FROM ledger WHERE state = 'failed' GROUP BY 1 "
    "ORDER BY 2 DESC LIMIT 5"
)
# A pause is over when the steady clock says so; another machine start's clock says nothing.
_DUE: Final = (
    "SELECT count(*), min(max(updated_at, coalesce(retry_at, 0))) FROM ledger "
    "WHERE state = 'pending' AND (clock IS NULL OR clock != :clock OR not_before <= :now)"
)
_WAITING: Final = (
    "SELECT coalesce(error_code, ''), count(*), min(created_at) FROM ledger "
    "WHERE state = 'pending' AND error_code IS NOT NULL GROUP BY 1 ORDER BY 2 DESC LIMIT 5"
)
_LEASED: Final = (
    "SELECT count(*) FROM ledger WHERE state = 'processing' AND clock = :clock "
    "AND lease_until > :now"
)


def survey(directory: Path, *, seconds: float) -> dict[str, Any]:
    """The store in a directory; raises `NotFoundError` when there is none, `StoreError`.

    Times are seconds since the epoch. `collections` are those that were read within `seconds`.
    """
    catalogue = directory / "catalogue.db"
    if not catalogue.is_file():
        raise NotFoundError(f"There is no store in {directory} yet.", field="data_dir")
    deadline = time.monotonic() + seconds
    with translated(), _opened(catalogue, deadline) as connection:
        schema = int(fetch(connection, "PRAGMA user_version")[0][0])
        found: dict[str, Any] = {
            "sqlite": apsw.sqlite_lib_version(),
            "oldest_safe_sqlite": ".".join(map(str, OLDEST_SAFE_SQLITE)),
            "schema": schema,
            "known_schema": len(CATALOGUE),
            "workers": len(Owners(directory / "owners").alive()),
        }
        if schema == len(CATALOGUE):
            connection.execute("BEGIN")
            found |= _ledger(connection) | _keys(connection)
            rows = fetch(
                connection,
                "SELECT name, fingerprint, dim, coalesce(file, id) FROM collections "
                "ORDER BY name LIMIT ?",
                (MAX_COLLECTIONS,),
            )
            found["collections"] = _collections(directory, rows, deadline)
    return found


def _ledger(connection: apsw.Connection) -> dict[str, Any]:
    clock = SystemClock()
    times = {"clock": clock.id, "now": clock.steady()}
    counts = {"pending": 0, "processing": 0, "failed": 0} | dict(fetch(connection, _COUNTS))
    n_due, oldest_due_at = fetch(connection, _DUE, times)[0]
    newest = fetch(connection, "SELECT updated_at FROM ledger ORDER BY change DESC LIMIT 1")
    (size,) = fetch(
        connection,
        "SELECT coalesce(sum(size_bytes), 0) FROM ledger WHERE state IN ('pending', 'processing')",
    )[0]
    return {
        **counts,
        "failed_codes": dict(fetch(connection, _FAILED)),
        "due": n_due,
        "oldest_due_at": oldest_due_at,
        "retrying": [list(row) for row in fetch(connection, _WAITING)],
        "leased": fetch(connection, _LEASED, times)[0][0],
        "last_change_at": newest[0][0] if newest else None,
        "queue_bytes": size,
    }


def _keys(connection: apsw.Connection) -> dict[str, Any]:
    # A key for the metrics alone lets nobody in who wants to ask something.
    rows = fetch(
        connection,
        "SELECT expires_at FROM api_keys WHERE revoked_at IS NULL AND rights <> '[\"metrics\"]'",
    )
    expiries = [row[0] for row in rows]
    return {
        "keys": len(expiries),
        "keys_for_ever": expiries.count(None),
        "keys_expire_at": sorted(at for at in expiries if at is not None),
    }


def _collections(
    directory: Path, rows: Sequence[tuple[str, str, int, str]], deadline: float
) -> list[dict[str, Any]]:
    found = []
    for name, fingerprint, dim, file in rows:
        if time.monotonic() > deadline:
            break
        path = directory / "collections" / f"{file}.db"
        one: dict[str, Any] = {"name": name, "fingerprint": fingerprint, "dim": dim}
        try:
            with _opened(path, deadline) as connection:
                one["documents"] = fetch(connection, "SELECT n_documents FROM state")[0][0]
        except apsw.Error:
            one["documents"] = None  # `files_of` says what is wrong with it.
        found.append(one)
    return found


def files_of(directory: Path, *, seconds: float) -> list[dict[str, Any]]:
    """Each database file with its sizes, owner and what SQLite's quick check says of it.

    `result` is `ok`, `damaged`, `unreadable`, or `unread` when the time was over; small files come
    first. `said` is what SQLite says of a bad one. Raises `OSError`.
    """
    deadline = time.monotonic() + seconds
    paths = [directory / "catalogue.db", *sorted((directory / "collections").glob("*.db"))]
    sizes = [(path.stat().st_size, path) for path in paths[:MAX_FILES] if path.exists()]
    return [_file(path, size, directory, deadline) for size, path in sorted(sizes)]


def _file(path: Path, size_bytes: int, directory: Path, deadline: float) -> dict[str, Any]:
    wal = path.with_name(path.name + "-wal")
    found: dict[str, Any] = {
        "file": path.relative_to(directory).as_posix(),
        "size_bytes": size_bytes,
        "wal_bytes": wal.stat().st_size if wal.exists() else 0,
        "owners": sorted({p.stat().st_uid for p in _parts(path)}),
    }
    result, said = "unread", ""
    try:
        if time.monotonic() < deadline:
            with _opened(path, deadline) as connection:
                rows = [str(row[0]) for row in fetch(connection, "PRAGMA quick_check(3)")]
            result, said = ("ok", "") if rows == ["ok"] else ("damaged", "; ".join(rows))
    except (apsw.CorruptError, apsw.NotADBError) as exc:
        result, said = "damaged", str(exc)
    except (apsw.InterruptError, apsw.BusyError):
        result = "unread"
    except apsw.Error as exc:
        result, said = "unreadable", str(exc)
    return found | {"result": result, "said": said[:300]}


def _parts(path: Path) -> Iterator[Path]:
    for suffix in _SUFFIXES:
        part = path.with_suffix(suffix)
        if part.exists():
            yield part


@contextmanager
def _opened(path: Path, deadline: float) -> Iterator[apsw.Connection]:
    """A connection that can't write, whose statements end at the deadline."""
    wal = path.with_name(path.name + "-wal")
    # A reader of a WAL makes its index where it isn't there; where it can't, and nothing waits in
    # a WAL, the file alone is the whole truth (sqlite.org/wal.html#read_only_databases).
    alone = not os.access(path.parent, os.W_OK) and not (wal.exists() and wal.stat().st_size)
    uri = f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    with closing(apsw.Connection(uri, flags=flags)) as connection:
        connection.set_busy_timeout(BUSY_MS)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS)
        yield connection
