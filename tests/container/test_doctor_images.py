"""`ragdock doctor` on images that are old, foreign or hold secrets, and an engine out of reach."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from doctoring import DOCTOR, SLEEPER, Patient, web
from harness import IMAGE, ROOT, docker, run

SECRET = "correct-horse-battery-staple"
# The header of a program for 64-bit ARM: what the kernel looks at before it refuses.
ARM_ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00\x01\x00\x00\x00" + bytes(40)
NOBODY = 65534
BUILD = "{ context: ., args: { API_TOKEN: '${API_TOKEN:-}' } }"
DOCKERFILE = f"FROM {IMAGE}\nCOPY m3_1_dockerize.py /app/\n"


@pytest.fixture(scope="module")
def stack_of_image(
    image: str,
    compose_programs: None,
    tmp_path_factory: pytest.TempPathFactory,
    report: Callable[[str], None],
) -> Iterator[Patient]:
    """A stack that builds an image of its own: the project's with the starting script again."""
    directory = tmp_path_factory.mktemp("doctor") / "built"
    tag = f"rag-api:doctor-{os.getpid()}"
    patient = Patient.of(directory, report, web(SLEEPER, image=tag, build=BUILD))
    (directory / "Dockerfile").write_text(DOCKERFILE, encoding="utf-8")
    (directory / "m3_1_dockerize.py").write_bytes((ROOT / "m3_1_dockerize.py").read_bytes())
    try:
        patient.up("--build")
        yield patient
    finally:
        patient.close()
        run(["docker", "rmi", "-f", tag], check=False)


@pytest.fixture
def built(stack_of_image: Patient) -> Patient:
    stack_of_image.begin()
    return stack_of_image


def tag_of(patient: Patient) -> str:
    return str(patient.state()["Config"]["Image"])


def test_source_that_is_newer_than_the_image(built: Patient) -> None:
    """D24 names the file that was edited since; the build that it prints takes it in."""
    built.assert_green("D24")
    script = built.stack.directory / "m3_1_dockerize.py"
    with script.open("a", encoding="utf-8") as file:
        file.write("# My change.\n")
    finding = built.diagnose("D24")
    assert finding["evidence"]["newer"] == ["m3_1_dockerize.py"]
    created = docker("image", "inspect", "-f", "{{.Created}}", tag_of(built))
    assert finding["evidence"]["image_created"][:19] == created[:19]
    built.shell(*finding["fix"])
    web_1 = built.stack.container("web")
    assert docker("exec", web_1, "tail", "-1", "/app/m3_1_dockerize.py") == "# My change."
    built.assert_green("D24")


def test_a_container_of_an_older_image(built: Patient) -> None:
    """D24 shows what runs and what the tag names now; the container is made anew."""
    before = built.state()["Image"]
    (built.stack.directory / "m3_1_dockerize.py").write_text("# Another.\n", encoding="utf-8")
    built.stack.compose("build", "web")
    current = docker("image", "inspect", "-f", "{{.Id}}", tag_of(built))
    finding = built.diagnose("D24")
    assert finding["evidence"]["runs"] == before[:19]
    assert finding["evidence"]["tag_names"] == current[:19]
    built.shell(*finding["fix"])
    assert built.state()["Image"] == current
    built.assert_green("D24")


def test_secrets_in_layers(built: Patient) -> None:
    """D25 names the ARG and the ENV with their lengths, never a value; the build forgets them."""
    dockerfile = built.stack.directory / "Dockerfile"
    lines = f'ENV OPENAI_API_KEY={SECRET}\nARG API_TOKEN\nRUN test -n "$API_TOKEN"\n'
    dockerfile.write_text(DOCKERFILE + lines, encoding="utf-8")
    built.set(API_TOKEN=SECRET[::-1])
    built.up("--build")
    finding = built.diagnose("D25")
    assert finding["evidence"]["image"] == tag_of(built)
    told = dict(line.split(": ", 1) for line in finding["evidence"]["secrets"])
    assert told["OPENAI_API_KEY"] == f"ENV, {len(SECRET)} characters"
    assert told["API_TOKEN"] == f"a layer's command, {len(SECRET)} characters"
    said = json.dumps(finding)
    assert SECRET not in said
    assert SECRET[::-1] not in said
    assert any("Take it out of the Dockerfile" in line for line in finding["fix"])
    dockerfile.write_text(DOCKERFILE, encoding="utf-8")
    built.stack.write_env()
    built.shell(*finding["fix"])
    built.assert_green("D25")


def test_an_image_for_another_processor(built: Patient, tmp_path: Path) -> None:
    """D14 reads the machine out of the program's header; the build makes one for this machine."""
    (tmp_path / "python").write_bytes(ARM_ELF)
    (tmp_path / "python").chmod(0o755)
    text = "FROM scratch\nCOPY python /usr/local/bin/python\n"
    (tmp_path / "Dockerfile").write_text(text, encoding="utf-8")
    tag = tag_of(built)
    docker("build", "-q", "--platform", "linux/arm64", "-t", tag, tmp_path)
    built.edit("init: true", "init: false")
    built.up("--no-build", check=False)
    finding = built.diagnose("D14")
    evidence = finding["evidence"]
    assert evidence["program"] == "/usr/local/bin/python"
    assert evidence["program_architecture"] == "arm64"
    assert evidence["image_architecture"] == "arm64"
    assert evidence["host_architecture"] == docker("version", "-f", "{{.Server.Arch}}")
    built.shell(*finding["fix"])
    assert built.state()["State"]["Running"] is True
    built.assert_green("D14")


# ---- the engine ----------------------------------------------------------------------------------


def test_a_daemon_that_does_not_answer(built: Patient, tmp_path: Path) -> None:
    """D01 names the socket and where its name came from; without DOCKER_HOST the engine answers."""
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    # What docker goes back to without DOCKER_HOST: a context that names the living engine.
    config = tmp_path / "config"
    living = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    use_context(config, living)
    finding = built.diagnose("D01", DOCKER_HOST=f"unix://{dead}", DOCKER_CONFIG=str(config))
    assert finding["evidence"]["host"] == f"unix://{dead}"
    assert finding["evidence"]["source"] == "DOCKER_HOST"
    assert finding["evidence"]["kind"] == "refused"
    doctor = " ".join([*DOCTOR, "--only", "D01"])
    script = "\n".join([*finding["fix"], doctor])
    environment = {
        **built.environment,
        "DOCKER_HOST": f"unix://{dead}",
        "DOCKER_CONFIG": str(config),
    }
    said = run(["sh", "-c", script], environment=environment, cwd=built.stack.directory).stdout
    check = json.loads(said)["checks"][0]
    assert check["status"] == "ok", check
    assert check["findings"][0]["evidence"]["host"] == living
    built.assert_green("D01")


def use_context(config: Path, host: str) -> None:
    """A docker configuration whose current context is at this host."""
    run(
        ["docker", "context", "create", "living", "--docker", f"host={host}"],
        environment={**os.environ, "DOCKER_CONFIG": str(config)},
    )
    path = config / "config.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**found, "currentContext": "living"}), encoding="utf-8")


def test_a_user_who_may_not_use_docker(built: Patient) -> None:
    """D02 tells the user's groups and the socket's; a member of that group may."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    found = Path(host.removeprefix("unix://")).stat()
    check = as_nobody(host)
    assert check["status"] == "fail", check
    finding = check["findings"][0]
    built.said.append(f"D02 fail: {finding['summary']}")
    assert finding["subject"] == "/var/run/docker.sock"
    assert finding["evidence"]["uid"] == NOBODY
    assert finding["evidence"]["groups"] == [str(NOBODY)]
    assert finding["evidence"]["socket_gid"] == found.st_gid
    assert finding["evidence"]["socket_mode"] == f"{found.st_mode & 0o777:o}"
    assert finding["fix"][0] == 'sudo usermod -aG docker "$USER"'
    # What that line and a new login give.
    check = as_nobody(host, "--group-add", str(found.st_gid))
    assert check["status"] == "ok", check
    built.assert_green("D02")


def as_nobody(host: str, *options: str) -> dict[str, Any]:
    """D02 as a user sees it who isn't root; another may not even run this test's Python."""
    socket_path = f"{host.removeprefix('unix://')}:/var/run/docker.sock"
    user = ["--user", f"{NOBODY}:{NOBODY}", *options]
    doctor = ["ragdock", "doctor", "--json", "--scope", "host", "--only", "D02"]
    command = ["docker", "run", "--rm", *user, "-v", socket_path, IMAGE, *doctor]
    done = run(command, check=False)
    return dict(json.loads(done.stdout)["checks"][0])
