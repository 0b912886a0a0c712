"""One ASGI middleware: request id, body limits, security headers, metrics, access log."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragdock.api.problems import problem
from ragdock.logs import request_id
from ragdock.ports import Metrics

__all__ = ["Envelope"]

_GOOD_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_QUIET: Final = frozenset({"/livez", "/readyz", "/health", "/metrics"})
SMALL_BODY_BYTES: Final = 2**20
BODIES_AT_ONCE: Final = 4
_LATER: Final = {"Retry-After": "1"}
_TOO_MANY_BODIES: Final = "Too many large requests at once; retry shortly."
_SECURITY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)

log = logging.getLogger("ragdock.access")


class Envelope:
    """Wraps every request. A plain ASGI class: the helper class of Starlette costs a task more.

    A body may have `max_body_bytes` where documents are uploaded and 1 MiB elsewhere; all bodies
    that are being worked on may have four times the larger limit together, whatever their number.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._max_total_bytes = BODIES_AT_ONCE * max_body_bytes
        self._total_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = _request_id(scope)
        token = request_id.set(identity)
        metrics: Metrics = scope["app"].state.services.metrics
        start = time.perf_counter()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", identity.encode()),
                    *_SECURITY,
                ]
            await send(message)

        metrics.count("in_flight")
        body = _Body(self, receive, self._limit(scope["path"]), metrics)
        try:
            refusal = body.refusal(_content_length(scope))
            if refusal is not None:
                await refusal(scope, receive, sending)
            else:
                await self._app(scope, body.receive, sending)
        except asyncio.CancelledError:
            if not status:  # The server stops, and this request had all the time there was.
                log.warning("request cut off: the server stops")
                await _stopping()(scope, receive, sending)
            raise
        except Exception:
            log.exception("request failed unexpectedly")
            if status:
                raise  # The answer has begun; the connection must break, so that nobody trusts it.
            failed = problem(500, "internal", "The server failed; the log has the cause.")
            await failed(scope, receive, sending)
        finally:
            self._total_bytes -= body.n_bytes
            metrics.count("in_flight", -1)
            _record(metrics, scope, status or 500, time.perf_counter() - start)
            request_id.reset(token)

    def _limit(self, path: str) -> int:
        return self._max_body_bytes if path.startswith("/v1/documents") else SMALL_BODY_BYTES

    def take(self, n_bytes: int) -> bool:
        """Count bytes of a body; False when all bodies together are too large."""
        self._total_bytes += n_bytes
        return self._total_bytes <= self._max_total_bytes

    def has_room(self, n_bytes: int) -> bool:
        """Whether a body of that size fits beside the others."""
        return self._total_bytes + n_bytes <= self._max_total_bytes


class _Body:
    """A request's body, counted as it arrives."""

    def __init__(
        self, envelope: Envelope, receive: Receive, max_bytes: int, metrics: Metrics
    ) -> None:
        self._envelope = envelope
        self._receive = receive
        self._max_bytes = max_bytes
        self._metrics = metrics
        self.n_bytes = 0

    def refusal(self, n_declared: int) -> Response | None:
        """The answer to a body that is too large by its own declaration."""
        if n_declared > self._max_bytes:
            return problem(413, "too_large", self._too_large())
        if n_declared and not self._envelope.has_room(n_declared):
            self._metrics.count("refused", reason="bodies")
            return problem(503, "overloaded", _TOO_MANY_BODIES, headers=_LATER)
        return None

    async def receive(self) -> Message:
        """The next message, refused once there are too many bytes."""
        message = await self._receive()
        n_bytes = len(message.get("body", b"")) if message["type"] == "http.request" else 0
        if n_bytes:
            self.n_bytes += n_bytes
            has_room = self._envelope.take(n_bytes)
            # FastAPI makes a 400 of any other exception that is raised while a body is read.
            if self.n_bytes > self._max_bytes:
                raise HTTPException(413, self._too_large())
            if not has_room:
                self._metrics.count("refused", reason="bodies")
                raise HTTPException(503, _TOO_MANY_BODIES, _LATER)
        return message

    def _too_large(self) -> str:
        if self._max_bytes == SMALL_BODY_BYTES:
            return "The body is larger than 1 MiB, the limit of this route."
        return (
            f"The body is larger than {self._max_bytes // 2**20} MiB (RAG_MAX_REQUEST_MB); "
            "send fewer or smaller files."
        )


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


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
