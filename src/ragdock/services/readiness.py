"""Readiness: every dependency is asked, each with a deadline, and told as it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from ragdock.errors import RagdockError
from ragdock.ports import Metrics

__all__ = ["Check", "Dependency", "Readiness", "Report"]

DEADLINE_SECONDS: Final = 2.0
FRESH_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Dependency:
    """Something to ask; without a required one the server can't serve."""

    name: str
    ping: Callable[[], None]
    required: bool
    fresh_seconds: float = FRESH_SECONDS


@dataclass(frozen=True, slots=True)
class Check:
    """What a dependency said: `ok` or `down`, how fast, and why not."""

    name: str
    status: Literal["ok", "down"]
    latency_ms: float
    required: bool
    detail: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """All checks: `ok`, `degraded` (an optional one is down) or `unavailable`."""

    checks: tuple[Check, ...]

    @property
    def status(self) -> Literal["ok", "degraded", "unavailable"]:
        """The worst of it."""
        down = [check for check in self.checks if check.status == "down"]
        if any(check.required for check in down):
            return "unavailable"
        return "degraded" if down else "ok"


class _Asker:
    """Asks one dependency at a time, so that a hung one never gathers threads."""

    def __init__(self, dependency: Dependency, metrics: Metrics) -> None:
        self._dependency = dependency
        self._metrics = metrics
        self._condition = threading.Condition()
        self._asking_since: float | None = None
        self._last: Check | None = None
        self._last_at = -1e9

    def check(self) -> Check:
        start = time.monotonic()
        with self._condition:
            if self._last is not None and start - self._last_at < self._dependency.fresh_seconds:
                return self._last
            if self._asking_since is None:
                self._asking_since = start
                threading.Thread(
                    target=self._ask, name=f"ping-{self._dependency.name}", daemon=True
                ).start()
            asked_at = self._asking_since
            left = asked_at + DEADLINE_SECONDS - start
            self._condition.wait_for(lambda: self._last_at >= asked_at, max(0.0, left))
            if self._last is not None and self._last_at >= asked_at:
                return self._last
        self._metrics.gauge("dependency", 0, dependency=self._dependency.name)
        waited = time.monotonic() - asked_at
        return self._told("down", waited, f"no answer in {DEADLINE_SECONDS:g} s")

    def _ask(self) -> None:
        start = time.monotonic()
        detail: str | None = None
        try:
            self._dependency.ping()
        except RagdockError as exc:
            detail = str(exc)
        except Exception as exc:  # noqa: BLE001 (a check tells, whatever happens)
            detail = f"unexpected {type(exc).__name__}"
        now = time.monotonic()
        check = self._told("down" if detail else "ok", now - start, detail)
        self._metrics.gauge("dependency", 0 if detail else 1, dependency=self._dependency.name)
        with self._condition:
            self._last, self._last_at, self._asking_since = check, now, None
            self._condition.notify_all()

    def _told(self, status: Literal["ok", "down"], seconds: float, detail: str | None) -> Check:
        return Check(
            self._dependency.name,
            status,
            round(seconds * 1000, 3),
            self._dependency.required,
            detail,
        )


class Readiness:
    """Asks all dependencies; an answer younger than a second is not asked for again."""

    def __init__(self, dependencies: tuple[Dependency, ...], metrics: Metrics) -> None:
        self._askers = tuple(_Asker(dependency, metrics) for dependency in dependencies)

    def report(self) -> Report:
        """Ask; side by side, so that the slowest decides, and none longer than the deadline."""
        if not self._askers:
            return Report(())
        checks: list[Check | None] = [None] * len(self._askers)

        def ask(index: int) -> None:
            checks[index] = self._askers[index].check()

        threads = [
            threading.Thread(target=ask, args=(index,), daemon=True)
            for index in range(1, len(self._askers))
        ]
        for thread in threads:
            thread.start()
        ask(0)
        for thread in threads:
            thread.join()
        return Report(tuple(check for check in checks if check is not None))
