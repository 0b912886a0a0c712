"""Checks of a container that runs for a few seconds, hardened as compose runs it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from imagecheck.subject import Subject, run

HARDENED = (
    "--read-only", "--tmpfs", "/tmp:size=16m", "--cap-drop", "ALL", "--network", "none",
    "--security-opt", "no-new-privileges", "--memory", "2g", "--pids-limit", "256",
)  # fmt: skip
HEALTHY_SECONDS = 90.0
GRACE_SECONDS = 20
SIGTERM = 15
UNHEALTHY = 1
_seen: dict[str, Life] = {}


@dataclass(frozen=True)
class Life:
    """What was seen of one container from its start to its stop."""

    health: str
    healthy_seconds: float
    first_process: str
    catches_sigterm: bool
    root_writable: bool
    tmp_writable: bool
    stop_seconds: float
    exit_code: int


def life(subject: Subject) -> Life:
    """Start the image, look, stop it; once for each image."""
    key = str(subject.inspected.get("Id", subject.image))
    if key not in _seen:
        _seen[key] = _live(subject)
    return _seen[key]


def _live(subject: Subject) -> Life:
    # An anonymous volume takes the owner of the image's directory.
    name = run(["docker", "run", "-d", "-v", "/data", *HARDENED, subject.image]).stdout.strip()
    try:
        began = time.monotonic()
        state = ""
        while time.monotonic() - began < HEALTHY_SECONDS and state != "healthy":
            time.sleep(0.3)
            state = _state(name)
        healthy_seconds = time.monotonic() - began
        said = _exec(name, "cat /proc/1/comm; grep SigCgt /proc/1/status").split()
        caught = int(said[-1], 16) if said else 0
        root = _exec(name, "touch /x /app/x 2> /dev/null; ls /x /app/x 2> /dev/null")
        tmp = _exec(name, "touch /tmp/x && echo yes")
        began = time.monotonic()
        run(["docker", "stop", "-t", str(GRACE_SECONDS), name])
        stop_seconds = time.monotonic() - began
        (found,) = json.loads(run(["docker", "inspect", name]).stdout)
    finally:
        run(["docker", "rm", "-f", "-v", name], check=False)
    return Life(
        state, healthy_seconds, said[0] if said else "", bool(caught >> (SIGTERM - 1) & 1),
        bool(root.strip()), tmp.strip() == "yes", stop_seconds, int(found["State"]["ExitCode"]),
    )  # fmt: skip


def _state(name: str) -> str:
    (found,) = json.loads(run(["docker", "inspect", name]).stdout)
    return str(found["State"].get("Health", {}).get("Status", "no health check"))


def _exec(name: str, script: str) -> str:
    return run(["docker", "exec", name, "sh", "-c", script], check=False).stdout


def gets_healthy(subject: Subject) -> list[str]:
    """It gets healthy without network, and the probe fails where nothing listens."""
    found = life(subject)
    problems = []
    if found.health != "healthy":
        problems.append(f"{found.health} after {found.healthy_seconds:.0f} s")
    probe = subject.config.get("Healthcheck", {}).get("Test", ["CMD"])[1:]
    if probe:
        ran = run(["docker", "run", "--rm", *HARDENED, subject.image, *probe], check=False)
        if ran.returncode != UNHEALTHY:
            problems.append(f"the probe's exit code is {ran.returncode} where nothing listens")
    return problems


def first_process(subject: Subject) -> list[str]:
    """Process 1 is the server and catches SIGTERM."""
    found = life(subject)
    problems = []
    if found.first_process not in ("python", "python3", "ragdock"):
        problems.append(f"process 1 is {found.first_process!r}")
    if not found.catches_sigterm:
        problems.append("process 1 doesn't catch SIGTERM")
    return problems


def stops(subject: Subject) -> list[str]:
    """SIGTERM ends it in time, with exit code 0."""
    found = life(subject)
    problems = [] if found.exit_code == 0 else [f"exit code {found.exit_code} after SIGTERM"]
    if found.stop_seconds >= GRACE_SECONDS:
        problems.append(f"stopped only after {found.stop_seconds:.0f} s")
    return problems


def root_is_read_only(subject: Subject) -> list[str]:
    """It works with a read-only root, and /tmp is writable."""
    found = life(subject)
    problems = ["the root is writable"] if found.root_writable else []
    return problems if found.tmp_writable else [*problems, "/tmp isn't writable"]
