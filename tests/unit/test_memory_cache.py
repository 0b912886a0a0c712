"""The in-process cache: bounded in bytes, least recently used goes first."""

from __future__ import annotations

from ragdock.adapters.caches.memory import ENTRY_OVERHEAD_BYTES, MemoryCache, NullCache

ROOM = 16 * (ENTRY_OVERHEAD_BYTES + 102)


def test_the_least_recently_used_goes_first() -> None:
    """Over the bound the entry that was not used for longest is dropped."""
    cache = MemoryCache(ROOM)
    for number in range(16):
        cache.set(f"{number:02}", bytes(100), 60)
    assert cache.get("00") is not None
    cache.set("16", bytes(100), 60)
    assert cache.get("01") is None
    assert cache.get("00") is not None
    assert cache.get("16") is not None


def test_it_never_holds_more_than_the_bound() -> None:
    """Whatever is set, keys and overhead included, the bytes stay within the bound."""
    cache = MemoryCache(ROOM)
    for number in range(1000):
        cache.set(f"key-{number % 37}", bytes(number % 400), 60)
        assert cache._n_bytes <= ROOM
    assert cache._n_bytes == sum(
        len(key) + len(value) + ENTRY_OVERHEAD_BYTES for key, (_, value) in cache._entries.items()
    )


def test_what_is_too_large_is_not_kept() -> None:
    """A value above an eighth of the bound would push out too much; it isn't kept."""
    cache = MemoryCache(8000)
    cache.set("fits", bytes(1000), 60)
    cache.set("large", bytes(1001), 60)
    assert cache.get("fits") is not None
    assert cache.get("large") is None


def test_a_cache_of_zero_bytes_keeps_nothing() -> None:
    """RAG_CACHE_MEMORY_MB=0 turns the in-process cache off."""
    cache = MemoryCache(0)
    cache.set("k", b"x", 60)
    cache.set("e", b"", 60)
    assert cache.get("k") is None
    assert cache.get("e") is None


def test_close_forgets() -> None:
    """A closed cache is empty."""
    cache = MemoryCache(ROOM)
    cache.set("k", b"x", 60)
    cache.close()
    assert cache.get("k") is None
    assert cache._n_bytes == 0


def test_the_null_cache_keeps_nothing() -> None:
    """`NullCache` takes everything and gives nothing."""
    cache = NullCache()
    cache.set("k", b"x", 60)
    assert cache.get("k") is None
    cache.ping()
    cache.close()
