"""The units, settings and scripts of deploy/systemd, as far as they can be read without systemd."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from ragdock.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy/systemd"
UNITS = ("ragdock.service", "ragdock-worker.service")


def directives(name: str) -> dict[str, list[str]]:
    """The unit's directives by name; those of all sections, which share none here."""
    found = defaultdict(list)
    for line in (DEPLOY / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


def variables() -> dict[str, str]:
    """What ragdock.env sets."""
    text = (DEPLOY / "ragdock.env").read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Z][A-Z0-9_]*)=(.*)$", text, re.MULTILINE))


@pytest.mark.parametrize("name", UNITS)
def test_units_are_as_shut_in_as_the_container(name: str) -> None:
    """No privileges, a read-only system, limits: what compose gives the container, and more."""
    unit = directives(name)
    for key, value in {
        "User": "ragdock",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "ProtectSystem": "strict",
        "PrivateTmp": "yes",
        "ReadWritePaths": "/var/lib/ragdock",
        "StateDirectory": "ragdock",
        "MemoryMax": "2G",
        "TasksMax": "256",
    }.items():
        assert unit[key] == [value], key
    assert "ProcSubset" not in unit, "ONNX Runtime reads /proc/cpuinfo"
    assert "MemoryDenyWriteExecute" not in unit, "no PDF could be parsed"
    calls = " ".join(unit["SystemCallFilter"])
    # The parsers' processes close these doors behind them.
    for call in ("seccomp", "landlock_create_ruleset", "landlock_restrict_self"):
        assert call in calls


@pytest.mark.parametrize("name", UNITS)
def test_units_stop_later_than_the_server(name: str) -> None:
    """systemd waits longer than the server takes, and gives up on what ends by a wrong setting."""
    unit = directives(name)
    shutdown_seconds = Settings.model_fields["shutdown_seconds"].default
    assert int(unit["TimeoutStopSec"][0]) > shutdown_seconds
    assert unit["RestartPreventExitStatus"] == ["2"]
    assert unit["Restart"] == ["on-failure"]


def test_units_differ_in_what_they_are_for() -> None:
    """The worker has the locks of the server; only what it runs and waits for is its own."""
    server, worker = (directives(name) for name in UNITS)
    different = {key for key in server.keys() | worker.keys() if server[key] != worker[key]}
    assert different == {"Description", "After", "ExecStart"}


def test_the_settings_are_settings_and_match_the_unit() -> None:
    """Each variable is read by somebody, and the data are where the unit lets it write."""
    known = {str(f.validation_alias.choices[0]) for f in Settings.model_fields.values()}  # type: ignore[union-attr]
    ours = {"HOME", "MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_"}
    assert {n for n in variables() if not n.startswith("PYTHON")} <= known | ours
    assert [variables()["RAG_DATA_DIR"]] == directives("ragdock.service")["ReadWritePaths"]
    assert variables()["ENVIRONMENT"] == "production"
    assert variables()["RAG_HOST"] == "127.0.0.1"
    # What isn't on the read-only system must be: systemd, a shell and dotenv read it alike.
    for value in variables().values():
        assert not re.search(r"[\"'$\s\\]", value)


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify` has no complaint, where it is installed; the exposure is low."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        for name in UNITS:
            lines = (DEPLOY / name).read_text(encoding="utf-8").splitlines()
            assert all(
                re.match(r"(#.*|\[(Unit|Service|Install)\]|[A-Z]\w+=.*|)$", x) for x in lines
            )
        return
    for name in UNITS:
        text = (DEPLOY / name).read_text(encoding="utf-8")
        text = text.replace("/opt/ragdock/venv/bin/python", sys.executable)
        (tmp_path / name).write_text(text, encoding="utf-8")
        done = subprocess.run(
            [analyze, "verify", "--man=no", str(tmp_path / name)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        done = subprocess.run(
            [analyze, "security", "--offline=true", "--threshold=20", str(tmp_path / name)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


def test_ctl_runs_with_the_settings_of_the_file(tmp_path: Path) -> None:
    """Values are taken as they are, and of the caller's environment only what is the client's."""
    (tmp_path / "etc/ragdock").mkdir(parents=True)
    (tmp_path / "opt/ragdock/venv/bin").mkdir(parents=True)
    (tmp_path / "etc/ragdock/ragdock.env").write_text(
        "# a comment\nRAG_ADMIN_KEY=$(touch /tmp/x) `id` $HOME\n#PORT=1\nPORT=8123"
    )
    python = tmp_path / "opt/ragdock/venv/bin/python"
    python.write_text('#!/bin/sh\necho "$RAG_ADMIN_KEY|$PORT|$RAG_TOP_K$RAGDOCK_API_KEY|$PWD|$*"\n')
    python.chmod(0o755)
    done = subprocess.run(
        [DEPLOY / "ragdock-ctl", "keys", "list"],
        env={
            "RAGDOCK_ROOT": str(tmp_path),
            "PATH": "/usr/bin:/bin",
            "RAG_TOP_K": "9",
            "RAGDOCK_API_KEY": "mine",
        },
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    expected = f"$(touch /tmp/x) `id` $HOME|8123|mine|{tmp_path}/opt/ragdock|-m ragdock keys list"
    assert done.stdout.strip() == expected
