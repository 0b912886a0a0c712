"""The process in which foreign parsers run: limited, alone, and worth nothing to an attacker.

Started by `dispatch`, which speaks `wire` over its standard input (a socket, over which the files'
descriptors come) and its standard output. It has no environment, no secrets, no way to write a
file; memory, CPU time and open files are limited; `sandbox` closes network, files and processes to
it where the kernel can; and it ends when its parent ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import threading
import traceback
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from ragdock.adapters.parsers import formats, ocr_rapid, sandbox, wire
from ragdock.adapters.parsers.memory import FULL, peak_memory_mb
from ragdock.errors import DocumentError

__all__ = ["main"]

_RECYCLE_AFTER: Final = 200
_OPEN_FILES: Final = 64
_NICENESS: Final = 5  # Queries go before parsing.


def main(timeout_seconds: float, memory_mb: int, ocr: bool = False) -> None:
    """Answer requests until the parent closes the pipe or a document has cost too much.

    `ocr` says that pictures of pages are to be read.
    """
    requests = socket.socket(fileno=os.dup(0))
    replies = os.fdopen(os.dup(1), "wb")
    _limit(memory_mb)
    _close_standard_streams()
    closed = sandbox.enter(formats.modules(), ocr_rapid.load if ocr else None)
    threading.Thread(target=_die_with_parent, args=(requests.fileno(),), daemon=True).start()
    for n_documents in range(1, _RECYCLE_AFTER + 1):
        received = _receive(requests)
        if received is None:
            return
        request, file = received
        last = n_documents == _RECYCLE_AFTER
        with file:
            replied = _read_out(request, file, ocr=ocr)
            for head, body in _answers(replied, last, memory_mb, timeout_seconds, closed):
                _write(replies, head, body)
                # Waiting for the parent to take a part is no work.
                _limit_cpu(timeout_seconds)
        if json.loads(head).get("last"):
            return


def _receive(requests: socket.socket) -> tuple[dict[str, Any], BinaryIO] | None:
    """The next request and its file; None when there is none."""
    received, descriptors, _, _ = socket.recv_fds(requests, wire.HEADER.size, 1)
    if not received or not descriptors:
        return None
    file = os.fdopen(descriptors[0], "rb")
    header = received + _read(requests, wire.HEADER.size - len(received))
    (size_bytes,) = wire.HEADER.unpack(header)
    return json.loads(_read(requests, size_bytes)), file


def _read(requests: socket.socket, size_bytes: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < size_bytes:
        piece = requests.recv(size_bytes - len(pieces))
        if not piece:
            raise EOFError
        pieces += piece
    return bytes(pieces)


def _write(replies: BinaryIO, head: bytes, body: bytes) -> None:
    replies.writelines((wire.HEADER.pack(len(head)), head, wire.HEADER.pack(len(body)), body))
    replies.flush()


def _answers(
    replied: Iterator[tuple[bytes, bytes]],
    last: bool,
    memory_mb: int,
    timeout_seconds: float,
    closed: frozenset[str],
) -> Iterator[tuple[bytes, bytes]]:
    """The replies; the end, or the error, says whether this process ends after it."""
    try:
        _limit_cpu(timeout_seconds)
        yield from replied
        # What malloc keeps after a large document would count against the next one.
        last = last or peak_memory_mb("self") > memory_mb // 2
        yield wire.encode_end(last=last, closed=closed)
    except DocumentError as exc:
        yield wire.encode_error(exc.code, str(exc), last=last)
    except MemoryError:
        yield wire.encode_error("memory", wire.MEMORY_MESSAGE, last=True)
    except RecursionError:
        message = "The document is nested too deeply; simplify it or save it as plain text."
        yield wire.encode_error("too_complex", message, last=True)
    except Exception:  # noqa: BLE001  # A bug on a strange document must not end the pool.
        if peak_memory_mb("self") > memory_mb * FULL:
            yield wire.encode_error("memory", wire.MEMORY_MESSAGE, last=True)
            return
        message = "The document can't be read; it is probably damaged. Save it anew and try again."
        detail = traceback.format_exc(limit=-5)
        yield wire.encode_error("damaged", message, last=True, detail=detail)


def _read_out(
    request: dict[str, Any], file: BinaryIO, *, ocr: bool
) -> Iterator[tuple[bytes, bytes]]:
    """The document's parts, or the archive's files in pieces."""
    name, media_type = request["filename"], request["media_type"]
    bounds = wire.bounds_of(request)
    if bounds is None:
        more = {"max_pages": request["max_pages"], "labelled": request["labelled"]}
        for part in formats.read(file, name, media_type, ocr=ocr, **more):
            yield wire.encode_part(part)
        return
    for path, pieces in formats.unpack(file, name, media_type, bounds):
        yield wire.encode_piece(path, b"")
        for piece in pieces:
            yield wire.encode_piece(None, piece)


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
        with contextlib.suppress(ValueError, OSError):  # macOS refuses some of them.
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
