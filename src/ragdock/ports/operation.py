"""What the server needs for itself: caches, keys, limits, records, numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

from ragdock.core.gcra import Limit
from ragdock.core.gcra import Verdict as Granted
from ragdock.types import (
    ApiKey,
    KeptAnswer,
)

if TYPE_CHECKING:
    pass

__all__ = [
    "Answers",
    "Attributes",
    "AuditLog",
    "Cache",
    "KeyStore",
    "Measurement",
    "Metrics",
    "RateLimiter",
    "Span",
    "Tracer",
]

Attributes: TypeAlias = Mapping[str, str | int | float | bool]
"""Facts about a span, named as OpenTelemetry's conventions name them; never any content."""


class Measurement(NamedTuple):
    """One value, by the short name of the adapters' table."""

    name: str
    value: float
    labels: Mapping[str, str] = MappingProxyType({})


class Cache(Protocol):
    """A key-value store that may lose anything at any moment; never raises on get or set."""

    def get(self, key: str) -> bytes | None:
        """The value, or None: absent, expired or unreachable."""
        ...

    def peek(self, key: str) -> bytes | None:
        """The value if it is in this process, else None; never waits, so the event loop may ask."""
        ...

    def set(self, key: str, value: bytes, ttl_seconds: int) -> None:
        """Keep the value for at most `ttl_seconds`, if possible."""
        ...

    def ping(self) -> None:
        """Return when reachable, raise `CacheError` when not (has its own short deadline)."""
        ...

    def measure(self) -> tuple[Measurement, ...]:
        """What its server counts; nothing when there is none, or it doesn't answer."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...


class KeyStore(Protocol):
    """API keys, durable and shared by all processes; rows are revoked, never removed."""

    def add(self, key: ApiKey) -> None:
        """Keep a key; `ConflictError` when a key that isn't revoked has its name or id."""
        ...

    def all(self) -> tuple[ApiKey, ...]:
        """All keys, revoked ones too, oldest first."""
        ...

    def revoke(self, key_id: str, at: float) -> None:
        """From now on it opens nothing, in no process; harmless when repeated."""
        ...

    def touch(self, used: Mapping[str, float]) -> None:
        """Note when keys were last used, by id; an earlier time than the known one is ignored."""
        ...

    def peek(self, key_id: str) -> ApiKey | None:
        """One key as of now, in microseconds and without waiting: the event loop may call this."""
        ...

    def peek_count(self) -> int:
        """How many keys were ever made; for the event loop as well."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


class Answers(Protocol):
    """The first answers to writes, by scope (who, method, path) and idempotency key."""

    def begin(self, scope: str, key: str) -> KeptAnswer | None:
        """The first answer of the last 24 hours; None makes the request the caller's to work on.

        `ConflictError` while another caller works on it, who is alive.
        """
        ...

    def finish(self, scope: str, key: str, answer: KeptAnswer) -> None:
        """Keep the answer to what this process has begun."""
        ...

    def forget(self, scope: str, key: str) -> None:
        """Have what this process has begun begin anew next time."""
        ...

    def close(self) -> None:
        """Release everything; what was begun and not finished is nobody's from then on."""
        ...


class RateLimiter(Protocol):
    """Counts requests, for all who share it; never raises."""

    @property
    def instant(self) -> bool:
        """Whether `take` would answer without waiting, so that the event loop may call it."""
        ...

    def take(self, limit: Limit, wanted: int = 1) -> Granted:
        """Grant up to `wanted` requests to the limit's holder."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...


class AuditLog(Protocol):
    """Where it is recorded who did what."""

    def write(self, record: Mapping[str, object]) -> None:
        """Append one record, which holds what JSON can; raises `OSError` when that fails."""
        ...

    def close(self) -> None:
        """Release files."""
        ...


class Metrics(Protocol):
    """Numbers for an operator; names and labels are those of the adapters' table."""

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        ...

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Record a duration."""
        ...

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a current value."""
        ...

    def render(self, measured: Iterable[Measurement] = ()) -> bytes:
        """All of them, and what was measured just now, as an exposition text."""
        ...


class Span(Protocol):
    """A piece of work, while it is done."""

    def rename(self, name: str) -> None:
        """Call it by a name that wasn't known at its beginning."""
        ...

    def note(self, attributes: Attributes) -> None:
        """Add facts."""
        ...

    def fail(self, kind: str) -> None:
        """Mark it as failed; an exception that leaves the span's block does that by itself."""
        ...


class Tracer(Protocol):
    """Says where time goes, to whoever collects that; costs nothing but a call when nobody does."""

    @property
    def is_on(self) -> bool:
        """Whether anything is traced."""
        ...

    def request(self, name: str, headers: Mapping[str, str]) -> AbstractContextManager[Span]:
        """A request from outside; goes on with the caller's trace when the headers name one."""
        ...

    def job(self, name: str, cause: str, attributes: Attributes) -> AbstractContextManager[Span]:
        """Work that no request waits for: a trace of its own, linked to where `cause` was noted."""
        ...

    def step(
        self,
        name: str,
        attributes: Attributes | None = None,
        *,
        kind: Literal["internal", "client"] = "internal",
    ) -> AbstractContextManager[Span]:
        """A part of what is being traced in this thread; outside of that, nothing."""
        ...

    def note_cause(self, cause: str) -> None:
        """Remember for `job` that the request being traced here has caused it."""
        ...

    def headers(self) -> Mapping[str, str]:
        """Headers that let the callee go on with this trace (W3C trace context)."""
        ...

    def close(self) -> None:
        """Send what is left, for a bounded time."""
        ...
