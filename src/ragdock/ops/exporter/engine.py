"""The Docker Engine API, as far as reading goes: `GET` and nothing else.

Who can write to the Engine's socket owns the machine, and a read-only mount of the socket doesn't
change that: it protects the file, not the requests. What protects is that this class has no way to
send another method than GET, which `tests/unit/test_exporter.py` holds.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final
from urllib.parse import urlsplit

from ragdock.errors import ConfigurationError, UnavailableError

__all__ = ["DEFAULT_ADDRESS", "Engine"]

DEFAULT_ADDRESS: Final = "unix:///var/run/docker.sock"
MAX_ANSWER_BYTES: Final = 8 * 2**20
MAX_EVENT_BYTES: Final = 65536


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_seconds: float | None) -> None:
        super().__init__("engine", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's file instead of to an address."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.sock.close()
            raise


class Engine:
    """An Engine at `unix:///path`, `tcp://host:port` or `http://host:port` (a socket proxy).

    Each call opens a connection of its own, so threads may share an Engine. Raises
    `ConfigurationError` for another kind of address; TLS isn't spoken.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, *, timeout_seconds: float = 5.0) -> None:
        parts = urlsplit(address)
        self._timeout_seconds = timeout_seconds
        self._path = parts.path if parts.scheme == "unix" else None
        try:
            self._host, self._port = parts.hostname, parts.port or 2375
        except ValueError:
            self._host = None
        if not self._path and (parts.scheme not in ("tcp", "http") or self._host is None):
            raise ConfigurationError(
                f"--engine {address}: name a socket (unix:///var/run/docker.sock) or a proxy "
                "without TLS (http://host:2375)."
            )

    def get(self, path: str) -> Any:
        """The JSON of an answer; raises `UnavailableError` when there is none that says 200."""
        try:
            with closing(self._ask(path, self._timeout_seconds)) as response:
                return json.loads(response.read(MAX_ANSWER_BYTES))
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise UnavailableError(f"The Engine doesn't answer ({type(exc).__name__}).") from exc

    def follow(self, path: str, *, silence_seconds: float) -> Iterator[dict[str, Any]]:
        """The objects of an endless answer, one a line, until it ends or is silent that long."""
        try:
            with closing(self._ask(path, silence_seconds)) as response:
                while line := response.readline(MAX_EVENT_BYTES):
                    event = json.loads(line)
                    if isinstance(event, dict):
                        yield event
        except TimeoutError:
            return
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise UnavailableError(f"The Engine doesn't answer ({type(exc).__name__}).") from exc

    def _ask(self, path: str, timeout_seconds: float) -> http.client.HTTPResponse:
        connection: http.client.HTTPConnection
        if self._path:
            connection = _UnixConnection(self._path, timeout_seconds)
        else:
            connection = http.client.HTTPConnection(
                self._host or "", self._port, timeout=timeout_seconds
            )
        # Such an answer owns its connection, and closing the answer closes both.
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        if response.status != http.client.OK:
            response.close()
            raise UnavailableError(f"The Engine answers {response.status}.")
        return response
