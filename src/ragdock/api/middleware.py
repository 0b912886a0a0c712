"""One ASGI middleware: request id, trace, limits, deadlines, headers, metrics, access log."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragdock.api.clock import BODY, DEADLINE, RequestClock, request_clock
from ragdock.api.headers import SecurityHeaders
from ragdock.api.limiting import RateGate, rate_headers
from ragdock.api.problems import problem
from ragdock.api.tracing import describe, trace_headers
from ragdock.core.patience import patience
from ragdock.logs import request_id
from ragdock.ports import Metrics, Span, Tracer
from ragdock.settings import Settings

__all__ = ["Envelope"]

log = logging.getLogger("ragdock.access")

_GOOD_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_QUIET: Final = frozenset({"/livez", "/readyz", "/health", "/metrics"})
SMALL_BODY_BYTES: Final = 2**20
BODIES_AT_ONCE: Final = 4
SLOWEST_BYTES_PER_SECOND: Final = 500
"""A body that comes slower than this is cut off, as by Apache's mod_reqtimeout (MinRate=500)."""
CLIENT_LEFT: Final = 499
"""nginx's status for a client that closed its connection before the answer; nobody receives it."""
_LATER: Final = {"Retry-After": "1"}
_TOO_MANY_BODIES: Final = "Too many large requests at once; retry shortly."
_CLOSE: Final = (b"connection", b"close")


class Envelope:
    """Wraps every request. A plain ASGI class: the helper class of Starlette costs a task more.

    A body may have `max_request_mb` where documents are uploaded and 1 MiB elsewhere; all bodies
    that are being worked on may have four times the larger limit together, whatever their number.
    """

    def __init__(self, app: ASGIApp, settings: Settings, headers: SecurityHeaders) -> None:
        self._app = app
        self._headers = headers
        self._timeout_seconds = settings.request_timeout_seconds
        self._body_seconds = settings.body_timeout_seconds
        self._max_body_bytes = settings.max_request_mb * 2**20
        self._max_total_bytes = BODIES_AT_ONCE * self._max_body_bytes
        self._total_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        tracer: Tracer = scope["app"].state.services.tracer
        if not tracer.is_on or scope["path"] in _QUIET:
            await self._exchanged(scope, receive, send)
            return
        with tracer.request(scope["method"], trace_headers(scope)) as span:
            await self._exchanged(scope, receive, send, span)

    async def _exchanged(
        self, scope: Scope, receive: Receive, send: Send, span: Span | None = None
    ) -> None:
        token = request_id.set(_request_id(scope))
        metrics: Metrics = scope["app"].state.services.metrics
        metrics.count("in_flight")
        clock = RequestClock(receive, self._timeout_seconds, self._body_seconds)
        waiting = patience.set(clock.patience), request_clock.set(clock)
        exchange = _Exchange(self, scope, receive, send, clock, metrics)
        try:
            await self._guarded(exchange)
        finally:
            clock.stop()
            patience.reset(waiting[0])
            request_clock.reset(waiting[1])
            self._total_bytes -= exchange.n_held
            metrics.count("in_flight", -1)
            _record(metrics, scope, exchange.status or 500, exchange.seconds)
            if span is not None:
                describe(span, scope, exchange.status or 500, request_id.get() or "")
            request_id.reset(token)

    async def _guarded(self, exchange: _Exchange) -> None:
        """Serve; whatever goes wrong is an answer, unless one has begun."""
        clock = exchange.clock
        try:
            clock.work()
            await self._serve(exchange)
        except asyncio.CancelledError:
            if clock.reason is None:
                if not exchange.status:  # The server stops; this request had all the time it gets.
                    log.warning("request cut off: the server stops")
                    await exchange.answer(_stopping())
                raise
            await self._given_up(exchange)
        except ClientDisconnect:
            exchange.status = exchange.status or CLIENT_LEFT
        except Exception:
            log.exception("request failed unexpectedly")
            if exchange.status:
                raise  # The answer has begun; the connection must break, so that nobody trusts it.
            await exchange.answer(
                problem(500, "internal", "The server failed; the log has the cause.")
            )
        if clock.reason is not None:
            _require_uncancelled()

    async def _serve(self, exchange: _Exchange) -> None:
        rates: RateGate = exchange.scope["app"].state.rates
        refusal = exchange.refusal() or await rates.admit_address(exchange.scope)
        if refusal is not None:
            await exchange.answer(refusal)
            return
        await self._app(exchange.scope, exchange.receive, exchange.send)
        if exchange.status == 401:
            await rates.refused_key(exchange.scope)

    async def _given_up(self, exchange: _Exchange) -> None:
        if exchange.status:
            return
        if exchange.clock.reason == DEADLINE:
            exchange.metrics.count("refused", reason="deadline")
            late = f"The work took longer than {self._timeout_seconds:g} s"
            await exchange.answer(
                problem(
                    503,
                    "deadline_exceeded",
                    f"{late} (RAG_REQUEST_TIMEOUT_SECONDS); retry later.",
                    headers=_LATER,
                )
            )
        elif exchange.clock.reason == BODY:
            exchange.metrics.count("refused", reason="slow_body")
            await exchange.answer(
                problem(
                    408,
                    "body_timeout",
                    "The body came too slowly: for each piece there are "
                    f"{self._body_seconds:g} s (RAG_BODY_TIMEOUT_SECONDS).",
                )
            )
        else:
            exchange.status = CLIENT_LEFT

    def limit(self, path: str) -> int:
        """The largest body of a route, in bytes."""
        return self._max_body_bytes if path.startswith("/v1/documents") else SMALL_BODY_BYTES

    def headers_of(self, scope: Scope, headers: list[tuple[bytes, bytes]]) -> _Headers:
        """The headers that every answer gets."""
        return self._headers.of(scope, headers)

    def is_too_slow(self, n_bytes: int, seconds: float) -> bool:
        """Whether a body that has come so far has taken too long for it."""
        return seconds > self._body_seconds + n_bytes / SLOWEST_BYTES_PER_SECOND

    def take(self, n_bytes: int) -> bool:
        """Count bytes of a body; False when all bodies together are too large."""
        self._total_bytes += n_bytes
        return self._total_bytes <= self._max_total_bytes

    def has_room(self, n_bytes: int) -> bool:
        """Whether a body of that size fits beside the others."""
        return self._total_bytes + n_bytes <= self._max_total_bytes


_Headers = list[tuple[bytes, bytes]]


class _Exchange:
    """A request and its answer: the body counted and timed as it arrives, the head completed."""

    def __init__(
        self,
        envelope: Envelope,
        scope: Scope,
        receive: Receive,
        send: Send,
        clock: RequestClock,
        metrics: Metrics,
    ) -> None:
        self._envelope = envelope
        self.scope = scope
        self._receive = receive
        self._send = send
        self.clock = clock
        self.metrics = metrics
        self._start = time.perf_counter()
        self._max_bytes = envelope.limit(scope["path"])
        self._n_declared = _content_length(scope)
        self._is_form = _is_form(scope)
        self.n_bytes = 0
        self.status = 0
        # Known without reading: without a length there is no body, unless it comes in chunks.
        self._is_empty = clock.has_body = self._n_declared == 0

    @property
    def seconds(self) -> float:
        """Since the request came."""
        return time.perf_counter() - self._start

    async def answer(self, response: Response) -> None:
        """Send a whole answer."""
        await response(self.scope, self._receive, self.send)

    def refusal(self) -> Response | None:
        """The answer to a body that is too large by its own declaration."""
        if self._n_declared > self._max_bytes:
            return problem(413, "too_large", self._too_large())
        is_held = self._n_declared > 0 and not self._is_form
        if is_held and not self._envelope.has_room(self._n_declared):
            self.metrics.count("refused", reason="bodies")
            return problem(503, "overloaded", _TOO_MANY_BODIES, headers=_LATER)
        return None

    async def send(self, message: Message) -> None:
        """Pass on a piece of the answer; its head with what every answer carries."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.clock.stop()
            headers = list(message.get("headers", ()))
            headers += self._envelope.headers_of(self.scope, headers)
            headers.append((b"x-request-id", (request_id.get() or "").encode()))
            rates = self.scope.get("rates")
            if rates:
                headers += rate_headers(rates)
            if not self.clock.has_body:
                # What is still to come of the body belongs to no request that could follow.
                headers.append(_CLOSE)
            message["headers"] = headers
            await self._audit()
        await self._send(message)

    async def _audit(self) -> None:
        state = self.scope["app"].state
        if state.auditor is not None:
            address = state.rates.address(self.scope)
            await state.auditor.answered(self.scope, address, self.status)

    async def receive(self) -> Message:
        """The next message; refused once there are too many bytes, or they come too slowly."""
        if self._is_empty:
            # The server's own word may have gone to the clock, which listens from the beginning.
            self._is_empty = False
            return {"type": "http.request", "body": b"", "more_body": False}
        if self.clock.has_body or self.status:
            return await self._receive()
        self.clock.wait_for_body()
        message = await self._receive()
        self.clock.work()
        if message["type"] != "http.request":
            return message
        self.clock.has_body = not message.get("more_body", False)
        n_bytes = len(message.get("body", b""))
        if n_bytes:
            self._count(n_bytes)
        if not self.clock.has_body and self._envelope.is_too_slow(self.n_bytes, self.seconds):
            self.clock.give_up(BODY)
            await asyncio.sleep(0)  # Where the cancellation arrives.
        return message

    @property
    def n_held(self) -> int:
        """Bytes of the body that count as memory."""
        return 0 if self._is_form else self.n_bytes

    def _count(self, n_bytes: int) -> None:
        self.n_bytes += n_bytes
        # A form's files go to the disk as they come; `services.intake` has the limit of that.
        has_room = self._is_form or self._envelope.take(n_bytes)
        # FastAPI makes a 400 of any other exception that is raised while a body is read.
        if self.n_bytes > self._max_bytes:
            raise HTTPException(413, self._too_large())
        if not has_room:
            self.metrics.count("refused", reason="bodies")
            raise HTTPException(503, _TOO_MANY_BODIES, _LATER)

    def _too_large(self) -> str:
        if self._max_bytes == SMALL_BODY_BYTES:
            return "The body is larger than 1 MiB, the limit of this route."
        return (
            f"The body is larger than {self._max_bytes // 2**20} MiB (RAG_MAX_REQUEST_MB); "
            "send fewer or smaller files."
        )


def _require_uncancelled() -> None:
    """Take back the clock's own cancellation; when the server has cancelled too, that counts."""
    task = asyncio.current_task()
    assert task is not None
    if task.uncancel() > 0:
        raise asyncio.CancelledError


def _stopping() -> Response:
    return problem(503, "stopping", "The server is stopping; retry.", headers=_LATER)


def _record(metrics: Metrics, scope: Scope, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", None) or "unmatched"
    method = scope["method"]
    metrics.observe(
        "requests",
        seconds,
        route=route,
        method=method if route != "unmatched" else "any",
        status=str(status),
    )
    level = logging.DEBUG if route in _QUIET else logging.INFO
    if log.isEnabledFor(level):
        log.log(
            level,
            "%s %s %d",
            method,
            route if route != "unmatched" else "(unmatched)",
            status,
            extra={"ms": round(seconds * 1000, 2)},
        )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _GOOD_ID.fullmatch(value):
            return str(value.decode("ascii"))
    return secrets.token_hex(8)


def _is_form(scope: Scope) -> bool:
    return any(
        name == b"content-type" and value.lower().startswith(b"multipart/form-data")
        for name, value in scope["headers"]
    )


def _content_length(scope: Scope) -> int:
    """Bytes of the body as declared; -1 when it comes in chunks."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
        if name == b"transfer-encoding":
            return -1
    return 0
