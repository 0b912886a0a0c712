"""Uvicorn's HTTP connection, for clients that are slow on purpose.

Uvicorn bounds the time between two requests and nothing else: a header may come a byte a minute
and be of any length, and an answer may wait for its reader for ever. Here each of these has an
end, and connections have a number: who is idle for longest makes room for who comes.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ragdock.ports import Metrics

__all__ = ["ConnectionRules", "GuardedProtocol"]

MAX_HEADER_BYTES: Final = 64 * 1024
SLOWEST_READER_BYTES_PER_SECOND: Final = 500
_TOO_LONG: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionRules:
    """How long a connection may stand still, and how many there may be in this process."""

    patience_seconds: float
    max_connections: int
    metrics: Metrics


class GuardedProtocol(HttpToolsProtocol):
    """One connection. The application's lifespan puts the rules into its state as `connections`."""

    _rules: ConnectionRules | None = None
    _header_timer: asyncio.TimerHandle | None = None
    _reader_timer: asyncio.TimerHandle | None = None
    _n_header_bytes = 0
    _n_unread_bytes = 0
    _idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, if there is room or can be made."""
        self._rules = self.app_state.get("connections")
        if self._rules is not None and len(self.connections) >= self._rules.max_connections:
            self._make_room()
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        if self._rules is None:
            return
        if len(self.connections) > self._rules.max_connections:
            self._close("full")
        else:
            self._expect_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget its timers."""
        self._header_arrived()
        self._reader_reads()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; a header that isn't whole by then has a length and a time."""
        super().data_received(data)
        if self._rules is None or self.transport.is_closing():
            return
        if not self._is_idle:
            self._n_header_bytes = 0
            self._header_arrived()
            return
        # Idle means that no header is whole: what came is a piece of one, or of a body that was
        # refused. Uvicorn has stopped its timer for keeping alive.
        self._n_header_bytes += len(data)
        if self._is_refused_body:
            self._n_header_bytes = 0
        if self._n_header_bytes > MAX_HEADER_BYTES:
            self._rules.metrics.count("connections_closed", reason="header")
            self.transport.write(_TOO_LONG)
            self.transport.close()
        elif self._header_timer is None and self.timeout_keep_alive_task is None:
            self._expect_header()

    def on_response_complete(self) -> None:
        """An answer is written: the connection is idle, unless another request has come."""
        super().on_response_complete()
        self._idle_since = self.loop.time()
        self._n_header_bytes = 0

    def pause_writing(self) -> None:
        """Much is written that the client hasn't read: it has to go on reading."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        self._reader_reads()

    @property
    def _is_idle(self) -> bool:
        return (self.cycle is None or self.cycle.response_complete) and not self.pipeline

    @property
    def _is_refused_body(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete and self.cycle.more_body

    def _make_room(self) -> None:
        idle = [
            other
            for other in self.connections
            if isinstance(other, GuardedProtocol) and other._is_idle  # noqa: SLF001
        ]
        if idle:
            min(idle, key=lambda other: other._idle_since)._close("full")  # noqa: SLF001

    def _close(self, reason: str) -> None:
        if self._rules is not None:
            self._rules.metrics.count("connections_closed", reason=reason)
        # Uvicorn takes it from the set when the transport says so, a turn of the loop later.
        self.connections.discard(self)
        self.transport.abort()

    def _expect_header(self) -> None:
        assert self._rules is not None
        self._header_timer = self.loop.call_later(
            self._rules.patience_seconds, self._close, "header"
        )

    def _header_arrived(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _watch_reader(self) -> None:
        if self._rules is not None:
            self._reader_reads()
            self._n_unread_bytes = self.transport.get_write_buffer_size()
            self._reader_timer = self.loop.call_later(
                self._rules.patience_seconds, self._judge_reader, self._rules.patience_seconds
            )

    def _judge_reader(self, seconds: float) -> None:
        n_read = self._n_unread_bytes - self.transport.get_write_buffer_size()
        if n_read < seconds * SLOWEST_READER_BYTES_PER_SECOND:
            self._close("slow_reader")
        else:
            self._watch_reader()

    def _reader_reads(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None
