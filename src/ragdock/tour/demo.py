"""A server of the notebook: its own folder, a free port, ended with the notebook."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from ragdock.errors import UnavailableError

__all__ = ["Demo"]

START_SECONDS = 60.0
STOP_SECONDS = 30.0


class Demo:
    """`python m3_1_dockerize.py --serve`, with nothing of the caller's settings but the model.

    `settings` are environment variables. Use `close()` when done; it may be started again in
    between, on the same data.
    """

    def __init__(self, root: Path, folder: Path, model: Path, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._command = [sys.executable, str(root / "m3_1_dockerize.py"), "--serve"]
        self._folder = folder
        self._settings = {
            "PATH": os.environ.get("PATH", os.defpath),
            "RAG_DATA_DIR": str(folder / "data"),
            "RAG_MODEL_DIR": str(model),
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has written to the terminal so far."""
        file = self._folder / "log"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def start(self) -> None:
        """Start it and wait until it is healthy; raises `UnavailableError` if it never is."""
        from ragdock.cli import probe

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 (ours)
                [*self._command, "--port", str(self.port)],
                cwd=self._folder,
                env=self._settings,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while not probe.probe(self.url)[0]:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise UnavailableError(f"The server doesn't get healthy:\n{self.log[-2000:]}")
            time.sleep(0.1)

    def kill(self) -> int:
        """SIGKILL, as the kernel does when memory ends; the exit code (-9)."""
        return self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, as `docker stop` does; the exit code."""
        return self._end(signal.SIGTERM)

    def close(self) -> None:
        """Stop it if it runs."""
        if self._process is not None and self._process.poll() is None:
            self.stop()

    def _end(self, how: signal.Signals) -> int:
        if self._process is None:
            raise UnavailableError("The server was never started.")
        self._process.send_signal(how)
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait(STOP_SECONDS)
