"""The pool does urgent work first, is fair within a class, and never loses a caller."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from ragdock.adapters.embedders.pool import PriorityPool
from ragdock.errors import EmbedderError

pytestmark = pytest.mark.timing


class Gate:
    """Work that records what it began and waits until it is let through."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.threads: set[str] = set()
        self.peak = 0
        self.active = 0
        self._lock = threading.Lock()
        self._open = threading.Semaphore(0)

    def work(self, item: str) -> str:
        """Upper case, once let through; `bad` fails."""
        with self._lock:
            self.begun.append(item)
            self.threads.add(threading.current_thread().name)
            self.active += 1
            self.peak = max(self.peak, self.active)
        self._open.acquire()
        with self._lock:
            self.active -= 1
        if item.startswith("bad"):
            raise ValueError(item)
        return item.upper()

    def let_through(self, n_items: int) -> None:
        """Allow so many items to end."""
        self._open.release(n_items)


@contextmanager
def running(
    n_threads: int = 1, max_urgent: int = 100
) -> Iterator[tuple[PriorityPool[str, str], Gate, ThreadPoolExecutor]]:
    """A pool, its gate and callers; all end with the block."""
    gate = Gate()
    pool: PriorityPool[str, str] = PriorityPool(
        gate.work, n_threads, max_urgent=max_urgent, name="test"
    )
    with ThreadPoolExecutor(16) as callers:
        try:
            yield pool, gate, callers
        finally:
            gate.let_through(10_000)
            pool.close()


def until(condition: Callable[[], bool]) -> None:
    """Wait at most 5 seconds."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in 5 seconds"
        time.sleep(0.002)


def waiting(pool: PriorityPool[str, str], n_urgent: int, n_bulk: int) -> Callable[[], bool]:
    """Whether so many items wait in the two queues."""

    def check() -> bool:
        counts = [sum(len(c.items) - c.next for c in q) for q in (pool._urgent, pool._bulk)]
        return counts == [n_urgent, n_bulk]

    return check


def test_results_keep_the_order_of_the_items() -> None:
    """Whatever the threads do, result n belongs to item n."""
    with running(4) as (pool, gate, _):
        gate.let_through(1000)
        items = [f"item {number}" for number in range(200)]
        assert pool.map(items, urgent=False) == [item.upper() for item in items]
        assert pool.map(items, urgent=True) == [item.upper() for item in items]


def test_nothing_gives_nothing() -> None:
    """An empty call returns at once."""
    with running() as (pool, _, _callers):
        assert pool.map([], urgent=True) == []
        assert pool.map([], urgent=False) == []


def test_urgent_work_overtakes_bulk_work() -> None:
    """An urgent item begins as soon as the running item ends, before all bulk items."""
    with running() as (pool, gate, callers):
        bulk = callers.submit(pool.map, ["b1", "b2", "b3"], urgent=False)
        until(lambda: gate.begun == ["b1"])
        urgent = callers.submit(pool.map, ["u1", "u2"], urgent=True)
        until(waiting(pool, 2, 2))
        gate.let_through(3)
        assert urgent.result(5) == ["U1", "U2"]
        assert not bulk.done()
        gate.let_through(2)
        assert bulk.result(5) == ["B1", "B2", "B3"]
        assert gate.begun == ["b1", "u1", "u2", "b2", "b3"]


def test_callers_of_a_class_take_turns() -> None:
    """A short call isn't held up by a long one that came first."""
    with running() as (pool, gate, callers):
        long = callers.submit(pool.map, ["l1", "l2", "l3", "l4"], urgent=False)
        until(lambda: gate.begun == ["l1"])
        short = callers.submit(pool.map, ["s1"], urgent=False)
        until(waiting(pool, 0, 4))
        gate.let_through(3)
        assert short.result(5) == ["S1"]
        gate.let_through(2)
        assert long.result(5) == ["L1", "L2", "L3", "L4"]
        assert gate.begun.index("s1") <= 2


def test_at_most_so_many_run_at_once() -> None:
    """Callers' own threads count: two threads mean two running items."""
    with running(2) as (pool, gate, callers):
        futures = [callers.submit(pool.map, [f"u{n}"], urgent=True) for n in range(6)]
        futures += [callers.submit(pool.map, [f"b{n}", f"c{n}"], urgent=False) for n in range(3)]
        until(waiting(pool, 4, 6))
        assert gate.active == 2
        gate.let_through(100)
        for future in futures:
            future.result(5)
        assert gate.peak == 2


def test_a_single_urgent_item_runs_in_its_callers_thread() -> None:
    """With room, a query isn't handed to another thread."""
    with running(2) as (pool, gate, _):
        gate.let_through(1)
        assert pool.map(["q"], urgent=True) == ["Q"]
        assert gate.threads == {threading.current_thread().name}


def test_a_caller_that_ran_its_own_item_makes_room() -> None:
    """Items that queued up behind a caller's own thread begin when it ends."""
    with running() as (pool, gate, callers):
        first = callers.submit(pool.map, ["q1"], urgent=True)
        until(lambda: gate.begun == ["q1"])
        second = callers.submit(pool.map, ["q2"], urgent=True)
        bulk = callers.submit(pool.map, ["b1"], urgent=False)
        until(waiting(pool, 1, 1))
        gate.let_through(3)
        assert [f.result(5) for f in (first, second, bulk)] == [["Q1"], ["Q2"], ["B1"]]
        assert gate.begun == ["q1", "q2", "b1"]


def test_a_full_urgent_queue_refuses() -> None:
    """Beyond the limit an urgent call is refused at once and told when to come back."""
    with running(1, max_urgent=2) as (pool, gate, callers):
        futures = [callers.submit(pool.map, ["u"], urgent=True) for _ in range(3)]
        until(waiting(pool, 2, 0))
        with pytest.raises(EmbedderError, match="Too many queries") as refused:
            pool.map(["u"], urgent=True)
        assert refused.value.code == "embedder_busy"
        assert refused.value.retry_after_seconds >= 1
        gate.let_through(3)
        for future in futures:
            assert future.result(5) == ["U"]


def test_bulk_callers_wait_instead() -> None:
    """Bulk work isn't refused however much there is: its callers are held back."""
    with running(1, max_urgent=1) as (pool, gate, callers):
        futures = [callers.submit(pool.map, ["b"] * 50, urgent=False) for _ in range(10)]
        until(lambda: waiting(pool, 0, 499)())
        gate.let_through(500)
        for future in futures:
            assert len(future.result(5)) == 50


def test_a_call_longer_than_the_urgent_queue_is_served() -> None:
    """One call of more items than may wait is let in when nothing waits."""
    with running(2, max_urgent=3) as (pool, gate, _):
        gate.let_through(20)
        assert len(pool.map(["u"] * 20, urgent=True)) == 20


@pytest.mark.parametrize("urgent", [False, True])
def test_a_failure_reaches_its_caller_only(urgent: bool) -> None:
    """What the work raises is raised in the caller; others go on, and the rest is dropped."""
    with running() as (pool, gate, callers):
        other = callers.submit(pool.map, ["x1", "x2"], urgent=False)
        until(lambda: gate.begun == ["x1"])
        failing = callers.submit(pool.map, ["bad", "never"], urgent=urgent)
        until(lambda: sum(len(c.items) - c.next for c in (*pool._urgent, *pool._bulk)) == 3)
        gate.let_through(10)
        with pytest.raises(ValueError, match="bad"):
            failing.result(5)
        assert other.result(5) == ["X1", "X2"]
        gate.let_through(10)
        assert pool.map(["after"], urgent=False) == ["AFTER"]


def test_a_failure_in_the_callers_thread_frees_its_place() -> None:
    """An urgent item that fails in its caller's thread doesn't use up the pool."""
    with running() as (pool, gate, _):
        gate.let_through(10)
        for _ in range(3):
            with pytest.raises(ValueError, match="bad"):
                pool.map(["bad"], urgent=True)
        assert pool.map(["q"], urgent=True) == ["Q"]


def test_close_fails_what_waits_and_finishes_what_runs() -> None:
    """A closing pool answers every caller, and its threads are gone afterwards."""
    with running() as (pool, gate, callers):
        bulk = callers.submit(pool.map, ["b1", "b2"], urgent=False)
        until(lambda: gate.begun == ["b1"])
        urgent = callers.submit(pool.map, ["u1", "u2"], urgent=True)
        until(waiting(pool, 2, 1))
        closing: Future[None] = callers.submit(pool.close)
        for future in (bulk, urgent):
            with pytest.raises(EmbedderError, match="closed"):
                future.result(5)
        assert not closing.done()
        gate.let_through(1)
        closing.result(5)
        assert gate.begun == ["b1"]
        assert not any(thread.name.startswith("test-") for thread in threading.enumerate())
        for urgent_call in (False, True):
            with pytest.raises(EmbedderError, match="closed"):
                pool.map(["x"], urgent=urgent_call)


def test_close_waits_for_callers_threads() -> None:
    """An item that runs in its caller's thread ends before `close` returns."""
    with running() as (pool, gate, callers):
        query = callers.submit(pool.map, ["q"], urgent=True)
        until(lambda: gate.begun == ["q"])
        closing = callers.submit(pool.close)
        time.sleep(0.05)
        assert not closing.done()
        gate.let_through(1)
        assert query.result(5) == ["Q"]
        closing.result(5)
