"""Volumes as platforms mount them: root's, so that the image starts as root to take them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest
from harness import container, docker, inspect, logs, run, wait_for

from support.ports import free_port

KEY = "volume-test-key-0123456789-0123456789"
COMMAND = ("python", "m3_1_dockerize.py", "--serve", "--run-as", "1000:1000")
RIGHTS = ("CHOWN", "SETUID", "SETGID")
OTHERS = """
import os
walk = os.walk("/data")
found = [path for top, _, names in walk for path in (top, *(f"{top}/{n}" for n in names))]
print([path for path in found if os.lstat(path).st_uid != 1000])
"""


@pytest.fixture
def volume(image: str) -> Iterator[str]:
    """A volume of root's with what a new disk and an older release left."""
    name = docker("volume", "create")
    make = "chown 0:0 /data && mkdir -m 700 /data/lost+found && touch /data/old && chmod 755 /data"
    docker("run", "--rm", "-u", "0:0", "-v", f"{name}:/data", image, "sh", "-c", make)
    yield name
    docker("volume", "rm", "-f", name)


def options(volume: str, *more: str) -> list[str]:
    return [
        "--read-only", "--tmpfs", "/tmp", "--security-opt", "no-new-privileges",
        "--cap-drop", "ALL", "-e", "ENVIRONMENT=production", "-e", f"RAG_ADMIN_KEY={KEY}",
        "-v", f"{volume}:/data", *more,
    ]  # fmt: skip


def test_a_volume_of_roots_is_taken_and_root_is_left(image: str, volume: str) -> None:
    """Started as root on PORT, it serves as 1000 without rights, and all of /data is 1000's."""
    port = free_port()
    capabilities = [word for right in RIGHTS for word in ("--cap-add", right)]
    given = options(volume, "-u", "0:0", "-e", "PORT=10000", "-p", f"127.0.0.1:{port}:10000")
    with container(*given, *capabilities, image, *COMMAND) as name:
        url = f"http://127.0.0.1:{port}"
        wait_for("the server", lambda: httpx2.get(f"{url}/readyz").status_code == 200, 90)
        status = docker("exec", name, "cat", "/proc/1/status")
        facts = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        assert set(facts["Uid"].split()) == set(facts["Gid"].split()) == {"1000"}
        assert facts["Groups"].split() == []
        assert int(facts["CapEff"], 16) == int(facts["CapPrm"], 16) == 0
        assert docker("exec", name, "python", "-c", OTHERS) == "[]"
        # The probe inside finds the port as the server did.
        assert "200" in docker("exec", name, "python", "m3_1_dockerize.py", "--health")
        key = {"Authorization": f"Bearer {KEY}"}
        made = httpx2.post(f"{url}/v1/collections", json={"name": "kept"}, headers=key)
        assert made.status_code == 201
        docker("stop", "-t", "20", name)
        assert inspect(name)["State"]["ExitCode"] == 0
    # From now on the volume is 1000's, so the image as it is can use it.
    with container(*options(volume, "-p", f"127.0.0.1:{port}:8000"), image) as name:
        wait_for("the server", lambda: httpx2.get(f"{url}/readyz").status_code == 200, 90)
        names = httpx2.get(f"{url}/v1/collections", headers=key).json()["collections"]
        assert "kept" in [collection["name"] for collection in names]


def test_without_the_option_the_volume_is_an_error_that_says_so(image: str, volume: str) -> None:
    """The image as it is ends at once and names the directory and the user."""
    with container(*options(volume), image) as name:
        assert docker("wait", name) != "0"
        said = logs(name)
    assert "/data" in said
    assert "1000" in said
    assert "Traceback" not in said


def test_root_without_rights_is_told_which_it_needs(image: str, volume: str) -> None:
    """With every capability dropped it ends with the names of the three."""
    done = run(
        ["docker", "run", "--rm", *options(volume, "-u", "0:0"), image, *COMMAND], check=False
    )
    assert done.returncode != 0
    assert "CHOWN, SETUID and SETGID" in done.stdout + done.stderr
