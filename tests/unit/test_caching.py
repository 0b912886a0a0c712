"""Cached computations: one at a time a key, and nothing that fails is kept."""

from __future__ import annotations

import threading
import time

import pytest

from ragdock.adapters.caches.memory import MemoryCache
from ragdock.adapters.metrics.null import NullMetrics
from ragdock.errors import EmbedderError
from ragdock.services.caching import JsonCache, SingleFlight, dump

pytestmark = pytest.mark.timing


def made(ttl_seconds: int = 60) -> JsonCache:
    """A cache in memory."""
    return JsonCache(MemoryCache(2**20), ttl_seconds, NullMetrics())


def test_miss_then_hit() -> None:
    """The first call computes, the second doesn't."""
    cache = made()
    calls: list[int] = []

    def compute() -> tuple[bytes, bool]:
        calls.append(1)
        return b"{}", True

    states = [cache.get("answer", "k", compute, bypass=False)[1] for _ in range(2)]
    assert (states, len(calls)) == (["miss", "hit"], 1)


def test_bypass_computes_and_keeps_for_others() -> None:
    """A bypass never reads, but what it computes is there for the next."""
    cache = made()
    cache.get("answer", "k", lambda: (b"old", True), bypass=False)
    assert cache.get("answer", "k", lambda: (b"new", True), bypass=True) == (b"new", "bypass")
    assert cache.get("answer", "k", lambda: (b"x", True), bypass=False) == (b"new", "hit")


def test_what_may_not_be_kept_is_not() -> None:
    """A value that its maker doesn't want kept is computed again."""
    cache = made()
    for value in (b"1", b"2"):
        assert cache.get("answer", "k", lambda v=value: (v, False), bypass=False) == (value, "miss")


def test_failures_are_not_kept() -> None:
    """After a failure the next call computes anew."""
    cache = made()

    def fails() -> tuple[bytes, bool]:
        raise EmbedderError("Busy.")

    with pytest.raises(EmbedderError):
        cache.get("answer", "k", fails, bypass=False)
    assert cache.get("answer", "k", lambda: (b"ok", True), bypass=False) == (b"ok", "miss")


def test_no_time_to_live_is_no_cache() -> None:
    """With zero seconds nothing is read or kept."""
    cache = made(0)
    for _ in range(2):
        assert cache.get("answer", "k", lambda: (b"x", True), bypass=False)[1] == "miss"


def together(flights: SingleFlight, compute: object, n_callers: int = 5) -> list[object]:
    """Call with one key from several threads while the first computes; results or errors."""
    results: list[object] = []

    def call() -> None:
        try:
            results.append(flights.do("k", compute))  # type: ignore[arg-type]
        except EmbedderError as exc:
            results.append(exc)

    threads = [threading.Thread(target=call) for _ in range(n_callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return results


def test_callers_at_once_share_one_computation() -> None:
    """One of several callers computes; all get the value, one is told that it led."""
    calls: list[int] = []

    def compute() -> str:
        time.sleep(0.2)
        calls.append(1)
        return "value"

    results = together(SingleFlight(), compute)
    assert len(calls) == 1
    assert sorted(results) == [("value", False)] * 4 + [("value", True)]  # type: ignore[type-var]


def test_followers_get_the_leaders_error() -> None:
    """When the leader fails, its followers fail alike, without a herd, and the key is free."""
    flights = SingleFlight()
    calls: list[int] = []

    def compute() -> str:
        time.sleep(0.2)
        calls.append(1)
        raise EmbedderError("Busy.")

    results = together(flights, compute)
    assert [type(result) for result in results] == [EmbedderError] * 5
    assert len(calls) == 1
    assert flights.do("k", lambda: "fine") == ("fine", True)


def test_keys_dont_wait_for_each_other() -> None:
    """A slow key holds nobody else up."""
    flights = SingleFlight()
    gate = threading.Event()
    thread = threading.Thread(target=lambda: flights.do("slow", lambda: gate.wait(10)))
    thread.start()
    assert flights.do("fast", lambda: 1) == (1, True)
    gate.set()
    thread.join(10)


def test_dump_writes_any_text() -> None:
    """JSON text is compact UTF-8, and a lone surrogate is escaped, not an error."""
    assert dump({"a": "ü"}) == '{"a":"ü"}'.encode()
    assert dump("\ud800") == b'"\\ud800"'
