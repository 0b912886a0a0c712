"""A bounded pool of threads that does urgent work before bulk work."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from ragdock.core.patience import require_patience
from ragdock.errors import EmbedderError

__all__ = ["PriorityPool"]

Item = TypeVar("Item")
Result = TypeVar("Result")
_LOOK_SECONDS: Final = 0.25


class _Call(Generic[Item, Result]):
    """One caller's items; `next` is the first that nobody has taken."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.next = 0
        self.results: dict[int, Result] = {}
        self.error: BaseException | None = None
        self.finished = threading.Event()


class PriorityPool(Generic[Item, Result]):
    """Applies `work` to items, at most `n_threads` at once, and blocks each caller until done.

    All urgent items are begun before any bulk item; a running item isn't interrupted, so an urgent
    one waits for one item at most. Within a class, callers take turns item by item: a long call
    doesn't hold up a short one. At most `max_urgent` urgent items wait (plus the last call's own);
    then `EmbedderError` `embedder_busy`. Bulk callers wait without limit, which holds them back:
    the pool keeps nothing but what blocked callers hold.
    """

    def __init__(
        self, work: Callable[[Item], Result], n_threads: int, *, max_urgent: int, name: str
    ) -> None:
        self._work = work
        self._n_threads = n_threads
        self._max_urgent = max_urgent
        self._changed = threading.Condition()
        self._urgent: deque[_Call[Item, Result]] = deque()
        self._bulk: deque[_Call[Item, Result]] = deque()
        self._n_active = 0
        self._closed = False
        # Daemons, so that a program that forgets to close the pool can still end.
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True)
            for number in range(n_threads)
        ]
        for thread in self._threads:
            thread.start()

    def map(self, items: Sequence[Item], *, urgent: bool) -> list[Result]:
        """Results in the order of the items; the first failure of `work` is raised."""
        # A single urgent item runs in the caller's thread when there is room: handing it over cost
        # an idle query .5 ms (p50 3.0 against 3.6). Beside bulk work no difference was seen.
        if urgent and len(items) == 1 and self._enter():
            try:
                return [self._work(items[0])]
            finally:
                self._leave()
        if not items:
            return []
        call: _Call[Item, Result] = _Call(items)
        self._submit(call, urgent=urgent)
        try:
            while not call.finished.wait(_LOOK_SECONDS):
                require_patience()
        finally:
            self._withdraw(call)
        if call.error is not None:
            raise call.error
        return [call.results[number] for number in range(len(items))]

    def close(self) -> None:
        """Fail what waits, finish what runs, end the threads; later calls raise."""
        with self._changed:
            self._closed = True
            for call in (*self._urgent, *self._bulk):
                call.error = _closed()
                call.finished.set()
            self._urgent.clear()
            self._bulk.clear()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._n_active == 0)
        for thread in self._threads:
            thread.join()

    def _enter(self) -> bool:
        with self._changed:
            if self._closed:
                raise _closed()
            if self._n_active >= self._n_threads or self._urgent:
                return False
            self._n_active += 1
            return True

    def _leave(self) -> None:
        with self._changed:
            self._n_active -= 1
            if self._closed:
                self._changed.notify_all()
            elif self._urgent or self._bulk:
                self._changed.notify()

    def _submit(self, call: _Call[Item, Result], *, urgent: bool) -> None:
        with self._changed:
            if self._closed:
                raise _closed()
            if urgent:
                n_waiting = sum(len(other.items) - other.next for other in self._urgent)
                if n_waiting >= self._max_urgent:
                    raise EmbedderError(
                        "Too many queries wait for the embedder; try again in a second.",
                        code="embedder_busy",
                        retry_after_seconds=1.0,
                    )
            (self._urgent if urgent else self._bulk).append(call)
            self._changed.notify(len(call.items))

    def _withdraw(self, call: _Call[Item, Result]) -> None:
        """Forget what nobody has begun of a call that failed or whose caller was interrupted."""
        with self._changed:
            for queue in (self._urgent, self._bulk):
                if call in queue:
                    queue.remove(call)

    def _serve(self) -> None:
        while (taken := self._take()) is not None:
            call, number = taken
            try:
                result = self._work(call.items[number])
            except BaseException as exc:  # noqa: BLE001 - raised again in the caller's thread.
                call.error = exc
                call.finished.set()
            else:
                call.results[number] = result
                if len(call.results) == len(call.items):
                    call.finished.set()
            finally:
                self._leave()

    def _take(self) -> tuple[_Call[Item, Result], int] | None:
        """The next item, counted as active; None when the pool is closed."""
        with self._changed:
            while not self._closed:
                queue = self._urgent or self._bulk
                if queue and self._n_active < self._n_threads:
                    self._n_active += 1
                    call = queue.popleft()
                    number = call.next
                    call.next += 1
                    if call.next < len(call.items):
                        queue.append(call)
                    return call, number
                self._changed.wait()
            return None


def _closed() -> EmbedderError:
    return EmbedderError("The embedder is closed.", code="embedder_closed")
