"""The two sides of the comparison: processes beside Docker, and the same ones in containers."""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ragdock.errors import UnavailableError
from ragdock.ops.advise import bench

__all__ = ["Fleet", "Side"]

START_SECONDS: Final = 20.0
ANSWER_SECONDS: Final = 20.0
LABEL: Final = "io.ragdock.advise"
_RUNTIME: Final = ("usr/local/", "lib", "usr/lib")
"""What an interpreter needs of an image: not its packages, nor the model."""
_REQUEST: Final = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
Address = tuple[str, int]


class Side:
    """A process that answers lines of JSON; `words` start it, `home` is its Python's library."""

    def __init__(self, words: Sequence[str], home: str | None = None) -> None:
        self._process = subprocess.Popen(  # noqa: S603 # Our own words.
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if home is None else {"PYTHONHOME": home, "LC_ALL": "C.UTF-8"},
        )
        self._buffer = b""
        self.greeting: dict[str, Any] = {}

    def greet(self) -> None:
        """Read the first line. Raises `UnavailableError` with what the process said instead."""
        self.greeting = self._line(START_SECONDS)

    def seconds(self, words: str) -> float:
        """How long the work took that the words name."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{words}\n".encode())
        self._process.stdin.flush()
        answer = self._line(ANSWER_SECONDS)
        if "error" in answer:
            raise UnavailableError(f"The measurement failed: {answer['error']}.", code="measure")
        return float(answer["seconds"])

    def close(self) -> None:
        """End it."""
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        self._process.kill()
        self._process.wait(10)

    def _line(self, timeout_seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout_seconds
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise UnavailableError("A measuring process was silent.", code="measure")
            piece = os.read(descriptor, 65536)
            if not piece:
                raise UnavailableError(
                    f"A measuring process ended: {self._last_words()}", code="measure"
                )
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def _last_words(self) -> str:
        assert self._process.stderr is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        lines = self._process.stderr.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else f"exit {self._process.returncode}"


class Fleet:
    """Both sides, up inside the block: workers, and servers in three kinds of network.

    `addresses` are those of the servers in containers, by mode (`published`, `host`).
    """

    def __init__(self, directory: Path, image: str) -> None:
        self._image = image
        self._directory = directory
        self._stack = ExitStack()
        self._absent: list[str] = []
        self._names: list[str] = []
        self._python: list[str] = [sys.executable]
        self._home: str | None = None
        self.engine = ""
        self.addresses: dict[str, Address] = {}
        self.bare_address: Address = ("127.0.0.1", 0)

    def __enter__(self) -> Self:
        self.engine = self._look()
        try:
            self._files = self._stack.enter_context(
                tempfile.TemporaryDirectory(prefix=".ragdock-advise-", dir=self._directory)
            )
            self._source = Path(bench.__file__).read_text(encoding="utf-8")
            self._container = self._contained(
                "--network", "none", "-v", f"{self._files}:/bench", arguments=["work"]
            )
            self._bare = self._started_bare()
            self._start_servers()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._stack.close()

    def works(self, name: str) -> tuple[Callable[[], float], Callable[[], float]]:
        """What does the named work bare, and in the container."""
        here, there = name, name
        if name in ("disk", "read"):
            here, there = f"{name} {self._files}", f"{name} /bench"
        return lambda: self._bare.seconds(here), lambda: self._container.seconds(there)

    def latency(self, address: Address, n_times: int, *, fresh: bool) -> float:
        """Seconds of a request, the median of so many; `fresh` opens a connection for each."""
        times = []
        connection = None if fresh else socket.create_connection(address, 5)
        try:
            for _ in range(n_times):
                started = time.perf_counter()
                used = connection or socket.create_connection(address, 5)
                used.sendall(_REQUEST)
                missing = len(bench.ANSWER)
                while missing > 0:
                    piece = used.recv(65536)
                    if not piece:
                        raise UnavailableError("A server in a container went.", code="measure")
                    missing -= len(piece)
                times.append(time.perf_counter() - started)
                if fresh:
                    used.close()
        finally:
            if connection is not None:
                connection.close()
        return sorted(times)[n_times // 2]

    def notes(self) -> list[str]:
        """What has to be known to read the numbers."""
        here, there = self._bare.greeting, self._container.greeting
        found = [f"Python {here['python']} beside, {there['python']} in the container."]
        if here["machine"] != there["machine"]:
            found.append(
                f"The image is for {there['machine']} and this machine is {here['machine']}: it is "
                "emulated, and slow for that alone."
            )
        load, n_cpus = os.getloadavg()[0], os.cpu_count() or 1
        if load > n_cpus:
            found.append(
                f"The machine is busy (load {load:.1f} on {n_cpus} processors): times on the wall, "
                "of the disk and of requests, spread."
            )
        return found + self._absent

    def _look(self) -> str:
        """The Engine's version. Raises `UnavailableError` without Docker or the image."""
        if shutil.which("docker") is None:
            raise UnavailableError("There is no docker command here.", code="no_docker")
        done = self._docker("version", "--format", "{{.Server.Version}}")
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["no answer"])[-1][:300]
            raise UnavailableError(f"No Docker Engine answers: {said}", code="no_docker")
        if self._docker("image", "inspect", self._image).returncode != 0:
            raise UnavailableError(
                f"There is no image {self._image} here; `docker build -t {self._image} .` makes "
                "it, --image names another one that has Python.",
                code="no_image",
            )
        return done.stdout.strip()

    def _start_servers(self) -> None:
        bare = self._bare_side("serve", "127.0.0.1", "0")
        self.bare_address = ("127.0.0.1", int(bare.greeting["port"]))
        self._try("published", self._published)
        self._try("host", self._on_host)

    def _try(self, mode: str, start: Callable[[], Address]) -> None:
        # Where the Engine is in another machine, as on a Mac, its network isn't this one.
        try:
            address = start()
            self.latency(address, 1, fresh=True)
        except (OSError, UnavailableError) as exc:
            self._absent.append(f"No request reaches a container by {mode}: {exc}")
        else:
            self.addresses[mode] = address

    def _published(self) -> Address:
        self._contained(
            "-p",
            "127.0.0.1::8000",
            arguments=["serve", "0.0.0.0", "8000"],  # noqa: S104
        )
        done = self._docker("port", self._names[-1], "8000/tcp")
        return "127.0.0.1", int(done.stdout.strip().splitlines()[0].rpartition(":")[2])

    def _on_host(self) -> Address:
        side = self._contained("--network", "host", arguments=["serve", "127.0.0.1", "0"])
        return "127.0.0.1", int(side.greeting["port"])

    def _started_bare(self) -> Side:
        """A worker beside Docker, by the image's own Python and C library where that can be.

        Otherwise two builds of Python would be compared, and not two places to run one.
        """
        greeting = self._container.greeting
        try:
            root = self._stack.enter_context(
                tempfile.TemporaryDirectory(prefix=".ragdock-advise-", dir=self._directory)
            )
            self._python, self._home = unpacked_python(
                self._names[-1], Path(root), greeting["program"], greeting["prefix"]
            )
            return self._bare_side("work")
        except (OSError, UnavailableError, tarfile.TarError):
            self._python, self._home = [sys.executable], None
            self._absent.append(
                "The image's Python doesn't run outside of it, so this machine's was compared "
                "with it: part of each difference is that of two builds."
            )
            return self._bare_side("work")

    def _bare_side(self, *arguments: str) -> Side:
        isolated = ["-I", "-S"] if self._home is None else ["-S", "-s", "-P"]
        return self._started(*self._python, *isolated, "-c", self._source, *arguments)

    def _contained(self, *options: str, arguments: Sequence[str]) -> Side:
        name = f"ragdock-advise-{secrets.token_hex(4)}"
        # By its name, whatever became of the client that started it.
        self._stack.callback(self._docker, "rm", "-f", "-v", name)
        self._names.append(name)
        user = f"{os.getuid()}:{os.getgid()}" if hasattr(os, "getuid") else "1000:1000"
        return self._started(
            *("docker", "run", "-i", "--name", name, "--label", LABEL, "--user", user),
            *("--cap-drop", "ALL", "--read-only", "--entrypoint", "python", *options),
            *(self._image, "-I", "-S", "-c", self._source, *arguments),
        )

    def _started(self, *words: str) -> Side:
        side = Side(words, self._home if words[0] != "docker" else None)
        self._stack.callback(side.close)
        side.greet()
        return side

    @staticmethod
    def _docker(*words: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(  # noqa: S603 # Our own words, to whatever docker is in use here.
                ["docker", *words],  # noqa: S607
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UnavailableError("Docker was silent for 30 seconds.", code="no_docker") from None


def unpacked_python(container: str, root: Path, program: str, prefix: str) -> tuple[list[str], str]:
    """Copy a container's Python and C library below `root`; the words that start it, and its home.

    `program` and `prefix` are where they are in the container. Raises `UnavailableError` when no
    loader of glibc is there, and `OSError` or `tarfile.TarError` when the copy fails.
    """
    with subprocess.Popen(  # noqa: S603 # Our own words.
        ["docker", "export", container],  # noqa: S607
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as export:
        assert export.stdout is not None
        with tarfile.open(fileobj=export.stdout, mode="r|") as archive:
            # Debian 12's Python, 3.11.2, knows no `filter=`, and overlooks this.
            archive.extraction_filter = getattr(tarfile, "tar_filter", None)
            for member in archive:
                ours = member.name.startswith(_RUNTIME) and ".." not in member.name.split("/")
                if ours and not member.isdev():
                    archive.extract(member, root)
    loaders = sorted(root.glob("lib64/ld-linux-*.so.*")) or sorted(root.glob("lib/ld-linux-*.so.*"))
    if not loaders:
        raise UnavailableError("The image has no glibc.", code="measure")
    libraries = [str(path) for path in _library_directories(root, prefix)]
    below = str(root / program.lstrip("/"))
    words = [str(loaders[0].resolve()), "--library-path", ":".join(libraries), below]
    return words, str(root / prefix.lstrip("/"))


def _library_directories(root: Path, prefix: str) -> list[Path]:
    places = (root / prefix.lstrip("/") / "lib", root / "lib", root / "usr/lib")
    found = [path for place in places for path in (place, *sorted(place.glob("*-linux-gnu*")))]
    return [path for path in found if path.is_dir()]
