"""What the container tests share: the docker client, a compose project of their own, waiting."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
# Another name keeps two runs on one engine apart.
IMAGE = os.environ.get("RAGDOCK_TEST_IMAGE", "rag-api:test")
# Who the containers run as, and so who must own their data directory.
UID = GID = 1000
# What the image is built from.
CONTEXT = (
    "Dockerfile",
    ".dockerignore",
    "docker-compose.yml",
    "m3_1_dockerize.py",
    "requirements",
    "requirements.txt",
    "scripts",
    "src",
)
# Debian's is Python and reads the file by other rules; 2 and 5 are Go.
COMPOSE_PROGRAMS = {
    "1": ["docker-compose"],
    "2": [str(ROOT / ".cache/compose-2/bin/docker-compose")],
    "5": [str(ROOT / ".cache/compose-5/bin/docker-compose")],
}

# Of the compose file's secrets, those that no test sets.
UNUSED_SECRETS = ("llm_api_key", "embed_api_key", "otlp_headers")

# Read once: the fixture that guards tests from the caller's environment takes REDIS_* away.
BASE_IMAGES = {
    name: os.environ[name] for name in ("BASE_IMAGE", "REDIS_IMAGE") if name in os.environ
}

T = TypeVar("T")


class CommandError(AssertionError):
    """A command failed; the message holds what it said."""


def run(
    command: Sequence[str | Path],
    *,
    timeout_seconds: float = 120,
    check: bool = True,
    cwd: Path | None = None,
    stdin: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(word) for word in command],
        input=stdin,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        cwd=cwd,
        check=False,
    )
    if check and done.returncode != 0:
        words = " ".join(str(word) for word in command)
        raise CommandError(f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def make(*targets: str) -> None:
    """Have the Makefile install what a lock file says, unless it is there."""
    run(["make", *targets, f"PYTHON={sys.executable}"], timeout_seconds=900, cwd=ROOT)


def docker(*arguments: str | Path, timeout_seconds: float = 120, stdin: str | None = None) -> str:
    return run(["docker", *arguments], timeout_seconds=timeout_seconds, stdin=stdin).stdout.strip()


def inspect(name: str) -> dict[str, Any]:
    (found,) = json.loads(docker("inspect", name))
    return dict(found)


def logs(container: str) -> str:
    done = run(["docker", "logs", "--tail", "200", container], check=False)
    return done.stdout + done.stderr


def wait_for(
    what: str, condition: Callable[[], T | None], timeout_seconds: float = 60, every: float = 0.2
) -> T:
    """The first true value of `condition`; an error of the network counts as not yet."""
    deadline = time.monotonic() + timeout_seconds
    last: Any = None
    while time.monotonic() < deadline:
        try:
            last = condition()
        except (httpx2.HTTPError, OSError) as exc:
            last = exc
        else:
            if last:
                return last
        time.sleep(every)
    raise AssertionError(f"waited {timeout_seconds} s in vain for {what}; last: {last!r}")


def data_directory(path: Path, uid: int = UID) -> Path:
    """A directory that the containers can write, and `docker` can mount."""
    path.mkdir(parents=True)
    os.chown(path, uid, uid)
    return path


def copy_context(target: Path) -> Path:
    """The build context, without what this checkout has lying about."""
    target.mkdir(parents=True)
    for name in CONTEXT:
        source = ROOT / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target / name, ignore=ignore)
        else:
            shutil.copy2(source, target / name)
    return target


def build(context: Path, tag: str) -> float:
    """Build with BuildKit; returns the seconds that it took."""
    started = time.monotonic()
    arguments: list[str | Path] = ["build", "--progress=plain", "-t", tag]
    if base := BASE_IMAGES.get("BASE_IMAGE"):
        arguments += ["--build-arg", f"BASE={base}"]
    docker(*arguments, context, timeout_seconds=900)
    return time.monotonic() - started


def compose_file() -> str:
    """The project's compose file; its health checks come each second, and give up no earlier.

    As it is, most of a test would be waiting for the first of them. What is shipped is proven by
    the tests that copy the whole context.
    """
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")

    def each_second(found: re.Match[str]) -> str:
        seconds, between, retries = int(found[1]), found[2], int(found[3])
        return f"interval: 1s{between}retries: {seconds * retries}\n"

    found, n_found = re.subn(
        r"interval: ([35])s(\n +timeout: \w+\n +)retries: (\d+)\n", each_second, text
    )
    assert n_found == 3, n_found
    return found


@contextmanager
def container(*arguments: str | Path) -> Iterator[str]:
    """`docker run -d ...`, removed in the end whatever happened."""
    name = docker("run", "-d", *arguments)
    try:
        yield name
    finally:
        run(["docker", "rm", "-f", "-v", name], check=False)


def exit_code(name: str, timeout_seconds: float = 60) -> int:
    return int(docker("wait", name, timeout_seconds=timeout_seconds))


@dataclass
class Stack:
    """A compose project in a directory of its own, on a port of its own."""

    directory: Path
    version: str = "2"
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.project = f"ragdock{os.getpid()}{self.directory.name}".lower().replace("_", "")
        if not (self.directory / "docker-compose.yml").exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            (self.directory / "docker-compose.yml").write_text(compose_file(), encoding="utf-8")
        data_directory(self.directory / "data")
        self.write_env()

    def write_env(self, **changes: str) -> None:
        self.environment.update(changes)
        values = {"WEB_PORT": str(self.port), "WEB_IMAGE": IMAGE, **BASE_IMAGES}
        values.update(self.environment)
        lines = [f"{name}={value}\n" for name, value in values.items()]
        (self.directory / ".env").write_text("".join(lines), encoding="utf-8")

    def compose(self, *arguments: str, timeout_seconds: float = 240, check: bool = True) -> str:
        done = run(
            [*COMPOSE_PROGRAMS[self.version], "-p", self.project, *arguments],
            timeout_seconds=timeout_seconds,
            cwd=self.directory,
            check=check,
        )
        return done.stdout + done.stderr

    def up(self, *arguments: str) -> None:
        self.compose("up", "-d", *(arguments or ("--no-build",)), timeout_seconds=600)
        self.wait_healthy()

    def down(self, *arguments: str) -> None:
        self.compose("down", "-t", "20", *arguments)

    def container(self, service: str) -> str:
        # Names differ between versions (web_1, web-1); the labels don't.
        label = "label=com.docker.compose"
        found = docker(
            "ps", "-aq", "--no-trunc", "--filter", f"{label}.project={self.project}",
            "--filter", f"{label}.service={service}",
        )  # fmt: skip
        (name,) = found.split()
        return name

    def health(self, service: str) -> str:
        return str(inspect(self.container(service))["State"]["Health"]["Status"])

    def wait_healthy(self, timeout_seconds: float = 90) -> None:
        try:
            wait_for(
                "both containers to be healthy",
                lambda: {self.health(name) for name in ("web", "redis")} == {"healthy"},
                timeout_seconds,
            )
        except AssertionError as exc:
            said = "\n".join(logs(self.container(name)) for name in ("web", "redis"))
            raise AssertionError(f"{exc}\n{said}") from exc

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> httpx2.Client:
        # An environment's proxy settings are not for the loopback.
        return httpx2.Client(base_url=self.url, timeout=60, trust_env=False, **options)


def secrets_from_files(stack: Stack, values: Mapping[str, str]) -> Path:
    """Uncomment the stack's `#~` lines and write these secrets; returns their folder."""
    folder = stack.directory / "secrets"
    folder.mkdir(mode=0o700)
    for name, value in values.items():
        (folder / name).write_text(f"{value}\n", encoding="ascii")
        (folder / name).chmod(0o444)
    (stack.directory / "docker-compose.yml").write_text(_uncommented(), encoding="utf-8")
    return folder


def _uncommented() -> str:
    """The compose file with its lines for secrets, but for those that the test has none of."""
    kept = []
    for line in compose_file().splitlines(keepends=True):
        line = line.replace("#~ ", "", 1)
        for name in UNUSED_SECRETS:
            line = line.replace(f", {name}", "")
        marked = any(f"secrets/{name}" in line for name in UNUSED_SECRETS)
        if not marked and not any(f"{name.upper()}_FILE:" in line for name in UNUSED_SECRETS):
            kept.append(line)
    return "".join(kept)


def volumes_of(project: str) -> list[str]:
    label = f"label=com.docker.compose.project={project}"
    return docker("volume", "ls", "-q", "--filter", label).split()


def upload(client: httpx2.Client, path: Path, **parameters: str) -> dict[str, Any]:
    """Ingest one file and wait for it; returns its entry of the answer."""
    response = client.post(
        "/v1/documents",
        params={"wait": "true", **parameters},
        files={"file": (path.name, path.read_bytes())},
    )
    assert response.status_code == 200, response.text
    (document,) = response.json()["documents"]
    assert document["status"] == "done", document
    return dict(document)


def put_text(client: httpx2.Client, document_id: str, text: str) -> None:
    response = client.put(
        f"/v1/documents/{document_id}",
        params={"wait": "true"},
        json={"text": text, "filename": f"{document_id}.txt"},
    )
    assert response.status_code == 200, response.text
    assert response.json()["documents"][0]["status"] == "done", response.text


def ask(client: httpx2.Client, question: str, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/ask", json={"question": question, **body})
    assert response.status_code == 200, response.text
    return dict(response.json())
