"""The feed: what changes in the ledger, for everybody who listens, from one look a moment.

One task of each process asks the store what is new and hands it to the listeners' queues. A
listener costs a queue and no thread. One who reads too slowly is cut off and comes back by
`Last-Event-ID`, as EventSource does by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ragdock.api.gate import Gate
from ragdock.errors import RagdockError, UnavailableError
from ragdock.ports import Metrics, Store
from ragdock.types import Job

__all__ = ["Feed"]

LOOK_SECONDS: Final = 0.25
HEARTBEAT_SECONDS: Final = 15.0
CHANGES_AT_ONCE: Final = 500
MAX_BEHIND: Final = 1_000
_END: Final = None

log = logging.getLogger(__name__)


class Feed:
    """Changes of jobs, at most `max_listeners` times at once; more are refused."""

    def __init__(self, store: Store, metrics: Metrics, max_listeners: int) -> None:
        self._store = store
        self._metrics = metrics
        self._max_listeners = max_listeners
        # Its own place: a server full of requests still tells how far they are.
        self._gate = Gate(1, 1, metrics)
        self._listeners: dict[asyncio.Queue[Job | None], Callable[[Job], bool]] = {}
        self._wanted = asyncio.Event()
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look, whenever somebody listens; called where no caller's rights apply."""
        self._task = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """End every stream."""
        self.hang_up()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._gate.close()

    def hang_up(self) -> None:
        """Let every stream end after what is in its queue: the server is about to stop."""
        self._closed = True
        for queue in list(self._listeners):
            self._end(queue)

    @contextmanager
    def listening(self, wants: Callable[[Job], bool]) -> Iterator[asyncio.Queue[Job | None]]:
        """A queue of the changes from now on that `wants` accepts; None in it is the end."""
        if self._closed:
            raise UnavailableError("The server is stopping.", code="stopping")
        if len(self._listeners) >= self._max_listeners:
            self._metrics.count("refused", reason="listeners")
            raise UnavailableError(
                "Too many listen to jobs already; retry later, or ask for the job instead.",
                retry_after_seconds=5.0,
                code="too_many_listeners",
            )
        queue: asyncio.Queue[Job | None] = asyncio.Queue(MAX_BEHIND + 1)
        self._listeners[queue] = wants
        self._wanted.set()
        try:
            yield queue
        finally:
            self._listeners.pop(queue, None)

    async def _look(self) -> None:
        while True:
            await self._wanted.wait()
            try:
                await self._follow()
            except RagdockError as exc:
                # Listeners who are cut off come back and ask from where they were.
                log.warning("the feed lost sight of the ledger", extra={"code": exc.code})
                for queue in list(self._listeners):
                    self._end(queue)
                await asyncio.sleep(1.0)

    async def _follow(self) -> None:
        seen = await self._gate.run(self._store.last_change)
        # Listeners read what was before themselves, after they have begun to listen.
        while self._listeners:
            changes = await self._gate.run(self._store.job_changes, seen, limit=CHANGES_AT_ONCE)
            for job in changes:
                seen = job.change
                self._tell(job)
            if len(changes) < CHANGES_AT_ONCE:
                await asyncio.sleep(LOOK_SECONDS)
        self._wanted.clear()

    def _tell(self, job: Job) -> None:
        for queue, wants in list(self._listeners.items()):
            if wants(job):
                if queue.qsize() >= MAX_BEHIND:
                    self._end(queue)
                else:
                    queue.put_nowait(job)

    def _end(self, queue: asyncio.Queue[Job | None]) -> None:
        if self._listeners.pop(queue, None) is not None:
            queue.put_nowait(_END)


async def received(queue: asyncio.Queue[Job | None]) -> AsyncGenerator[Job | None]:
    """The queue's jobs until its end; None now and then, when nothing has come for a while."""
    while True:
        try:
            job = await asyncio.wait_for(queue.get(), HEARTBEAT_SECONDS)
        except TimeoutError:
            yield None
            continue
        if job is _END:
            return
        yield job
