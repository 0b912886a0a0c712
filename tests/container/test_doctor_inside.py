"""Broken on purpose, looked at from inside, mended as the doctor says: a real engine each time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import (
    BASE_IMAGES,
    container,
    data_directory,
    docker,
    exit_code,
    inspect,
    run,
    wait_for,
)

HARDENED = (
    *("--user", "1000:1000", "--read-only", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges:true"),
)
TMP = ("--tmpfs", "/tmp:size=16m,mode=1777")
BAD, GOOD = ("fail", "warn"), ("ok",)


class Found:
    """What the doctor said, by check."""

    def __init__(self, output: str) -> None:
        self.report: dict[str, Any] = json.loads(output)
        self.checks = {check["id"]: check for check in self.report["checks"]}

    def status(self, check: str) -> str:
        return str(self.checks[check]["status"])

    def worst(self, check: str) -> dict[str, Any]:
        return dict(self.checks[check]["findings"][0])

    def alarms(self) -> dict[str, str]:
        return {
            name: check["findings"][0]["summary"]
            for name, check in self.checks.items()
            if check["status"] in BAD
        }


def looked(image: str, *arguments: str | Path, only: str = "") -> Found:
    """The doctor in a container of its own."""
    command = ["ragdock", "doctor", "--json", *(["--only", only] if only else [])]
    done = run(["docker", "run", "--rm", *HARDENED, *arguments, image, *command], check=False)
    assert done.returncode in (0, 1), done.stderr
    found = Found(done.stdout)
    failed = any(check["status"] == "fail" for check in found.checks.values())
    assert done.returncode == int(failed)
    return found


def looked_into(name: str, only: str = "") -> Found:
    """The doctor beside what runs in a container."""
    command = ["ragdock", "doctor", "--json", *(["--only", only] if only else [])]
    return Found(run(["docker", "exec", name, *command], check=False).stdout)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return data_directory(tmp_path / "data")


def volume(data: Path) -> tuple[str, str]:
    return "-v", f"{data}:/data"


ONE_OFF = {
    "D28i": (("--user", "0:0"), (), "uid", 0),
    "D28b": (("--user", "4242:4242", "-e", "HOME=/"), (), "passwd", None),
    "D33": (("-e", "TZ=Europe/Berlinn"), ("-e", "TZ=UTC"), "TZ", "Europe/Berlinn"),
    "D37i": (("-e", "REDIS_HOST=localhost"), ("-e", "REDIS_HOST=redis"), "REDIS_PORT", 6379),
    "D38i": (("-e", "REDIS_HOST=redis"), (), "kind", "unresolved"),
    "D47i": (
        ("--cpus", "0.5", "-e", "RAG_THREADS=4"),
        ("--cpus", "0.5"),
        "quota_cpus",
        0.5,
    ),
    "G02": (("-e", "RAG_EMBEDDER=openai"), (), "embedder", "openai"),
    "G03": (("-e", "RAG_TOPK=5"), ("-e", "RAG_TOP_K=5"), "like", "RAG_TOP_K"),
    "G08": (
        ("-e", "RAG_MODEL_DIR=/data/models"),
        (),
        "RAG_MODEL_DIR",
        "/data/models",
    ),
    "G14": (
        ("-e", "RAG_LLM_BASE_URL=http://localhost:9/v1", "-e", "RAG_LLM_MODEL=m"),
        (),
        "RAG_LLM_BASE_URL",
        "localhost:9",
    ),
    "G16": (
        ("-m", "1g", "-e", "RAG_WORKERS=8"),
        ("-m", "1g", "-e", "RAG_WORKERS=1"),
        "limit_mb",
        1024,
    ),
}


@pytest.fixture(scope="module")
def sound(image: str, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Nothing wrong, and nothing running."""
    home = data_directory(tmp_path_factory.mktemp("sound") / "data")
    found = looked(image, *TMP, *volume(home))
    assert found.alarms() == {}
    return found


@pytest.mark.parametrize("check", ONE_OFF)
def test_a_wrong_option_is_named_and_the_right_one_is_fine(
    image: str, data: Path, sound: Found, check: str
) -> None:
    """Broken: the check tells with the evidence; mended: it is `ok`."""
    broken, mended, field, value = ONE_OFF[check]
    found = looked(image, *TMP, *volume(data), *broken, only=check)
    assert found.status(check) in BAD, found.report
    assert found.worst(check)["evidence"][field] == value
    assert found.worst(check)["fix"]
    found = looked(image, *TMP, *volume(data), *mended, only=check) if mended else sound
    assert found.status(check) in GOOD, found.report


def test_a_wrong_setting_and_its_secret_neighbour(image: str, data: Path) -> None:
    """The variable is named, a secret's value isn't printed, and everything else is still told."""
    wrong = ("-e", "RAG_TOP_K=zero", "-e", "RAG_ADMIN_KEY=hunter2hunter2")
    found = looked(image, *TMP, *volume(data), *wrong)
    assert found.status("G01") == "fail"
    assert {finding["subject"] for finding in found.checks["G01"]["findings"]} == {
        "RAG_TOP_K",
        "RAG_ADMIN_KEY",
    }
    assert "hunter2" not in json.dumps(found.report)
    assert found.status("D20c") == "ok"


def test_a_container_without_tmp_or_volume(image: str, data: Path) -> None:
    """A read-only root needs a /tmp, and data that is to stay a volume."""
    found = looked(image, only="D31i,D30i,G06")
    assert found.worst("D31i")["evidence"]["root_read_only"] is True
    assert found.status("D30i") == found.status("G06") == "fail"
    assert found.worst("G06")["evidence"]["type"] == "overlay"
    assert looked(image, *TMP, *volume(data), only="D31i,D30i,G06").alarms() == {}


def test_a_volume_of_another_user(image: str, data: Path) -> None:
    """It prints the chown, and that is enough."""
    os.chown(data, 0, 0)
    found = looked(image, *TMP, *volume(data), only="D30i")
    worst = found.worst("D30i")
    assert worst["evidence"]["owner"] == "0:0"
    chown = next(line for line in worst["fix"] if line.startswith("sudo chown"))
    run(["sh", "-c", chown.removeprefix("sudo ")], cwd=data.parent)
    assert looked(image, *TMP, *volume(data), only="D30i").status("D30i") == "ok"


def test_production_without_a_key(image: str, data: Path) -> None:
    """The line that makes a key opens the way."""
    production = (*TMP, *volume(data), "-e", "ENVIRONMENT=production")
    assert looked(image, *production, only="G04").status("G04") == "fail"
    make = ["ragdock", "keys", "create", "--name", "ops", "--rights", "admin"]
    run(["docker", "run", "--rm", *HARDENED, *production, image, *make])
    assert looked(image, *production, only="G04").status("G04") == "ok"


def test_a_child_that_the_kernel_killed(image: str, data: Path) -> None:
    """The container runs, Docker says nothing of it, and the cgroup's counter does."""
    options = (*HARDENED, *TMP, *volume(data), "-m", "400m", "--memory-swap", "400m")
    with container(*options, image) as name:
        wait_for("the server", lambda: looked_into(name, "G12").status("G12") == "ok")
        assert looked_into(name, "D20c").status("D20c") == "ok"
        run(["docker", "exec", name, "python", "-c", "b'x' * 10**9"], check=False)
        found = looked_into(name, "D20c")
        assert inspect(name)["State"]["Running"]
        assert not inspect(name)["State"]["OOMKilled"]
        assert found.status("D20c") == "fail"
        assert found.worst("D20c")["evidence"]["oom_kill"] >= 1


def test_a_server_that_only_it_can_reach(image: str, data: Path) -> None:
    """Listening on 127.0.0.1 in a container is listening to nobody."""
    options = (*HARDENED, *TMP, *volume(data))
    with container(*options, "-e", "RAG_HOST=127.0.0.1", image) as name:
        wait_for("the server", lambda: looked_into(name, "G12").status("G12") == "ok")
        found = looked_into(name, "D36i")
        assert found.status("D36i") == "fail"
        assert found.worst("D36i")["evidence"]["listening_on"] == ["127.0.0.1"]
    with container(*options, image) as name:
        wait_for("the server", lambda: looked_into(name, "G12").status("G12") == "ok")
        assert looked_into(name).alarms() == {}


def test_a_shell_in_front_that_swallows_signals(image: str, data: Path) -> None:
    """With the shell `docker stop` ends in 137; with an init it doesn't."""
    command = ("sh", "-c", "sleep 600; true")
    with container(*HARDENED, *TMP, *volume(data), image, *command) as name:
        assert looked_into(name, "D45i").worst("D45i")["evidence"]["pid_1"] == "sh"
        docker("stop", "-t", "1", name)
        assert exit_code(name) == 137
    with container("--init", *HARDENED, *TMP, *volume(data), image, *command) as name:
        assert looked_into(name, "D45i").status("D45i") == "ok"
        docker("stop", "-t", "5", name)
        assert exit_code(name) == 143


# Redis


@pytest.fixture
def network() -> Iterator[str]:
    name = f"doctor{os.getpid()}"
    docker("network", "create", name)
    yield name
    docker("network", "rm", name)


@pytest.mark.parametrize(
    ("check", "options", "mended"),
    [
        ("R1", (), ("--maxmemory", "64mb")),
        (
            "R2",
            ("--maxmemory", "500kb", "--maxmemory-policy", "noeviction"),
            ("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"),
        ),
        ("R4", ("--dir", "/ro", "--save", "1 1"), ("--dir", "/data", "--save", "1 1")),
        ("R7", ("--bind", "127.0.0.1"), ()),
        ("R8", ("--requirepass", "a-password-of-tests"), ()),
    ],
)
def test_a_redis_that_is_wrong(
    image: str,
    data: Path,
    network: str,
    check: str,
    options: tuple[str, ...],
    mended: tuple[str, ...],
) -> None:
    """Broken: the check tells why; started as it should be: `ok`."""
    statuses = []
    for arguments in (options, mended):
        place = ("--network", network, "--network-alias", "redis", "--user", "999:1000")
        redis = BASE_IMAGES.get("REDIS_IMAGE", "redis:7-bookworm")
        server = ("redis-server", *arguments)
        with container(*place, "--tmpfs", "/ro:mode=555", redis, *server) as name:
            wait_for("Redis", lambda name=name: ping(name))
            if check == "R4":
                docker("exec", name, "redis-cli", "set", "a", "1")
                docker("exec", name, "redis-cli", "bgsave")
                time.sleep(2)
            here = ("--network", network, "-e", "REDIS_HOST=redis")
            found = looked(image, *TMP, *volume(data), *here, only=check)
            statuses.append(found.status(check))
            assert "a-password-of-tests" not in json.dumps(found.report)
    assert statuses[0] in BAD
    assert statuses[1] in GOOD


def ping(name: str) -> bool:
    said = run(["docker", "exec", name, "redis-cli", "ping"], check=False)
    return "PONG" in said.stdout or "NOAUTH" in said.stdout + said.stderr
