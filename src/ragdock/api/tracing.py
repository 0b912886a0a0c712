"""A request as a span, named and described by OpenTelemetry's conventions for HTTP servers.

https://opentelemetry.io/docs/specs/semconv/http/http-spans. Paths hold document ids, which may be
made of file names, so the route's template stands for them; addresses and keys aren't recorded.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import Scope

from ragdock.ports import Span

__all__ = ["describe", "trace_headers"]

_METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)


def trace_headers(scope: Scope) -> Mapping[str, str]:
    """The request's headers, where a caller's trace may be named; the first of each name counts."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    return found


def describe(span: Span, scope: Scope, status: int, request_id: str) -> None:
    """What is known of a request once it is answered."""
    method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
    route = getattr(scope.get("route"), "path", None)
    title = "HTTP" if method == "_OTHER" else method
    span.rename(f"{title} {route}" if route else title)
    span.note(
        {
            "http.request.method": method,
            "http.response.status_code": status,
            "url.scheme": scope.get("scheme", "http"),
            "network.protocol.version": scope.get("http_version", "1.1"),
            "ragdock.request_id": request_id,
            **({"http.route": route} if route else {}),
        }
    )
    if status >= 500:
        span.fail(str(status))
