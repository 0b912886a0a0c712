"""The answer "not Docker": the installer and the units of deploy/systemd, under a real systemd.

systemd runs as process 1 of a container; what is installed there is what would be on a machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import BASE_IMAGES, ROOT, container, docker, run, wait_for

MACHINE = "rag-systemd:test"
DOCKERFILE = """\
ARG BASE
FROM ${BASE}
RUN apt-get update -qq \\
 && apt-get install -y -qq --no-install-recommends systemd > /dev/null \\
 && rm -rf /var/lib/apt/lists/*
STOPSIGNAL SIGRTMIN+3
CMD ["/lib/systemd/systemd"]
"""
NEEDED = ("deploy", "src", "requirements.txt", "m3_1_dockerize.py")


class Machine:
    """A container with systemd in which ragdock is installed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = ""

    def do(self, *words: str, check: bool = True, timeout_seconds: float = 120) -> str:
        """Run a command as root."""
        environment = ("-e", f"RAGDOCK_API_KEY={self.key}") if self.key else ()
        done = run(
            ["docker", "exec", *environment, self.name, *words],
            check=check,
            timeout_seconds=timeout_seconds,
        )
        return done.stdout + done.stderr

    def show(self, name: str, unit: str = "ragdock") -> str:
        """A property of a unit."""
        return self.do("systemctl", "show", "-P", name, unit).strip()

    def wait_ready(self) -> None:
        probe = "/opt/ragdock/venv/bin/python"
        wait_for(
            "ragdock to be ready",
            lambda: self.do(probe, "/opt/ragdock/m3_1_dockerize.py", "--health", check=False)
            .find(" 200 ") > 0 or None,
        )  # fmt: skip


@pytest.fixture(scope="module")
def machine(
    image: str, tmp_path_factory: pytest.TempPathFactory, report: Callable[[str], None]
) -> Iterator[Machine]:
    """Installed by the installer, from PyPI by hash; the model is the image's."""
    context = tmp_path_factory.mktemp("systemd")
    (context / "Dockerfile").write_text(DOCKERFILE, encoding="utf-8")
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    official = next(x[9:] for x in dockerfile.splitlines() if x.startswith("ARG BASE="))
    base = BASE_IMAGES.get("BASE_IMAGE", official)
    docker("build", "-q", "--build-arg", f"BASE={base}", "-t", MACHINE, context,
           timeout_seconds=300)  # fmt: skip
    arguments = (
        *("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"),
        *("--security-opt", "apparmor=unconfined", "--tmpfs", "/run", "--tmpfs", "/tmp:exec"),
        *("-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw", MACHINE),
    )
    with container(*arguments) as name:
        found = Machine(name)
        wait_for(
            "systemd",
            lambda: "running" in found.do("systemctl", "is-system-running", check=False) or None,
        )
        found.do("mkdir", "/repository")
        for part in NEEDED:
            docker("cp", "-L", ROOT / part, f"{name}:/repository/{part}")
        with container(image) as other:
            models = context / "models"
            docker("cp", f"{other}:/app/models", models)
            docker("cp", models, f"{name}:/models")
        started = time.monotonic()
        said = found.do(
            *("env", "MODEL=/models", "PYTHON=/usr/local/bin/python3"),
            "/repository/deploy/systemd/install.sh",
            timeout_seconds=400,
        )
        assert "install: done" in said
        report(f"deploy/systemd/install.sh: {time.monotonic() - started:.0f} s, from PyPI by hash")
        create = ("ragdock-ctl", "keys", "create", "--name", "admin", "--rights", "admin", "--json")
        made: dict[str, Any] = json.loads(found.do(*create))
        found.key = made["key"]
        found.do("systemctl", "enable", "--now", "ragdock")
        found.wait_ready()
        yield found


def test_the_smoke_test_passes_on_the_bare_machine(
    machine: Machine, report: Callable[[str], None]
) -> None:
    """The unit, with all its locks, serves what the container serves."""
    assert machine.show("ProtectSystem") == "strict"
    said = machine.do("ragdock-ctl", "smoke", "--strict")
    assert "works; 14 steps" in said
    assert machine.show("User") == "ragdock"
    memory = int(machine.show("MemoryCurrent")) / 2**20
    report(f"under systemd: {said.splitlines()[-1]}; {memory:.0f} MB")


def test_parsers_shut_themselves_in_under_the_units_own_filter(machine: Machine) -> None:
    """A PDF is parsed: the filter lets the parsers' processes close their doors."""
    docker("cp", ROOT / "tests/data/handbook.pdf", f"{machine.name}:/opt/handbook.pdf")
    machine.do("chmod", "644", "/opt/handbook.pdf")
    said = machine.do("ragdock-ctl", "ingest", "/opt/handbook.pdf")
    assert "1 indexed" in said
    log = machine.do("journalctl", "-u", "ragdock", "-o", "cat", "--no-pager")
    for line in log.splitlines():
        if line.startswith("{"):
            assert json.loads(line)["level"] in ("info", "warning"), line
    assert "closes only" not in log


def test_it_writes_where_the_unit_says_and_nowhere_else(machine: Machine) -> None:
    """All files of its user are below ReadWritePaths, and the system is read-only to it."""
    owned = machine.do(
        *("find", "/", "-xdev", "-user", "ragdock", "-not", "-path", "/proc/*"),
        *("-not", "-path", "/var/lib/ragdock*"),
    )
    assert owned.strip() == ""
    stored = machine.do("find", "/var/lib/ragdock", "-user", "ragdock", "-type", "f")
    assert "catalogue" in stored or ".db" in stored, stored
    process = machine.show("MainPID")
    mounts = machine.do("cat", f"/proc/{process}/mounts").splitlines()
    options = {line.split()[1]: line.split()[3].split(",") for line in mounts}
    assert "ro" in options["/"]
    assert "rw" in options["/var/lib/ragdock"]
    status = machine.do("cat", f"/proc/{process}/status")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status


def test_it_stops_in_time_comes_back_and_gives_up_on_a_wrong_setting(machine: Machine) -> None:
    """SIGTERM ends it with 0, kill -9 is mended in seconds, a wrong setting isn't tried again."""
    started = time.monotonic()
    machine.do("systemctl", "restart", "ragdock")
    assert time.monotonic() - started < 15
    machine.wait_ready()
    before = machine.show("MainPID")
    machine.do("kill", "-9", before)
    wait_for("a new process", lambda: machine.show("MainPID") not in (before, "0") or None)
    machine.wait_ready()
    machine.do("bash", "-c", "echo RAG_TOP_K=many >> /etc/ragdock/ragdock.env")
    machine.do("systemctl", "restart", "ragdock", check=False)
    wait_for("the failure", lambda: machine.show("ActiveState") == "failed" or None)
    assert machine.show("ExecMainStatus") == "2"
    log = machine.do("journalctl", "-u", "ragdock", "-o", "cat", "--no-pager", "-n", "20")
    assert "RAG_TOP_K" in log
    machine.do("sed", "-i", "/RAG_TOP_K/d", "/etc/ragdock/ragdock.env")
    machine.do("systemctl", "reset-failed", "ragdock")
    machine.do("systemctl", "start", "ragdock")
    machine.wait_ready()


def test_the_worker_processes_what_the_server_does_not(machine: Machine) -> None:
    """With RAG_INGEST=false documents wait for the worker's unit, which has the same locks."""
    machine.do("bash", "-c", "echo RAG_INGEST=false >> /etc/ragdock/ragdock.env")
    machine.do("systemctl", "restart", "ragdock")
    machine.wait_ready()
    said = machine.do("ragdock-ctl", "smoke", "--timeout", "5", check=False)
    assert "is still pending" in said
    assert "ragdock worker" in said
    machine.do("systemctl", "start", "ragdock-worker")
    said = machine.do("ragdock-ctl", "smoke")
    assert "works" in said
    assert machine.show("ActiveState", "ragdock-worker") == "active"


def test_installing_again_keeps_data_and_settings(machine: Machine) -> None:
    """An upgrade is the installer again: settings stay, documents stay."""
    settings = machine.do("cat", "/etc/ragdock/ragdock.env")
    documents = machine.do("ragdock-ctl", "documents", "ls")
    # The packages are there already; what isn't asked for again needs no network.
    machine.do(
        *("env", "MODEL=/models", "PYTHON=/usr/local/bin/python3"),
        "/repository/deploy/systemd/install.sh",
        timeout_seconds=400,
    )
    assert machine.do("cat", "/etc/ragdock/ragdock.env") == settings
    machine.do("systemctl", "restart", "ragdock")
    machine.wait_ready()
    assert machine.do("ragdock-ctl", "documents", "ls") == documents


def test_nothing_of_the_source_is_the_services_to_change(machine: Machine) -> None:
    """Code, packages and model belong to root, and nobody else may write them."""
    found = machine.do("find", "/opt/ragdock", "-not", "-user", "root", "-o", "-perm", "/022",
                       "-not", "-type", "l")  # fmt: skip
    assert found.strip() == ""
    assert Path("/opt/ragdock/venv/bin/python").name in machine.show("ExecStart")
