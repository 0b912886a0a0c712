"""Connections to one SQLite file: one writer, a pool of readers, foreign errors translated."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import apsw

from ragdock.core.patience import cut_short_by
from ragdock.errors import (
    ConfigurationError,
    GivenUpError,
    InputError,
    IntegrityError,
    StoreError,
    TooLargeError,
)

__all__ = ["Database", "Migration", "connect_raw", "fetch", "require_safe_sqlite", "translated"]

BUSY_TIMEOUT_MS: Final = 15_000
MAX_IDLE_READERS: Final = 8
CHECKPOINT_PAGES: Final = 1_000  # SQLite's own default: 4 MB of 4 KiB pages.
# Overlapping readers keep a passive checkpoint from ever starting the WAL anew, so it would grow
# without bound; from here on the writer waits for a moment without them.
TRUNCATE_PAGES: Final = 16_384
TRUNCATE_WAIT_MS: Final = 500
VACUUM_STEP_PAGES: Final = 1_024
OLDEST_SAFE_SQLITE: Final = (3, 51, 3)


def fetch(
    connection: apsw.Connection, sql: str, bindings: Sequence[Any] | dict[str, Any] = ()
) -> list[Any]:
    """All rows of one statement; columns are whatever the statement makes them."""
    return list(connection.execute(sql, bindings).fetchall())


def connect_raw(path: Path, *, write: bool = False) -> apsw.Connection:
    """A connection to an existing file, without migrating it; raises apsw's errors."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        for pragma in (
            f"query_only = {'off' if write else 'on'}",
            "foreign_keys = on",
            "trusted_schema = off",
        ):
            fetch(connection, f"PRAGMA {pragma}")
    except BaseException:
        connection.close(True)
        raise
    return connection


Migration = Callable[[apsw.Connection], None]


def require_safe_sqlite() -> None:
    """Refuse a SQLite whose WAL can corrupt when two connections checkpoint at the same instant.

    All versions from 3.7.0 to 3.51.2 have that bug (sqlite.org, release 3.51.3).
    """
    version = apsw.sqlite_lib_version()
    if tuple(int(part) for part in version.split(".")) < OLDEST_SAFE_SQLITE:
        raise ConfigurationError(
            f"SQLite {version} can corrupt a WAL database that several processes write; "
            "install apsw 3.54 or later, which brings its own SQLite."
        )


@contextmanager
def translated() -> Iterator[None]:
    """Turn every apsw error into one of ours."""
    try:
        yield
    except apsw.FullError as exc:
        raise StoreError(
            "The store's disk is full; free space and retry.",
            retry_after_seconds=30.0,
            code="disk_full",
        ) from exc
    except (apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError) as exc:
        raise StoreError(
            "The store's disk can't be read or written.", retry_after_seconds=5.0
        ) from exc
    except (apsw.CorruptError, apsw.NotADBError) as exc:
        raise IntegrityError("A database file of the store is damaged; restore a backup.") from exc
    except apsw.InterruptError as exc:
        raise GivenUpError("Nobody waits for this query any more.") from exc
    except (apsw.BusyError, apsw.LockedError) as exc:
        raise StoreError("The store is busy; retry shortly.", retry_after_seconds=1.0) from exc
    except apsw.TooBigError as exc:
        raise TooLargeError("SQLite keeps values of at most 1 GB; split the document.") from exc
    except apsw.Error as exc:
        raise StoreError("The store failed; the log has the cause.") from exc
    except UnicodeEncodeError as exc:
        raise InputError("The text holds half a surrogate pair, which UTF-8 can't say.") from exc


@contextmanager
def _interruptible(connection: apsw.Connection) -> Iterator[None]:
    """End the statement that runs when nobody waits for it any more."""
    ended = False
    lock = threading.Lock()

    def interrupt() -> None:
        # Called in another thread, so it must not meet the connection while it is closed.
        with lock:
            if not ended:
                connection.interrupt()

    with cut_short_by(interrupt):
        try:
            yield
        finally:
            with lock:
                ended = True


class Database:
    """One SQLite file in WAL mode with `synchronous=FULL`.

    Writes are serialised in this process by a lock and between processes by BEGIN IMMEDIATE.
    """

    def __init__(
        self,
        path: Path,
        migrations: Sequence[Migration],
        *,
        cache_mb: int = 8,
        create: bool = True,
    ) -> None:
        """Open the file and bring its schema up to date; without `create` it must exist."""
        self.path = path
        self._cache_kib = cache_mb * 1024
        self._lock = threading.Lock()
        self._idle: list[apsw.Connection] = []
        self._idle_lock = threading.Lock()
        self._closed = False
        self._wal_pages = 0
        # Called in each write transaction before its first statement; what it raises ends that.
        self.guard: Callable[[], None] | None = None
        self._truncate_from_pages = TRUNCATE_PAGES
        with translated():
            self._writer = self._open_writer(create=create)
            try:
                self._migrate(migrations)
            except BaseException:
                self._writer.close(True)
                raise

    def _open_writer(self, *, create: bool) -> apsw.Connection:
        # Two processes that turn the same new file to WAL meet in a lock that knows no waiting.
        deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
        while True:
            try:
                connection = self._connect(read_only=False, create=create)
            except apsw.BusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                connection.set_wal_hook(self._committed)
                return connection

    def _connect(self, *, read_only: bool, create: bool = False) -> apsw.Connection:
        # Only `create` may make a file: a reader of a file that was just removed must fail.
        flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
        connection = apsw.Connection(str(self.path), flags=flags)
        try:
            connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            if create and not fetch(connection, "PRAGMA page_count")[0][0]:
                # Takes effect before the first table only, and would wait for writers after it.
                fetch(connection, "PRAGMA auto_vacuum = incremental")
            # One pragma a call: execute() stops at the first statement that returns a row.
            for pragma in (
                "journal_mode = wal",
                "synchronous = full",
                "foreign_keys = on",
                "temp_store = memory",
                "mmap_size = 0",
                f"cache_size = -{self._cache_kib}",
                "journal_size_limit = 67108864",
                f"query_only = {'on' if read_only else 'off'}",
            ):
                fetch(connection, f"PRAGMA {pragma}")
        except BaseException:
            connection.close(True)
            raise
        return connection

    def _committed(self, _connection: apsw.Connection, _name: str, n_pages: int) -> int:
        self._wal_pages = n_pages
        return apsw.SQLITE_OK

    def _migrate(self, migrations: Sequence[Migration]) -> None:
        if self._version(self._writer) == len(migrations):
            return
        with self.write() as connection:
            version = self._version(connection)
            if version > len(migrations):
                raise ConfigurationError(
                    f"{self.path.name} was written by a newer ragdock (schema {version}); "
                    "run that version, or restore a backup."
                )
            for number, migration in enumerate(migrations[version:], start=version + 1):
                migration(connection)
                connection.execute(f"PRAGMA user_version = {number}")

    @staticmethod
    def _version(connection: apsw.Connection) -> int:
        return int(fetch(connection, "PRAGMA user_version")[0][0])

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[apsw.Connection]:
        """One transaction: committed (and synced) on exit, rolled back on an exception.

        One that isn't `durable` may be lost with the power, but never while a later one is kept:
        for work in steps that only its last step makes count.
        """
        with self._lock, translated():
            self._require_open()
            if not durable:
                fetch(self._writer, "PRAGMA synchronous = normal")
            try:
                yield from self._transaction()
            finally:
                if not durable:
                    fetch(self._writer, "PRAGMA synchronous = full")
            self._checkpoint()

    def _transaction(self) -> Iterator[apsw.Connection]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            if self.guard is not None:
                self.guard()
            yield self._writer
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    def _checkpoint(self) -> None:
        """Fold the WAL into the file now and then; a failure only postpones it."""
        if self._wal_pages < CHECKPOINT_PAGES:
            return
        truncate = self._wal_pages >= self._truncate_from_pages
        mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if truncate else apsw.SQLITE_CHECKPOINT_PASSIVE
        self._writer.set_busy_timeout(TRUNCATE_WAIT_MS)
        try:
            self._writer.wal_checkpoint(mode=mode)
            self._wal_pages, self._truncate_from_pages = 0, TRUNCATE_PAGES
        except apsw.BusyError:
            # A long reader: wait for it again only when the WAL has grown by a quarter.
            self._truncate_from_pages = self._wal_pages * 5 // 4
        except apsw.FullError:
            pass  # The commit is safe in the WAL; the next write will say that the disk is full.
        finally:
            self._writer.set_busy_timeout(BUSY_TIMEOUT_MS)

    def give_back_space(self) -> None:
        """Return free pages to the disk, a step a call, once they are a quarter of the file."""
        with self._lock, translated():
            self._require_open()
            free = fetch(self._writer, "PRAGMA freelist_count")[0][0]
            pages = fetch(self._writer, "PRAGMA page_count")[0][0]
            if free > VACUUM_STEP_PAGES and free * 4 > pages:
                fetch(self._writer, f"PRAGMA incremental_vacuum({VACUUM_STEP_PAGES})")

    @contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """A connection in a read transaction: every statement sees the same state."""
        with translated():
            connection = self._take()
            try:
                connection.execute("BEGIN")
                try:
                    with _interruptible(connection):
                        yield connection
                finally:
                    connection.execute("ROLLBACK")
            except BaseException:
                connection.close(True)
                raise
            self._give_back(connection)

    def query(self, sql: str, bindings: Sequence[Any] = ()) -> list[Any]:
        """All rows of one read statement."""
        with translated():
            connection = self._take()
            try:
                rows = fetch(connection, sql, tuple(bindings))
            except BaseException:
                connection.close(True)
                raise
            self._give_back(connection)
            return list(rows)

    def _take(self) -> apsw.Connection:
        with self._idle_lock:
            self._require_open()
            if self._idle:
                return self._idle.pop()
        return self._connect(read_only=True)

    def _give_back(self, connection: apsw.Connection) -> None:
        with self._idle_lock:
            if not self._closed and len(self._idle) < MAX_IDLE_READERS:
                self._idle.append(connection)
                return
        connection.close(True)

    def _require_open(self) -> None:
        if self._closed:
            raise StoreError("The store is closed.")

    def close(self) -> None:
        """Close every connection; the last process to do so folds the WAL into the file."""
        with self._lock, self._idle_lock:
            if self._closed:
                return
            self._closed = True
            for connection in (*self._idle, self._writer):
                connection.close(True)
            self._idle.clear()
