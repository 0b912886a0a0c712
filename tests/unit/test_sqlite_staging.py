"""Segments in SQLite: how much each transaction writes, the upgrade, the files of uploads."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest

from ragdock.adapters.stores.sqlite import (
    SqliteKeeper,
    SqliteStore,
    changes,
    contents,
    lexical,
    migrations,
    segments,
)
from ragdock.adapters.stores.sqlite.connections import Database, fetch
from ragdock.errors import NotFoundError, StoreError
from ragdock.types import Block, BlockKind, Chunk, PageSpan, ParsedDocument
from support.first_release import write_first_release
from support.stores import (
    DIM,
    EMBEDDER,
    claimed,
    content,
    found,
    index,
    memory_directory,
    part_of,
    purge_all,
    put,
    spooled,
    stage_parts,
    text_of,
    upload,
)

TABLES = ("chunks", "words", "vectors8", "vectors16", "texts", "segments", "drafts", "dead")


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty data directory."""
    with memory_directory() as path:
        yield path


@pytest.fixture
def store(directory: Path) -> Iterator[SqliteStore]:
    """A store with an empty collection `c`."""
    store = SqliteStore(directory)
    store.create_collection("c", "f", DIM)
    yield store
    store.close()


@contextmanager
def _recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many rows each transaction on a collection's file changes."""
    sizes: list[int] = []
    write = Database.write

    @contextmanager
    def counted(self: Database, *, durable: bool = True) -> Iterator[apsw.Connection]:
        with write(self, durable=durable) as connection:
            before = connection.total_changes()
            yield connection
            if self.path.parent.name == "collections":
                sizes.append(connection.total_changes() - before)

    with monkeypatch.context() as patch:
        patch.setattr(Database, "write", counted)
        yield sizes


def _counts(directory: Path) -> dict[str, int]:
    (path,) = (directory / "collections").glob("*.db")
    connection = apsw.Connection(str(path))
    counts = {
        table: connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]
        for table in TABLES
    }
    connection.close()
    return counts


def _commit_big(store: SqliteStore, name: str, n_chunks: int, word: str = "big") -> None:
    paragraphs = [f"{word} p{n}" for n in range(n_chunks)]
    store.commit_document(claimed(store, name), *part_of(paragraphs, 0, last=True))


def test_a_large_document_is_written_in_small_transactions(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No transaction writes more than a batch's rows, and the one that shows them writes few."""
    with _recorded(monkeypatch) as sizes:
        _commit_big(store, "d", 2_000)
    assert len(sizes) > 2_000 // changes.BATCH_CHUNKS
    # Four tables, and FTS5's own: a row more for a chunk, and some of its index.
    assert max(sizes) < changes.BATCH_CHUNKS * 7
    assert sizes[-1] < 20


@pytest.mark.timing
@pytest.mark.parametrize("n_parts", [1, 8])
def test_removing_a_large_document_touches_no_chunk(
    store: SqliteStore, directory: Path, monkeypatch: pytest.MonkeyPatch, n_parts: int
) -> None:
    """Deleting 5,000 chunks changes a few rows a segment, and takes far under a second."""
    job = claimed(store, "d")
    each = 5_000 // n_parts
    parts = [[f"big p{p}x{n}" for n in range(each)] for p in range(n_parts)]
    store.commit_document(job, *stage_parts(store, job, parts))
    assert _counts(directory)["chunks"] == 5_000
    with _recorded(monkeypatch) as sizes:
        start = time.perf_counter()
        store.delete_document("c", "d")
        elapsed_seconds = time.perf_counter() - start
    assert len(sizes) == 1
    assert sizes[0] < 30
    assert elapsed_seconds < 0.5
    assert found(store, "big") == found(store, "big", side="dense") == []
    assert _counts(directory)["chunks"] == 5_000
    purge_all(store)
    assert set(_counts(directory).values()) == {0}


def test_replacing_a_large_document_touches_no_chunk_of_it(
    store: SqliteStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former version's chunks are hidden by the new one's transaction, and purged later."""
    _commit_big(store, "d", 5_000)
    monkeypatch.setattr("ragdock.adapters.stores.sqlite.store.PURGE_AFTER_COMMIT", 0)
    with _recorded(monkeypatch) as sizes:
        put(store, "d", "small now")
    assert sum(sizes) < 60
    assert found(store, "small") == found(store, "small", side="dense") == ["d"]
    assert found(store, "big") == []
    purge_all(store)
    counts = _counts(directory)
    assert (counts["chunks"], counts["texts"], counts["segments"], counts["dead"]) == (1, 1, 1, 0)


def test_a_small_document_is_one_transaction(
    store: SqliteStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing, replacing and deleting it leaves nothing to purge."""
    with _recorded(monkeypatch) as sizes:
        for text in ("one\n\ntwo", "three"):
            put(store, "d", text)
        store.delete_document("c", "d")
    assert len(sizes) == 3
    assert set(_counts(directory).values()) == {0}


def test_commits_purge_where_no_moment_is_idle(store: SqliteStore, directory: Path) -> None:
    """Under steady writes what is hidden goes too, without anybody calling `purge`."""
    _commit_big(store, "d", 1_000)
    store.delete_document("c", "d")
    for n in range(8):
        put(store, f"d{n}", f"text {n}")
    assert _counts(directory)["chunks"] == 8
    assert _counts(directory)["dead"] == 0


def test_many_hidden_ranges_are_hidden(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lexical search knows as many ranges as there are, by comparison and by lookup."""
    job = claimed(store, "big")
    start = 0
    for n in range(30):
        part = part_of([f"shared hidden{n}"], start)
        store.stage(job, *part)
        start += len(part[0].text)
        put(store, f"d{n}", f"shared text{n}")
    for most in (lexical.MAX_COMPARED, 0, 1000):
        monkeypatch.setattr(lexical, "MAX_COMPARED", most)
        assert sorted(found(store, "shared", limit=100)) == sorted(f"d{n}" for n in range(30))
        assert found(store, "hidden7 text3") == ["d3"]
        monkeypatch.setattr(lexical, "TWO_LEVEL_FROM", 10)
        monkeypatch.setattr(lexical, "VISIT_AT_LEAST", 5)


@pytest.mark.parametrize(
    ("ranges", "joined", "rest"),
    [
        ([], [], [(1, segments.MAX_CHUNK)]),
        ([(1, 4)], [(1, 4)], [(5, segments.MAX_CHUNK)]),
        ([(2, 4), (5, 5), (9, 9)], [(2, 5), (9, 9)], [(1, 1), (6, 8), (10, segments.MAX_CHUNK)]),
    ],
)
def test_ranges_and_what_is_between(
    ranges: list[segments.Range], joined: list[segments.Range], rest: list[segments.Range]
) -> None:
    """Neighbours are joined, and the complement is everything else."""
    assert segments.coalesced(ranges) == joined
    assert segments.complement(joined) == rest


# The upgrade


def test_data_of_the_first_release_answer_the_same(directory: Path) -> None:
    """Texts, searches, filters, times and waiting uploads are what they were; writes go on."""
    documents = {f"d{n}": (f"shared word{n}\n\nmore of {n}", {"n": n % 2}) for n in range(6)}
    big = dataclasses.replace(upload("waits"), content=b"x" * 3_000_000)
    write_first_release(directory, documents, [upload("soon", "shared later"), big])
    with memory_directory() as other:
        fresh = SqliteStore(other)
        fresh.create_collection("c", "f", DIM)
        for name, (text, metadata) in documents.items():
            put(fresh, name, text, **metadata)
        store = SqliteStore(directory)
        for query in ("shared", "word3", "word4 shared"):
            for filters in (None, {"n": 1}, {"n": 0}):
                for side in ("lexical", "dense"):
                    results = [
                        found(each, query, filters, side=side, limit=20) for each in (store, fresh)
                    ]
                    assert results[0] == results[1]
                    assert results[0] or query == "word3"
        fresh.close()
    assert (store.collection("c").n_documents, store.collection("c").n_chunks) == (6, 12)
    for name, (text, _) in documents.items():
        assert text_of(store, name) == text
        document = store.document("c", name)
        assert (document.n_chunks, document.created_at, document.title) == (2, 3.0, "Title")
    (parsed,) = store.document_parts("c", "d1")
    assert parsed.text == documents["d1"][0]
    assert parsed.blocks == (
        Block(0, 12, BlockKind.PARAGRAPH),
        Block(14, 23, BlockKind.PARAGRAPH),
    )
    waiting = store.claim("w", 10, 60.0)
    assert [len(content(store, job.id)) for job in waiting] == [12, 3_000_000]
    store.release("w")
    index(store)
    assert "soon" in found(store, "later")
    put(store, "d1", "replaced")
    store.delete_document("c", "d2")
    assert len(found(store, "shared", side="dense", limit=100)) == 1 + 2 * 4 + 2
    store.close()


def test_data_from_before_there_were_labels(directory: Path, store: SqliteStore) -> None:
    """A collection of schema 2 is read with its pages and no labels; new documents have them."""
    chunk = Chunk(0, 0, 4, "word", "", 1, "iv")
    parsed = ParsedDocument("word", (Block(0, 4, BlockKind.PARAGRAPH),), (PageSpan(1, 0, 4, "iv"),))
    store.commit_document(claimed(store, "old"), parsed, [chunk], EMBEDDER.embed(["word"]))
    store.close()
    (path,) = (directory / "collections").glob("*.db")
    _to_schema_2(path)
    former = Database(directory / "former.db", migrations.COLLECTION[:2])
    with former.read() as expected, closing(apsw.Connection(str(path))) as made:
        columns = "SELECT * FROM pragma_table_info('chunks')"
        assert fetch(made, columns) == fetch(expected, columns)
    former.close()
    store = SqliteStore(directory)
    store.commit_document(claimed(store, "new"), parsed, [chunk], EMBEDDER.embed(["word"]))
    with store.reader("c") as reader:
        hits = reader.hits(range(10)).values()
    told = {hit.document_id: (hit.page, hit.page_label) for hit in hits}
    assert told == {"old": (1, ""), "new": (1, "iv")}
    pages = [store.document_parts("c", name) for name in ("old", "new")]
    assert [next(iter(parts)).pages[0].label for parts in pages] == ["", "iv"]
    store.close()
    verdict = SqliteKeeper(directory).verify(quick=False, progress=lambda *_: None)
    assert verdict.findings == ()


def _to_schema_2(path: Path) -> None:
    """Undo m003: no column, and pages of three elements in the structure."""
    with closing(apsw.Connection(str(path))) as connection:
        for document, packed in fetch(connection, "SELECT document, structure FROM texts"):
            structure = json.loads(zlib.decompress(packed))
            structure["pages"] = [page[:3] for page in structure["pages"]]
            packed = zlib.compress(json.dumps(structure).encode())
            sql = "UPDATE texts SET structure = ? WHERE document = ?"
            connection.execute(sql, (packed, document))
        connection.execute("ALTER TABLE chunks DROP COLUMN page_label; PRAGMA user_version = 2")


def test_two_processes_upgrade_at_once(directory: Path) -> None:
    """Servers that start on the first release's data at the same moment both come up."""
    write_first_release(directory, {"d": ("shared text", {})})
    code = (
        "import sys; from pathlib import Path\n"
        "from ragdock.adapters.stores.sqlite import SqliteStore\n"
        "from support.stores import found\n"
        "sys.stdin.readline()\n"
        "store = SqliteStore(Path(sys.argv[1]))\n"
        "assert found(store, 'shared') == found(store, 'shared', side='dense') == ['d']\n"
        "store.close()\n"
    )
    processes = [_python(code, directory) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err


# The files of uploads


def _uploads(directory: Path) -> set[str]:
    return {path.name for path in (directory / "contents").iterdir()}


def test_a_file_lives_as_long_as_its_job_needs_it(store: SqliteStore, directory: Path) -> None:
    """It goes when the job is done, its document deleted or written anew, or its collection."""
    for ending in ("done", "delete", "newer", "drop"):
        (job,) = store.accept("c", [upload(ending, f"{ending} " * 400_000)])
        assert len(_uploads(directory)) == 1
        if ending == "done":
            index(store)
        elif ending == "delete":
            store.delete_document("c", ending)
        elif ending == "newer":
            (job,) = store.claim("w", 1, 60.0)
            store.fail(job, "x", "X.", retry_after_seconds=None)
            assert len(_uploads(directory)) == 1
            put(store, ending, "small")
        else:
            store.drop_collection("c")
        assert _uploads(directory) == set()


def test_uploads_of_failed_jobs_are_kept_for_a_time(directory: Path) -> None:
    """After `keep_failed_hours` a failed job's upload goes, as file and as value."""
    for hours, kept in ((1.0, True), (0.0, False)):
        store = SqliteStore(directory, keep_failed_hours=hours)
        if kept:
            store.create_collection("c", "f", DIM)
            store.accept("c", [upload("a", "small"), upload("b", "x" * 2_000_000)])
            for job in store.claim("w", 2, 60.0):
                store.fail(job, "x", "X.", retry_after_seconds=None)
        time.sleep(0.01)
        store.purge(100)
        for job in store.jobs():
            if kept:
                assert content(store, job.id)
            else:
                with pytest.raises(NotFoundError):
                    store.open_content(job.id)
        assert len(_uploads(directory)) == int(kept)
        store.close()


def test_what_a_crash_left_is_removed(directory: Path) -> None:
    """Spools of a killed process go at the next start; files of jobs and foreign files stay."""
    store = SqliteStore(directory)
    store.create_collection("c", "f", DIM)
    store.accept("c", [upload("d", "x" * 2_000_000)])
    (owned,) = _uploads(directory)
    code = (
        "import sys; from pathlib import Path\n"
        "from ragdock.adapters.stores.sqlite import SqliteStore\n"
        "store = SqliteStore(Path(sys.argv[1]))\n"
        "spool = store.spool(); spool.write(b'x' * 1000)\n"
        "other = store.spool(); other.write(b'y'); other.finish()\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
    )
    process = _python(code, directory)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    (directory / "contents" / "notes.txt").write_text("mine")
    SqliteStore(directory).close()
    assert len(_uploads(directory)) == 4  # Their owner lives.
    process.kill()
    process.communicate()
    mine = store.spool()
    mine.write(b"z")
    SqliteStore(directory).close()
    assert len(_uploads(directory)) == 3
    mine.discard()
    assert _uploads(directory) == {owned, "notes.txt"}
    assert len(content(store, 1)) == 2_000_000
    store.close()


def test_a_spool_that_nobody_ends_is_given_up(
    store: SqliteStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver that leaks its spool fills the disk for a day at most."""
    leaked = store.spool()
    leaked.write(b"x")
    store.purge(1)
    assert len(_uploads(directory)) == 1
    monkeypatch.setattr(contents, "MAX_SPOOL_SECONDS", 0.0)
    store._contents.sweep()
    assert _uploads(directory) == set()
    leaked.discard()


def test_a_closed_store_keeps_what_it_accepted(directory: Path) -> None:
    """Closing while spools are open loses no accepted upload, and the rest goes later."""
    store = SqliteStore(directory)
    store.create_collection("c", "f", DIM)
    accepted, open_one = store.spool(), store.spool()
    accepted.write(b"kept")
    open_one.write(b"lost")
    (job,) = store.accept("c", [spooled("d", accepted)])
    store.close()
    for spool in (accepted, open_one):
        spool.discard()
    again = SqliteStore(directory)
    assert content(again, job.id) == b"kept"
    assert len(_uploads(directory)) == 1
    again.close()


def test_accepting_a_large_upload_needs_no_memory(directory: Path) -> None:
    """50 MB through a spool, and through bytes, add next to nothing to the process's peak."""
    code = (
        "import hashlib, resource, sys; from pathlib import Path\n"
        "from ragdock.adapters.stores.sqlite import SqliteStore\n"
        "from ragdock.types import Upload\n"
        "store = SqliteStore(Path(sys.argv[1]))\n"
        "store.create_collection('c', 'f', 8)\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "piece = b'x' * 65536\n"
        "before = peak()\n"
        "spool = store.spool()\n"
        "for _ in range(800): spool.write(piece)\n"
        "file = spool.finish()\n"
        "store.accept('c', [Upload('d', 'd', 't', file, file.sha256)])\n"
        "print(peak() - before)\n"
        "content = bytes(50_000_000)\n"
        "before = peak()\n"
        "store.accept('c', [Upload('e', 'e', 't', content, 'x')])\n"
        "print(peak() - before)\n"
        "store.close()\n"
    )
    process = _python(code, directory)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert all(float(line) < 8.0 for line in out.split()), out


def _python(code: str, directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )


def test_a_spool_outside_the_store_is_refused(store: SqliteStore, tmp_path: Path) -> None:
    """Only what `spool` made is taken over: never a file of somebody else's."""
    spool = store.spool()
    spool.write(b"bytes")
    one = spooled("d", spool)
    assert not isinstance(one.content, bytes)
    for path in (tmp_path / one.content.path.name, one.content.path.with_name("x")):
        path.write_bytes(b"bytes")
        foreign = dataclasses.replace(one.content, path=path)
        with pytest.raises(StoreError):
            store.accept("c", [dataclasses.replace(one, content=foreign)])
        path.unlink()
    os.truncate(one.content.path, 2)
    with pytest.raises(StoreError):
        store.accept("c", [one])
    spool.discard()
