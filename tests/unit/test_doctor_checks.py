"""Every check of the doctor against a recorded failure and its healthy twin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ragdock.ops.doctor.model import Check, Finding, Status
from ragdock.ops.doctor.recorded import RecordedWorld
from ragdock.ops.doctor.registry import all_checks
from ragdock.ops.doctor.report import examine

RECORDINGS = Path(__file__).resolve().parents[1] / "data" / "doctor"
CASES = [
    (check, path)
    for check in all_checks()
    for path in sorted((RECORDINGS / check.id).glob("*.json"))
]


def of_check(check: Check) -> str:
    """The check's id, for a test's."""
    return check.id


def of_case(value: object) -> str:
    """The check and the recording, for a test's id."""
    return value.stem if isinstance(value, Path) else getattr(value, "id", "")


def recording(path: Path) -> dict[str, Any]:
    """A recording's content."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def findings(check: Check, answers: dict[str, Any]) -> tuple[Finding, ...]:
    """What the check says, wherever it may look from; worst first."""
    report = examine([check], RecordedWorld(answers), frozenset({check.scope}))
    return report.results[0].findings


@pytest.mark.parametrize("check", all_checks(), ids=of_check)
def test_each_check_has_a_recorded_failure_and_a_healthy_twin(check: Check) -> None:
    """Both recordings are there; further ones are named `broken-*` and `healthy-*`."""
    names = {path.stem for path in (RECORDINGS / check.id).glob("*.json")}
    assert {"broken", "healthy"} <= names
    assert all(name.split("-")[0] in ("broken", "healthy") for name in names)


def test_no_recording_is_left_over() -> None:
    """Every directory of recordings belongs to a check."""
    assert {path.name for path in RECORDINGS.iterdir()} <= {check.id for check in all_checks()}


@pytest.mark.parametrize(("check", "path"), CASES, ids=of_case)
def test_the_check_tells_broken_from_healthy(check: Check, path: Path) -> None:
    """A failure is told with evidence, cause and fix; a healthy machine is `ok`."""
    found = findings(check, recording(path))
    if path.stem.startswith("healthy"):
        assert {finding.status for finding in found} == {Status.OK}, found
        return
    assert found[0].status in (Status.FAIL, Status.WARN), found
    for finding in found:
        if finding.status in (Status.FAIL, Status.WARN):
            assert finding.evidence, finding
            assert finding.cause.endswith("."), finding
            assert finding.fix, finding


@pytest.mark.parametrize(("check", "path"), CASES, ids=of_case)
def test_hostile_answers_never_crash_a_check(check: Check, path: Path) -> None:
    """Null, text, a number, an empty list or mapping in place of any answer ends in a finding."""
    answers = recording(path)
    for hostile in (None, "\x00", -1, [], {}, [None], {"": None}):
        for method, value in answers.items():
            if isinstance(value, dict) and method != "environ":
                changed = {**answers, method: dict.fromkeys(value, hostile)}
                assert findings(check, changed)
    assert findings(check, {})
