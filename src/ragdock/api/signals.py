"""Being told of SIGTERM before the server waits for its open answers."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["before_stopping"]


@contextmanager
def before_stopping(call: Callable[[], None]) -> Iterator[None]:
    """In this block, SIGTERM and SIGINT call this on the event loop, and do what they did before.

    Uvicorn waits for every open answer before it ends the lifespan, and an event stream never ends
    by itself. Nothing outside the main thread, where no signal can be caught (tests).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(call)
        handler = former[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number, handler in former.items():
        if callable(handler):
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in former.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)
