"""What is measured when somebody asks: the queue's age, the disk, Redis's own numbers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from ragdock.adapters.caches.memory import MemoryCache, NullCache
from ragdock.adapters.caches.redis_info import of_info
from ragdock.adapters.caches.tiered import TieredCache
from ragdock.adapters.metrics.disk import DataDirectory
from ragdock.adapters.metrics.prometheus import PrometheusMetrics
from ragdock.adapters.metrics.tables import MEASURED, METRICS
from ragdock.adapters.stores.sqlite import SqliteStore
from ragdock.errors import CacheError
from ragdock.ports import Measurement
from ragdock.services.readiness import Check, Report
from ragdock.services.vitals import Vitals
from ragdock.types import JobState, Upload

INFO = {
    "used_memory": 1000,
    "maxmemory": 4000,
    "connected_clients": 2,
    "uptime_in_seconds": 60,
    "evicted_keys": 5,
    "expired_keys": 6,
    "keyspace_hits": 7,
    "keyspace_misses": 8,
    "total_commands_processed": 9,
    "rejected_connections": 0,
    "rdb_last_bgsave_status": "ok",
    "aof_last_write_status": "err",
    "db0": {"keys": 11, "expires": 11},
    "db1": {"keys": 99},
}


def values(measured: Iterable[Measurement]) -> dict[tuple[str, ...], float]:
    """By name and label values."""
    return {(each.name, *each.labels.values()): each.value for each in measured}


def test_the_age_of_the_queue_is_the_oldest_documents(tmp_path: Path) -> None:
    """It is counted from its acceptance, is 0 without one, and never below."""
    store = SqliteStore(tmp_path)
    store.create_collection("default", "f", 4)
    now = [0.0]
    vitals = Vitals(store, clock=lambda: now[0])
    report = Report(())
    assert values(vitals.measure(report))["queue_oldest", "pending"] == 0
    for text in ("first", "second"):
        upload = Upload(text, f"{text}.txt", "text/plain", text.encode(), text)
        store.accept("default", [upload])
    accepted_at = store.oldest(JobState.PENDING)
    assert accepted_at is not None
    now[0] = accepted_at + 90
    found = values(vitals.measure(report))
    assert found["queue_oldest", "pending"] == pytest.approx(90)
    assert found["queue_oldest", "processing"] == 0
    assert found["queue", "pending"] == 2
    now[0] = accepted_at - 1000
    assert values(vitals.measure(report))["queue_oldest", "pending"] == 0
    store.close()


def test_health_is_one_of_three(tmp_path: Path) -> None:
    """The status that /health says is 1, the others 0."""
    store = SqliteStore(tmp_path)
    down = Check("redis", "down", 1.0, required=False, detail="no")
    found = values(Vitals(store).measure(Report((down,))))
    assert [found["health", each] for each in ("ok", "degraded", "unavailable")] == [0, 1, 0]
    store.close()


def test_a_source_that_fails_is_left_out(tmp_path: Path) -> None:
    """The others are told all the same."""

    def broken() -> tuple[Measurement, ...]:
        raise CacheError("Redis doesn't answer.")

    store = SqliteStore(tmp_path)
    found = values(
        Vitals(store, broken, lambda: [Measurement("data_free", 1.0)]).measure(Report(()))
    )
    assert found["data_free",] == 1
    store.close()


def test_the_disk_is_measured(tmp_path: Path) -> None:
    """Room, the bytes of each part, and the time of the last backup once there is one."""
    for folder, n_bytes in (("collections", 10), ("contents", 20), ("audit", 30)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x").write_bytes(bytes(n_bytes))
    (tmp_path / "catalogue.db").write_bytes(bytes(5))
    (tmp_path / "catalogue.db-wal").write_bytes(bytes(2))
    found = values(DataDirectory(tmp_path).measure())
    parts = ("collections", "contents", "audit", "catalogue")
    assert [found["data_bytes", part] for part in parts] == [10, 20, 30, 7]
    assert 0 < found["data_free",] <= found["data_size",]
    assert ("backup",) not in found
    (tmp_path / "last-backup").touch()
    os.utime(tmp_path / "last-backup", (1000, 1000))
    assert values(DataDirectory(tmp_path).measure())["backup",] == 1000
    assert DataDirectory(tmp_path / "nowhere").measure() == ()


def test_redis_tells_of_our_database() -> None:
    """INFO's numbers; a persistence that failed is 0; what this Redis lacks is absent."""
    found = values(of_info(INFO, 0))
    assert found["redis_keys",] == 11
    assert found["redis_evicted",] == 5
    assert found["redis_memory_limit",] == 4000
    assert found["redis_persistence", "snapshot"] == 1
    assert found["redis_persistence", "append"] == 0
    assert ("redis_persistence", "rewrite") not in found
    assert values(of_info({"maxmemory": 0}, 3)) == {("redis_keys",): 0.0}


def test_only_a_server_is_measured() -> None:
    """A cache in the process is the process's own affair."""
    assert TieredCache(MemoryCache(100), NullCache()).measure() == ()


def test_what_was_measured_is_kept_nowhere() -> None:
    """A value that isn't measured again isn't told again."""
    metrics = PrometheusMetrics()
    assert b"rag_documents 3.0" in metrics.render([Measurement("documents", 3.0)])
    assert b"rag_documents" not in metrics.render()
    text = metrics.render([Measurement("redis_evicted", 2.0)]).decode()
    assert "# TYPE rag_redis_evicted_keys_total counter\nrag_redis_evicted_keys_total 2.0" in text


def test_metrics_are_named_alike() -> None:
    """Counters end in _total and no other does; no name stands for two."""
    specs = [*(spec[:4] for spec in METRICS.values()), *MEASURED.values()]
    names = [spec[1] for spec in specs]
    assert len(set(names)) == len(names)
    assert not set(METRICS) & set(MEASURED)
    for kind, name, text, _ in specs:
        assert name.startswith("rag_")
        assert name.endswith("_total") == (kind == "counter")
        assert text.endswith(".")
