"""A disk that fills up, for real: what was acknowledged stays, what didn't fit leaves no trace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ragdock.adapters.stores.sqlite import SqliteStore
from ragdock.errors import StoreError
from ragdock.types import JobKind
from support.stores import (
    DIM,
    claimed,
    found,
    index,
    part_of,
    purge_all,
    put,
    stage_parts,
    text_of,
    upload,
)

SIZE_MB = 12


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "ragdock-test", str(tmp_path)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no small disk: mounting a tmpfs needs root")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.fixture
def store(disk: Path) -> Iterator[SqliteStore]:
    """A store with one document, on that disk."""
    store = SqliteStore(disk / "data")
    store.create_collection("c", "f", DIM)
    put(store, "d", "shared first")
    yield store
    store.close()


def _fill(disk: Path, leave_bytes: int) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    os.truncate(ballast, max(0, ballast.stat().st_size - leave_bytes))
    return ballast


def _refused(call: object, *arguments: object) -> None:
    with pytest.raises(StoreError) as caught:
        call(*arguments)  # type: ignore[operator]
    assert caught.value.code == "disk_full"
    assert caught.value.retry_after_seconds >= 5


def test_an_upload_that_does_not_fit_leaves_nothing(store: SqliteStore, disk: Path) -> None:
    """A spool on a full disk says so, and its file is gone; so does a large upload as bytes."""
    _fill(disk, 500_000)
    spool = store.spool()
    spool.write(b"x" * 65_536)
    _refused(spool.write, b"x" * 2_000_000)
    spool.discard()
    _refused(store.accept, "c", [upload("e", "x" * 5_000_000)])
    assert list((disk / "data" / "contents").iterdir()) == []
    assert [job.document_id for job in store.jobs()] == ["d"]
    assert found(store, "shared") == ["d"]


def test_staging_on_a_full_disk_goes_on_when_there_is_room(store: SqliteStore, disk: Path) -> None:
    """A document that doesn't fit is refused half way, hidden, and whole at the next attempt."""
    parts = [[f"shared p{p}x{n} " + "filler " * 20 for n in range(300)] for p in range(3)]
    job = claimed(store, "d")
    ballast = _fill(disk, 300_000)
    with pytest.raises(StoreError) as caught:
        store.commit_document(job, *stage_parts(store, job, parts))
    assert caught.value.code == "disk_full"
    assert found(store, "shared", limit=1000) == ["d"]
    assert found(store, "shared", side="dense", limit=1000) == ["d"]
    assert text_of(store, "d") == "shared first"
    assert store.job(job.id).error_code is None
    ballast.unlink()
    store.commit_document(job, *stage_parts(store, job, parts))
    purge_all(store)
    assert len(found(store, "shared", limit=2000)) == 900
    assert len(found(store, "shared", side="dense", limit=2000)) == 900


def test_deleting_works_on_a_full_disk_or_says_so(store: SqliteStore, disk: Path) -> None:
    """A deletion is done or refused, and what was purged gives its room back to new documents."""
    paragraphs = [f"shared p{n} " + "filler " * 40 for n in range(1500)]
    store.commit_document(claimed(store, "big"), *part_of(paragraphs, 0, last=True))
    ballast = _fill(disk, 0)
    with suppress(StoreError):  # The ledger may have room for it, in pages that are free.
        store.delete_document("c", "big")
    for handle in (store, SqliteStore(disk / "data")):
        kept = len(found(handle, "shared", limit=5000))
        assert kept in (1, 1501)
        assert len(found(handle, "shared", side="dense", limit=5000)) == kept
        if handle is not store:
            handle.close()
    ballast.unlink()
    index(store)  # Finishes what the full disk cut off, if the deletion was accepted.
    if len(store.documents("c")) == 2:
        assert {job.kind for job in store.jobs()} == {JobKind.INDEX}
        store.delete_document("c", "big")
    purge_all(store)
    assert found(store, "shared", limit=5000) == ["d"]
    store.commit_document(claimed(store, "e"), *part_of(paragraphs, 0, last=True))
    assert len(found(store, "shared", limit=5000)) == 1501
