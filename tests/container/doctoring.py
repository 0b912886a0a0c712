"""A stack that is broken on purpose, and the doctor who looks at it from outside and inside."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import COMPOSE_PROGRAMS, ROOT, CommandError, Stack, inspect, run

DOCTOR = (sys.executable, "-m", "ragdock", "doctor", "--json")
INSIDE = ("ragdock", "doctor", "--json")
# Answers as ragdock's `/health` does, in a fraction of the time that ragdock takes to start.
SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status": "ok"}')
address = (os.environ.get("RAG_HOST", "0.0.0.0"), 8000)
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
"""
SLEEPER = "import time; time.sleep(3600)"
# What nothing is wrong with, but for what a test takes away or puts in.
SOUND = {
    "image": "${WEB_IMAGE}",
    "user": '"1000:1000"',
    "init": "true",
    "cap_drop": "[ALL]",
    "stop_grace_period": "1s",
    "healthcheck": "{ disable: true }",
    "logging": "{ driver: json-file, options: { max-size: 1m } }",
}
SOUND_REDIS = {
    "image": "${REDIS_IMAGE:-redis:7-bookworm}",
    "user": '"999:1000"',
    "command": "[redis-server, --save, '', --maxmemory, 8mb]",
}


def service(name: str, keys: dict[str, str | None]) -> str:
    """The lines of a service; None takes a key out."""
    lines = [f"    {key}: {value}\n" for key, value in keys.items() if value is not None]
    return f"  {name}:\n" + "".join(lines)


def web(script: str, /, **changes: str | None) -> str:
    """A service `web` that runs a script in place of ragdock."""
    command = json.dumps(["python", "-c", script.strip()]).replace("$", "$$")
    return service("web", {**SOUND, "command": command, **changes})


def redis(**changes: str | None) -> str:
    """A service `redis`."""
    return service("redis", {**SOUND, **SOUND_REDIS, **changes})


def after(line: str, words: str) -> str:
    """What a comment of a fix tells to do: the rest of it behind these words."""
    assert line.startswith("# "), line
    _, found, rest = line.partition(words)
    assert found, line
    return rest.strip()


@dataclass
class Patient:
    """A stack with its doctor. `docker-compose` means to both the version that made the stack."""

    stack: Stack
    report: Callable[[str], None]
    began: float = field(default_factory=time.monotonic)
    said: list[str] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        # Lines which a container prints can't name the project.
        self.stack.write_env(COMPOSE_PROJECT_NAME=self.stack.project)
        tools = self.stack.directory / ".tools"
        tools.mkdir()
        program = COMPOSE_PROGRAMS[self.stack.version][0]
        (tools / "docker-compose").symlink_to(str(shutil.which(program)))
        path = f"{tools}:{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / "src")}

    @classmethod
    def of(cls, directory: Path, report: Callable[[str], None], *services: str) -> Patient:
        """A stack of small services in place of the project's, not started yet."""
        directory.mkdir(parents=True)
        text = "services:\n" + "".join(services)
        (directory / "docker-compose.yml").write_text(text, encoding="utf-8")
        return cls(Stack(directory), report)

    def up(self, *arguments: str, check: bool = True) -> None:
        self.stack.compose("up", "-d", *arguments, check=check, timeout_seconds=300)

    def shell(self, *lines: str) -> str:
        """Run lines as if they were pasted into a shell in the stack's folder, comments and all."""
        return run(
            ["sh", "-e", "-c", "\n".join(lines)],
            cwd=self.stack.directory,
            environment=self.environment,
            timeout_seconds=300,
        ).stdout

    def examine(
        self, *options: str, inside: bool = False, name: str = "web", **variables: str
    ) -> dict[str, Any]:
        """The doctor's report, from the host or from inside of a service."""
        command = [*DOCTOR, *options]
        if inside:
            compose = COMPOSE_PROGRAMS[self.stack.version]
            command = [*compose, "exec", "-T", name, *INSIDE, *options]
        environment = {**self.environment, **variables}
        done = run(command, cwd=self.stack.directory, check=False, environment=environment)
        if done.returncode not in (0, 1) or not done.stdout.startswith("{"):
            raise CommandError(f"doctor: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return dict(json.loads(done.stdout))

    def check(self, name: str, *, inside: bool = False, **variables: str) -> dict[str, Any]:
        """What one check says."""
        found = self.examine("--only", name, inside=inside, **variables)["checks"]
        # `--only D20` asks D20b as well.
        return next(one for one in found if one["id"] == name)

    def diagnose(
        self, name: str, status: str = "fail", *, inside: bool = False, **variables: str
    ) -> dict[str, Any]:
        """The finding of a check that must speak: it says why, and what to do."""
        check = self.check(name, inside=inside, **variables)
        assert check["status"] == status, check
        finding = dict(check["findings"][0])
        assert finding["cause"].endswith("."), finding
        assert finding["fix"], finding
        self.said.append(f"{name} {status}: {finding['subject']} {finding['summary']}")
        return finding

    def assert_green(self, *names: str, inside: bool = False, **variables: str) -> None:
        """The checks find nothing any more; what they had said is printed, with the time."""
        for name in names:
            check = self.check(name, inside=inside, **variables)
            assert check["status"] == "ok", check
        if self.said:
            seconds = time.monotonic() - self.began
            self.report(f"doctor, {seconds:4.1f} s: {'; '.join(self.said)}")
            self.said.clear()

    def begin(self) -> None:
        """From here on the time is measured."""
        self.began = time.monotonic()
        self.said.clear()

    def set(self, **values: str) -> None:
        """Put variables into `.env`, until `restore`."""
        with (self.stack.directory / ".env").open("a", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in values.items())

    def edit(self, wrong: str, right: str, name: str = "docker-compose.yml") -> None:
        """Change a file of the stack's folder, as a comment of a fix tells."""
        path = self.stack.directory / name
        text = path.read_text(encoding="utf-8")
        assert wrong in text
        path.write_text(text.replace(wrong, right), encoding="utf-8")

    def restore(self) -> None:
        """Forget what the doctor wrote."""
        for path in self.stack.directory.glob("docker-compose.*.yml"):
            path.unlink()
        self.stack.write_env()

    def state(self, name: str = "web") -> dict[str, Any]:
        """What the Engine says of a service's container."""
        return inspect(self.stack.container(name))

    def health(self, name: str) -> str:
        """`healthy` and so on; "" while there is no container."""
        return str(self.state(name)["State"].get("Health", {}).get("Status", ""))

    def close(self) -> None:
        """Remove the stack, once."""
        if not self.closed:
            self.closed = True
            self.stack.compose("down", "-v", "-t", "1", "--remove-orphans", check=False)
