"""Who may ask how much: rates of keys and of addresses.

A verdict of the limiter may be a network away, and most requests don't need one of their own.
Where a limit is high, a process takes some requests' worth at a time and spends it here. What is
refused stays refused until the time that the refusal told, without asking again.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from ragdock.core.gcra import Limit
from ragdock.ports import Metrics, RateLimiter
from ragdock.types import Principal

__all__ = ["Decision", "Limits", "default_rates"]

SHARE: Final = 1000
"""A process takes a thousandth of a minute's requests at once. What it holds and doesn't spend is
the error of the limit: four threads that take it in two processes are .8 % at worst."""

FAILURES_PER_MINUTE: Final = 10
"""Wrong keys from one address: a person mistypes a key a few times, a program that guesses doesn't
get far in 10 a minute."""

MAX_HOLDERS: Final = 20_000
KEY_RATE: Final = 600
ADDRESS_RATE: Final = 1200


def default_rates(environment: str, key: int | None, address: int | None) -> tuple[int, int]:
    """The rates of keys and addresses (0: none), where a setting may be unset."""
    limited = environment != "development"
    return (
        (KEY_RATE if limited else 0) if key is None else key,
        (ADDRESS_RATE if limited else 0) if address is None else address,
    )


State: TypeAlias = tuple[Limit, int, float]
"""A limit, how many requests remain, and the seconds until all do."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a request may go on (`refused_by` is None), and what is left."""

    refused_by: Limit | None = None
    retry_seconds: float = 0.0
    states: tuple[State, ...] = ()


@dataclass(slots=True)
class _Account:
    """What this process knows of one holder."""

    in_hand: int = 0
    remaining: int = 0
    refused_until: float = 0.0
    reset_at: float = 0.0


UNLIMITED: Final = Decision()


@dataclass(slots=True)
class Limits:
    """Decides on requests. `peek` never waits; `decide` may, so it belongs into a thread."""

    limiter: RateLimiter
    metrics: Metrics
    key_rate: int
    address_rate: int
    clock: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _accounts: OrderedDict[Limit, _Account] = field(default_factory=OrderedDict)

    def of_key(self, principal: Principal) -> Limit | None:
        """The limit of a key, if it has one."""
        own = principal.rate_per_minute
        rate = self.key_rate if own is None else own
        return Limit("key", principal.key_id, rate) if rate else None

    def of_address(self, address: str) -> Limit | None:
        """The limit of an address, if there is one."""
        return Limit("address", address, self.address_rate) if self.address_rate else None

    def of_failures(self, address: str) -> Limit:
        """The limit of wrong keys from an address."""
        return Limit("failures", address, FAILURES_PER_MINUTE)

    def peek(self, limits: Sequence[Limit]) -> Decision | None:
        """The decision on one request, if it can be told without waiting; then it is counted."""
        if not limits:
            return UNLIMITED
        if self.limiter.instant:
            return self.decide(limits)
        now = self.clock()
        with self._lock:
            accounts = [self._account(limit) for limit in limits]
            for limit, account in zip(limits, accounts, strict=True):
                if account.refused_until > now:
                    return self._refused(limit, limits, now)
                if not account.in_hand:
                    return None
            for account in accounts:
                account.in_hand -= 1
            return Decision(states=self._states(limits, now))

    def decide(self, limits: Sequence[Limit]) -> Decision:
        """The decision on one request, asking the limiter where that is needed; counted."""
        for index, limit in enumerate(limits):
            if not self._take(limit):
                with self._lock:
                    # What the other limits granted is for the next request.
                    for granted in limits[:index]:
                        self._account(granted).in_hand += 1
                    return self._refused(limit, limits, self.clock())
        with self._lock:
            return Decision(states=self._states(limits, self.clock()))

    def refusal(self, limit: Limit) -> Decision | None:
        """The refusal that still holds for this limit, if one does; asks nobody, counts nothing."""
        now = self.clock()
        with self._lock:
            account = self._accounts.get(limit)
            if account is None or account.refused_until <= now:
                return None
            return self._refused(limit, (limit,), now)

    def _take(self, limit: Limit) -> bool:
        with self._lock:
            account = self._account(limit)
            if account.in_hand:
                account.in_hand -= 1
                return True
            if account.refused_until > self.clock():
                return False
        # Nothing is gained by taking more than one where nothing is waited for.
        wanted = 1 if self.limiter.instant else max(1, limit.per_minute // SHARE)
        verdict = self.limiter.take(limit, wanted)
        now = self.clock()
        with self._lock:
            account.remaining = verdict.remaining
            account.reset_at = now + verdict.reset_seconds
            if not verdict.granted:
                account.refused_until = now + verdict.retry_seconds
                return False
            account.in_hand += verdict.granted - 1
            return True

    def _refused(self, limit: Limit, limits: Sequence[Limit], now: float) -> Decision:
        self.metrics.count("refused", reason=f"rate_{limit.name}")
        retry_seconds = max(0.0, self._account(limit).refused_until - now)
        return Decision(limit, retry_seconds, self._states(limits, now))

    def _states(self, limits: Sequence[Limit], now: float) -> tuple[State, ...]:
        states = []
        for limit in limits:
            account = self._account(limit)
            reset_seconds = max(0.0, account.reset_at - now)
            states.append((limit, account.remaining + account.in_hand, reset_seconds))
        return tuple(states)

    def _account(self, limit: Limit) -> _Account:
        account = self._accounts.get(limit)
        if account is None:
            account = self._accounts[limit] = _Account()
            while len(self._accounts) > MAX_HOLDERS:
                self._accounts.popitem(last=False)
        else:
            self._accounts.move_to_end(limit)
        return account
