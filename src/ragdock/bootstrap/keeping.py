"""What works on a store without a server: copies, checks, other indexes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ragdock.adapters.stores.sqlite import SqliteKeeper, SqliteStore
from ragdock.bootstrap.parts import (
    embedder_of,
    ensure_collection,
    index_of,
    store_of,
)
from ragdock.ports import (
    Build,
    Embedder,
    Keeper,
    Transfer,
)
from ragdock.services.reindex import Reindexer
from ragdock.settings import Settings, cpu_quota
from ragdock.types import Collection

__all__ = ["Reindexing", "keeper_of", "open_reindexing"]


def keeper_of(data_dir: Path) -> Keeper:
    """Who copies, restores and checks the store in a data directory."""
    return SqliteKeeper(data_dir)


@contextmanager
def open_reindexing(
    settings: Settings, *, embedder: Embedder | None = None
) -> Iterator[Reindexing]:
    """What it takes to build indexes anew, without a server."""
    with ExitStack() as stack:
        store = store_of(settings)
        stack.callback(store.close)
        if embedder is None:
            embedder = embedder_of(settings, settings.threads or cpu_quota())
            stack.callback(embedder.close)
        yield Reindexing(
            store,
            Reindexer(embedder, settings.chunk_tokens),
            index_of(settings, embedder),
            embedder.dim,
        )


class Reindexing:
    """A store, and how its collections are to be indexed."""

    def __init__(
        self, store: SqliteStore, reindexer: Reindexer, fingerprint: str, dim: int
    ) -> None:
        self._store = store
        self.dim = dim
        self.reindexer = reindexer
        self.fingerprint = fingerprint

    def collections(self) -> tuple[Collection, ...]:
        """All collections."""
        return self._store.collections()

    @property
    def transfer(self) -> Transfer:
        """Whole documents out of the store and into it."""
        return self._store

    def collection(self, name: str, *, create: bool = False) -> Collection:
        """One collection; `create` makes a missing one."""
        if create:
            ensure_collection(self._store, name, self.fingerprint, self.dim)
        return self._store.collection(name)

    def build(self, collection: str, *, force: bool = False) -> Build | None:
        """The collection's next index; None when it is indexed so already."""
        return self._store.rebuild(collection, self.fingerprint, self.dim, force=force)

    def is_begun(self, collection: str) -> bool:
        """Whether an earlier run left something to go on with."""
        return self._store.collection(collection).reindex_percent is not None

    def discard(self, collection: str) -> bool:
        """Remove an unfinished build; False when there is none."""
        return self._store.discard_build(collection)
