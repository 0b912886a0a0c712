"""A parser process as its parent sees it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, BinaryIO, Final

from ragdock.adapters.parsers import wire
from ragdock.adapters.parsers.memory import FULL, peak_memory_mb

__all__ = ["ChildDiedError", "ChildProcess"]

# The child is isolated (-I: no PYTHON* variables, no user site; -S: no .pth files; -B: writes no
# bytecode), so the import path of this process is handed over.
_START: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from ragdock.adapters.parsers.child import main; main(float(sys.argv[2]), int(sys.argv[3]), "
    "sys.argv[4] == 'ocr')"
)
_ENVIRONMENT: Final = {"LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"}
_PIECE_BYTES: Final = 2**20
_CRASHES: Final = frozenset(
    -number for number in (signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS,
                           signal.SIGFPE, signal.SIGSEGV)
)  # fmt: skip
_EXIT_SECONDS: Final = 2.0
_SAMPLE_SECONDS: Final = 0.2


class ChildDiedError(Exception):
    """The child gave no answer: it died, took too long or said too much."""

    def __init__(self, *, timed_out: bool = False, too_much: bool = False) -> None:
        super().__init__()
        self.timed_out = timed_out
        self.too_much = too_much


class ChildProcess:
    """One child, used by one thread at a time."""

    def __init__(self, timeout_seconds: float, memory_mb: int, *, ocr: bool = False) -> None:
        self._memory_mb = memory_mb
        paths = [str(Path(path).absolute()) for path in sys.path]
        self._requests, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  # Our own interpreter and code.
                [sys.executable, "-I", "-S", "-B", "-c", _START, json.dumps(paths),
                 str(timeout_seconds), str(memory_mb), "ocr" if ocr else ""],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                bufsize=0,
                cwd="/",
                env=_ENVIRONMENT,
            )  # fmt: skip
        assert self._process.stdout is not None
        self._replies = self._process.stdout
        os.set_blocking(self._replies.fileno(), False)
        self._lock = threading.Lock()
        self._frames = _Frames()
        self._n_replies = 0
        self.exit_status: int | None = None
        self.peak_memory_mb = 0

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def has_replied(self) -> bool:
        """Whether it has answered before, if only in part."""
        return self._n_replies > 0

    @property
    def ran_out_of_time(self) -> bool:
        """Whether the limit of CPU time ended it."""
        return self.exit_status == -signal.SIGXCPU

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether it died near its limit, or by the kernel's hand."""
        if self.exit_status == -signal.SIGKILL:
            return True
        return self.peak_memory_mb > self._memory_mb * FULL

    @property
    def crashed(self) -> bool:
        """Whether a fault of the code that it ran ended it."""
        return self.exit_status in _CRASHES

    @property
    def failed_to_start(self) -> bool:
        """Whether it ended by itself before it ever answered: no document's fault."""
        return self._n_replies == 0 and self.exit_status is not None and self.exit_status > 0

    def is_alive(self) -> bool:
        """Whether it runs."""
        with self._lock:
            return self.exit_status is None and self._process.poll() is None

    def ask(self, request: bytes, file: BinaryIO) -> None:
        """Hand over a file that has a descriptor; what becomes of it is received afterwards."""
        self._frames = _Frames()
        # A child that is gone tells so, and why, when its answer is awaited.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sent = socket.send_fds(self._requests, [request], [file.fileno()])
            self._requests.sendall(request[sent:])

    def receive(self, timeout_seconds: float) -> tuple[dict[str, Any], bytes]:
        """The next reply's two frames; raises `ChildDiedError`."""
        deadline = time.monotonic() + timeout_seconds
        poll = select.poll()
        replies = self._replies.fileno()
        poll.register(replies, select.POLLIN)
        while len(self._frames.whole) < 2:
            left_seconds = max(0.0, deadline - time.monotonic())
            events = poll.poll(min(left_seconds, _SAMPLE_SECONDS) * 1000)
            if not events and left_seconds == 0:
                raise ChildDiedError(timed_out=True)
            if not events:
                self.peak_memory_mb = peak_memory_mb(self.pid) or self.peak_memory_mb
            else:
                self._receive(replies, self._frames)
        self._n_replies += 1
        head, body = self._frames.whole.popleft(), self._frames.whole.popleft()
        return json.loads(head), bytes(body)

    def _receive(self, descriptor: int, incoming: _Frames) -> None:
        with contextlib.suppress(BlockingIOError):
            piece = os.read(descriptor, _PIECE_BYTES)
            if not piece:
                self._await_exit()
                raise ChildDiedError
            incoming.feed(piece)

    def _await_exit(self) -> None:
        """Give a child that closed its pipe the time to end in its own way, for the cause."""
        deadline = time.monotonic() + _EXIT_SECONDS
        while not self._reap(os.WNOHANG) and time.monotonic() < deadline:
            time.sleep(0.01)

    def kill(self) -> None:
        """End it now, from any thread; whoever waits in `receive` gets `ChildDiedError`."""
        with self._lock:
            if self.exit_status is None and self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)

    def dispose(self) -> None:
        """End it and release its pipes; only for the thread that uses it.

        Another thread would close descriptors, and free their numbers, under `receive`.
        """
        self.kill()
        self._reap(0)
        self._requests.close()
        self._replies.close()

    def _reap(self, options: int) -> bool:
        """Collect the exit status; True when it has ended."""
        with self._lock:
            if self.exit_status is not None:
                return True
            if self._process.returncode is not None:
                self.exit_status = self._process.returncode
                return True
            pid, status = os.waitpid(self.pid, options)
            if pid == 0:
                return False
            self.exit_status = self._process.returncode = os.waitstatus_to_exitcode(status)
            return True


class _Frames:
    """Frames as they arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.whole: deque[bytearray] = deque()

    def feed(self, piece: bytes) -> None:
        self._buffer += piece
        while len(self._buffer) >= wire.HEADER.size:
            (size_bytes,) = wire.HEADER.unpack_from(self._buffer)
            if size_bytes > wire.MAX_REPLY_BYTES:
                raise ChildDiedError(too_much=True)
            end = wire.HEADER.size + size_bytes
            if len(self._buffer) < end:
                return
            self.whole.append(self._buffer[wire.HEADER.size : end])
            del self._buffer[:end]
