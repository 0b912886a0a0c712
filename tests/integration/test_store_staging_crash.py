"""kill -9 while large documents are staged, committed and purged: whole or not there, and clean."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import apsw
import pytest

from ragdock.adapters.stores.sqlite import SqliteStore, changes, collection, segments
from ragdock.adapters.stores.sqlite.connections import Database
from ragdock.errors import StoreError
from support.stores import (
    DIM,
    found,
    memory_directory,
    purge_all,
    spooled,
    stage_parts,
    text_of,
)

ROUNDS = 10
N_NAMES = 5

# A document is made of its number alone, so the test can tell what it must hold. Sizes make some
# transactions small and others large; texts beyond a megabyte are spooled.
_PREFIX = """
import sys, time
from pathlib import Path
from ragdock.adapters.stores.sqlite import SqliteStore
from ragdock.errors import NotFoundError, StoreError
from ragdock.types import Upload
from support.stores import EMBEDDER, purge_all, spooled, stage_parts, upload
from integration.test_store_staging_crash import parts_for, work_off, N_NAMES

store, me, number = SqliteStore(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])

def say(*words):
    print(*words, flush=True)
"""

_WRITER = (
    _PREFIX
    + """
while True:
    number += 1
    name = f"{me}-{number % N_NAMES}"
    say("accepting", name, number)
    if number % 3:
        store.accept("c", [upload(name, f"source {number}", n=number)])
    else:
        spool = store.spool()
        for _ in range(40):
            spool.write(f"source {number} ".encode() * 3000)
        one = spooled(name, spool)
        store.accept("c", [Upload(name, name, "t", one.content, one.sha256, {"n": number})])
        spool.discard()
    say("accepted", name, number)
    for job in work_off(store, me, 1):
        say("committed", job.document_id, job.metadata["n"])
    if number % 4 == 0:
        gone = f"{me}-{(number - 2) % N_NAMES}"
        say("deleting", gone, number)
        try:
            store.delete_document("c", gone)
        except NotFoundError:
            pass
        say("deleted", gone, number)
    store.purge(200)
"""
)


def parts_for(number: int) -> list[list[str]]:
    """The paragraphs of the document of that number, in one to four parts of up to 600 chunks."""
    rng = random.Random(number)
    parts = []
    for part in range(rng.randint(1, 4)):
        size = rng.choice([3, 40, 300, 600])
        parts.append([f"shared m{number} p{part}x{n}" for n in range(size)])
    return parts


def work_off(store: SqliteStore, owner: str, limit: int) -> Iterator[object]:
    """Claim and index documents, part by part."""
    for job in store.claim(owner, limit, 3600.0):
        number = job.metadata["n"]
        assert isinstance(number, int)
        try:
            last = stage_parts(store, job, parts_for(number))
            done = store.commit_document(job, *last)
        except StoreError as exc:
            if exc.code != "staging_lost":
                raise
            continue  # The other one deleted the document meanwhile.
        yield done


def _start(directory: Path, name: str, number: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(directory), name, str(number)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )


def _kill(process: subprocess.Popen[str]) -> list[tuple[str, str, int]]:
    process.kill()
    out, err = process.communicate()
    assert "Error" not in err, err
    said = [line.split() for line in out.splitlines(keepends=True) if line.endswith("\n")]
    return [(word, name, int(n)) for word, name, n in said]


class _Expected:
    """For each document what it may hold: the last acknowledged, or one begun since."""

    def __init__(self) -> None:
        self.allowed: dict[str, set[int | None]] = {}
        self.n_acknowledged = 0

    def follow(self, said: list[tuple[str, str, int]]) -> None:
        for word, name, number in said:
            value = None if word in ("deleting", "deleted") else number
            if word in ("accepting", "deleting"):
                self.allowed.setdefault(name, {None}).add(value)
            elif word in ("accepted", "deleted"):
                self.allowed[name] = {value}
                self.n_acknowledged += 1


def _check(store: SqliteStore, expected: _Expected) -> None:
    present = {document.id: document for document in store.documents("c", limit=1000)}
    for name, allowed in expected.allowed.items():
        number = present[name].metadata["n"] if name in present else None
        assert number in allowed, (name, number, allowed)
    n_chunks = 0
    for name, document in present.items():
        number = document.metadata["n"]
        assert isinstance(number, int)
        paragraphs = [paragraph for part in parts_for(number) for paragraph in part]
        n_chunks += len(paragraphs)
        assert text_of(store, name) == "\n\n".join(paragraphs)
        assert document.n_chunks == len(paragraphs)
        for side in ("lexical", "dense"):
            ids = found(store, f"m{number}", {"document_id": name}, side=side, limit=5000)
            assert len(ids) == len(paragraphs), (name, side)
        assert len(found(store, f"m{number}", limit=5000)) == len(paragraphs)
    assert store.collection("c").n_chunks == n_chunks
    assert len(found(store, "shared", limit=20_000)) == n_chunks
    assert len(found(store, "shared", side="dense", limit=20_000)) == n_chunks


def _check_files(directory: Path, n_chunks: int) -> None:
    assert list((directory / "contents").iterdir()) == []
    catalogue = apsw.Connection(str(directory / "catalogue.db"))
    for table in ("contents", "discarded"):
        assert catalogue.execute(f"SELECT count(*) FROM {table}").fetchall() == [(0,)]
    catalogue.close()
    (path,) = (directory / "collections").glob("*.db")
    connection = apsw.Connection(str(path))
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")
    ids = [
        connection.execute(f"SELECT {column} FROM {table} ORDER BY 1").fetchall()
        for table, column in (
            ("chunks", "id"),
            ("words", "rowid"),
            ("vectors8", "chunk"),
            ("vectors16", "chunk"),
        )
    ]
    assert len(ids[0]) == n_chunks
    assert all(other == ids[0] for other in ids[1:])
    for table in ("drafts", "dead"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchall() == [(0,)]
    for table in ("texts", "segments", "chunks", "fields"):
        orphans = f"SELECT count(*) FROM {table} WHERE document NOT IN (SELECT n FROM documents)"
        assert connection.execute(orphans).fetchall() == [(0,)], table
    connection.close()


def test_kill_while_staging_committing_and_purging() -> None:
    """Two writers, one killed at random instants: documents are whole, once, and nothing is left.

    The other goes on meanwhile, as the second server on a data directory does.
    """
    moments = random.Random(11)
    expected, others = _Expected(), _Expected()
    with memory_directory() as directory:
        store = SqliteStore(directory)
        store.create_collection("c", "f", DIM)
        number = 0
        steady = _start(directory, "steady", 0)
        for round_ in range(ROUNDS):
            process = _start(directory, "killed", number)
            assert process.stdout is not None
            first = process.stdout.readline().split()
            time.sleep(moments.uniform(0.05, 1.2))
            said = [(first[0], first[1], int(first[2])), *_kill(process)]
            expected.follow(said)
            number = max(n for *_, n in said) + 1
            if round_ == ROUNDS // 2:
                others.follow(_kill(steady))
                steady = _start(directory, "steady", 10_000)
        others.follow(_kill(steady))
        expected.allowed |= others.allowed
        while list(work_off(store, "after", 50)):
            pass
        assert set(store.queue_depth().values()) == {0}
        _check(store, expected)
        n_purged = purge_all(store)
        store._contents.sweep()
        _check(store, expected)
        n_chunks = store.collection("c").n_chunks
        store.close()
        again = SqliteStore(directory)
        _check(again, expected)
        again.close()
        _check_files(directory, n_chunks)
    n_acknowledged = expected.n_acknowledged + others.n_acknowledged
    print(json.dumps({"acknowledged": n_acknowledged, "chunks": n_chunks, "purged": n_purged}))  # noqa: T201
    assert n_acknowledged > 20


def _scenario(store: SqliteStore) -> None:
    """One large document through its life: staged, torn, staged anew, replaced, deleted, purged."""
    for number in (21, 22):
        spool = store.spool()
        spool.write(b"x" * 10_000)
        one = spooled("d", spool)
        store.accept("c", [dataclasses.replace(one, metadata={"n": number})])
        spool.discard()
        (job,) = store.claim("torn", 1, 3600.0)
        stage_parts(store, job, PARTS)
        store.commit_document(job, *stage_parts(store, job, [[f"m{number} first"], *PARTS]))
    store.delete_document("c", "d")
    while store.purge(60):
        pass


PARTS = [[f"shared p{part}x{n}" for n in range(27)] for part in range(3)]


def _killed_at(directory: Path, moment: int) -> bool:
    """Run the scenario in a child that is killed at that moment; False when it came to its end.

    The moments are between the transactions: SQLite itself answers for the time within.
    """
    pid = os.fork()
    if not pid:
        try:
            n_moments = 0

            def pass_by() -> None:
                nonlocal n_moments
                n_moments += 1
                if n_moments == moment:
                    os.kill(os.getpid(), signal.SIGKILL)

            write = Database.write

            @contextmanager
            def risky(self: Database, *, durable: bool = True) -> Iterator[apsw.Connection]:
                with write(self, durable=durable) as connection:
                    yield connection
                pass_by()

            Database.write = risky  # type: ignore[method-assign]
            _scenario(SqliteStore(directory))
            os._exit(0)
        except BaseException:  # noqa: BLE001 (a child must not run the rest of the tests)
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or not os.WEXITSTATUS(status)
    return os.WIFSIGNALED(status)


def test_killed_at_every_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever transaction is the last: a whole version is there or none, and nothing is left."""
    # Small enough to be killed a hundred times: what is large is a matter of these.
    for module in (changes, collection):
        monkeypatch.setattr(module, "BATCH_CHUNKS", 30)
    monkeypatch.setattr(segments, "REMOVE_AT_ONCE", 30)
    moment, seen = 0, set()
    while True:
        moment += 1
        with memory_directory() as directory:
            store = SqliteStore(directory)
            store.create_collection("c", "f", DIM)
            store.close()
            if not _killed_at(directory, moment):
                break
            store = SqliteStore(directory)
            documents = store.documents("c")
            seen.add(documents[0].metadata["n"] if documents else None)
            for document in documents:
                text = f"m{document.metadata['n']} first\n\n" + "\n\n".join(
                    chain.from_iterable(PARTS)
                )
                assert text_of(store, "d") == text
                assert document.n_chunks == store.collection("c").n_chunks == 82
            for side in ("lexical", "dense"):
                ids = found(store, "shared", side=side, limit=5000)
                assert len(ids) == (81 + (side == "dense") if documents else 0)
            purge_all(store)
            for job in store.claim("after", 10, 60.0):
                with store.open_content(job.id) as file:
                    assert len(file.read()) == 10_000
                store.commit_document(job, *stage_parts(store, job, [["m first"], *PARTS]))
            store._contents.sweep()
            purge_all(store)
            n_chunks = store.collection("c").n_chunks
            assert n_chunks in (0, 82)
            store.close()
            _check_files(directory, n_chunks)
    assert seen == {None, 21, 22}
    assert moment > 40
