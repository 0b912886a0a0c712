"""Servers for tests: in this process, and as real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from starlette.testclient import TestClient

from ragdock.api.app import create_app
from ragdock.ports import Embedder, Fetcher
from ragdock.settings import Settings
from support.embedders import HashEmbedder
from support.ports import free_port

__all__ = ["ServerProcess", "hash_arguments", "make_settings", "serving", "until"]

ROOT = Path(__file__).resolve().parents[2]
HARD_STOP_SECONDS = 60.0
START_SECONDS = 60.0


def make_settings(data_dir: Path, **fields: Any) -> Settings:
    """Settings by field name, from nothing but these and the defaults (and the environment)."""
    # Hashed words know no meaning: whatever shares a word may answer. A quarter of a second without
    # a turn is common where tests run, and a Redis that was given up is another test's matter.
    values = {
        "data_dir": data_dir,
        "threads": 1,
        "min_score": 0.0,
        "redis_timeout_seconds": 2.0,
        **fields,
    }
    known = Settings.model_fields
    aliases = {str(known[name].validation_alias.choices[0]): v for name, v in values.items()}  # type: ignore[union-attr]
    return Settings(_env_file=None, **aliases)


@contextmanager
def serving(
    data_dir: Path,
    *,
    embedder: Embedder | None = None,
    fetcher: Fetcher | None = None,
    raises: bool = True,
    **fields: Any,
) -> Iterator[TestClient]:
    """A client of an application in this process, which is up inside the block."""
    settings = make_settings(data_dir, **fields)
    app = create_app(settings, embedder=embedder or HashEmbedder(), fetcher=fetcher)
    with TestClient(app, raise_server_exceptions=raises) as client:
        yield client


def until(condition: Callable[[], Any], timeout_seconds: float = 20.0) -> Any:
    """Wait for a condition and return its value; fails loudly when the time is over."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not so within {timeout_seconds:g} s"
        time.sleep(0.02)


def hash_arguments(hashed: bool | int) -> list[str]:
    """What tells `support.serve` which embedder to use."""
    if isinstance(hashed, bool):
        return ["--hashed"] * hashed
    return [f"--hashed={hashed}"]


class ServerProcess:
    """`ragdock.api.server.run`, or `run_worker`, in a process of its own, on a free port.

    Embeds with `HashEmbedder` (of `hashed` dimensions, if that is a number) unless it is False.
    `stepping` has its wall clock jump by days.
    Its output is kept in `log`.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        hashed: bool | int = True,
        worker: bool = False,
        stepping: bool = False,
        log_dir: Path | None = None,
        **environment: object,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = (log_dir or data_dir.parent) / f"{data_dir.name}-{self.port}.log"
        self._environment = {
            "RAG_DATA_DIR": str(data_dir),
            "PORT": str(self.port),
            "RAG_THREADS": "1",
            "RAG_LOG_FORMAT": "json",
            **({"RAG_MIN_SCORE": "0"} if hashed else {}),
            **{name: str(value) for name, value in environment.items()},
        }
        self._arguments = hash_arguments(hashed) + ["--worker"] * worker + ["--stepping"] * stepping
        self.is_worker = worker
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> ServerProcess:
        """Start, and wait until it is ready."""
        self.launch()
        ready = False
        try:
            ready = until(self._is_ready, START_SECONDS)
        finally:
            if not ready:
                self.kill()
        return self

    def launch(self) -> None:
        """Start, and don't wait."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAG_", "REDIS_"))}
        more = self._environment.get("PYTHONPATH", "")
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), more]).rstrip(os.pathsep)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "support.serve", *self._arguments],
                env={**kept, **self._environment, "PYTHONPATH": path},
                cwd=self.log.parent,  # Where no `.env` is.
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx2.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx2.TransportError:
            return False

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(HARD_STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def client(self, timeout: float = 30.0) -> httpx2.Client:
        """A client of this server."""
        return httpx2.Client(base_url=self.url, timeout=timeout)

    def __enter__(self) -> ServerProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
