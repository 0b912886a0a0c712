"""How long somebody waits for what is being worked on. Pure.

A request's patience ends when its time is over or its caller has left. Whoever works for it asks
between two pieces of work (`require_patience`), or says how its waiting can be cut short
(`Patience.calling`). Work that nobody waits for (ingestion) has no patience, and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ragdock.errors import GivenUpError

__all__ = ["Patience", "cut_short_by", "patience", "require_patience"]


class Patience:
    """Given up at most once; from any thread."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._calls: list[Callable[[], None]] = []

    def give_up(self, reason: str) -> None:
        """Let all who work for this know."""
        if self.reason is None:
            self.reason = reason
        for call in tuple(self._calls):
            call()

    def check(self) -> None:
        """Raise `GivenUpError` once it was given up."""
        if self.reason is not None:
            raise GivenUpError(
                "The request took longer than RAG_REQUEST_TIMEOUT_SECONDS, or its caller has left."
            )

    @contextmanager
    def calling(self, call: Callable[[], None]) -> Iterator[None]:
        """Have `call` called when it is given up (perhaps twice, perhaps at once)."""
        self._calls.append(call)
        try:
            # It may have been given up just before.
            if self.reason is not None:
                call()
            yield
        finally:
            self._calls.remove(call)


patience: ContextVar[Patience | None] = ContextVar("patience", default=None)


def require_patience() -> None:
    """Raise `GivenUpError` when nobody waits any more for what this thread works on."""
    current = patience.get()
    if current is not None:
        current.check()


@contextmanager
def cut_short_by(call: Callable[[], None]) -> Iterator[None]:
    """Within the block, `call` is called when this thread's work is given up."""
    current = patience.get()
    if current is None:
        yield
    else:
        with current.calling(call):
            yield
