"""Verify: silent on a sound store, and every fault has its name."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import numpy as np
import pytest

from ragdock.adapters.stores.sqlite import SqliteKeeper, SqliteStore
from ragdock.errors import NotFoundError
from ragdock.ports import Verdict
from support.stores import DIM, claimed, index, memory_directory, put, stage_parts, upload

OLD = time.time() - 3_600


@pytest.fixture
def home() -> Iterator[Path]:
    with memory_directory() as path:
        store = SqliteStore(path)
        store.create_collection("c", "f", DIM)
        for n in range(5):
            put(store, f"d{n}", f"first words{n}\n\nsecond words{n}", n=n)
        put(store, "d3", "first words3 anew")
        store.delete_document("c", "d4")
        store.accept("c", [upload("open", "open")])
        store.close()
        yield path


def check(home: Path, *, quick: bool = False) -> Verdict:
    """The verdict."""
    return SqliteKeeper(home).verify(quick=quick, progress=lambda *_: None)


def broken(home: Path, *statements: str) -> set[str]:
    """Names of the findings after some damage to the collection's file."""
    (path,) = (home / "collections").glob("*.db")
    connection = apsw.Connection(str(path))
    for statement in statements:
        connection.execute(statement).fetchall()
    connection.close()
    verdict = check(home)
    assert all(finding.remedy for finding in verdict.findings)
    return {finding.check for finding in verdict.findings}


def test_a_sound_store_has_no_findings(home: Path) -> None:
    """Replaced, deleted and waiting documents are no faults, and all is counted."""
    for quick in (False, True):
        verdict = check(home, quick=quick)
        assert verdict.findings == ()
        assert verdict.checked["collections"] == 1
        assert (verdict.checked["documents"], verdict.checked["chunks"]) == (4, 7)


def test_parts_under_way_and_left_behind_are_no_faults(home: Path) -> None:
    """Staged parts, replaced ones that wait to be purged, and texts in parts are sound."""
    store = SqliteStore(home)
    index(store)
    parts = [[f"alpha{p} word{p}x{n}" for n in range(5)] for p in range(4)]
    job = claimed(store, "long")
    store.commit_document(job, *stage_parts(store, job, parts))
    assert check(home).findings == ()
    job = claimed(store, "long")
    last = stage_parts(store, job, parts)
    assert check(home).findings == ()
    store.commit_document(job, *last)
    store.delete_document("c", "long")
    assert check(home).findings == ()
    store.close()


def test_no_store_is_an_error(tmp_path: Path) -> None:
    """An empty directory isn't a sound store."""
    with pytest.raises(NotFoundError):
        check(tmp_path)


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("UPDATE state SET n_documents = 9", {"counts"}),
        ("DELETE FROM vectors8 WHERE chunk = 1", {"vector_missing"}),
        ("DELETE FROM vectors16 WHERE chunk = 2", {"vector_missing"}),
        ("DELETE FROM words WHERE rowid = 3", {"words_missing"}),
        ("DELETE FROM chunks WHERE id = 1", {"counts", "orphan_vector", "orphan_words"}),
        (
            "DELETE FROM documents WHERE id = 'd0'",
            {"counts", "hidden", "orphan_chunk", "document_lost"},
        ),
        ("UPDATE documents SET version = 1 WHERE id = 'd2'", {"document_lost"}),
        ("DELETE FROM texts WHERE document = 1", {"text_missing", "spans"}),
        ("UPDATE texts SET deflated = x'00' WHERE document = 1", {"spans"}),
        ("UPDATE chunks SET text = 'other' WHERE id = 1", {"spans"}),
        ("UPDATE chunks SET start = start + 1 WHERE id = 2", {"spans"}),
        ("UPDATE vectors16 SET row = zeroblob(128) WHERE chunk = 1", {"vectors"}),
        ("UPDATE vectors16 SET row = x'00' WHERE chunk = 1", {"vectors"}),
        ("UPDATE vectors8 SET scale = scale * 1.1 WHERE chunk = 1", {"vectors"}),
        (
            "UPDATE vectors16 SET row = (SELECT row FROM vectors16 WHERE chunk = 2) "
            "WHERE chunk = 1",
            {"vectors"},
        ),
    ],
)
def test_each_fault_in_a_collection_is_named(home: Path, statement: str, names: set[str]) -> None:
    """Missing, surplus and wrong rows are findings with a remedy."""
    assert broken(home, statement) == names


def test_vectors_that_are_no_numbers_are_named(home: Path) -> None:
    """A NaN in either form is found."""
    row = np.full(DIM, np.nan, np.float16).tobytes().hex()
    assert broken(home, f"UPDATE vectors16 SET row = x'{row}' WHERE chunk = 1") == {"vectors"}


def test_a_damaged_page_is_found(home: Path) -> None:
    """Overwritten pages are SQLite's own findings, whatever they held."""
    (path,) = (home / "collections").glob("*.db")
    size = path.stat().st_size
    with path.open("r+b") as file:
        for place in range(4_096, size, 4_096):
            file.seek(place)
            file.write(b"\xff" * 2_000)
    assert "damaged" in {finding.check for finding in check(home).findings}
    path.write_bytes(b"not a database" * 1_000)
    assert "damaged" in {finding.check for finding in check(home).findings}


def test_faults_between_the_files_are_named(home: Path) -> None:
    """Files without rows, rows without files, and jobs without uploads are findings."""
    stray = home / "collections" / f"{'0' * 32}.db"
    stray.write_bytes(b"")
    assert check(home).findings == ()  # It may be just being made.
    os.utime(stray, (OLD, OLD))
    assert [finding.check for finding in check(home).findings] == ["stray_file"]
    stray.unlink()
    connection = apsw.Connection(str(home / "catalogue.db"))
    connection.execute("DELETE FROM contents").fetchall()
    connection.close()
    assert [finding.check for finding in check(home).findings] == ["upload_missing"]
    (path,) = (home / "collections").glob("*.db")
    path.unlink()
    assert {finding.check for finding in check(home).findings} == {"upload_missing", "file_missing"}
