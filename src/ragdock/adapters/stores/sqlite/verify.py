"""Whether the files hold what they should: within each, between them, and against the ledger.

Every file is looked at in one read transaction, so a server may go on writing. The catalogue is
read before the collections: what it calls done must be in them, and what they have beyond it is
newer.
"""

from __future__ import annotations

import fcntl
import re
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

import apsw
import numpy as np
from numpy.typing import NDArray

from ragdock.adapters.stores.sqlite.connections import connect_raw, fetch, translated
from ragdock.adapters.stores.sqlite.migrations import CATALOGUE, COLLECTION
from ragdock.errors import ConfigurationError, IntegrityError, NotFoundError
from ragdock.ports import Finding, Verdict

__all__ = ["verify"]

# float16 rounds each of a unit row's numbers by 2**-11 of itself, so its norm by no more.
NORM_TOLERANCE: Final = 2e-3
N_EXAMPLES: Final = 3
# What a server is just making or removing is none of our findings.
FRESH_SECONDS: Final = 60.0
BATCH: Final = 512

_RESTORE: Final = "Restore a backup: `ragdock restore FILE --force`."
_RESTART: Final = "Restart the server, which removes it."
Progress: TypeAlias = Callable[[str, int, int], None]
_Collection: TypeAlias = tuple[str, str, int, str]
"""Its id, its name, the length of its vectors, its file."""


def verify(directory: Path, *, quick: bool, progress: Progress) -> Verdict:
    """Check the store in the directory; raises `NotFoundError` when there is none."""
    if not (directory / "catalogue.db").is_file():
        raise NotFoundError(f"There is no store in {directory}.", field="data_dir")
    return _Check(directory, progress, quick=quick).run()


class _Check:
    def __init__(self, directory: Path, progress: Progress, *, quick: bool) -> None:
        self._directory = directory
        self._progress = progress
        self._quick = quick
        self._findings: list[Finding] = []
        self._checked = {"collections": 0, "documents": 0, "chunks": 0, "jobs": 0, "uploads": 0}
        self._n_documents = 0

    def run(self) -> Verdict:
        collections, done = self._catalogue()
        for collection in collections:
            try:
                with translated():
                    self._collection(collection, done.get(collection[0], {}))
            except IntegrityError:
                self._find("damaged", _file(collection), "SQLite can't read it.", _RESTORE)
        return Verdict(tuple(self._findings), self._checked)

    def _find(self, check: str, where: str, what: str, remedy: str) -> None:
        self._findings.append(Finding(check, where, what, remedy))

    def _rows(
        self, connection: apsw.Connection, check: str, where: str, what: str, remedy: str, sql: str
    ) -> None:
        """One finding for all rows of a query, which are to be none; it names the first ones."""
        rows = fetch(connection, f"SELECT count(*) FROM ({sql})")
        if rows[0][0]:
            some = fetch(connection, f"{sql} LIMIT {N_EXAMPLES}")
            examples = ", ".join(" ".join(map(str, row)) for row in some)
            self._find(check, where, f"{rows[0][0]} {what}, such as {examples}", remedy)

    # The catalogue

    def _catalogue(self) -> tuple[list[_Collection], dict[str, dict[str, int]]]:
        where = "catalogue.db"
        with translated(), closing(connect_raw(self._directory / where)) as connection:
            connection.execute("BEGIN")
            _require_version(connection, where, len(CATALOGUE))
            self._pages(connection, where)
            self._rows(
                connection,
                "orphan_row",
                where,
                "rows point to rows that are gone",
                _RESTORE,
                'SELECT "table", rowid, parent FROM pragma_foreign_key_check',
            )
            collections = fetch(connection, _COLLECTIONS)
            self._checked["jobs"] = fetch(connection, "SELECT count(*) FROM ledger")[0][0]
            self._uploads(connection)
            others = fetch(connection, "SELECT file FROM indexes")
            self._strays({row[3] for row in collections} | {row[0] for row in others})
            done: dict[str, dict[str, int]] = {}
            for collection_id, document_id, version in connection.execute(_DONE):
                done.setdefault(collection_id, {})[document_id] = version
        return collections, done

    def _pages(self, connection: apsw.Connection, where: str) -> None:
        """SQLite's own check, which includes the full-text index's."""
        pragma = "quick_check" if self._quick else "integrity_check"
        said = [row[0] for row in fetch(connection, f"PRAGMA {pragma}(10)")]
        if said != ["ok"]:
            self._find("damaged", where, "; ".join(said[:N_EXAMPLES]), _RESTORE)

    def _uploads(self, connection: apsw.Connection) -> None:
        self._rows(
            connection,
            "upload_missing",
            "catalogue.db",
            "unfinished jobs have no upload",
            "Send those documents again.",
            "SELECT l.id, l.document_id FROM ledger l WHERE l.kind = 'index' AND l.state IN "
            "('pending', 'processing') AND NOT EXISTS "
            "(SELECT 1 FROM contents c WHERE c.job_id = l.id)",
        )
        self._checked["uploads"] = fetch(connection, "SELECT count(*) FROM contents")[0][0]
        rows = fetch(connection, "SELECT job_id, file FROM contents WHERE file IS NOT NULL")
        for job_id, name in rows:
            if not (self._directory / "contents" / name).exists() and self._still(job_id):
                self._find(
                    "upload_missing",
                    f"contents/{name}",
                    f"The upload of job {job_id} is gone.",
                    "Send that document again.",
                )
        names = {name for _, name in rows}
        for path in _old_files(self._directory / "contents"):
            if path.name not in names:
                self._find("stray_file", f"contents/{path.name}", "No job owns it.", _RESTART)

    def _still(self, job_id: int) -> bool:
        """Whether the job has its upload by now (the transaction may see an earlier state)."""
        with closing(connect_raw(self._directory / "catalogue.db")) as connection:
            return bool(fetch(connection, "SELECT 1 FROM contents WHERE job_id = ?", (job_id,)))

    def _strays(self, known: set[str]) -> None:
        for path in _old_files(self._directory / "collections"):
            name = path.name.split(".")[0]
            if re.fullmatch("[0-9a-f]{32}", name) and name not in known:
                where = f"collections/{path.name}"
                self._find("stray_file", where, "No collection owns it.", _RESTART)

    # A collection

    def _collection(self, collection: _Collection, done: dict[str, int]) -> None:
        where = _file(collection)
        path = self._directory / where
        if not path.is_file():
            if self._exists(collection):
                self._find("file_missing", where, "The collection's file is gone.", _RESTORE)
            return
        with closing(connect_raw(path)) as connection:
            connection.execute("BEGIN")
            _require_version(connection, where, len(COLLECTION))
            self._pages(connection, where)
            self._state(connection, collection)
            self._whole(connection, collection)
            self._lost(connection, collection, done)
            if not self._quick:
                self._contents(connection, collection)
        self._checked["collections"] += 1

    def _exists(self, collection: _Collection) -> bool:
        """Whether the file is the collection's by now."""
        with closing(connect_raw(self._directory / "catalogue.db")) as connection:
            return collection in fetch(connection, _COLLECTIONS)

    def _state(self, connection: apsw.Connection, collection: _Collection) -> None:
        (said,) = fetch(connection, "SELECT n_documents, n_chunks FROM state")
        (real,) = fetch(connection, _COUNTS)
        self._n_documents = real[0]
        self._checked["documents"] += real[0]
        self._checked["chunks"] += real[1]
        if tuple(said) != tuple(real):
            what = f"`state` counts {said[0]} documents and {said[1]} chunks, but there are "
            self._find(
                "counts", _file(collection), f"{what}{real[0]} and {real[1]}.", _rebuild(collection)
            )

    def _whole(self, connection: apsw.Connection, collection: _Collection) -> None:
        for check, what, sql in _ORPHANS:
            self._rows(connection, check, _file(collection), what, _rebuild(collection), sql)

    def _lost(
        self, connection: apsw.Connection, collection: _Collection, done: dict[str, int]
    ) -> None:
        """Documents that the ledger calls indexed and that are not there."""
        versions: dict[str, int] = dict(fetch(connection, _VERSIONS))
        lost = [key for key, version in done.items() if versions.get(key, 0) < version]
        if lost:
            self._find(
                "document_lost",
                _file(collection),
                f"{len(lost)} documents are indexed by the ledger and not there, such as "
                f"{', '.join(lost[:N_EXAMPLES])}",
                "Restore a backup, or send those documents again.",
            )

    def _contents(self, connection: apsw.Connection, collection: _Collection) -> None:
        wrong_spans: list[str] = []
        wrong_vectors: list[str] = []
        n_spans = n_vectors = 0
        for n_done, (document_id, sound) in enumerate(_documents(connection)):
            if n_done % 64 == 0:
                self._progress(collection[1], n_done, self._n_documents)
            n_spans += not sound
            if not sound and len(wrong_spans) < N_EXAMPLES:
                wrong_spans.append(document_id)
        for chunk_ids in _wrong_vectors(connection, collection[2]):
            n_vectors += len(chunk_ids)
            wrong_vectors += map(str, chunk_ids[: N_EXAMPLES - len(wrong_vectors)])
        self._progress(collection[1], self._n_documents, self._n_documents)
        where, remedy = _file(collection), _rebuild(collection)
        if n_spans:
            what = f"{n_spans} documents have chunks that aren't their text, such as "
            self._find("spans", where, what + ", ".join(wrong_spans), remedy)
        if n_vectors:
            what = f"{n_vectors} chunks have vectors that aren't finite unit rows, or whose two "
            what += f"forms disagree, such as {', '.join(wrong_vectors)}"
            self._find("vectors", where, what, remedy)


_COLLECTIONS: Final = "SELECT id, name, dim, coalesce(file, id) FROM collections ORDER BY name"
_DONE: Final = (
    "SELECT l.collection_id, l.document_id, max(l.id) FROM ledger l WHERE l.kind = 'index' "
    "AND l.state = 'done' AND l.outcome = 'indexed' GROUP BY l.collection_id, l.document_id"
)
_COUNTS: Final = "SELECT count(*), coalesce(sum(n_chunks), 0) FROM documents"
_VERSIONS: Final = (
    "SELECT id, max(version) FROM (SELECT id, version FROM documents "
    "UNION ALL SELECT document_id, version FROM tombstones) GROUP BY id"
)


def _without(table: str, column: str) -> str:
    return (
        f"SELECT c.id FROM chunks c WHERE NOT EXISTS "
        f"(SELECT 1 FROM {table} t WHERE t.{column} = c.id)"
    )


def _beyond(table: str, column: str) -> str:
    return (
        f"SELECT t.{column} FROM {table} t WHERE NOT EXISTS "
        f"(SELECT 1 FROM chunks c WHERE c.id = t.{column})"
    )


_ORPHANS: Final = (
    (
        "orphan_chunk",
        "chunks belong to no document",
        # Hidden ones belong to a document that is being staged, or that waits to be purged.
        "SELECT c.id FROM chunks c WHERE c.document NOT IN (SELECT n FROM documents "
        "UNION ALL SELECT document FROM drafts UNION ALL SELECT document FROM dead)",
    ),
    (
        "orphan_chunk",
        "chunks belong to no segment of their document",
        "SELECT c.id FROM chunks c WHERE c.document IS NOT (SELECT s.document FROM segments s "
        "WHERE s.first_chunk <= c.id ORDER BY s.first_chunk DESC LIMIT 1)",
    ),
    (
        "hidden",
        "segments are shown or hidden against their documents",
        "SELECT s.first_chunk FROM segments s "
        "WHERE s.live != EXISTS (SELECT 1 FROM documents d WHERE d.n = s.document)",
    ),
    (
        "counts",
        "documents have another number of chunks than they count",
        "SELECT d.id FROM documents d LEFT JOIN (SELECT document, count(*) AS n_chunks "
        "FROM chunks GROUP BY document) k ON k.document = d.n "
        "WHERE coalesce(k.n_chunks, 0) != d.n_chunks",
    ),
    (
        "text_missing",
        "documents have no text",
        "SELECT d.id FROM documents d WHERE NOT EXISTS "
        "(SELECT 1 FROM texts t WHERE t.document = d.n AND t.part = 0)",
    ),
    ("vector_missing", "chunks have no int8 vector", _without("vectors8", "chunk")),
    ("vector_missing", "chunks have no float16 vector", _without("vectors16", "chunk")),
    ("words_missing", "chunks have no words", _without("words_docsize", "id")),
    ("orphan_vector", "int8 vectors belong to no chunk", _beyond("vectors8", "chunk")),
    ("orphan_vector", "float16 vectors belong to no chunk", _beyond("vectors16", "chunk")),
    (
        "orphan_words",
        "entries of the full-text index have no chunk",
        _beyond("words_docsize", "id"),
    ),
)


class _Text:
    """A document's text, of which a part or two are in memory at a time."""

    def __init__(self, connection: apsw.Connection, document: int) -> None:
        self._parts = connection.execute(
            "SELECT start, deflated FROM texts WHERE document = ? ORDER BY part", (document,)
        )
        self._start = 0
        self._text = ""
        self._whole = False

    def holds(self, start: int, end: int, text: str) -> bool:
        """Whether that is the text there; asked by ascending start."""
        while self._start + len(self._text) < end and not self._whole:
            self._read(start)
        return start >= self._start and self._text[start - self._start : end - self._start] == text

    def _read(self, keep_from: int) -> None:
        row = next(self._parts, None)
        if row is None:
            self._whole = True
            return
        start, deflated = row
        if start != self._start + len(self._text):
            self._whole = True
            return
        kept = max(self._start, min(keep_from, start))
        try:
            added = zlib.decompress(deflated).decode()
        except (zlib.error, UnicodeDecodeError):
            self._whole = True
            return
        self._text = self._text[kept - self._start :] + added
        self._start = kept

    def close(self) -> None:
        """Let go of the statement."""
        self._parts.close()


def _documents(connection: apsw.Connection) -> Iterator[tuple[str, bool]]:
    """Each document's id, and whether its chunks are its text."""
    chunks = (
        'SELECT c.start, c."end", c.text FROM segments s JOIN chunks c '
        "ON c.id BETWEEN s.first_chunk AND s.last_chunk WHERE s.document = ? ORDER BY c.start"
    )
    for n, document_id in connection.execute("SELECT n, id FROM documents ORDER BY n"):
        with closing(_Text(connection, n)) as text:
            rows = connection.execute(chunks, (n,))
            yield document_id, all(text.holds(*row) for row in rows)


def _wrong_vectors(connection: apsw.Connection, dim: int) -> Iterator[list[int]]:
    """Ids of the chunks whose rows are not two forms of one unit vector, in batches."""
    cursor = connection.execute(
        "SELECT a.chunk, a.scale, a.row, b.row FROM vectors8 a JOIN vectors16 b USING (chunk)"
    )
    while rows := _some(cursor):
        sized = [row for row in rows if (len(row[2]), len(row[3])) == (dim, 2 * dim)]
        wrong = [row[0] for row in rows if (len(row[2]), len(row[3])) != (dim, 2 * dim)]
        if sized:
            ids = np.array([row[0] for row in sized])
            scales = np.array([row[1] for row in sized], np.float32)[:, None]
            rows8 = np.frombuffer(b"".join(row[2] for row in sized), np.int8).reshape(-1, dim)
            rows16 = np.frombuffer(b"".join(row[3] for row in sized), np.float16).reshape(-1, dim)
            wrong += ids[~_is_unit(rows8 * scales, rows16.astype(np.float32), scales)].tolist()
        if wrong:
            yield wrong


def _is_unit(
    coarse: NDArray[np.float32], exact: NDArray[np.float32], scales: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Which rows are finite, of norm 1, and the same in both forms."""
    finite = np.isfinite(exact).all(axis=1)
    norms = np.linalg.norm(np.where(np.isfinite(exact), exact, 0.0), axis=1)
    # Half a step of int8 apart at most, and what float16 rounds.
    apart = np.abs(coarse - exact) <= 0.5 * scales + np.abs(exact) * 2e-3 + 1e-6
    sound = finite & apart.all(axis=1) & (np.abs(norms - 1.0) <= NORM_TOLERANCE)
    return np.asarray(sound, np.bool_)


def _require_version(connection: apsw.Connection, where: str, version: int) -> None:
    (found,) = fetch(connection, "PRAGMA user_version")[0]
    if found != version:
        raise ConfigurationError(
            f"{where} has schema {found}, and this release knows {version}: "
            + (
                "start the server once, which brings it up to date."
                if found < version
                else "run the newer release that wrote it."
            )
        )


def _some(cursor: Any) -> list[Any]:
    rows = []
    for row in cursor:
        rows.append(row)
        if len(rows) == BATCH:
            break
    return rows


def _old_files(directory: Path) -> Iterator[Path]:
    if not directory.is_dir():
        return
    before = time.time() - FRESH_SECONDS
    for path in sorted(directory.iterdir()):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < before and not _locked(path):
                yield path


def _locked(path: Path) -> bool:
    """Whether a process receives an upload into the file (databases are never opened here)."""
    if path.parent.name != "contents":
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _file(collection: _Collection) -> str:
    return f"collections/{collection[3]}.db"


def _rebuild(collection: _Collection) -> str:
    return f"Build the index anew: `ragdock reindex {collection[1]} --force`."
