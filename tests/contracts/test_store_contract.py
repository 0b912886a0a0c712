"""The embedded store passes the contract of every store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from contracts.archive_contract import ArchivesContract
from contracts.search_contract import FiltersContract, SearchContract
from contracts.staging_contract import PurgeContract, StagingContract, TextContract
from contracts.store_contract import (
    MAX_ATTEMPTS,
    CollectionsContract,
    DocumentsContract,
    LedgerContract,
    OpenStore,
    UploadsContract,
)
from ragdock.adapters.stores.sqlite import SqliteStore
from ragdock.ports import Store
from support.stores import memory_directory


class _Sqlite:
    @pytest.fixture
    def open_store(self) -> Iterator[OpenStore]:
        """Opens `SqliteStore` on one directory, and closes what was opened."""
        with memory_directory() as directory, ExitStack() as stack:

            def open_one() -> Store:
                store = SqliteStore(directory, max_attempts=MAX_ATTEMPTS)
                stack.callback(store.close)
                return store

            yield open_one


class TestSqliteCollections(_Sqlite, CollectionsContract):
    """Collections in files."""


class TestSqliteLedger(_Sqlite, LedgerContract):
    """The ledger in the catalogue file."""


class TestSqliteUploads(_Sqlite, UploadsContract):
    """Values in the catalogue, and files beside it."""


class TestSqliteArchives(_Sqlite, ArchivesContract):
    """Files of archives by their ids."""


class TestSqliteDocuments(_Sqlite, DocumentsContract):
    """Documents in a collection's file."""


class TestSqliteStaging(_Sqlite, StagingContract):
    """Hidden segments."""


class TestSqlitePurge(_Sqlite, PurgeContract):
    """Hidden segments that go."""


class TestSqliteText(_Sqlite, TextContract):
    """Texts in rows."""


class TestSqliteSearch(_Sqlite, SearchContract):
    """FTS5 and the int8 scan."""


class TestSqliteFilters(_Sqlite, FiltersContract):
    """Filters as SQL."""
