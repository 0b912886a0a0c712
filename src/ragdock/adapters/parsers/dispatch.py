"""`ParserPool`: small text in this process, everything else in limited child processes.

A child that hangs, crashes or eats memory costs its document, never the server. Children start
when they are needed (about 0.1 s), stay for the next document, and are replaced after some.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, BinaryIO, Final

from ragdock.adapters.parsers import doors, formats, ocr_rapid, wire
from ragdock.adapters.parsers.process import ChildDiedError, ChildProcess
from ragdock.adapters.parsers.text_stream import size_of
from ragdock.core import media
from ragdock.errors import DocumentError, UnavailableError
from ragdock.types import Bounds, ParsedDocument

__all__ = ["ParserPool"]

_PIECE_BYTES: Final = 2**18
_BYTES_A_LIMIT: Final = 2**22
_SCAN_BYTES_A_LIMIT: Final = 2**16  # Some pages of black and white, of several seconds each.

logger = logging.getLogger(__name__)


class ParserPool:
    """A `Parser` with up to `processes` children; safe to use from several threads.

    `timeout_seconds` bounds the wait for each part of a document (and that for a free child),
    `memory_mb` the address space of a child. With `ocr` pictures of pages are read; raises
    `ConfigurationError` where the package for that, or the memory, is missing.
    """

    def __init__(
        self,
        timeout_seconds: float,
        memory_mb: int,
        processes: int = 2,
        *,
        max_pages: int = 20_000,
        ocr: bool = False,
    ) -> None:
        if ocr:
            ocr_rapid.require(memory_mb)
        self._ocr = ocr
        self._max_pages = max_pages
        self._timeout_seconds = timeout_seconds
        self._memory_mb = memory_mb
        self._places = threading.BoundedSemaphore(processes)
        self._lock = threading.Lock()
        self._idle: deque[ChildProcess] = deque()
        self._busy: set[ChildProcess] = set()
        self._closed = False
        self._closed_to_children: frozenset[str] | None = None

    def parts(
        self, content: BinaryIO, filename: str, media_type: str
    ) -> Generator[ParsedDocument, None, None]:
        """The file as text and blocks, in parts (one, when it is small).

        Raises `DocumentError` when it can't become text, also after some parts, and
        `UnavailableError` when the pool is closed or no child became free in time.
        """
        if not formats.is_supported(media_type):
            raise DocumentError(
                f"Files of type {media_type} are not supported; see the README for the formats.",
                code="unsupported",
            )
        size_bytes = size_of(content)
        if _is_blank(content):
            raise DocumentError("The file is empty; upload one that has text in it.", code="empty")
        content.seek(0)
        if not formats.needs_child(media_type, size_bytes):
            yield from formats.read(content, filename, media_type, max_pages=self._max_pages)
            return
        requests = [wire.encode_request(filename, media_type, self._max_pages)]
        if media_type == media.PDF:
            # Better without the names of its pages than not at all: see `pdf_labels`.
            requests.append(
                wire.encode_request(filename, media_type, self._max_pages, labelled=False)
            )
        with closing(self._in_child(requests, content, size_bytes)) as replies:
            for head, body in replies:
                part = wire.decode_part(head, body)
                if part.text:  # Else a page was looked at and had no words.
                    yield part

    def members(
        self, content: BinaryIO, filename: str, media_type: str, bounds: Bounds
    ) -> Generator[tuple[str, Iterator[bytes]], None, None]:
        """The path and the content of each file in an archive, unpacked in a child.

        The pieces of one are to be taken before the next is asked for. Raises as `parts` does.
        """
        if media_type not in media.ARCHIVES:
            raise DocumentError(f"A file of type {media_type} is no archive.", code="unsupported")
        request = wire.encode_request(filename, media_type, self._max_pages, bounds)
        with closing(self._in_child([request], content, size_of(content))) as replies:
            following = _Following(replies)
            while (path := following.path()) is not None:
                yield path, following.pieces()

    def close(self) -> None:
        """End all children, also those at work; their callers get `UnavailableError`."""
        with self._lock:
            self._closed = True
            idle = list(self._idle)
            self._idle.clear()
            for child in self._busy:
                child.kill()
        for child in idle:
            child.dispose()

    @property
    def closed_to_children(self) -> frozenset[str] | None:
        """What no child can reach (`doors.NETWORK`, ...); None until one has parsed something."""
        return self._closed_to_children

    def _note_closed(self, closed: frozenset[str]) -> None:
        if self._closed_to_children is None and not closed >= doors.ALL:
            logger.warning(
                "this kernel does not let parser processes be shut in completely",
                extra={"closed": sorted(closed), "open": sorted(doors.ALL - closed)},
            )
        self._closed_to_children = closed

    def _patience_seconds(self, size_bytes: int) -> float:
        """How long a document may take, whatever it yields; its parts have the limit each."""
        return self._timeout_seconds * (
            2 + size_bytes / (_SCAN_BYTES_A_LIMIT if self._ocr else _BYTES_A_LIMIT)
        )

    def _in_child(
        self, requests: Sequence[bytes], content: BinaryIO, size_bytes: int
    ) -> Generator[tuple[dict[str, Any], bytes], None, None]:
        """What a child, once there is a free one, replies before the end."""
        if not self._places.acquire(timeout=self._timeout_seconds):
            raise UnavailableError("All parser processes are busy.", retry_after_seconds=5.0)
        try:
            with _with_descriptor(content) as file:
                yield from self._replies(requests, file, self._patience_seconds(size_bytes))
        finally:
            self._places.release()

    def _replies(
        self, requests: Sequence[bytes], file: BinaryIO, patience_seconds: float
    ) -> Generator[tuple[dict[str, Any], bytes], None, None]:
        child, head, body = self._ask(requests, file)
        is_done = False
        try:
            while not self._is_end(head):
                yield head, body
                begin = time.monotonic()
                limit_seconds = min(self._timeout_seconds, patience_seconds)
                try:
                    head, body = child.receive(limit_seconds)
                except ChildDiedError as exc:
                    child.dispose()  # Tells how it ended.
                    raise self._explain(child, exc) from None
                patience_seconds -= time.monotonic() - begin
            is_done = True
            self._note_closed(frozenset(head["closed"]))
        except DocumentError:
            is_done = "code" in head
            raise
        finally:
            # One that was left in the middle of a document is of no more use.
            if is_done and not head["last"]:
                self._give_back(child)
            else:
                self._discard(child)

    @staticmethod
    def _is_end(head: dict[str, Any]) -> bool:
        if head.get("detail"):
            logger.warning("a parser failed on a document", extra={"detail": head["detail"]})
        return wire.is_end(head)

    def _ask(
        self, requests: Sequence[bytes], file: BinaryIO
    ) -> tuple[ChildProcess, dict[str, Any], bytes]:
        """A child that has begun with the document, and its first reply.

        Each request is made when the one before crashes a child.
        """
        waiting = deque(requests)
        child = self._take()
        while True:
            try:
                return child, *self._first_reply(child, waiting[0], file)
            except ChildDiedError as exc:
                if child.has_replied and not exc.timed_out:
                    # It may have been dying while it was idle, or the last document's debris
                    # killed it: no fault of this one, which is judged by a child of its own.
                    pass
                elif child.crashed and len(waiting) > 1:
                    waiting.popleft()
                    logger.warning(
                        "a parser process crashed; the document is tried without page labels",
                        extra={"exit_status": child.exit_status},
                    )
                else:
                    raise self._explain(child, exc) from None
            child = self._start()

    def _first_reply(
        self, child: ChildProcess, request: bytes, file: BinaryIO
    ) -> tuple[dict[str, Any], bytes]:
        """Ask the child; it is disposed of when that fails."""
        try:
            file.seek(0)
            child.ask(request, file)
            return child.receive(self._timeout_seconds)
        except BaseException:
            self._discard(child)
            raise

    def _take(self) -> ChildProcess:
        with self._lock:
            while not self._closed and self._idle:
                child = self._idle.pop()
                if child.is_alive():
                    self._busy.add(child)
                    return child
                child.dispose()
        return self._start()

    def _start(self) -> ChildProcess:
        child = ChildProcess(self._timeout_seconds, self._memory_mb, ocr=self._ocr)
        with self._lock:
            if not self._closed:
                self._busy.add(child)
                return child
        child.dispose()
        raise _closed()

    def _give_back(self, child: ChildProcess) -> None:
        with self._lock:
            self._busy.discard(child)
            if not self._closed:
                self._idle.append(child)
                return
        child.dispose()

    def _discard(self, child: ChildProcess) -> None:
        with self._lock:
            self._busy.discard(child)
        child.dispose()

    def _explain(
        self, child: ChildProcess, death: ChildDiedError
    ) -> DocumentError | UnavailableError:
        if self._closed:
            return _closed()
        if death.timed_out or child.ran_out_of_time:
            return DocumentError(
                f"Reading the document takes longer than {self._timeout_seconds:g} s "
                "(RAG_PARSE_TIMEOUT_SECONDS); split it into several files or raise the limit.",
                code="timeout",
            )
        if death.too_much:
            return DocumentError(
                "The document holds too much text; split it into several files.",
                code="too_complex",
            )
        logger.warning(
            "a parser process died",
            extra={"exit_status": child.exit_status, "peak_memory_mb": child.peak_memory_mb},
        )
        if child.failed_to_start:
            return UnavailableError("Parser processes can't start; `ragdock doctor` tells why.")
        if child.ran_out_of_memory:
            return DocumentError(wire.MEMORY_MESSAGE, code="memory")
        return DocumentError(
            "The document makes the parser crash; it is probably damaged. Save it anew and upload "
            "it again.",
            code="damaged",
        )


class _Following:
    """The files that a child's replies are the pieces of."""

    def __init__(self, replies: Iterator[tuple[dict[str, Any], bytes]]) -> None:
        self._replies = replies
        self._path: str | None = None

    def path(self) -> str | None:
        """The next file's; what is left of the one before is passed over."""
        path, self._path = self._path, None
        while path is None and (reply := next(self._replies, None)) is not None:
            path = reply[0]["path"]
        return path

    def pieces(self) -> Iterator[bytes]:
        """The content of the file whose path was asked for."""
        while self._path is None and (reply := next(self._replies, None)) is not None:
            self._path = reply[0]["path"]
            if self._path is None:
                yield reply[1]


def _is_blank(content: BinaryIO) -> bool:
    while piece := content.read(_PIECE_BYTES):
        if piece.strip():
            return False
    return True


@contextmanager
def _with_descriptor(content: BinaryIO) -> Iterator[BinaryIO]:
    """The file itself, or a copy of one that is but memory."""
    try:
        content.fileno()
    except (OSError, AttributeError):
        with _memory_file() as copy:
            shutil.copyfileobj(content, copy)
            copy.flush()
            yield copy
    else:
        yield content


def _memory_file() -> BinaryIO:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("document"), "w+b")
    return tempfile.TemporaryFile()


def _closed() -> UnavailableError:
    return UnavailableError("The server is stopping; send the document again.")
