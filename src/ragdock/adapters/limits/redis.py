"""Rate limits that all processes share, in Redis; in this process alone while Redis is away."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import redis

from ragdock.adapters.limits.memory import MemoryLimiter
from ragdock.adapters.redis_link import FAILURES, TRACED_AS, Breaker, connect, is_refusal
from ragdock.adapters.tracing.null import NullTracer
from ragdock.core.gcra import WINDOW_SECONDS, Limit, Verdict
from ragdock.ports import Metrics, Tracer

__all__ = ["RedisLimiter"]

# `ragdock.core.gcra.take` in Redis's own time (microseconds), so the clocks of the servers don't
# matter. Atomic, because Redis runs one script at a time. Numbers are doubles, exact to 2^53.
SCRIPT: Final = """\
local window = tonumber(ARGV[1])
local interval = tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local tat = tonumber(redis.call('GET', KEYS[1]) or now)
tat = math.min(math.max(tat, now), now + window)
local room = math.floor((now + window - tat) / interval + 0.000001)
local granted = math.max(0, math.min(room, tonumber(ARGV[3])))
if granted > 0 then
  tat = tat + granted * interval
  local lasts = math.max(1, math.ceil((tat - now) / 1000))
  redis.call('SET', KEYS[1], string.format('%.0f', tat), 'PX', lasts)
end
return {granted, room - granted, math.ceil(tat + interval - window - now), math.ceil(tat - now)}
"""
_MICROSECONDS: Final = 1_000_000


class RedisLimiter:
    """`RateLimiter` on a Redis or Valkey server (6 or later); never raises.

    While Redis fails, this process limits alone, from the state that Redis told last, and counts
    each such verdict in `rate_limit_fallback`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        password: str | None = None,
        db: int = 0,
        timeout_seconds: float = 0.25,
        metrics: Metrics,
        tracer: Tracer | None = None,
    ) -> None:
        self._client = connect(
            host, port, password=password, db=db, timeout_seconds=timeout_seconds
        )
        # EVALSHA, and the whole script again when Redis was restarted and has forgotten it.
        self._script = self._client.register_script(SCRIPT)
        self._near = MemoryLimiter()
        self._breaker = Breaker("limiting requests in each process alone")
        self._metrics = metrics
        self._tracer = tracer or NullTracer()

    @property
    def instant(self) -> bool:
        """Whether `take` asks nobody: while Redis is away."""
        return self._breaker.is_open

    def take(self, limit: Limit, wanted: int = 1) -> Verdict:
        """Grant up to `wanted` requests."""
        if self._breaker.may_try():
            try:
                verdict = self._ask(limit, wanted)
            except FAILURES as exc:
                if is_refusal(exc):
                    self._breaker.tell(exc)
                else:
                    self._breaker.failed(exc)
            else:
                self._breaker.succeeded()
                self._near.learn(limit, verdict)
                return verdict
        self._metrics.count("rate_limit_fallback")
        return self._near.take(limit, wanted)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask(self, limit: Limit, wanted: int) -> Verdict:
        interval = limit.interval_seconds * _MICROSECONDS
        with self._tracer.step("redis EVALSHA", TRACED_AS["EVALSHA"], kind="client"):
            answer: Any = self._script(
                keys=[_key(limit)], args=[WINDOW_SECONDS * _MICROSECONDS, interval, wanted]
            )
        try:
            granted, remaining, retry, reset = (int(number) for number in answer)
        except (TypeError, ValueError) as exc:
            raise redis.InvalidResponse("The script's answer can't be read.") from exc
        return Verdict(granted, remaining, retry / _MICROSECONDS, reset / _MICROSECONDS)


def _key(limit: Limit) -> str:
    # Redis is no place for addresses in the clear.
    name = f"{limit.name}\0{limit.holder}".encode()
    return f"rag:v1:rate:{hashlib.blake2b(name, digest_size=16).hexdigest()}"
