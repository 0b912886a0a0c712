"""The process in which foreign parsers run: limited, alone, and worth nothing to an attacker.

Started by `dispatch`, which speaks `wire` over its standard input and output. It has no
environment, no secrets, no way to write a file; memory, CPU time and open files are limited; and
it ends when its parent ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import threading
import traceback
from typing import BinaryIO, Final

from ragdock.adapters.parsers import formats, wire
from ragdock.errors import DocumentError

__all__ = ["main"]

_RECYCLE_AFTER: Final = 200
_OPEN_FILES: Final = 64
_NICENESS: Final = 5  # Queries go before parsing.


def main(timeout_seconds: float, memory_mb: int) -> None:
    """Answer requests until the parent closes the pipe or a document has cost too much."""
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    _limit(memory_mb)
    threading.Thread(target=_die_with_parent, args=(requests.fileno(),), daemon=True).start()
    _close_standard_streams()
    for n_documents in range(1, _RECYCLE_AFTER + 1):
        try:
            request, content = _read_frame(requests), _read_frame(requests)
        except MemoryError:
            _write(replies, *wire.encode_error("memory", wire.MEMORY_MESSAGE, last=True))
            return
        if request is None or content is None:
            return
        _limit_cpu(timeout_seconds)
        last = n_documents == _RECYCLE_AFTER
        head, body, last = _answer(json.loads(request), content, last, memory_mb)
        del request, content
        _write(replies, head, body)
        del head, body
        if last:
            return


def _write(replies: BinaryIO, head: bytes, body: bytes) -> None:
    replies.writelines((wire.HEADER.pack(len(head)), head, wire.HEADER.pack(len(body)), body))
    replies.flush()


def _answer(
    request: dict[str, str], content: bytes, last: bool, memory_mb: int
) -> tuple[bytes, bytes, bool]:
    """The reply's two frames, and whether this process should end after it."""
    try:
        parsed = formats.read(content, request["filename"], request["media_type"])
        # What malloc keeps after a large document would count against the next one.
        last = last or _peak_memory_mb() > memory_mb // 2
        return *wire.encode_document(parsed, last=last), last
    except DocumentError as exc:
        return *wire.encode_error(exc.code, str(exc), last=last), last
    except MemoryError:
        return *wire.encode_error("memory", wire.MEMORY_MESSAGE, last=True), True
    except RecursionError:
        message = "The document is nested too deeply; simplify it or save it as plain text."
        return *wire.encode_error("too_complex", message, last=True), True
    except Exception:  # noqa: BLE001  # A bug on a strange document must not end the pool.
        message = "The document can't be read; it is probably damaged. Save it anew and try again."
        detail = traceback.format_exc(limit=-5)
        return *wire.encode_error("damaged", message, last=True, detail=detail), True


def _read_frame(stream: BinaryIO) -> bytes | None:
    header = stream.read(wire.HEADER.size)
    if len(header) < wire.HEADER.size:
        return None
    (size_bytes,) = wire.HEADER.unpack(header)
    payload = stream.read(size_bytes)
    return payload if len(payload) == size_bytes else None


def _limit(memory_mb: int) -> None:
    memory_bytes = memory_mb * 2**20
    for kind, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_DATA, memory_bytes),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    os.nice(_NICENESS)
    # A signal to the terminal's process group is the parent's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # If memory runs out, the kernel should take this process and not the server.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:  # noqa: PTH123
        score.write("1000")


def _limit_cpu(timeout_seconds: float) -> None:
    """The parent's clock kills a slow child; this kills one whose parent is gone."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime + timeout_seconds) + 2
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _die_with_parent(requests: int) -> None:
    # PR_SET_PDEATHSIG would fire when the *thread* that started this process ends, so the pipe
    # is watched instead: it hangs up when the parent is gone, however it went.
    poll = select.poll()
    poll.register(requests, 0)
    while not any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll()):
        pass
    os._exit(0)


def _close_standard_streams() -> None:
    """Libraries that print must not write into the pipe."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def _peak_memory_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
