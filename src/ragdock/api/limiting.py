"""Rates on the way in: by address before anything is looked at, by key once it is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ragdock.api.addresses import Networks, client_address, limited_as
from ragdock.api.gate import Gate
from ragdock.api.problems import problem
from ragdock.core.gcra import WINDOW_SECONDS, Limit
from ragdock.services.limits import Decision, Limits, State
from ragdock.types import Principal

__all__ = ["UNLIMITED_PATHS", "KeyRate", "RateGate", "rate_headers"]

UNLIMITED_PATHS: Final = frozenset({"/livez", "/readyz", "/health"})
MAX_GOOD: Final = 10_000
ANONYMOUS: Final = "anonymous"
_WHOM: Final = {
    "key": "this key",
    "address": "this address",
    "failures": "this address with keys that are unknown",
}


class RateGate:
    """Asks `Limits` for a request; threads only where a verdict is a network away."""

    def __init__(self, limits: Limits, threads: Gate, trusted: Networks) -> None:
        self._limits = limits
        self._threads = threads
        self._trusted = trusted
        # Addresses with credentials that were right: a stranger behind the same address who
        # guesses keys must not lock them out.
        self._good: set[tuple[str, int]] = set()

    def address(self, scope: Scope) -> str:
        """Who asks; found once."""
        known = scope.get("client_address")
        if known is None:
            known = scope["client_address"] = client_address(scope, self._trusted)
        return str(known)

    async def admit_address(self, scope: Scope) -> Response | None:
        """The refusal, if this address asks too much or guesses keys."""
        if scope["path"] in UNLIMITED_PATHS:
            return None
        holder = limited_as(self.address(scope))
        refusal = self._limits.refusal(self._limits.of_failures(holder))
        if refusal is not None:
            credentials = _credentials(scope)
            if credentials is not None and (holder, hash(credentials)) not in self._good:
                return _refused(refusal)
        limit = self._limits.of_address(holder)
        return None if limit is None else await self._admit(scope, limit)

    async def admit_key(self, scope: Scope) -> Response | None:
        """The refusal, if this key asks too much."""
        principal = scope.get("principal")
        if not isinstance(principal, Principal) or scope["path"] in UNLIMITED_PATHS:
            return None
        credentials = _credentials(scope)
        if credentials is None or principal.key_id == ANONYMOUS:
            return None  # Nobody in particular: the address is all there is to count by.
        if len(self._good) < MAX_GOOD:
            self._good.add((limited_as(self.address(scope)), hash(credentials)))
        limit = self._limits.of_key(principal)
        return None if limit is None else await self._admit(scope, limit)

    async def refused_key(self, scope: Scope) -> None:
        """Count an answer of 401, if there was a key to be wrong."""
        credentials = _credentials(scope)
        if credentials is None:
            return
        holder = limited_as(self.address(scope))
        self._good.discard((holder, hash(credentials)))
        await self._decide(self._limits.of_failures(holder))

    async def _admit(self, scope: Scope, limit: Limit) -> Response | None:
        decision = await self._decide(limit)
        scope.setdefault("rates", []).extend(decision.states)
        return None if decision.refused_by is None else _refused(decision)

    async def _decide(self, limit: Limit) -> Decision:
        wanted = (limit,)
        decision = self._limits.peek(wanted)
        if decision is None:
            decision = await self._threads.run(self._limits.decide, wanted)
        return decision


class KeyRate:
    """Refuses keys that ask too much; stands behind whatever sets `scope["principal"]`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] == "http" and "principal" in scope:
            refusal = await scope["app"].state.rates.admit_key(scope)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def rate_headers(states: Sequence[State]) -> list[tuple[bytes, bytes]]:
    """`RateLimit` and `RateLimit-Policy`, as of draft-ietf-httpapi-ratelimit-headers-10."""
    left = ", ".join(
        f'"{limit.name}";r={remaining};t={math.ceil(reset_seconds)}'
        for limit, remaining, reset_seconds in states
    )
    policies = _policies(tuple((limit.name, limit.per_minute) for limit, _, _ in states))
    return [(b"ratelimit", left.encode()), (b"ratelimit-policy", policies)]


@lru_cache(maxsize=256)
def _policies(limits: tuple[tuple[str, int], ...]) -> bytes:
    return ", ".join(f'"{name}";q={rate};w={WINDOW_SECONDS:.0f}' for name, rate in limits).encode()


def _credentials(scope: Scope) -> bytes | None:
    for name, value in scope["headers"]:
        if name in (b"authorization", b"x-api-key"):
            return bytes(value)
    return None


def _refused(decision: Decision) -> Response:
    limit = decision.refused_by
    assert limit is not None
    seconds = max(1, math.ceil(decision.retry_seconds))
    return problem(
        429,
        "rate_limited",
        f"More than {limit.per_minute} requests a minute from {_WHOM[limit.name]}; retry in "
        f"{seconds} s.",
        headers={"Retry-After": str(seconds)},
    )
