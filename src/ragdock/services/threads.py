"""A pool of daemon threads.

`concurrent.futures` joins its threads when the interpreter exits, so one long parse or one hung
connection would hold a stopping server beyond its grace period. Daemon threads don't.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["DaemonPool"]

T = TypeVar("T")


class DaemonPool:
    """At most `n_threads` threads, started when needed; callers bound how much they submit."""

    def __init__(self, n_threads: int, name: str) -> None:
        self._n_threads = n_threads
        self._name = name
        self._changed = threading.Condition()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads: list[threading.Thread] = []
        self._n_idle = 0
        self._closed = False

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Call it in a thread of the pool; raises `RuntimeError` once the pool is closed."""
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("The pool is closed.")
            self._calls.append((future, function))
            if self._n_idle < len(self._calls) and len(self._threads) < self._n_threads:
                thread = threading.Thread(
                    target=self._serve, name=f"{self._name}-{len(self._threads)}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
            else:
                self._changed.notify()
        return future

    def close(self, timeout_seconds: float = 0.0) -> bool:
        """Cancel what has not begun, wait for what runs; False when some still runs by then."""
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            self._closed = True
            for future, _ in self._calls:
                future.cancel()
            self._calls.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._n_idle += 1
                self._changed.wait_for(lambda: self._calls or self._closed)
                self._n_idle -= 1
                if not self._calls:
                    return
                future, function = self._calls.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = function()
            except BaseException as exc:  # noqa: BLE001 (the caller gets it from the future)
                future.set_exception(exc)
            else:
                future.set_result(result)
            # An idle thread must not keep the last call's arguments and result alive.
            del future, function
