"""One side of a comparison: the same small pieces of work, in a container or beside it.

It is run by its source (`python -c`), so it is the standard library and one file. As a worker it
reads words from stdin (`cpu`, `memory`, `disk DIR`, `read DIR`) and answers each with a line of
JSON; as a server it answers every request with one kilobyte, and tells its port first.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import platform
import sys
import time
from typing import Any, Final

__all__ = ["main", "serve", "work"]

CPU_BYTES: Final = 16 * 1024 * 1024
MEMORY_BYTES: Final = 64 * 1024 * 1024
DISK_WRITES: Final = 8
DISK_BLOCK: Final = b"\xa5" * 4096
READ_BYTES: Final = 16 * 1024 * 1024
BODY: Final = b"x" * 1024
ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n" + BODY
)


def cpu() -> float:
    """Seconds of processor time to hash 16 MB by SHA-256, no interpreter's work.

    Not seconds on the wall: on a busy machine those tell how long a process waited for its turn,
    and containers take turns as one group, which is about the others and not about the container.
    """
    block = bytes(1024 * 1024)
    started = time.process_time()
    digest = hashlib.sha256()
    for _ in range(CPU_BYTES // len(block)):
        digest.update(block)
    digest.digest()
    return time.process_time() - started


def memory() -> float:
    """Seconds of processor time to copy 64 MB four times, far more than any cache holds."""
    # Written to, or all its pages would be one page of zeros, which a cache holds.
    source, target = bytearray(b"\xa5") * MEMORY_BYTES, bytearray(MEMORY_BYTES)
    view = memoryview(target)
    view[:] = source  # The pages must be there before the clock runs.
    started = time.process_time()
    for _ in range(4):
        view[:] = source
    return time.process_time() - started


def disk(directory: str) -> float:
    """Seconds for eight appended blocks of 4 kB, each synced: what an acknowledgement costs."""
    name = os.path.join(directory, f"write-{os.getpid()}")  # noqa: PTH118 # Light to load.
    descriptor = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        started = time.perf_counter()
        for _ in range(DISK_WRITES):
            os.write(descriptor, DISK_BLOCK)
            os.fsync(descriptor)
        return time.perf_counter() - started
    finally:
        os.close(descriptor)
        os.unlink(name)  # noqa: PTH108


def read(directory: str) -> float:
    """Seconds to read 16 MB of a file, dropped from the page cache where the system lets us."""
    name = os.path.join(directory, f"read-{os.getpid()}")  # noqa: PTH118
    if not os.path.exists(name):  # noqa: PTH110
        with open(name, "wb") as file:  # noqa: PTH123
            file.write(os.urandom(READ_BYTES))
            os.fsync(file.fileno())
    descriptor = os.open(name, os.O_RDONLY)
    try:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        # One buffer, so that nobody's allocator is measured.
        buffer = [bytearray(1024 * 1024)]
        started = time.perf_counter()
        while os.readv(descriptor, buffer):
            pass
        return time.perf_counter() - started
    finally:
        os.close(descriptor)


def work() -> None:
    """Answer the words on stdin until it ends."""
    tell(
        {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "program": os.path.realpath(sys.executable),
            "prefix": sys.base_prefix,
        }
    )
    for line in sys.stdin:
        word, *arguments = line.rstrip("\n").split(" ", 1)
        if word == "stop":
            break
        try:
            tell({"seconds": {"cpu": cpu, "memory": memory, "disk": disk, "read": read}[word](
                *arguments)})  # type: ignore[operator] # fmt: skip
        except OSError as exc:
            tell({"error": str(exc)})


async def serve(host: str, port: int) -> None:
    """Answer HTTP requests until somebody ends the process."""

    class Connection(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.head = b""

        def data_received(self, data: bytes) -> None:
            self.head += data
            while b"\r\n\r\n" in self.head:
                self.head = self.head.partition(b"\r\n\r\n")[2]
                self.transport.write(ANSWER)

    server = await asyncio.get_running_loop().create_server(Connection, host, port)
    tell({"port": server.sockets[0].getsockname()[1]})
    await server.serve_forever()


def tell(value: object) -> None:
    """One line of JSON, at once."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> None:
    """`work`, or `serve HOST PORT`."""
    if arguments[0] == "work":
        work()
    else:
        asyncio.run(serve(arguments[1], int(arguments[2])))


if __name__ == "__main__":
    main(sys.argv[1:])
