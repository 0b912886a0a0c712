"""The rate limiters keep the contract; the shared one survives Redis's failures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.limiter_contract import LimiterContract
from ragdock.adapters.limits.memory import MemoryLimiter
from ragdock.adapters.limits.null import NullLimiter
from ragdock.adapters.limits.redis import RedisLimiter
from ragdock.adapters.metrics.null import NullMetrics
from ragdock.core.gcra import Limit
from support.redis_server import RedisServer, binaries
from support.serving import until

pytestmark = pytest.mark.timing

LIMIT = Limit("key", "someone", 60)
PATIENT = 10.0
"""A deadline that a stalled machine keeps: past it, a process rightly counts for itself."""


class Counting(NullMetrics):
    """Metrics that remember counts."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add."""
        self.counts[name] = self.counts.get(name, 0) + amount


class TestMemoryLimiter(LimiterContract):
    """In process."""

    @pytest.fixture
    def limiter(self) -> MemoryLimiter:
        """An empty one."""
        return MemoryLimiter()


@pytest.fixture(params=sorted(binaries()), scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer]:
    """Each Redis-compatible server that is installed."""
    directory = tmp_path_factory.mktemp("redis")
    with RedisServer(directory, binary=binaries()[request.param]) as server:
        yield server


class TestRedisLimiter(LimiterContract):
    """In Redis."""

    @pytest.fixture
    def limiter(self, server: RedisServer) -> Iterator[RedisLimiter]:
        """One on an empty server."""
        with server.client() as admin:
            admin.flushall()
            # A restarted server knows no script either.
            admin.script_flush()
        limiter = RedisLimiter(
            "127.0.0.1", server.port, timeout_seconds=PATIENT, metrics=NullMetrics()
        )
        yield limiter
        limiter.close()

    def test_keys_expire_and_hold_no_name(self, limiter: RedisLimiter, server: RedisServer) -> None:
        """What is kept lives a minute at most, and tells nobody's address."""
        limiter.take(Limit("address", "203.0.113.9", 60), 60)
        with server.client() as admin:
            keys = admin.keys("*")
            assert [key[:12] for key in keys] == [b"rag:v1:rate:"]
            assert b"203.0.113.9" not in b"".join(keys)
            assert 0 < admin.pttl(keys[0]) <= 60_000

    def test_two_processes_share_one_count(
        self, limiter: RedisLimiter, server: RedisServer
    ) -> None:
        """What one grants, another can't grant again."""
        other = RedisLimiter(
            "127.0.0.1", server.port, timeout_seconds=PATIENT, metrics=NullMetrics()
        )
        start = time.monotonic()
        assert limiter.take(LIMIT, 50).granted == 50
        assert 10 <= other.take(LIMIT, 50).granted <= 11 + (time.monotonic() - start)
        other.close()


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_without_redis_a_process_goes_on_from_what_it_knew(tmp_path: Path, fault: str) -> None:
    """A dead or hung Redis costs one deadline; the count goes on here, and there when it's back."""
    metrics = Counting()
    with RedisServer(tmp_path) as server:
        limiter = RedisLimiter("127.0.0.1", server.port, timeout_seconds=0.2, metrics=metrics)
        assert limiter.take(LIMIT, 55).granted == 55
        getattr(server, fault)()
        start = time.monotonic()
        granted = sum(limiter.take(LIMIT).granted for _ in range(200))
        seconds = time.monotonic() - start
        assert seconds < 3.0  # Asking it each time would take 40.
        assert 5 <= granted <= 6 + seconds
        assert metrics.counts["rate_limit_fallback"] == 200
        assert until(lambda: limiter.take(LIMIT) and limiter.instant)
        server.kill()
        server.start()
        assert until(lambda: not limiter.instant and limiter.take(LIMIT, 10).granted == 10)
        limiter.close()


def test_a_redis_that_refuses_is_limited_here(tmp_path: Path) -> None:
    """With a wrong password every verdict is this process's own, and limits all the same."""
    metrics = Counting()
    with RedisServer(tmp_path, "--requirepass", "sesame") as server:
        limiter = RedisLimiter("127.0.0.1", server.port, password="wrong", metrics=metrics)
        start = time.monotonic()
        granted = sum(limiter.take(LIMIT).granted for _ in range(100))
        assert 60 <= granted <= 61 + (time.monotonic() - start)
        assert metrics.counts["rate_limit_fallback"] == 100
        limiter.close()


def test_memory_is_bounded() -> None:
    """Who rotates through addresses makes the limiter forget the longest silent, and no more."""
    limiter = MemoryLimiter(max_holders=10)
    for number in range(100):
        limiter.take(Limit("address", str(number), 1))
    assert len(limiter._tats) == 10
    assert limiter.take(Limit("address", "99", 1)).granted == 0
    assert limiter.take(Limit("address", "1", 1)).granted == 1


def test_the_null_limiter_grants_everything() -> None:
    """No limit is a limiter too."""
    limiter = NullLimiter()
    assert limiter.instant
    assert sum(limiter.take(Limit("key", "k", 1)).granted for _ in range(1000)) == 1000
    limiter.close()
