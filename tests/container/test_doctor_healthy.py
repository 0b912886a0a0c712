"""`ragdock doctor` on stacks that nothing is wrong with: no check warns or fails.

Slow answers are a warning, so these run while nothing else does.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from doctoring import Patient
from harness import Stack, secrets_from_files, wait_for

pytestmark = pytest.mark.timing


@pytest.fixture(scope="module")
def others(
    image: str,
    compose_programs: None,
    tmp_path_factory: pytest.TempPathFactory,
    report: Callable[[str], None],
) -> Iterator[dict[str, Patient]]:
    """Two other configurations, which start side by side and are both up when one is looked at."""
    environment = {"RAG_INGEST": "false", "COMPOSE_PROFILES": "worker"}
    workers = Stack(tmp_path_factory.mktemp("stack") / "workers", "1", environment)
    environment = {"ENVIRONMENT": "production"}
    production = Stack(tmp_path_factory.mktemp("stack") / "production", environment=environment)
    names = ("redis_password", "admin_key", "metrics_key")
    secrets_from_files(production, {name: secrets.token_hex(32) for name in names})

    def start(stack: Stack) -> Patient:
        stack.up()
        return Patient(stack, report)

    stacks = (workers, production)
    try:
        with ThreadPoolExecutor(2) as pool:
            patients = list(pool.map(start, stacks))
        yield {patient.stack.directory.name: patient for patient in patients}
    finally:
        for stack in stacks:
            stack.down("-v")


def assert_no_alarm(what: str, patient: Patient, *, services: tuple[str, ...] = ("web",)) -> None:
    """Neither on the host nor in a container does a check warn or fail."""
    reports = {"host": patient.examine()}
    for service in services:
        reports[service] = patient.examine(inside=True, name=service)
    alarms = [
        (place, check["id"], check["status"], check["findings"][0])
        for place, found in reports.items()
        for check in found["checks"]
        if check["status"] in ("warn", "fail")
    ]
    for place, found in reports.items():
        counts = ", ".join(f"{number} {status}" for status, number in found["summary"].items())
        patient.report(f"doctor, healthy, {what}, {place}: {counts}")
    assert alarms == []
    assert all(found["summary"]["ok"] > 15 for found in reports.values())


def test_no_alarm_on_the_default_stack(stack: Stack, report: Callable[[str], None]) -> None:
    """Compose 2, nothing set."""
    assert_no_alarm("compose 2", Patient(stack, report))


def test_no_alarm_with_compose_1_and_a_worker(others: dict[str, Patient]) -> None:
    """Compose 1.29, documents processed by the worker profile."""
    patient = others["workers"]
    wait_for("the worker", lambda: patient.health("worker") == "healthy")
    assert_no_alarm("compose 1.29 and a worker", patient, services=("web", "worker"))


def test_no_alarm_with_secrets_in_production(others: dict[str, Patient]) -> None:
    """Secrets from files, ENVIRONMENT=production, the admin key and one more."""
    patient = others["production"]
    make = ("keys", "create", "--name", "reader", "--rights", "read")
    patient.stack.compose("exec", "-T", "web", "ragdock", *make)
    assert_no_alarm("secrets, production, keys", patient)
    said = json.dumps([patient.examine(), patient.examine(inside=True)])
    folder = patient.stack.directory / "secrets"
    values = {path.name: path.read_text("ascii").strip() for path in folder.iterdir()}
    assert len(values) == 3
    assert not [name for name, value in values.items() if value in said]
