"""What every `KeyStore` keeps; a back end's test class inherits it and gives `stores`."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from ragdock.core.apikeys import hash_of
from ragdock.errors import ConflictError, StoreError
from ragdock.ports import KeyStore
from ragdock.types import ApiKey, Right

__all__ = ["KeyStoreContract"]

Open = Callable[[], KeyStore]


def key(key_id: str, name: str | None = None, **fields: object) -> ApiKey:
    """A key, all of whose fields are set."""
    values: dict[str, object] = {
        "rights": frozenset({Right.READ, Right.WRITE, Right.METRICS}),
        "collections": frozenset({"a", "b"}),
        "rate_per_minute": 30,
        "created_at": 10.0,
        "expires_at": 99.5,
    }
    return ApiKey(key_id, name or f"name of {key_id}", hash_of(key_id), **(values | fields))  # type: ignore[arg-type]


class KeyStoreContract:
    """The tests; `another` opens one more handle of the same keys."""

    @pytest.fixture
    def another(self) -> Open:
        """Overridden by the back end's class."""
        raise NotImplementedError

    @pytest.fixture
    def keys(self, another: Open) -> KeyStore:
        """An empty store of keys."""
        return another()

    def test_a_key_comes_back_as_it_was(self, keys: KeyStore, another: Open) -> None:
        """Every field is kept, None among them, and other handles see it at once."""
        full = key("one")
        unset = dict.fromkeys(("collections", "rate_per_minute", "expires_at"))
        sparse = key("two", rights=frozenset({Right.ADMIN}), **unset)
        other = another()
        assert (other.peek("one"), other.peek_count(), other.all()) == (None, 0, ())
        keys.add(full)
        assert (other.peek("one"), other.peek_count()) == (full, 1)
        keys.add(sparse)
        assert (other.peek("two"), other.peek_count(), other.all()) == (sparse, 2, (full, sparse))

    def test_a_name_is_taken_until_its_key_is_revoked(self, keys: KeyStore) -> None:
        """Two keys that are not revoked never share a name; ids are never used twice."""
        keys.add(key("one", "web"))
        with pytest.raises(ConflictError, match="named 'web'"):
            keys.add(key("two", "web"))
        keys.revoke("one", 20.0)
        keys.add(key("two", "web"))
        with pytest.raises(ConflictError):
            keys.add(key("one", "other"))
        assert keys.peek_count() == 2

    def test_a_revocation_is_seen_at_once_and_stays(self, keys: KeyStore, another: Open) -> None:
        """The other handle's next look sees it; repeating keeps the first time."""
        other = another()
        keys.add(key("one"))
        assert other.peek("one") == key("one")
        keys.revoke("one", 20.0)
        keys.revoke("one", 30.0)
        keys.revoke("unknown", 30.0)
        assert other.peek("one") == key("one", revoked_at=20.0)

    def test_the_last_use_only_advances(self, keys: KeyStore) -> None:
        """Two processes that note a use in whatever order leave the later one."""
        keys.add(key("one"))
        keys.touch({"one": 50.0, "unknown": 60.0})
        keys.touch({"one": 40.0})
        assert keys.all() == (key("one", last_used_at=50.0),)

    def test_many_threads_may_peek(self, keys: KeyStore) -> None:
        """Peeking from several threads while another writes gives no error and no torn key."""
        keys.add(key("one"))
        seen: list[object] = []

        def peek() -> None:
            seen.extend([keys.peek("one") for _ in range(200)])

        threads = [threading.Thread(target=peek) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(20):
            keys.touch({"one": float(number)})
        for thread in threads:
            thread.join()
        assert len(seen) == 800
        assert all(isinstance(one, ApiKey) and one.hash == hash_of("one") for one in seen)

    def test_a_closed_store_says_so(self, keys: KeyStore) -> None:
        """After `close` every look is a `StoreError`, and never "no such key"."""
        keys.close()
        with pytest.raises(StoreError):
            keys.peek("one")
        with pytest.raises(StoreError):
            keys.peek_count()
        with pytest.raises(StoreError):
            keys.all()
