"""One request's time: when it is over, or the client has left, the work for it is given up."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import ContextVar
from typing import Final

from starlette.types import Receive

from ragdock.core.patience import Patience

__all__ = ["BODY", "DEADLINE", "GONE", "RequestClock", "request_clock"]

DEADLINE: Final = "deadline"
BODY: Final = "body"
GONE: Final = "gone"


class RequestClock:
    """Cancels the request's task, and what threads do for it, once one of its times is over."""

    def __init__(self, receive: Receive, timeout_seconds: float, body_seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._receive = receive
        self._timeout_seconds = timeout_seconds
        self._body_seconds = body_seconds
        self._handle: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.patience = Patience()
        self.has_body = False

    @property
    def reason(self) -> str | None:
        """Why the request was given up, if it was."""
        return self.patience.reason

    def work(self, more_seconds: float = 0.0) -> None:
        """From now on the deadline runs, `more_seconds` longer than the setting says."""
        self._arm(self._timeout_seconds + more_seconds, DEADLINE)

    def wait_for_body(self) -> None:
        """From now on the client has to send something."""
        self._arm(self._body_seconds, BODY)

    def stop(self) -> None:
        """The answer begins: from here on, what bounds it is its reader."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    def watch(self) -> None:
        """Notice a client that leaves. For requests that take a while; it costs a task."""
        if self._watcher is None and self.has_body and self._handle is not None:
            self._watcher = self._loop.create_task(self._listen())

    def give_up(self, reason: str) -> None:
        """Cancel what is done for this request."""
        self.stop()
        if self.patience.reason is None:
            self.patience.give_up(reason)
            self._task.cancel()

    def _arm(self, seconds: float, reason: str) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(seconds, self.give_up, reason)

    async def _listen(self) -> None:
        # What a server raises here (it stops) is told to the request itself as well.
        with suppress(Exception):
            # Before it comes what a server says of a body that is empty.
            while (await self._receive())["type"] != "http.disconnect":
                pass
            self._watcher = None
            self.give_up(GONE)


request_clock: ContextVar[RequestClock | None] = ContextVar("request_clock", default=None)
