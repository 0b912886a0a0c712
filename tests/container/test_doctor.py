"""`ragdock doctor` on the project's own stack: it finds what is broken, and its fix mends it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from doctoring import Patient
from harness import Stack, run, wait_for

from support.ports import free_port

LISTENER = """
import socket, sys, time
taken = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("ready", flush=True)
time.sleep(3600)
"""


@pytest.fixture(scope="module")
def running(stack: Stack, report: Callable[[str], None]) -> Patient:
    """The default stack, under Compose 2."""
    return Patient(stack, report)


@pytest.fixture
def patient(running: Patient) -> Patient:
    """The stack, with its own settings from the next `up` on."""
    running.restore()
    running.begin()
    return running


def give(directory: Path, uid: int) -> None:
    run(["chown", "-R", f"{uid}:{uid}", directory])


# ---- ports ---------------------------------------------------------------------------------------


def test_a_port_that_a_process_has(patient: Patient) -> None:
    """D35 names the process with its id, and another port; with that the stack starts."""
    port = free_port()
    command = [sys.executable, "-c", LISTENER, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"ready\n"
            patient.set(WEB_PORT=str(port))
            patient.up(check=False)
            finding = patient.diagnose("D35")
            assert finding["evidence"]["port"] == port
            assert finding["evidence"]["address"] == "127.0.0.1"
            assert finding["evidence"]["owner"].startswith(f"process {owner.pid} ("), finding
            assert str(port) in finding["evidence"]["error"]
            patient.shell(*finding["fix"])
            patient.stack.wait_healthy()
            patient.assert_green("D35", "D00")
            # The other choice is a comment.
            assert f"kill {owner.pid} && " in finding["fix"][-1]
        finally:
            owner.kill()


# ---- files ---------------------------------------------------------------------------------------


def test_a_data_directory_of_root(patient: Patient) -> None:
    """D30 says whose it is and prints the chown, after which the server starts."""
    data = patient.stack.directory / "data"
    give(data, 0)
    patient.up("--force-recreate", "web")
    finding = patient.diagnose("D30")
    assert finding["evidence"] == {
        "mount": "/data",
        "source": str(data),
        "user": "1000:1000",
        "owner": "0:0",
        "mode": "755",
    }
    assert finding["fix"][0].removeprefix("sudo ") == f"chown -R 1000:1000 {data}"
    patient.shell(*finding["fix"])
    patient.stack.wait_healthy()
    patient.assert_green("D30")
    patient.assert_green("D30i", inside=True)


def test_a_data_directory_of_another_user(patient: Patient) -> None:
    """D30 prints USER_ID and GROUP_ID of the owner, and the server runs as that."""
    data = patient.stack.directory / "data"
    give(data, 1234)
    try:
        patient.up("--force-recreate", "web")
        finding = patient.diagnose("D30")
        assert finding["evidence"]["owner"] == "1234:1234"
        assert "echo USER_ID=1234 >> .env" in finding["fix"]
        patient.shell(*finding["fix"])
        patient.stack.wait_healthy()
        assert patient.state()["Config"]["User"] == "1234:1234"
        patient.assert_green("D30")
        patient.assert_green("D30i", inside=True)
    finally:
        give(data, 1000)


# ---- settings ------------------------------------------------------------------------------------


def test_redis_at_localhost(patient: Patient) -> None:
    """D38 on the host and D37i inside say what localhost means in a container; Redis is found."""
    patient.set(REDIS_HOST="localhost")
    patient.up()
    finding = patient.diagnose("D38")
    assert finding["evidence"]["REDIS_HOST"] == "localhost"
    assert finding["evidence"]["networks"] == [f"{patient.stack.project}_rag-network"]
    inside = patient.diagnose("D37i", inside=True)
    assert inside["evidence"] == {"REDIS_HOST": "localhost", "REDIS_PORT": 6379}
    patient.shell(*inside["fix"])
    patient.assert_green("D38")
    patient.shell(*finding["fix"])
    patient.stack.wait_healthy()
    patient.assert_green("D37i", "R7", inside=True)
    with patient.stack.client() as client:
        states = {d["name"]: d["status"] for d in client.get("/health").json()["dependencies"]}
        assert states["redis"] == "ok"


def loops(patient: Patient) -> bool:
    return int(patient.state()["RestartCount"]) >= 3


def test_a_restart_loop_by_a_wrong_setting(patient: Patient) -> None:
    """D23 counts the restarts, shows the last lines and takes the setting out of `.env`."""
    patient.set(RAG_TOP_K="many")
    patient.up(check=False)
    wait_for("restarts", lambda: loops(patient))
    finding = patient.diagnose("D23")
    assert finding["evidence"]["restarts"] >= 3
    assert finding["evidence"]["exit_code"] == 2
    assert any("RAG_TOP_K" in line for line in finding["evidence"]["log"]), finding
    patient.shell(*finding["fix"])
    patient.stack.wait_healthy()
    patient.assert_green("D23")


def test_production_without_keys(patient: Patient) -> None:
    """D23 says that a key is wanted, G04 prints how to make one, and the server starts."""
    patient.set(ENVIRONMENT="production")
    patient.up(check=False)
    wait_for("restarts", lambda: loops(patient))
    loop = patient.diagnose("D23")
    assert "API key" in loop["cause"]
    # The container doesn't run, so one is made to look from inside.
    run_in = ("run", "--rm", "-T", "--no-deps", "web", "ragdock", "doctor", "--json")
    said = patient.stack.compose(*run_in, "--only", "G04", check=False)
    check = json.JSONDecoder().raw_decode(said[said.index("{") :])[0]["checks"][0]
    assert check["status"] == "fail", check
    finding = check["findings"][0]
    assert finding["evidence"]["ENVIRONMENT"] == "production"
    assert finding["evidence"]["keys"] == 0
    patient.said.append(f"G04 fail: {finding['summary']}")
    # Both print the same, but for the key's name.
    assert loop["fix"][0].replace("--name admin", "--name ops") == finding["fix"][0]
    patient.shell(*loop["fix"])
    patient.stack.wait_healthy()
    patient.assert_green("D00")
    patient.assert_green("G04", inside=True)
