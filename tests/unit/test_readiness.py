"""Readiness: each dependency is asked with a deadline, and told as it is."""

from __future__ import annotations

import threading
import time

import pytest

from ragdock.adapters.metrics.null import NullMetrics
from ragdock.errors import CacheError
from ragdock.services import readiness
from ragdock.services.readiness import Dependency, Readiness

pytestmark = pytest.mark.timing


def fine() -> None:
    """A ping that is answered."""


def refused() -> None:
    """A ping that is refused."""
    raise CacheError("Redis doesn't answer (no connection).")


def buggy() -> None:
    """A ping with a bug, whose text is nobody's business."""
    raise ValueError("secret at /srv/data")


@pytest.mark.parametrize(
    ("required", "optional", "status"),
    [
        (fine, fine, "ok"),
        (fine, refused, "degraded"),
        (refused, fine, "unavailable"),
        (refused, refused, "unavailable"),
        (buggy, fine, "unavailable"),
    ],
)
def test_the_worst_decides(required: object, optional: object, status: str) -> None:
    """An optional dependency degrades, a required one makes unavailable."""
    report = Readiness(
        (Dependency("store", required, True), Dependency("redis", optional, False)),  # type: ignore[arg-type]
        NullMetrics(),
    ).report()
    assert report.status == status
    assert [check.name for check in report.checks] == ["store", "redis"]


def test_no_dependency_is_ok() -> None:
    """Nothing to ask is nothing down."""
    assert Readiness((), NullMetrics()).report().status == "ok"


def test_the_cause_is_told_and_internals_are_not() -> None:
    """Our errors are quoted; a foreign exception is only named."""
    checks = (
        Readiness((Dependency("a", refused, True), Dependency("b", buggy, True)), NullMetrics())
        .report()
        .checks
    )
    assert checks[0].detail == "Redis doesn't answer (no connection)."
    assert checks[1].detail == "unexpected ValueError"


def test_a_hung_dependency_is_down_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ping that never returns costs the deadline, once, and gathers no threads."""
    monkeypatch.setattr(readiness, "DEADLINE_SECONDS", 0.2)
    hold = threading.Event()
    asked = []

    def hangs() -> None:
        asked.append(1)
        hold.wait(20)

    checker = Readiness(
        (Dependency("store", fine, True), Dependency("redis", hangs, False)), NullMetrics()
    )
    before = threading.active_count()
    for _ in range(5):
        start = time.monotonic()
        report = checker.report()
        assert time.monotonic() - start < 5
        assert report.status == "degraded"
        assert report.checks[1].detail == "no answer in 0.2 s"
    assert len(asked) == 1
    assert threading.active_count() <= before + 1
    hold.set()
    deadline = time.monotonic() + 10
    while checker.report().status != "ok":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_answer_is_fresh_for_a_while() -> None:
    """Probes of many monitors at once cost one ping."""
    asked = []
    checker = Readiness(
        (Dependency("store", lambda: asked.append(1), True, fresh_seconds=60),), NullMetrics()
    )
    for _ in range(10):
        checker.report()
    assert len(asked) == 1
