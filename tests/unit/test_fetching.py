"""What is received from URLs: counted, in memory or on the disk, and gone when nobody wants it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ragdock.adapters.metrics.null import NullMetrics
from ragdock.adapters.stores.sqlite import SqliteStore
from ragdock.errors import FetchError, UnavailableError
from ragdock.services.fetching import UrlReader
from ragdock.services.intake import Intake
from ragdock.types import FetchedFile
from support.stores import memory_directory

PIECE = b"text " * 10_000


class Pages:
    """A fetcher without a network: a URL is how many pieces its content has."""

    def __init__(self) -> None:
        self.n_pieces = 0
        self.proceed = threading.Event()
        self.proceed.set()

    def fetch(self, url: str, write: Callable[[bytes], None], deadline: float) -> FetchedFile:
        for _ in range(int(url)):
            write(PIECE)
            self.n_pieces += 1
            assert self.proceed.wait(10)
        return FetchedFile(f"page-{url}", "http://a.example/", "page.txt", "text/plain")


@pytest.fixture
def directory() -> Iterator[Path]:
    with memory_directory() as path:
        yield path


@pytest.fixture
def store(directory: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(directory)
    yield store
    store.close()


def large(directory: Path) -> list[Path]:
    """Files on the disk that hold content."""
    found = [path for path in directory.rglob("*") if path.is_file()]
    return [path for path in found if PIECE[:100] in path.read_bytes()]


def test_small_content_stays_in_memory_and_large_content_does_not(
    store: SqliteStore, directory: Path
) -> None:
    """Both are counted while the batch is open; closing it leaves nothing."""
    intake = Intake(store, NullMetrics(), 64)
    batch = UrlReader(Pages(), store, NullMetrics()).batch({"a": 1}, 0.0, intake.open(0))
    small, big = batch.read("2"), batch.read("20")
    assert isinstance(small.content, bytes)
    assert not isinstance(big.content, bytes)
    assert (small.size_bytes, big.size_bytes) == (2 * len(PIECE), 20 * len(PIECE))
    assert small.metadata == {"a": 1, "source_url": "http://a.example/"}
    n_open, n_bytes, n_kept = intake.received()
    assert (n_open, n_bytes) == (1, 22 * len(PIECE))
    assert 2 * len(PIECE) <= n_kept <= 8 * len(PIECE)
    assert len(large(directory)) == 1
    batch.close()
    batch.close()
    assert intake.received() == (0, 0, 0)
    assert large(directory) == []


def test_a_full_queue_takes_no_urls(store: SqliteStore) -> None:
    """What is being received counts against RAG_MAX_QUEUE_MB."""
    intake = Intake(store, NullMetrics(), 1)
    batch = UrlReader(Pages(), store, NullMetrics()).batch({}, 0.0, intake.open(0))
    batch.read("25")
    with pytest.raises(UnavailableError) as full:
        intake.open(0)
    assert full.value.code == "queue_full"
    batch.close()
    intake.open(0).close()


def test_a_transfer_that_nobody_waits_for_ends(store: SqliteStore, directory: Path) -> None:
    """Closing the batch ends its reads at their next piece, and leaves nothing on the disk."""
    pages = Pages()
    intake = Intake(store, NullMetrics(), 64)
    batch = UrlReader(pages, store, NullMetrics()).batch({}, 0.0, intake.open(0))
    errors: list[FetchError] = []

    def read() -> None:
        try:
            batch.read("1000000")
        except FetchError as exc:
            errors.append(exc)

    thread = threading.Thread(target=read)
    thread.start()
    while pages.n_pieces < 20:
        assert thread.is_alive()
    pages.proceed.clear()
    batch.close()
    pages.proceed.set()
    thread.join(10)
    assert not thread.is_alive()
    assert len(errors) == 1
    assert large(directory) == []
    assert intake.received() == (0, 0, 0)
