"""Redis may vanish, hang, fill up or lock the door: answers stay, health tells, and it heals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from support.redis_server import RedisServer
from support.serving import serving, until
from support.web import add, ask

pytestmark = pytest.mark.timing

LONGEST_SECONDS = 5.0


@pytest.fixture
def cached(tmp_path: Path, redis_server: RedisServer) -> Iterator[TestClient]:
    """A server with Redis and a document; what it keeps in process is turned off."""
    with serving(
        tmp_path / "data",
        redis_host="127.0.0.1",
        redis_port=redis_server.port,
        cache_memory_mb=0,
        redis_timeout_seconds=0.5,
    ) as client:
        add(client, "The lighthouse has 199 steps.", "tower")
        assert health(client)["status"] == "ok"
        yield client


def health(client: TestClient) -> Any:
    """The health report, asked once what was known before is outdated."""
    time.sleep(1.05)
    response = client.get("/health")
    assert response.status_code == 200, response.text
    return response.json()


def down(report: Any) -> dict[str, str]:
    """Dependencies that are down, and why."""
    return {d["name"]: d["detail"] for d in report["dependencies"] if d["status"] == "down"}


def keep_asking(client: TestClient, n_times: int = 10) -> float:
    """Ask and write; every request must succeed. The longest one's seconds."""
    longest = 0.0
    for number in range(n_times):
        start = time.monotonic()
        assert "199" in ask(client, f"How many steps has the lighthouse? {number % 3}")["answer"]
        longest = max(longest, time.monotonic() - start)
    start = time.monotonic()
    add(client, f"Another text {n_times} {start}.")
    return max(longest, time.monotonic() - start)


def is_cached(client: TestClient) -> bool:
    """Whether Redis serves: the second of two equal questions is a hit."""
    ask(client, "Is it back, with how many steps?")
    return bool(ask(client, "Is it back, with how many steps?")["cache"] == "hit")


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_a_dead_or_hung_redis_is_gone_without(
    cached: TestClient, redis_server: RedisServer, fault: str
) -> None:
    """Killed or frozen in mid-flight: no request fails or hangs, health is degraded, it heals."""
    assert is_cached(cached)
    getattr(redis_server, fault)()
    assert keep_asking(cached) < LONGEST_SECONDS
    report = health(cached)
    assert report["status"] == "degraded"
    assert list(down(report)) == ["redis"]
    assert down(report)["redis"]
    metrics = cached.get("/metrics").text
    assert 'rag_dependency_up{dependency="redis"} 0.0' in metrics
    assert "rag_cache_errors_total 0.0" not in metrics
    back: Callable[[], None] = redis_server.start if fault == "kill" else redis_server.resume
    back()
    assert until(lambda: health(cached)["status"] == "ok")
    assert until(lambda: is_cached(cached))
    assert 'rag_dependency_up{dependency="redis"} 1.0' in cached.get("/metrics").text


def test_redis_comes_back_without_anyone_asking_for_health(
    cached: TestClient, redis_server: RedisServer
) -> None:
    """After a restart the cache is used again within seconds, by requests alone."""
    redis_server.kill()
    keep_asking(cached)
    redis_server.start()
    assert until(lambda: is_cached(cached))


def test_a_full_redis_is_degraded_and_still_read(
    cached: TestClient, redis_server: RedisServer
) -> None:
    """At maxmemory without eviction reads go on, and health names the remedy."""
    assert is_cached(cached)
    admin = redis_server.client()
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", "1")
    # A fact that both before and after has the same generation: only Redis refuses to keep more.
    assert ask(cached, "Is it back, with how many steps?")["cache"] == "hit"
    report = health(cached)
    assert report["status"] == "degraded"
    assert "maxmemory-policy" in down(report)["redis"]
    assert keep_asking(cached) < LONGEST_SECONDS
    admin.config_set("maxmemory", "0")
    assert health(cached)["status"] == "ok"
    assert is_cached(cached)
    admin.close()


def test_a_redis_that_wants_a_password_is_degraded(tmp_path: Path) -> None:
    """Without or with a wrong password answers come uncached, and health says why, no secret."""
    directory = tmp_path / "redis"
    directory.mkdir()
    with RedisServer(directory, "--requirepass", "open-sesame") as server:
        settings = {"redis_host": "127.0.0.1", "redis_port": server.port, "cache_memory_mb": 0}
        for number, password in enumerate((None, "wrong-one")):
            with serving(tmp_path / f"data{number}", redis_password=password, **settings) as client:
                add(client, "The lighthouse has 199 steps.", "tower")
                assert keep_asking(client) < LONGEST_SECONDS
                report = health(client)
                assert report["status"] == "degraded"
                assert "password" in down(report)["redis"]
                assert "wrong-one" not in str(report)
        with serving(tmp_path / "right", redis_password="open-sesame", **settings) as client:
            add(client, "The lighthouse has 199 steps.", "tower")
            assert health(client)["status"] == "ok"
            assert is_cached(client)


def test_a_name_that_leads_nowhere_is_degraded(tmp_path: Path) -> None:
    """A Redis that was never there is degraded from the start, and never an error."""
    with serving(tmp_path / "data", redis_host="redis.invalid", redis_port=6379) as client:
        add(client, "The lighthouse has 199 steps.", "tower")
        assert keep_asking(client) < LONGEST_SECONDS
        assert list(down(health(client))) == ["redis"]


def test_what_redis_holds_is_json_with_a_time_to_live(
    cached: TestClient, redis_server: RedisServer
) -> None:
    """Every key is ours, of a known kind, expires, and holds neither question nor pickle."""
    ask(cached, "How many steps has the lighthouse?")
    admin = redis_server.client()
    keys = [key.decode() for key in admin.scan_iter()]
    assert {key.split(":")[2] for key in keys} == {"answer", "embedding", "probe"}
    for key in keys:
        assert key.startswith("rag:v1:")
        assert 0 < int(admin.ttl(key)) <= 3600
        assert admin.get(key)[:1] in (b"{", b"1")
    admin.close()
