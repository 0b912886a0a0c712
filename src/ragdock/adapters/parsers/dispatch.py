"""`ParserPool`: small text in this process, everything else in limited child processes.

A child that hangs, crashes or eats memory costs its document, never the server. Children start
when they are needed (about 0.1 s), stay for the next document, and are replaced after some.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any

from ragdock.adapters.parsers import formats, wire
from ragdock.adapters.parsers.process import ChildDiedError, ChildProcess
from ragdock.errors import DocumentError, UnavailableError
from ragdock.types import ParsedDocument

__all__ = ["ParserPool"]

logger = logging.getLogger(__name__)


class ParserPool:
    """A `Parser` with up to `processes` children; safe to use from several threads.

    `timeout_seconds` bounds one document (and the wait for a free child), `memory_mb` the address
    space of a child.
    """

    def __init__(self, timeout_seconds: float, memory_mb: int, processes: int = 2) -> None:
        self._timeout_seconds = timeout_seconds
        self._memory_mb = memory_mb
        self._places = threading.BoundedSemaphore(processes)
        self._lock = threading.Lock()
        self._idle: deque[ChildProcess] = deque()
        self._busy: set[ChildProcess] = set()
        self._closed = False

    def parse(self, content: bytes, filename: str, media_type: str) -> ParsedDocument:
        """The file as text and blocks.

        Raises `DocumentError` when it can't become text, and `UnavailableError` when the pool is
        closed or no child became free in time.
        """
        if not content.strip():
            raise DocumentError("The file is empty; upload one that has text in it.", code="empty")
        if not formats.is_supported(media_type):
            raise DocumentError(
                f"Files of type {media_type} are not supported; upload text, Markdown, HTML, CSV, "
                "JSON, source code, PDF or DOCX.",
                code="unsupported",
            )
        if not formats.needs_child(media_type, len(content)):
            return formats.read(content, filename, media_type)
        if not self._places.acquire(timeout=self._timeout_seconds):
            raise UnavailableError("All parser processes are busy.", retry_after_seconds=5.0)
        try:
            return self._parse_in_child(content, filename, media_type)
        finally:
            self._places.release()

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

    def _parse_in_child(self, content: bytes, filename: str, media_type: str) -> ParsedDocument:
        request = wire.encode_request(content, filename, media_type)
        child = self._take()
        try:
            head, body = self._exchange(child, request)
        except ChildDiedError as exc:
            if self._closed or exc.timed_out or not child.has_replied:
                raise self._explain(child, exc) from None
            # It may have been dying while it was idle, or the last document's debris killed it:
            # no fault of this one, which is judged by a child of its own.
            child = self._start()
            try:
                head, body = self._exchange(child, request)
            except ChildDiedError as again:
                raise self._explain(child, again) from None
        if head["last"]:
            self._discard(child)
        else:
            self._give_back(child)
        if head.get("detail"):
            logger.warning("a parser failed on a document", extra={"detail": head["detail"]})
        return wire.decode_reply(head, body)

    def _exchange(
        self, child: ChildProcess, request: tuple[bytes, bytes]
    ) -> tuple[dict[str, Any], bytes]:
        """Ask the child; it is disposed of when that fails."""
        try:
            return child.exchange(request, self._timeout_seconds)
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
        child = ChildProcess(self._timeout_seconds, self._memory_mb)
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


def _closed() -> UnavailableError:
    return UnavailableError("The server is stopping; send the document again.")
