"""Copies of the files that fit together while others write, and their way back.

The catalogue is copied first, and each collection's file after it, every one as of one instant. A
collection is thus never behind the catalogue: what the ledger calls done is in it. It may be ahead,
and that heals as after a crash: a write that the catalogue's copy still has open is done again to
the same effect, because the file refuses versions that it has seen; and new writes are numbered
above all that the file has seen (`raise_floor`). An upload that is a file of its own and went away
meanwhile belonged to a job that has ended since: how it ended goes with the copy.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import apsw

from ragdock.adapters.stores.sqlite import migrations
from ragdock.adapters.stores.sqlite.connections import (
    Database,
    connect_raw,
    fetch,
    require_safe_sqlite,
    translated,
)
from ragdock.adapters.stores.sqlite.residence import (
    LOCK,
    MARK,
    exclusive,
    half_done,
    sync_directory,
)
from ragdock.adapters.stores.sqlite.verify import verify
from ragdock.errors import ConflictError, IntegrityError, NotFoundError, StoreError
from ragdock.ports import Member, Verdict

__all__ = ["Copy", "SqliteKeeper"]

STEP_PAGES: Final = 2_048
PIECE_BYTES: Final = 1 << 20
GONE_SECONDS: Final = 5.0
CATALOGUE: Final = "catalogue.db"
# What of the data directory is the store's own; the audit log is the operator's.
OWN: Final = (
    f"{CATALOGUE}-wal",
    f"{CATALOGUE}-shm",
    "collections",
    "contents",
    "owners",
    "readers",
)
_MEMBER: Final = re.compile(
    r"catalogue\.db|collections/[0-9a-f]{32}\.db|contents/[A-Za-z0-9_][A-Za-z0-9_.-]{0,120}"
)


class SqliteKeeper:
    """`Keeper` of a data directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def copy(self, scratch: Path) -> Copy:
        """The files as of now."""
        return Copy(self._directory, scratch)

    def is_member(self, name: str) -> bool:
        """Whether a backup of this store may hold a file of that name."""
        return _MEMBER.fullmatch(name) is not None

    def adopt(self, *, force: bool) -> AbstractContextManager[tuple[Path, list[Path]]]:
        """Take the directory over."""
        return _adopt(self._directory, force=force)

    def settle(self, staging: Path, notes: Mapping[str, Any]) -> None:
        """Make the members one store."""
        _settle(staging, notes)

    def verify(self, *, quick: bool, progress: Callable[[str, int, int], None]) -> Verdict:
        """Check every file."""
        return verify(self._directory, quick=quick, progress=progress)


class Copy:
    """The files of a data directory as of now, one after the other.

    `scratch` is a directory for a copy of one file at a time; it is on a disk that has room for it.
    """

    def __init__(self, directory: Path, scratch: Path) -> None:
        """Raises `NotFoundError` when there is no store."""
        require_safe_sqlite()
        self._directory, self._scratch = directory, scratch
        if not (directory / CATALOGUE).is_file():
            raise NotFoundError(f"There is no store in {directory}.", field="data_dir")
        self._dropped: list[str] = []
        self._moved: dict[str, list[Any]] = {}
        self._settled: dict[str, list[Any] | None] = {}
        self._collections: list[dict[str, Any]] = []
        self._ledger: dict[str, int] = {}

    @property
    def size_bytes(self) -> int:
        """About how much it will be."""
        files = [self._directory / CATALOGUE]
        for folder in ("collections", "contents"):
            files += (self._directory / folder).glob("*")
        return sum(_size(path) for path in files if path.suffix not in ("-shm", ".shared"))

    def members(self) -> Iterator[Member]:
        """Every file; each is to be read before the next is asked for."""
        with translated():
            copied = self._copied(self._directory / CATALOGUE)
            with closing(connect_raw(copied)) as catalogue:
                uploads = _uploads(catalogue)
                self._ledger = dict(
                    fetch(catalogue, "SELECT state, count(*) FROM ledger GROUP BY state")
                )
                rows = fetch(catalogue, _placed(catalogue))
            yield self._streamed(CATALOGUE, copied)
            for job_id, name in uploads:
                yield from self._upload(job_id, name)
            for row in sorted(rows, key=lambda row: str(row[1])):
                yield from self._collection(*row)

    def notes(self) -> dict[str, Any]:
        """What `adopt` needs, and counts; complete after the last member."""
        return {
            "store": "sqlite",
            "dropped": self._dropped,
            "moved": self._moved,
            "settled": self._settled,
            "ledger": self._ledger,
            "collections": self._collections,
        }

    def _upload(self, job_id: int, name: str) -> Iterator[Member]:
        member = f"contents/{name}"
        try:
            file = (self._directory / "contents" / name).open("rb")
        except FileNotFoundError:
            self._settled[str(job_id)] = self._end_of(job_id)
            return
        with file:
            # A file that is removed from now on can still be read.
            yield Member(member, os.fstat(file.fileno()).st_size, _pieces(file))

    def _end_of(self, job_id: int) -> list[Any] | None:
        """How a job ended whose upload is gone; None when its row is gone too."""
        deadline = time.monotonic() + GONE_SECONDS
        with closing(connect_raw(self._directory / CATALOGUE)) as catalogue:
            while fetch(catalogue, "SELECT 1 FROM contents WHERE job_id = ?", (job_id,)):
                if time.monotonic() > deadline:
                    raise IntegrityError(
                        f"The upload of job {job_id} is missing; run `ragdock verify`."
                    )
                time.sleep(0.02)
            rows = fetch(catalogue, f"SELECT {_END} FROM ledger WHERE id = ?", (job_id,))
        return list(rows[0]) if rows else None

    def _collection(self, *row: Any) -> Iterator[Member]:
        place = tuple(row)
        while True:
            # The collection may have been dropped, or have got a new index, since the catalogue
            # was copied; a file that is being removed can lack what its WAL held.
            now = self._place(place[0])
            if now is None:
                self._dropped.append(place[0])
                return
            try:
                copied = self._copied(self._directory / "collections" / f"{now[4]}.db")
            except apsw.Error:
                if self._place(place[0]) == now:
                    raise
                continue
            if self._place(place[0]) == now:
                break
            copied.unlink()
        collection_id, name, fingerprint, dim, file = now
        if now != place:
            self._moved[collection_id] = [file, fingerprint, dim]
        with closing(connect_raw(copied)) as connection:
            state = fetch(connection, "SELECT generation, n_documents, n_chunks FROM state")[0]
        self._collections.append(
            {
                "id": collection_id,
                "name": name,
                "fingerprint": fingerprint,
                "dim": dim,
                "generation": state[0],
                "n_documents": state[1],
                "n_chunks": state[2],
            }
        )
        yield self._streamed(f"collections/{file}.db", copied)

    def _place(self, collection_id: str) -> tuple[Any, ...] | None:
        """The collection as the catalogue has it now."""
        with closing(connect_raw(self._directory / CATALOGUE)) as catalogue:
            rows = fetch(catalogue, f"{_placed(catalogue)} WHERE id = ?", (collection_id,))
        return tuple(rows[0]) if rows else None

    def _copied(self, path: Path) -> Path:
        """A copy as of one instant, made in steps: an open read transaction stops no writer."""
        target = self._scratch / path.name
        with closing(connect_raw(path)) as source, closing(apsw.Connection(str(target))) as copy:
            # What isn't read back from a crash needs no journal and no sync.
            fetch(copy, "PRAGMA journal_mode = off")
            fetch(copy, "PRAGMA synchronous = off")
            source.execute("BEGIN")
            # The transaction begins with its first read, and holds the backup to that state:
            # without it SQLite would start again after each write of another process.
            fetch(source, "SELECT count(*) FROM sqlite_schema")
            with copy.backup("main", source, "main") as backup:
                while not backup.done:
                    backup.step(STEP_PAGES)
            source.execute("ROLLBACK")
        return target

    def _streamed(self, name: str, copied: Path) -> Member:
        def pieces() -> Iterator[bytes]:
            with copied.open("rb") as file:
                yield from _pieces(file)
            copied.unlink()

        return Member(name, _size(copied), pieces())


_END: Final = "state, outcome, error_code, error, updated_at"


def _placed(catalogue: apsw.Connection) -> str:
    """The query for collections and their current files."""
    columns = {row[1] for row in fetch(catalogue, "PRAGMA table_info(collections)")}
    file = "coalesce(file, id)" if "file" in columns else "id"
    return f"SELECT id, name, fingerprint, dim, {file} FROM collections"


def _uploads(catalogue: apsw.Connection) -> list[tuple[int, str]]:
    columns = {row[1] for row in fetch(catalogue, "PRAGMA table_info(contents)")}
    if "file" not in columns:  # Written before uploads could be files.
        return []
    return fetch(catalogue, "SELECT job_id, file FROM contents WHERE file IS NOT NULL")


def _pieces(file: Any) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


@contextmanager
def _adopt(directory: Path, *, force: bool) -> Iterator[tuple[Path, list[Path]]]:
    """Take a directory over: yields a place for the members, and where the old files went.

    What is in that place when the block ends well becomes the store; `settle` it before. Raises
    `ConflictError` while a server runs there, or when the directory isn't empty and not `force`.
    """
    require_safe_sqlite()
    aside: list[Path] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with exclusive(directory):
            _require_empty(directory, force=force)
            for left in directory.glob(".incoming-*"):
                shutil.rmtree(left)  # What a killed restore left.
            staging = directory / f".incoming-{uuid.uuid4().hex[:8]}"
            staging.mkdir(mode=0o700)
            try:
                yield staging, aside
                with half_done(directory):
                    aside += _move_aside(directory)
                    for name in ("collections", "contents", CATALOGUE):
                        if (staging / name).exists():
                            (staging / name).rename(directory / name)
                    sync_directory(directory)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as exc:
        raise StoreError(f"{directory} can't be written: {os.strerror(exc.errno or 0)}.") from exc


def _require_empty(directory: Path, *, force: bool) -> None:
    names = {path.name for path in directory.iterdir()}
    if names <= {LOCK, "lost+found"} or force or MARK in names:
        return
    raise ConflictError(
        f"{directory} isn't empty; --force moves the store that is there aside.", code="not_empty"
    )


def _move_aside(directory: Path) -> list[Path]:
    present = [name for name in (*OWN, CATALOGUE) if (directory / name).exists()]
    if not present:
        return []
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    aside = directory / f".replaced-{stamp}-{uuid.uuid4().hex[:4]}"
    aside.mkdir(mode=0o700)
    for name in present:
        (directory / name).rename(aside / name)
    sync_directory(aside)
    return [aside]


def _settle(staging: Path, notes: Mapping[str, Any]) -> None:
    """Make the members one store: what went away meanwhile goes, each state gets a new stamp.

    The stamp keeps a cache that saw another history from answering for this one. Raises
    `IntegrityError` when a collection has no file.
    """
    # An older release's files are brought up to date, a newer one's are refused.
    Database(staging / CATALOGUE, migrations.CATALOGUE, create=False).close()
    with translated():
        with closing(connect_raw(staging / CATALOGUE, write=True)) as catalogue:
            fetch(catalogue, "BEGIN IMMEDIATE")
            for collection_id in notes.get("dropped", ()):
                fetch(catalogue, "DELETE FROM collections WHERE id = ?", (collection_id,))
            for collection_id, place in dict(notes.get("moved", {})).items():
                fetch(
                    catalogue,
                    "UPDATE collections SET file = ?, fingerprint = ?, dim = ? WHERE id = ?",
                    (*place, collection_id),
                )
            # Former indexes and unfinished ones aren't in a backup.
            fetch(catalogue, "DELETE FROM indexes")
            for job_id, end in dict(notes.get("settled", {})).items():
                _settle_job(catalogue, int(job_id), end)
            files = [row[4] for row in fetch(catalogue, _placed(catalogue))]
            fetch(catalogue, "COMMIT")
        for file in files:
            path = staging / "collections" / f"{file}.db"
            if not path.is_file():
                raise IntegrityError(f"The backup lacks the collection file {file}.")
            Database(path, migrations.COLLECTION, create=False).close()
            with closing(connect_raw(path, write=True)) as connection:
                fetch(connection, "UPDATE state SET stamp = lower(hex(randomblob(8)))")
    for path in (staging, *staging.rglob("*")):
        if path.is_dir():
            sync_directory(path)
        else:
            with path.open("rb") as opened:
                os.fsync(opened.fileno())


def _settle_job(catalogue: apsw.Connection, job_id: int, end: list[Any] | None) -> None:
    if end is None:
        fetch(catalogue, "DELETE FROM ledger WHERE id = ?", (job_id,))
        return
    names = _END.split(", ")
    fetch(
        catalogue,
        f"UPDATE ledger SET {', '.join(f'{name} = ?' for name in names)}, owner = NULL "
        "WHERE id = ?",
        (*end, job_id),
    )
    fetch(catalogue, "DELETE FROM contents WHERE job_id = ?", (job_id,))
