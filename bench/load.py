"""A closed-loop HTTP client: each connection sends its next request when the answer is whole.

Raw sockets with keep-alive and one `epoll` loop. A request costs it some 15 microseconds, so the
server is what limits; `ceiling.py` shows what the pair can do at most.
"""

from __future__ import annotations

import itertools
import json
import os
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Load", "closed_loop", "once", "post"]


@dataclass(slots=True)
class Load:
    """What came back: latencies in milliseconds, seconds of wall time and of the server's CPUs."""

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    n_errors: int = 0
    cpu_seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return len(self.latencies_ms) / self.seconds if self.seconds else 0.0

    @property
    def cpu_ms(self) -> float:
        """The server's processor time for an answer."""
        return self.cpu_seconds / len(self.latencies_ms) * 1000 if self.latencies_ms else 0.0


@dataclass(slots=True)
class _Connection:
    socket: socket.socket
    started: float = 0.0
    received: bytes = b""
    expected: int = -1


def post(path: str, body: object) -> bytes:
    """A request's bytes."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def once(port: int, request: bytes) -> bytes:
    """Send one request; the answer's body. Raises `RuntimeError` unless it is 200."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request)
        received = b""
        while (length := _length(received)) < 0 or len(received) < length:
            piece = connection.recv(1 << 16)
            if not piece:
                break
            received += piece
    if not received.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(received[:500].decode("utf-8", "replace"))
    return received.partition(b"\r\n\r\n")[2]


def closed_loop(
    port: int,
    requests: Sequence[bytes],
    n_clients: int,
    *,
    seconds: float = 0.0,
    pid: int | None = None,
) -> Load:
    """Send the requests once, or over and over for `seconds`, on `n_clients` connections.

    `pid` is the server's process, for its processor time (Linux; elsewhere it stays 0).
    """
    cpu_before = _cpu_seconds(pid)
    source: Iterator[bytes] = itertools.cycle(requests) if seconds else iter(requests)
    load = Load()
    start = time.perf_counter()
    deadline = start + seconds if seconds else float("inf")
    with selectors.DefaultSelector() as selector:
        for _ in range(n_clients):
            connection = _Connection(socket.create_connection(("127.0.0.1", port), timeout=60))
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            if not _send(connection, source):
                selector.unregister(connection.socket)
        while selector.get_map():
            for key, _ in selector.select(timeout=60):
                connection = key.data
                if _receive(connection, load) and not (
                    time.perf_counter() < deadline and _send(connection, source)
                ):
                    selector.unregister(connection.socket)
                    connection.socket.close()
    load.seconds = time.perf_counter() - start
    load.cpu_seconds = _cpu_seconds(pid) - cpu_before
    return load


def _send(connection: _Connection, source: Iterator[bytes]) -> bool:
    request = next(source, None)
    if request is None:
        return False
    connection.received, connection.expected = b"", -1
    connection.started = time.perf_counter()
    connection.socket.sendall(request)
    return True


def _receive(connection: _Connection, load: Load) -> bool:
    """Read what is there; true when the answer is whole."""
    piece = connection.socket.recv(1 << 16)
    if not piece:
        raise RuntimeError("The server closed the connection.")
    connection.received += piece
    if connection.expected < 0:
        connection.expected = _length(connection.received)
    if connection.expected < 0 or len(connection.received) < connection.expected:
        return False
    load.latencies_ms.append((time.perf_counter() - connection.started) * 1000)
    load.n_errors += not connection.received.startswith(b"HTTP/1.1 200")
    return True


def _length(received: bytes) -> int:
    """The answer's whole length, or -1 while its head is not there yet."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return -1
    at = received.lower().find(b"content-length:", 0, end)
    line_end = received.find(b"\r\n", at)
    return end + 4 + int(received[at + 15 : line_end])


def _cpu_seconds(pid: int | None) -> float:
    stat = Path(f"/proc/{pid}/stat")
    if pid is None or not stat.exists():
        return 0.0
    # Fields 14 and 15 of proc(5), counted behind the name, which may hold blanks.
    fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
