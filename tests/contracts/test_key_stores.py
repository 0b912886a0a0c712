"""The back ends that keep API keys keep to the contract."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from contracts.key_store_contract import KeyStoreContract, Open
from ragdock.adapters.stores.sqlite.keys import SqliteKeys
from ragdock.errors import ConfigurationError


class TestSqliteKeys(KeyStoreContract):
    """`SqliteKeys`, each handle with connections of its own, as another process has."""

    @pytest.fixture
    def another(self, tmp_path: Path) -> Iterator[Open]:
        """Opens the same directory again."""
        with ExitStack() as stack:

            def open_one() -> SqliteKeys:
                keys = SqliteKeys(tmp_path / "data")
                stack.callback(keys.close)
                return keys

            yield open_one


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A data directory below a file is a configuration error with its path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="file/data"):
        SqliteKeys(tmp_path / "file" / "data")
