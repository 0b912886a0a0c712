"""The gate: bounded places, a bounded queue, and no place lost whoever goes away."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from ragdock.adapters.metrics.null import NullMetrics
from ragdock.api.gate import Gate
from ragdock.errors import EmbedderError, UnavailableError
from ragdock.services.threads import DaemonPool

pytestmark = pytest.mark.timing


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine, with a deadline."""
    asyncio.run(asyncio.wait_for(main, 20))


async def until(condition: Any) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_results_and_errors_come_through() -> None:
    """A call's value or error is its caller's, and runs with the caller's context."""
    variable: ContextVar[str] = ContextVar("variable")

    async def main() -> None:
        gate = Gate(2, 2, NullMetrics())
        variable.set("here")
        assert await gate.run(lambda a, *, b: (a, b, variable.get()), 1, b=2) == (1, 2, "here")
        with pytest.raises(EmbedderError):
            await gate.run(lambda: (_ for _ in ()).throw(EmbedderError("Busy.")))
        gate.close()

    run(main())


def test_more_than_may_run_or_wait_are_refused() -> None:
    """With all places and all waiting places taken a call is refused at once."""

    async def main() -> None:
        gate, hold = Gate(2, 1, NullMetrics()), threading.Event()
        tasks = [asyncio.create_task(gate.run(hold.wait, 10)) for _ in range(3)]
        await asyncio.sleep(0.05)
        with pytest.raises(UnavailableError) as error:
            await gate.run(lambda: None)
        assert error.value.code == "overloaded"
        hold.set()
        assert await asyncio.gather(*tasks) == [True] * 3
        assert await gate.run(lambda: "free") == "free"
        gate.close()

    run(main())


def test_a_cancelled_caller_keeps_its_place_while_its_thread_runs() -> None:
    """Going away frees nothing until the work ends, and then frees it for good."""

    async def main() -> None:
        gate, hold = Gate(1, 1, NullMetrics()), threading.Event()
        task = asyncio.create_task(gate.run(hold.wait, 10))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        waiting = asyncio.create_task(gate.run(lambda: "next"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        hold.set()
        assert await waiting == "next"
        for _ in range(5):
            assert await gate.run(lambda: 1) == 1
        gate.close()

    run(main())


def test_a_cancelled_waiter_gives_up_its_waiting_place() -> None:
    """A caller that leaves the queue makes room in it."""

    async def main() -> None:
        gate, hold = Gate(1, 1, NullMetrics()), threading.Event()
        first = asyncio.create_task(gate.run(hold.wait, 10))
        for _ in range(3):
            waiter = asyncio.create_task(gate.run(lambda: None))
            await asyncio.sleep(0.02)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
        hold.set()
        assert await first is True
        assert await gate.run(lambda: 1) == 1
        gate.close()

    run(main())


def test_a_stream_gives_its_items_in_order_and_its_error() -> None:
    """Items arrive as they are made; an error comes after those that were made before it."""

    def make() -> Iterator[int]:
        yield 1
        yield 2
        raise EmbedderError("Busy.")

    async def main() -> None:
        gate = Gate(1, 0, NullMetrics())
        items = await gate.stream(make)
        assert [await anext(items), await anext(items)] == [1, 2]
        with pytest.raises(EmbedderError):
            await anext(items)
        await until(lambda: not gate._running.locked())
        gate.close()

    run(main())


def test_an_abandoned_stream_is_closed_and_frees_its_place() -> None:
    """Closing a stream ends its iterator at the next item, in its thread."""
    closed = threading.Event()

    def make() -> Iterator[int]:
        try:
            for number in range(10**9):
                time.sleep(0.005)
                yield number
        finally:
            closed.set()

    async def main() -> None:
        gate = Gate(1, 0, NullMetrics())
        items = await gate.stream(make)
        assert await anext(items) == 0
        with pytest.raises(UnavailableError):
            await gate.run(lambda: None)
        await items.aclose()
        await until(closed.is_set)
        await until(lambda: not gate._running.locked())
        assert await gate.run(lambda: 1) == 1
        gate.close()

    run(main())


def test_a_closed_gate_refuses() -> None:
    """After close a call is refused as stopping, and no place is lost."""

    async def main() -> None:
        gate = Gate(1, 0, NullMetrics())
        gate.close()
        for _ in range(2):
            with pytest.raises(UnavailableError) as error:
                await gate.run(lambda: None)
            assert error.value.code == "stopping"

    run(main())


def test_the_pool_starts_threads_only_as_needed() -> None:
    """One call at a time needs one thread; more at once at most the bound."""
    pool = DaemonPool(3, "test")
    for _ in range(5):
        pool.submit(lambda: None).result(5)
        time.sleep(0.01)
    assert len(pool._threads) <= 2
    hold = threading.Event()
    futures = [pool.submit(lambda: hold.wait(10)) for _ in range(10)]
    assert len(pool._threads) == 3
    hold.set()
    assert [future.result(10) for future in futures] == [True] * 10
    assert pool.close(5)


def test_the_pool_closes_in_time() -> None:
    """Close cancels what waits, and says whether what ran has ended by its deadline."""
    pool, hold = DaemonPool(1, "test"), threading.Event()
    begun = threading.Event()

    def work() -> bool:
        begun.set()
        return hold.wait(10)

    running, waiting = pool.submit(work), pool.submit(lambda: None)
    assert begun.wait(5)
    start = time.monotonic()
    assert pool.close(0.1) is False
    assert time.monotonic() - start < 2
    assert waiting.cancelled()
    hold.set()
    assert running.result(5) is True
    assert pool.close(5) is True
    with pytest.raises(RuntimeError):
        pool.submit(lambda: None)
