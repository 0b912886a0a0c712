"""The way from the event loop into threads: bounded, with a bounded queue before it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Final, ParamSpec, TypeVar

from ragdock.errors import UnavailableError
from ragdock.ports import Metrics

__all__ = ["Gate"]

P = ParamSpec("P")
T = TypeVar("T")
_END: Final = object()


class Gate:
    """At most `n_running` calls at once and `n_waiting` behind them; more are refused."""

    def __init__(self, n_running: int, n_waiting: int, metrics: Metrics) -> None:
        self._pool = ThreadPoolExecutor(n_running, "request")
        self._running = asyncio.Semaphore(n_running)
        self._n_waiting = n_waiting
        self._waiting = 0
        self._metrics = metrics

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it in a thread; raises `UnavailableError` at once when too many wait."""
        async with self._place():
            return await self._call(lambda: function(*args, **kwargs))

    async def iterate(self, make: Callable[[], Iterator[T]]) -> AsyncIterator[T]:
        """Drive an iterator in a thread, step by step, holding one place."""
        async with self._place():
            iterator = await self._call(make)
            try:
                while True:
                    item = await self._call(lambda: next(iterator, _END))
                    if item is _END:
                        return
                    yield item  # type: ignore[misc]
            finally:
                close = getattr(iterator, "close", None)
                if close is not None:
                    await asyncio.shield(self._call(close))

    def close(self) -> None:
        """End the threads; running calls end first."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _call(self, function: Callable[[], T]) -> T:
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: context.run(function))

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self._running.locked() and self._waiting >= self._n_waiting:
            self._metrics.count("refused", reason="overloaded")
            raise UnavailableError(
                "Too many requests are being worked on; retry shortly.", code="overloaded"
            )
        self._waiting += 1
        try:
            await self._running.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._running.release()
