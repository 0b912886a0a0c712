"""What every test gets."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

# Settings fall back to the environment, and a test must not depend on who runs it. The model's
# directory is the one thing that the outside may say.
_KEPT = {"RAG_MODEL_DIR"}
_PREFIXES = ("RAG_", "REDIS_", "OTEL_")
_NAMES = {"ENVIRONMENT", "PORT", "RAGDOCK_API_KEY", "RAGDOCK_KEY_FILE"}


# In CI a test that skips for another reason is a failure: nobody reads the skips of a green run.
_EXPECTED_SKIPS = (
    "no wheel: set RAG_TEST_WHEEL",  # A second build of the model wants the 83 MB wheel at hand.
    "this kernel closes only",  # Landlock and seccomp are the kernel's to have.
    "no small disk: mounting a tmpfs needs root",
    "the extra `ocr` is not installed",  # 230 MB, of which the rest has no use.
    "nothing answers at",  # The live half of tests_docker_sanity.py; the container tests run it.
)
_unexpected_skips: list[str] = []
_measured: list[str] = []


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start: a shell's background jobs inherit that it is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many broken files of each format to try (tests/hostile)."""
    parser.addoption("--mutants", type=int, default=90, help="broken files of each sample")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their parameter: packed ones hold the time, and workers must agree."""
    return argname if isinstance(val, bytes) else None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a skip that nobody expects."""
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(_EXPECTED_SKIPS):
            _unexpected_skips.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in CI that skipped what it should have tested; a worker hands over its lines."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["measured"] = _measured
    elif _unexpected_skips and os.environ.get("CI"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker of pytest-xdist measured; one that died says nothing."""
    _measured.extend(getattr(node, "workeroutput", {}).get("measured", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured, and name the skips that nobody expects."""
    if _measured:
        terminalreporter.section("measured")
        for line in _measured:
            terminalreporter.write_line(line)
    for skip in _unexpected_skips:
        terminalreporter.write_line(f"UNEXPECTED SKIP {skip}")


@pytest.fixture(scope="session")
def report() -> Callable[[str], None]:
    """Adds a line to what is printed in the end."""
    return _measured.append


@pytest.fixture(autouse=True, scope="session")
def _clean_environment() -> Iterator[None]:
    """Hide the caller's settings from the code under test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - _KEPT:
            if name.startswith(_PREFIXES) or name in _NAMES:
                patch.delenv(name)
        yield
