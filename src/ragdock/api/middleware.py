"""One ASGI middleware: request id, body limit, security headers, metrics, access log."""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragdock.api.problems import problem
from ragdock.logs import request_id
from ragdock.ports import Metrics

__all__ = ["Envelope"]

_GOOD_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_QUIET: Final = frozenset({"/livez", "/readyz", "/health", "/metrics"})
_SECURITY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)

log = logging.getLogger("ragdock.access")


class Envelope:
    """Wraps every request. A plain ASGI class: the helper class of Starlette costs a task more."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

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
        try:
            if _content_length(scope) > self._max_body_bytes:
                await self._too_large()(scope, receive, sending)
            else:
                await self._app(scope, self._limited(receive), sending)
        except Exception:
            log.exception("request failed unexpectedly")
            if status:
                raise  # The answer has begun; the connection must break, so that nobody trusts it.
            failed = problem(500, "internal", "The server failed; the log has the cause.")
            await failed(scope, receive, sending)
        finally:
            metrics.count("in_flight", -1)
            _record(metrics, scope, status or 500, time.perf_counter() - start)
            request_id.reset(token)

    def _too_large(self) -> ASGIApp:
        return problem(
            413,
            "too_large",
            f"The body is larger than {self._max_body_bytes // 2**20} MiB "
            "(RAG_MAX_REQUEST_MB); send fewer or smaller files.",
            headers={"Connection": "close"},
        )

    def _limited(self, receive: Receive) -> Receive:
        n_bytes = 0

        async def receiving() -> Message:
            nonlocal n_bytes
            message = await receive()
            if message["type"] == "http.request":
                n_bytes += len(message.get("body", b""))
                if n_bytes > self._max_body_bytes:
                    raise HTTPException(413, "The body is larger than RAG_MAX_REQUEST_MB allows.")
            return message

        return receiving


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
