"""This machine, as a world: every question is bounded in time and changes nothing."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from ragdock.errors import RagdockError
from ragdock.ops.doctor import own, resp
from ragdock.ops.doctor.engine_api import Engine, find_host, world_error
from ragdock.ops.doctor.redact import Redactor
from ragdock.ops.doctor.world import FileStat, Space, WorldError
from ragdock.settings import Settings

__all__ = ["LiveWorld"]

MAX_READ_BYTES: Final = 256 << 10
COMMAND_SECONDS: Final = 15.0
CONNECT_SECONDS: Final = 2.0
RESOLVE_SECONDS: Final = 2.0
_KINDS: Final = (
    (stat.S_ISREG, "file"),
    (stat.S_ISDIR, "dir"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISLNK, "link"),
)
_SECRET_FILES: Final = ("/run/secrets/", "/var/run/secrets/")


class LiveWorld:
    """Asks the machine. Secrets are masked in all that it answers.

    `project` is the compose project to look at; it stands in `environ()` under the name by which
    compose itself is told, COMPOSE_PROJECT_NAME. PWD there is the folder that the doctor is run in.
    """

    def __init__(self, project: str | None = None) -> None:
        variables = dict(os.environ)
        variables["PWD"] = str(Path.cwd())
        if project:
            variables["COMPOSE_PROJECT_NAME"] = project
        host, source = find_host(variables)
        self._engine = Engine(host, tls=bool(variables.get("DOCKER_TLS_VERIFY")))
        variables["DOCKER_HOST"] = host
        variables["DOCKER_HOST_SOURCE"] = source
        self._redact = Redactor()
        self._environ = self._redact.environment(variables)

    def engine(self, path: str) -> Any:
        """Asked over the socket."""
        return self._redact.answer(self._engine.get(path))

    def read(self, path: str) -> str:
        """A file; one of secrets isn't read."""
        if path.startswith(_SECRET_FILES):
            raise WorldError("denied", f"{path}: the doctor doesn't read secrets")
        try:
            # A pipe without a writer would keep the doctor waiting.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as stream:
                raw = stream.read(MAX_READ_BYTES) or b""
        except OSError as exc:
            raise world_error(exc, path) from exc
        text = raw.decode(errors="replace")
        if Path(path).name.startswith(".env"):
            pairs = (line.partition("=") for line in text.splitlines())
            self._redact.environment({name.strip(): value.strip() for name, _, value in pairs})
        return self._redact.text(text)

    def entries(self, path: str) -> list[str]:
        """A directory."""
        try:
            return sorted(found.name for found in Path(path).iterdir())
        except OSError as exc:
            raise world_error(exc, path) from exc

    def link(self, path: str) -> str:
        """A link's target."""
        try:
            return str(Path(path).readlink())
        except OSError as exc:
            raise world_error(exc, path) from exc

    def stat(self, path: str) -> FileStat:
        """Of what the path leads to."""
        try:
            found = Path(path).stat()
        except OSError as exc:
            raise world_error(exc, path) from exc
        kind = next((name for test, name in _KINDS if test(found.st_mode)), "other")
        return FileStat(
            kind=kind,
            uid=found.st_uid,
            gid=found.st_gid,
            mode=stat.S_IMODE(found.st_mode),
            size_bytes=found.st_size,
            modified_at=found.st_mtime,
        )

    def space(self, path: str) -> Space:
        """Of the file system."""
        try:
            found = os.statvfs(path)
        except OSError as exc:
            raise world_error(exc, path) from exc
        return Space(
            size_bytes=found.f_blocks * found.f_frsize,
            free_bytes=found.f_bavail * found.f_frsize,
            inodes=found.f_files,
            free_inodes=found.f_favail,
        )

    def writable(self, path: str) -> bool:
        """Tried with a file that has no name where the file system can do that."""
        try:
            with tempfile.TemporaryFile(dir=path):
                return True
        except PermissionError:
            return False
        except OSError as exc:
            if isinstance(exc, FileNotFoundError | NotADirectoryError):
                raise world_error(exc, path) from exc
            return False

    def environ(self) -> Mapping[str, str]:
        """The environment, with PWD and the addresses that were found."""
        return self._environ

    def identity(self) -> tuple[int, int, frozenset[int]]:
        """This process's."""
        return os.geteuid(), os.getegid(), frozenset({*os.getgroups(), os.getegid()})

    @cached_property
    def _settings(self) -> Settings:
        try:
            return Settings.load()
        except RagdockError as exc:
            raise WorldError("status", self._redact.text(str(exc))) from exc

    def redis(self, *command: str) -> Any:
        """The Redis of the settings."""
        settings = self._settings
        if not settings.redis_host:
            raise WorldError("absent", "no Redis is set (REDIS_HOST)")
        secret = settings.redis_password
        password = secret.get_secret_value() if secret else None
        self._redact.learn([password] if password else [])
        self.resolve(settings.redis_host)
        answer = resp.ask(settings.redis_host, settings.redis_port, password, *command)
        if [word.upper() for word in command[:2]] == ["CONFIG", "GET"] and isinstance(answer, list):
            # Names and values take turns.
            pairs = dict(zip(map(str, answer[::2]), map(str, answer[1::2]), strict=False))
            answer = [part for pair in self._redact.environment(pairs).items() for part in pair]
        return self._redact.answer(answer)

    def ragdock(self, query: str) -> Any:
        """Settings, store, files, model and health; nothing is held up by it."""
        return self._redact.answer(own.ask(query))

    def resolve(self, name: str) -> tuple[list[str], float]:
        """By the machine's resolver."""
        started = time.perf_counter()
        found: list[Any] = []
        # The resolver's own deadline is 5 s for each server and domain; it can't be told another.
        asking = threading.Thread(target=lambda: found.append(_addresses(name)), daemon=True)
        asking.start()
        asking.join(RESOLVE_SECONDS)
        if not found:
            raise WorldError("timeout", f"{name}: no address in {RESOLVE_SECONDS:g} s")
        if isinstance(found[0], WorldError):
            raise found[0]
        return found[0], time.perf_counter() - started

    def connect(self, host: str, port: int) -> float:
        """TCP."""
        self.resolve(host)
        started = time.perf_counter()
        try:
            with socket.create_connection((host, port), CONNECT_SECONDS):
                return time.perf_counter() - started
        except socket.gaierror as exc:
            raise WorldError("unresolved", f"{host}: {exc.strerror}") from exc
        except OSError as exc:
            raise world_error(exc, f"{host}:{port}") from exc

    def listens(self, address: str, port: int) -> bool:
        """Tried by binding; a connection that lingers from before doesn't count."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
                probe.listen(1)
            except OSError as exc:
                if exc.errno == errno.EADDRINUSE:
                    return True
                raise world_error(exc, f"{address}:{port}") from exc
        return False

    def output(self, *command: str) -> str:
        """Run without a shell or input."""
        environ = {**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
        if "COMPOSE_PROJECT_NAME" in self._environ:
            environ["COMPOSE_PROJECT_NAME"] = self._environ["COMPOSE_PROJECT_NAME"]
        try:
            done = subprocess.run(  # noqa: S603 - the checks' own words
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=environ,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise WorldError("timeout", f"{command[0]} took too long") from exc
        except (OSError, ValueError) as exc:
            error = exc if isinstance(exc, OSError) else FileNotFoundError()
            raise world_error(error, command[0]) from exc
        if done.returncode != 0:
            said = (done.stderr or done.stdout)[-2000:].decode(errors="replace").strip()
            raise WorldError("status", self._redact.text(said) or f"exit {done.returncode}")
        return self._redact.text(done.stdout[:MAX_READ_BYTES].decode(errors="replace"))

    def now(self) -> float:
        """The clock."""
        return time.time()


def _addresses(name: str) -> list[str] | WorldError:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror as exc:
        kind = "unresolvable" if exc.errno == socket.EAI_AGAIN else "unresolved"
        return WorldError(kind, f"{name}: {exc.strerror}")
    except (OSError, UnicodeError) as exc:
        return WorldError("unresolved", f"{name}: {type(exc).__name__}")
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
