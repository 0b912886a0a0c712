"""The embedded store: one catalogue file, one file a collection, nothing beside them."""

from ragdock.adapters.stores.sqlite.backup import SqliteKeeper
from ragdock.adapters.stores.sqlite.store import SqliteStore

__all__ = ["SqliteKeeper", "SqliteStore"]
