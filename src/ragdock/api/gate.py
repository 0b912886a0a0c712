"""The way from the event loop into threads: bounded, with a bounded queue before it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Final, ParamSpec, TypeVar

from ragdock.api.clock import GONE, request_clock
from ragdock.core.patience import Patience, patience
from ragdock.errors import UnavailableError
from ragdock.ports import Metrics
from ragdock.services.threads import DaemonPool

__all__ = ["Gate"]

P = ParamSpec("P")
T = TypeVar("T")
_END: Final = object()


class Gate:
    """At most `n_running` calls at once and `n_waiting` behind them; more are refused.

    A place is held until the call's thread is done, not until its caller stops waiting: a caller
    that goes away frees nothing, because its thread goes on.
    """

    def __init__(self, n_running: int, n_waiting: int, metrics: Metrics) -> None:
        self._pool = DaemonPool(n_running, "request")
        self._running = asyncio.Semaphore(n_running)
        self._n_waiting = n_waiting
        self._waiting = 0
        self._metrics = metrics

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it in a thread; raises `UnavailableError` at once when too many wait."""
        _watch()
        await self._enter()
        return await asyncio.wrap_future(self._start(lambda: function(*args, **kwargs)))

    async def stream(self, make: Callable[[], Iterator[T]]) -> AsyncGenerator[T]:
        """Drive an iterator in a thread, holding one place.

        When this returns the place is taken; the items follow. Closing the result stops the
        iterator at its next item.
        """
        _watch()
        await self._enter()
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[object] = asyncio.Queue()
        gone = threading.Event()

        def tell(item: object) -> None:
            with suppress(RuntimeError):  # The loop is closed: nobody listens any more.
                loop.call_soon_threadsafe(items.put_nowait, item)

        def drive() -> None:
            try:
                iterator = make()
                for item in iterator:
                    if gone.is_set():
                        break
                    tell(item)
                # Ends what the iterator holds (an open HTTP answer) now, in this thread.
                getattr(iterator, "close", lambda: None)()
            except Exception as exc:  # noqa: BLE001 (raised again where the items are read)
                tell(_Failure(exc))
            finally:
                tell(_END)

        self._start(drive)
        return _received(items, gone, patience.get())

    def close(self) -> None:
        """Take no more calls; threads that run end with the process."""
        self._pool.close()

    async def _enter(self) -> None:
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

    def _start(self, function: Callable[[], T]) -> Future[T]:
        """Submit to the pool; the place that `_enter` took is given back when it is done."""
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()

        def leave(_: Future[T]) -> None:
            with suppress(RuntimeError):  # The loop is closed, and the semaphore with it.
                loop.call_soon_threadsafe(self._running.release)

        try:
            future = self._pool.submit(lambda: context.run(function))
        except RuntimeError as exc:
            self._running.release()
            raise UnavailableError("The server is stopping.", code="stopping") from exc
        future.add_done_callback(leave)
        return future


class _Failure:
    def __init__(self, error: Exception) -> None:
        self.error = error


def _watch() -> None:
    clock = request_clock.get()
    if clock is not None:
        clock.watch()


async def _received(
    items: asyncio.Queue[object], gone: threading.Event, waiting: Patience | None
) -> AsyncGenerator[T]:
    try:
        while (item := await items.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            yield item  # type: ignore[misc]
    finally:
        gone.set()
        if waiting is not None:
            # Wakes the thread out of whatever it waits for; harmless when it is done.
            waiting.give_up(GONE)
