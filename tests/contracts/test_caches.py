"""The cache contract over every cache, and over every Redis that this machine has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from contracts.cache_contract import CacheContract
from ragdock.adapters.caches.memory import MemoryCache
from ragdock.adapters.caches.redis import RedisCache
from ragdock.adapters.caches.tiered import TieredCache
from ragdock.adapters.metrics.null import NullMetrics
from ragdock.errors import CacheError
from ragdock.ports import Cache
from support.ports import free_port
from support.redis_server import RedisServer, binaries


@pytest.fixture(scope="module", params=sorted(binaries()))
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer]:
    """A Redis-compatible server of each kind."""
    directory = tmp_path_factory.mktemp("redis")
    with RedisServer(directory, binary=binaries()[request.param]) as running:
        yield running


@pytest.fixture
def redis_cache(server: RedisServer) -> Iterator[RedisCache]:
    """A cache on the empty server."""
    admin = server.client()
    admin.flushall()
    admin.close()
    cache = RedisCache("127.0.0.1", server.port, timeout_seconds=2.0, metrics=NullMetrics())
    yield cache
    cache.close()


class TestMemoryCache(CacheContract):
    """In this process."""

    @pytest.fixture
    def cache(self) -> Cache:
        """One megabyte."""
        return MemoryCache(2**20)


class TestRedisCache(CacheContract):
    """On a real server."""

    @pytest.fixture
    def cache(self, redis_cache: RedisCache) -> Cache:
        """Empty."""
        return redis_cache


class TestTieredCache(CacheContract):
    """Memory before Redis."""

    @pytest.fixture
    def cache(self, redis_cache: RedisCache) -> Cache:
        """Empty."""
        return TieredCache(MemoryCache(2**20), redis_cache)


def test_the_far_value_is_kept_near() -> None:
    """What another process put into the far cache is read from there once, then nearby."""
    near, far = MemoryCache(2**20), MemoryCache(2**20)
    tiered = TieredCache(near, far)
    far.set("k", b"v", 60)
    assert tiered.get("k") == b"v"
    far.close()
    assert tiered.get("k") == b"v"


def test_near_lives_no_longer_than_told() -> None:
    """The near cache forgets after its own time, so that it can't outlive the far one for long."""
    near = MemoryCache(2**20)
    kept: list[int] = []
    near.set = lambda key, value, ttl_seconds: kept.append(ttl_seconds)  # type: ignore[method-assign]
    tiered = TieredCache(near, MemoryCache(2**20), near_ttl_seconds=7)
    tiered.set("a", b"x", 3)
    tiered.set("a", b"x", 3600)
    tiered.get("a")
    assert kept == [3, 7, 7]


def test_two_processes_share_what_redis_holds(server: RedisServer) -> None:
    """A value set through one cache is read through another."""
    one, two = (
        RedisCache("127.0.0.1", server.port, timeout_seconds=2.0, metrics=NullMetrics())
        for _ in range(2)
    )
    one.set("rag:v1:test:shared", b"x", 60)
    assert two.get("rag:v1:test:shared") == b"x"
    one.close()
    two.close()


def test_nobody_there_is_none_and_a_ping_that_raises() -> None:
    """Without a server nothing is kept, nothing raises but ping, and that names no address."""
    cache = RedisCache("127.0.0.1", free_port(), metrics=NullMetrics())
    cache.set("k", b"v", 60)
    assert cache.get("k") is None
    with pytest.raises(CacheError) as error:
        cache.ping()
    assert "127.0.0.1" not in str(error.value)
    cache.close()
