"""What every `Cache` keeps to; `test_caches.py` runs it over each of them."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod

from ragdock.ports import Cache

__all__ = ["CacheContract"]


class CacheContract(ABC):
    """Subclass with a `cache` fixture that gives an empty cache with room for a megabyte."""

    @abstractmethod
    def cache(self) -> Cache:
        """The cache under test (a fixture)."""

    def test_absent_is_none(self, cache: Cache) -> None:
        """A key that was never set has no value."""
        assert cache.get("rag:v1:test:absent") is None

    def test_set_then_get(self, cache: Cache) -> None:
        """What was set comes back as the same bytes, whatever they are."""
        for number, value in enumerate([b"", b"{}", bytes(range(256)), "ü🐝".encode()]):
            cache.set(f"rag:v1:test:{number}", value, 60)
            assert cache.get(f"rag:v1:test:{number}") == value

    def test_peeking_tells_the_value_or_nothing(self, cache: Cache) -> None:
        """What is told without waiting is what was kept, or nothing."""
        assert cache.peek("p") is None
        cache.set("p", b"1", 60)
        assert cache.peek("p") in (None, b"1")

    def test_the_last_value_wins(self, cache: Cache) -> None:
        """Setting a key again replaces its value."""
        cache.set("rag:v1:test:k", b"one", 60)
        cache.set("rag:v1:test:k", b"two", 60)
        assert cache.get("rag:v1:test:k") == b"two"

    def test_values_expire(self, cache: Cache) -> None:
        """After its time to live a value is gone, also when it was read meanwhile."""
        cache.set("rag:v1:test:brief", b"x", 1)
        assert cache.get("rag:v1:test:brief") == b"x"
        time.sleep(1.1)
        assert cache.get("rag:v1:test:brief") is None

    def test_no_time_to_live_keeps_nothing(self, cache: Cache) -> None:
        """Zero or negative seconds keep nothing and don't fail."""
        for ttl_seconds in (0, -1):
            cache.set("rag:v1:test:never", b"x", ttl_seconds)
            assert cache.get("rag:v1:test:never") is None

    def test_keys_are_apart(self, cache: Cache) -> None:
        """One key's value doesn't show under another."""
        cache.set("rag:v1:test:a", b"a", 60)
        assert cache.get("rag:v1:test:ab") is None
        assert cache.get("rag:v1:test:A") is None

    def test_ping(self, cache: Cache) -> None:
        """A reachable cache answers."""
        cache.ping()

    def test_threads_may_share_it(self, cache: Cache) -> None:
        """Many threads read and write at once, and each key holds what was written to it."""
        wrong: list[str] = []

        def work(number: int) -> None:
            for turn in range(50):
                key = f"rag:v1:test:{number}:{turn}"
                cache.set(key, key.encode(), 60)
                if cache.get(key) != key.encode():
                    wrong.append(key)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_after_close_nothing_raises_on_get_and_set(self, cache: Cache) -> None:
        """Get and set never raise, not even when the cache was closed under a running request."""
        cache.close()
        cache.set("rag:v1:test:late", b"x", 60)
        cache.get("rag:v1:test:late")
