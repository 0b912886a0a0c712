"""kill -9 at any moment: what was acknowledged is there, whole, once; what was deleted is gone."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import apsw

from ragdock.adapters.stores.sqlite import SqliteStore
from ragdock.types import JobState
from support.stores import DIM, commit, text_of

_WRITER = """
import sys
from pathlib import Path
from ragdock.adapters.stores.sqlite import SqliteStore
from support.stores import commit, upload

store, number = SqliteStore(Path(sys.argv[1])), int(sys.argv[2])
owner = f"writer-{number}"

def say(*words):
    print(*words, flush=True)

while True:
    number += 1
    name = f"d{number % 60}"
    text = "\\n\\n".join(f"marker{number} piece{n} of {name}" for n in range(4))
    say("accepting", name, number)
    store.accept("c", [upload(name, text, n=number)])
    say("accepted", name, number)
    if number % 3 == 0:
        for job in store.claim(owner, 2, 3600.0):
            commit(store, job)
            say("committed", job.document_id, job.metadata["n"])
    if number % 7 == 0:
        gone = f"d{(number - 30) % 60}"
        say("deleting", gone, number)
        try:
            store.delete_document("c", gone)
        except LookupError:
            pass
        except Exception as exc:
            if type(exc).__name__ != "NotFoundError":
                raise
        say("deleted", gone, number)
"""


def _round(directory: Path, first: int, seconds: float) -> list[tuple[str, str, int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(directory), str(first)],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert process.stdout is not None
    first_line = process.stdout.readline()  # Wait for the imports, then for the random moment.
    time.sleep(seconds)
    process.kill()
    lines = [first_line, *process.stdout.readlines()]
    process.stdout.close()
    process.wait()
    said = [line.split() for line in lines if line.endswith("\n")]
    return [(word, name, int(n)) for word, name, n in said]


class _Expected:
    """For each document the contents that may be there: the last acknowledged, or one begun."""

    def __init__(self) -> None:
        self.allowed: dict[str, set[int | None]] = {}

    def follow(self, said: list[tuple[str, str, int]]) -> None:
        for word, name, number in said:
            value = None if word in ("deleting", "deleted") else number
            if word in ("accepting", "deleting"):
                self.allowed.setdefault(name, {None}).add(value)
            elif word in ("accepted", "deleted"):
                self.allowed[name] = {value}


def _finish_work(store: SqliteStore) -> None:
    """All open jobs must be claimable now, although the dead owner's leases last an hour."""
    while jobs := store.claim("after-the-crash", 50, 60.0):
        for job in jobs:
            commit(store, job)
    depth = store.queue_depth()
    assert depth == {JobState.PENDING: 0, JobState.PROCESSING: 0, JobState.FAILED: 0}


def _check_contents(store: SqliteStore, expected: _Expected) -> None:
    present = {document.id: document.metadata["n"] for document in store.documents("c", limit=1000)}
    for name, allowed in expected.allowed.items():
        assert present.get(name) in allowed, (name, present.get(name), allowed)
    assert set(present) <= set(expected.allowed)
    for name, number in present.items():
        text = text_of(store, name)
        assert text.split()[0] == f"marker{number}"
        with store.reader("c") as reader:
            scored = reader.lexical(f"marker{number}", 100)
            hits = reader.hits([one.chunk_id for one in scored])
            pieces = sorted(hit.text for hit in hits.values())
        assert pieces == sorted(text.split("\n\n")), name


def _check_files(directory: Path) -> None:
    for path in (directory / "catalogue.db", *(directory / "collections").glob("*.db")):
        connection = apsw.Connection(str(path))
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if path.parent != directory:
            connection.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")
            queries = (
                "SELECT id FROM chunks ORDER BY id",
                "SELECT chunk FROM vectors8 ORDER BY chunk",
                "SELECT chunk FROM vectors16 ORDER BY chunk",
                "SELECT rowid FROM words ORDER BY rowid",
            )
            first, *others = [connection.execute(query).fetchall() for query in queries]
            assert all(other == first for other in others)
            counts = connection.execute("SELECT n_documents, n_chunks FROM state").fetchall()
            documents = connection.execute("SELECT count(*) FROM documents").fetchall()
            assert counts == [(documents[0][0], len(first))]
        connection.close()


def test_kill_loses_doubles_and_tears_nothing(tmp_path: Path) -> None:
    """Six rounds of a killed writer: acknowledged writes are there whole, deletes stay deleted."""
    store = SqliteStore(tmp_path)
    store.create_collection("c", "f", DIM)
    store.close()
    expected = _Expected()
    number = 0
    n_acknowledged = 0
    moments = random.Random(7)
    for _ in range(6):
        said = _round(tmp_path, number, moments.uniform(0.5, 2.5))
        expected.follow(said)
        n_acknowledged += sum(1 for word, *_ in said if word in ("accepted", "deleted"))
        number = max(n for *_, n in said) + 1
        store = SqliteStore(tmp_path)
        _finish_work(store)
        _check_contents(store, expected)
        store.close()
        _check_files(tmp_path)
    assert n_acknowledged > 60
