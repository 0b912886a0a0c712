"""The doctor as a command: what it prints for people and for programs, and its exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ragdock.cli.main import main
from ragdock.ops.doctor.model import Check, Finding, Scope, Status
from ragdock.ops.doctor.recorded import RecordedWorld
from ragdock.ops.doctor.registry import all_checks, chosen
from ragdock.ops.doctor.report import SCHEMA, examine, where_to_look
from ragdock.ops.doctor.world import World, WorldError

RECORDINGS = Path(__file__).resolve().parents[1] / "data" / "doctor"
HOST = frozenset({Scope.HOST})
EMPTY = RecordedWorld({})
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `ragdock doctor ...` in this process: (exit code, out, err)."""

    def call(*argv: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["doctor", *argv])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return call


def on_terminal(columns: int, *argv: str) -> str:
    """What `ragdock doctor ...` draws on a terminal of this width, with its escape sequences."""
    parent, child = pty.openpty()
    source = str(Path(__file__).resolve().parents[2] / "src")
    environ = {**os.environ, "PYTHONPATH": source, "TERM": "xterm-256color"}
    environ["COLUMNS"] = str(columns)
    environ.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "ragdock", "doctor", *argv],
        stdin=child, stdout=child, stderr=child, env=environ,
    )  # fmt: skip
    os.close(child)
    screen, deadline = b"", time.monotonic() + 30
    while time.monotonic() < deadline:
        if select.select([parent], [], [], 0.1)[0]:
            try:
                screen += os.read(parent, 65536)
            except OSError:
                break
        elif process.poll() is not None:
            break
    os.close(parent)
    process.wait(timeout=5)
    return screen.decode().replace("\r\n", "\n")


def replayed(name: str) -> tuple[str, ...]:
    """Options that look at a recorded failure through its one check."""
    return "--only", name, "--replay", str(RECORDINGS / name / "broken.json"), "--scope", "host"


# ---- the report ----------------------------------------------------------------------------------


def check_that(look: Callable[[World], list[Finding]], scope: Scope = Scope.HOST) -> Check:
    """A check of one look."""
    return Check("X1", "it is so", scope, "it isn't so", look)


def boom(_: World) -> list[Finding]:
    """What a hostile answer may cause."""
    raise KeyError("State")


def silent(_: World) -> list[Finding]:
    """A world that doesn't answer."""
    raise WorldError("timeout", "no answer in time")


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (check_that(boom), "make no sense"),
        (check_that(silent), "no answer in time"),
        (check_that(lambda _: []), "nothing to say"),
        (check_that(boom, Scope.INSIDE), "docker-compose exec web ragdock doctor"),
        (check_that(boom, Scope.BOTH), "docker-compose exec web ragdock doctor"),
    ],
    ids=["error", "unanswered", "empty", "inside", "both"],
)
def test_a_check_that_cannot_look_is_skipped_with_the_reason(check: Check, reason: str) -> None:
    """Nothing that a check does ends the doctor."""
    report = examine([check], EMPTY, HOST)
    assert report.status is Status.SKIP
    assert reason in report.results[0].findings[0].summary
    assert report.exit_code(strict=True) == 0


def test_the_worst_finding_comes_first_and_counts() -> None:
    """A check is as bad as its worst finding, and the report as its worst check."""
    found = [Finding(status, status.value) for status in (Status.OK, Status.WARN, Status.FAIL)]
    report = examine([check_that(lambda _: found)], EMPTY, HOST)
    assert [finding.status for finding in report.results[0].findings] == ["fail", "warn", "ok"]
    assert report.status is Status.FAIL
    assert report.exit_code(strict=False) == 1
    warned = examine([check_that(lambda _: found[:2])], EMPTY, HOST)
    assert (warned.exit_code(strict=False), warned.exit_code(strict=True)) == (0, 1)


def test_the_report_for_programs_has_a_version_and_all_fields() -> None:
    """`--json` is a contract."""
    finding = Finding(Status.FAIL, "s", "web", {"port": 1}, "because.", ("true",))
    told = examine([check_that(lambda _: [finding])], EMPTY, HOST).as_json()
    assert told["schema"] == SCHEMA == "ragdock.doctor/1"
    assert told["summary"] == {"fail": 1, "warn": 0, "ok": 0, "skip": 0}
    (check,) = told["checks"]
    assert {"id", "title", "scope", "status", "symptom", "docs", "seconds"} < check.keys()
    assert check["findings"] == [
        {
            "status": "fail",
            "subject": "web",
            "summary": "s",
            "evidence": {"port": 1},
            "cause": "because.",
            "fix": ["true"],
        }
    ]


def test_the_ids_are_in_order_and_chosen_by_name() -> None:
    """D before G before R, by number; --only and --skip take ids in any case."""
    names = [check.id for check in all_checks()]
    assert names.index("D02") < names.index("D10") < names.index("D20") < names.index("D20b")
    assert [check.id for check in chosen(["d35", "D01"])] == ["D01", "D35"]
    assert "D35" not in {check.id for check in chosen((), ["D35"])}


def test_from_where_it_looks() -> None:
    """A bare machine: from outside and at ragdock's own; in a container: from inside."""
    assert where_to_look(EMPTY) == {Scope.HOST, Scope.BOTH}
    inside = RecordedWorld({"environ": {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}})
    assert where_to_look(inside) == {Scope.INSIDE, Scope.BOTH}
    path = RECORDINGS / "D35" / "broken.json"
    assert where_to_look(RecordedWorld(json.loads(path.read_text()))) == HOST


# ---- the command ---------------------------------------------------------------------------------


def test_exit_codes(run: Run, tmp_path: Path) -> None:
    """0 for healthy, 1 for a failure, 2 for an id or a file that doesn't exist."""
    healthy = str(RECORDINGS / "D35" / "healthy.json")
    assert run("--only", "D35", "--replay", healthy)[0] == 0
    assert run(*replayed("D35"))[0] == 1
    code, _, err = run("--only", "D99")
    assert code == 2
    assert "D99" in err
    (tmp_path / "x").write_text("{}")
    assert run("--replay", str(tmp_path / "x"))[0] == 2
    warned = replayed("D10")
    assert (run(*warned)[0], run(*warned, "--strict")[0]) == (0, 1)


def test_plain_lines_in_a_pipe(run: Run) -> None:
    """A line a check, then everything about the fault, without escape sequences."""
    _, out, _ = run(*replayed("D35"))
    assert re.search(r"^FAIL D35 \[\S*web\S*\] port \d+ is taken by process \d+ \(", out)
    for word in ("symptom", "evidence", "cause", "fix", "more"):
        assert re.search(rf"^  {word} ", out, re.MULTILINE), word
    assert "docs/doctor.md#d35" in out
    assert "\x1b" not in out
    assert out.endswith("s\n")


def test_json_in_a_pipe(run: Run) -> None:
    """One line, with the lines to paste as a list."""
    _, out, _ = run(*replayed("D35"), "--json")
    (finding,) = json.loads(out)["checks"][0]["findings"]
    assert finding["fix"][0].startswith("echo WEB_PORT=")
    assert finding["fix"][1] == "docker-compose up -d"
    assert finding["evidence"]["owner"].startswith("process ")


@pytest.mark.parametrize("columns", [60, 100, 200])
def test_a_table_on_a_terminal(columns: int) -> None:
    """It fits the width, has colours, and prints what is to be pasted whole."""
    screen = on_terminal(columns, *replayed("D35"))
    assert "\x1b[" in screen
    plain = re.sub(r"\x1b\[[0-9;]*m", "", screen)
    assert re.match(r"ragdock doctor +from the host · \d{4}-", plain)
    pasted = plain.split("paste\n")[1]
    assert re.search(r"^  docker-compose up -d$", pasted, re.MULTILINE)
    for line in plain.split("paste\n")[0].splitlines():
        assert len(line) <= min(columns, 120), line
    for word in ("you see", "evidence", "because", "docs/doctor.md#d35"):
        assert word in plain


def test_no_color_means_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """--no-color leaves out every colour."""
    screen = on_terminal(100, *replayed("D35"), "--no-color")
    assert not re.search(r"\x1b\[(?:\d+;)*(?:3\d|9\d|38;[\d;]+)m", screen)


def test_recording_writes_what_was_seen(run: Run, tmp_path: Path) -> None:
    """What --record writes, --replay reads, with the same outcome."""
    copy = str(tmp_path / "copy.json")
    assert run(*replayed("D35"), "--record", copy)[0] == 1
    again = run("--only", "D35", "--replay", copy, "--scope", "host", "--json")
    first = run(*replayed("D35"), "--json")
    assert (
        json.loads(again[1])["checks"][0]["findings"]
        == json.loads(first[1])["checks"][0]["findings"]
    )


def test_the_list_names_every_check(run: Run) -> None:
    """--list: ids, scopes, titles, symptoms, tab-separated in a pipe."""
    code, out, _ = run("--list")
    assert code == 0
    assert [line.split("\t")[0] for line in out.splitlines()[1:]] == [c.id for c in all_checks()]


def test_without_docker_nothing_crashes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No socket: D01 says so when Docker was meant to be there; the host's other checks skip."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    code, out, _ = run("--scope", "host", "--json")
    told = {check["id"]: check["status"] for check in json.loads(out)["checks"]}
    assert code == 1
    assert told.pop("D01") == "fail"
    assert "fail" not in told.values()
