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


def test_a_program_that_is_still_loading_is_not_blamed_for_its_signals() -> None:
    """Python has no handler in its first seconds; a shell never has, and later none is excused."""
    (check,) = (check for check in all_checks() if check.id == "D45")
    answers = recording(RECORDINGS / "D45" / "broken.json")
    assert findings(check, answers)[0].status is Status.FAIL
    loading = {
        path: text.replace("Name:\tsh\n", "Name:\tpython\n") for path, text in reads(answers)
    }
    assert findings(check, {**answers, "read": loading})[0].status is Status.OK
    later = {**answers, "read": loading, "now": answers["now"] + 60}
    assert findings(check, later)[0].status is Status.FAIL


def reads(answers: dict[str, Any]) -> list[tuple[str, str]]:
    """The files of a recording that could be read."""
    return [(path, text) for path, text in answers["read"].items() if isinstance(text, str)]


def test_what_each_start_says_again_is_told_once() -> None:
    """The end of the log of a container that restarts is not one line three times."""
    (check,) = (check for check in all_checks() if check.id == "D23")
    answers = recording(RECORDINGS / "D23" / "broken.json")
    said = "Error: RAG_DATA_DIR='/data' can't be written by user 1000: Permission denied.\n"
    answers["engine"] = {
        path: said * 3 if "/logs?" in path else answer for path, answer in answers["engine"].items()
    }
    finding = findings(check, answers)[0]
    assert finding.evidence["log"] == [said.rstrip()]
    assert "D30" in finding.cause


def test_a_misspelt_name_in_the_environment_file_is_told_with_the_right_one() -> None:
    """Compose is silent about a name that it doesn't read; what resembles none is left alone."""
    (check,) = (check for check in all_checks() if check.id == "D27")
    found = findings(check, recording(RECORDINGS / "D27" / "broken-misspelt.json"))
    assert [finding.fix[0] for finding in found] == [
        "sed -i 's/^RAG_WORKRES=/RAG_WORKERS=/' .env",
        "sed -i 's/^WEB_PROT=/WEB_PORT=/' .env",
    ]


def test_a_health_check_that_was_cut_off_keeps_its_words() -> None:
    """More time is all it gets: another test would forget a password that comes from a file."""
    (check,) = (check for check in all_checks() if check.id == "D44")
    lines = findings(check, recording(RECORDINGS / "D44" / "broken.json"))[0].fix
    assert "      timeout: 10s" in lines
    assert '      test: ["CMD-SHELL", "sleep 2; redis-cli ping | grep -q PONG"]' in lines
