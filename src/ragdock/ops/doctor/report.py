"""Runs checks against a world, and says what came out as a value for programs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from ragdock import __version__
from ragdock.ops.doctor.model import Check, Finding, Scope, Status
from ragdock.ops.doctor.place import is_inside
from ragdock.ops.doctor.stack import containers
from ragdock.ops.doctor.world import World, WorldError

__all__ = ["SCHEMA", "Report", "Result", "examine", "where_to_look"]

SCHEMA: Final = "ragdock.doctor/1"
"""The form of `Report.as_json`; the number changes when a field goes or changes its meaning."""

_WORST_FIRST: Final = (Status.FAIL, Status.WARN, Status.OK, Status.SKIP)
_SKIPPED: Final = {
    Scope.HOST: "looks at containers from outside: run `ragdock doctor` on the host",
    Scope.INSIDE: "looks from inside: `docker-compose exec web ragdock doctor`",
    Scope.BOTH: "ragdock runs in containers: `docker-compose exec web ragdock doctor`",
}


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found, worst first, and how long it took."""

    check: Check
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def status(self) -> Status:
        """The worst of the findings."""
        return self.findings[0].status

    def as_json(self) -> dict[str, Any]:
        """The result as it stands in `--json`."""
        return {
            "id": self.check.id,
            "title": self.check.title,
            "scope": self.check.scope.value,
            "status": self.status.value,
            "symptom": self.check.symptom,
            "docs": self.check.docs,
            "seconds": round(self.seconds, 3),
            "findings": [
                {
                    "status": finding.status.value,
                    "subject": finding.subject,
                    "summary": finding.summary,
                    "evidence": dict(finding.evidence),
                    "cause": finding.cause,
                    "fix": list(finding.fix),
                }
                for finding in self.findings
            ],
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What all checks found. `scopes` are the places that were looked from."""

    results: tuple[Result, ...]
    scopes: frozenset[Scope]
    at: float

    @property
    def status(self) -> Status:
        """The worst of all; `skip` when nothing could be looked at."""
        found = {result.status for result in self.results}
        return next((status for status in _WORST_FIRST if status in found), Status.SKIP)

    def count(self, status: Status) -> int:
        """How many checks came out so."""
        return sum(result.status is status for result in self.results)

    def exit_code(self, *, strict: bool) -> int:
        """0, or 1 for a failure (with `strict` for a warning too)."""
        bad = {Status.FAIL, Status.WARN} if strict else {Status.FAIL}
        return int(self.status in bad)

    def as_json(self) -> dict[str, Any]:
        """The report as `--json` prints it."""
        return {
            "schema": SCHEMA,
            "version": __version__,
            "at": datetime.fromtimestamp(self.at, UTC).isoformat(timespec="seconds"),
            "scopes": sorted(scope.value for scope in self.scopes),
            "status": self.status.value,
            "summary": {status.value: self.count(status) for status in _WORST_FIRST},
            "checks": [result.as_json() for result in self.results],
        }


def examine(
    checks: Iterable[Check],
    world: World,
    scopes: frozenset[Scope],
    began: Callable[[Check], None] = lambda _: None,
) -> Report:
    """Run the checks, one after the other; those that can't look from here are skipped.

    Never raises: whatever the machine answers, a check that can't cope with it is a `skip`.
    `began` hears of each check before it runs.
    """
    results = []
    for check in checks:
        began(check)
        started = time.perf_counter()
        findings = sorted(_findings(check, world, scopes), key=_rank)
        results.append(Result(check, tuple(findings), time.perf_counter() - started))
    return Report(tuple(results), scopes, world.now())


def _rank(finding: Finding) -> int:
    return _WORST_FIRST.index(finding.status)


def _findings(check: Check, world: World, scopes: frozenset[Scope]) -> list[Finding]:
    if check.scope not in scopes:
        return [Finding(Status.SKIP, _SKIPPED[check.scope])]
    try:
        found = check.look(world)
    except WorldError as exc:
        return [Finding(Status.SKIP, f"can't look: {exc.detail}", evidence={"kind": exc.kind})]
    except Exception as exc:  # noqa: BLE001 - whatever a hostile answer causes, the rest is told
        return [
            Finding(
                Status.SKIP,
                "the answers make no sense to this check",
                evidence={"error": f"{type(exc).__name__}: {exc}"[:200]},
            )
        ]
    return found or [Finding(Status.SKIP, "the check found nothing to say")]


def where_to_look(world: World) -> frozenset[Scope]:
    """From where the checks make sense here.

    `BOTH` are those of ragdock's own settings and data: in a container, or on a machine where it
    runs as a process. On the host of a stack the settings are those of the containers.
    """
    if not is_inside(world):
        return frozenset({Scope.HOST} if _has_stack(world) else {Scope.HOST, Scope.BOTH})
    try:
        world.engine("/version")
    except WorldError:
        return frozenset({Scope.INSIDE, Scope.BOTH})
    return frozenset({Scope.INSIDE, Scope.HOST, Scope.BOTH})


def _has_stack(world: World) -> bool:
    try:
        return any(one.service for one in containers(world))
    except WorldError:
        return False
