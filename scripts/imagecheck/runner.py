"""Runs the checks of the checkpoints and says what came out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from imagecheck.checkpoints import LEVELS, Checkpoint
from imagecheck.subject import Check, Subject, ToolError

PASS, EXCEPTION, FAIL = "pass", "exception", "FAIL"


@dataclass(frozen=True)
class Outcome:
    """What became of one checkpoint; its checks of the levels `left_out` weren't asked for."""

    checkpoint: Checkpoint
    problems: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        if self.problems:
            return FAIL
        return EXCEPTION if self.checkpoint.exception else PASS


def run_all(
    subject: Subject,
    checkpoints: Iterable[Checkpoint],
    levels: Collection[str] = LEVELS,
    told: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Run every check once, though several checkpoints may share it.

    A check that can't run is a problem of its checkpoint: what wasn't looked at didn't pass.
    """
    results: dict[Check, list[str]] = {}
    outcomes = []
    for checkpoint in checkpoints:
        problems: list[str] = []
        left_out = tuple(n for n in LEVELS if n not in levels and checkpoint.checks(n))
        for level in (level for level in LEVELS if level in levels):
            for check in checkpoint.checks(level):
                if check not in results:
                    results[check] = _run(check, subject)
                problems += results[check]
        outcomes.append(Outcome(checkpoint, tuple(problems), left_out))
        told(outcomes[-1])
    return outcomes


def _run(check: Check, subject: Subject) -> list[str]:
    try:
        return check(subject)
    except ToolError as exc:
        return [f"{check.__name__} couldn't run: {exc}"]


def summary(outcomes: Collection[Outcome]) -> str:
    """`48 of 68 pass, 20 exceptions, 0 fail`."""
    found = [outcome.status for outcome in outcomes]
    n_pass, n_exception, n_fail = (found.count(status) for status in (PASS, EXCEPTION, FAIL))
    said = f"{n_pass} of {len(found)} pass, {n_exception} exceptions, {n_fail} fail"
    left_out = sorted({level for outcome in outcomes for level in outcome.left_out})
    return said + (f"; left out: {', '.join(left_out)}" if left_out else "")
