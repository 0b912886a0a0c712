"""Response headers that keep browsers from doing more than they should."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import Any, Final

from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.types import Scope

from ragdock.api.addresses import Networks, is_trusted_peer
from ragdock.errors import ConfigurationError

__all__ = ["SecurityHeaders", "cors_options", "parse_origins"]

_Headers = tuple[tuple[bytes, bytes], ...]

_ALWAYS: Final[_Headers] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
_API_POLICY: Final = (
    b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_HSTS: Final = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")
_NO_STORE: Final = (b"cache-control", b"no-store")
_SCRIPT: Final = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_ORIGIN: Final = re.compile(r"https?://[^/?#\s,*@]+")
DOCS_PATHS: Final = ("/docs", "/redoc")


def parse_origins(text: str) -> tuple[str, ...]:
    """`https://a.example, https://b.example` as origins; raises `ConfigurationError`."""
    origins = tuple(filter(None, (part.strip() for part in text.split(","))))
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ConfigurationError(
                f"RAG_CORS_ORIGINS={text!r}: {origin!r} is no origin; give scheme, host and port "
                "without a path, such as https://app.example.com, separated by commas."
            )
    return origins


def cors_options(origins: Sequence[str]) -> dict[str, Any]:
    """Starlette's options for pages of these origins. Keys travel in a header and cookies don't
    exist, so credentials stay off, and `*` opens nothing that a program couldn't do anyway.
    """
    return {
        "allow_origins": list(origins),
        "allow_methods": ["GET", "POST", "PUT", "DELETE"],
        "allow_headers": [
            "Authorization",
            "Cache-Control",
            "Content-Type",
            "Idempotency-Key",
            "Last-Event-ID",
            "X-API-Key",
            "X-Request-ID",
        ],
        "allow_credentials": False,
        "expose_headers": [
            "Location",
            "RateLimit",
            "RateLimit-Policy",
            "Retry-After",
            "X-Cache",
            "X-Request-ID",
        ],
        "max_age": 600,
    }


class SecurityHeaders:
    """The headers of an answer. An API's answers are no pages: nothing may run or be framed.

    FastAPI's two documentation pages load their scripts from a CDN, and hold one short script,
    which is allowed by its hash.
    """

    def __init__(self, title: str, openapi_url: str | None, trusted: Networks) -> None:
        self._trusted = trusted
        self._api = (*_ALWAYS, (b"content-security-policy", _API_POLICY))
        self._by_path: dict[str, _Headers] = {}
        if openapi_url is not None:
            policy = (b"content-security-policy", _docs_policy(title, openapi_url))
            self._by_path = dict.fromkeys(DOCS_PATHS, (*_ALWAYS, policy))

    def of(self, scope: Scope, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """What is added to an answer that has these headers."""
        added = list(self._by_path.get(scope["path"], self._api) if self._by_path else self._api)
        if not any(name == b"cache-control" for name, _ in headers):
            added.append(_NO_STORE)
        if scope.get("scheme") == "https" or self._came_by_tls(scope):
            added.append(_HSTS)
        return added

    def _came_by_tls(self, scope: Scope) -> bool:
        # Only a proxy that is trusted knows. Anybody may write the header, and a browser that
        # believes HSTS can't open a server that has no TLS any more.
        if not self._trusted:
            return False
        return is_trusted_peer(scope, self._trusted) and any(
            name == b"x-forwarded-proto" and value.split(b",")[-1].strip() == b"https"
            for name, value in scope["headers"]
        )


def _docs_policy(title: str, openapi_url: str) -> bytes:
    pages = (
        get_swagger_ui_html(
            openapi_url=openapi_url,
            title=f"{title} - Swagger UI",
            oauth2_redirect_url="/docs/oauth2-redirect",
        ),
        get_redoc_html(openapi_url=openapi_url, title=f"{title} - ReDoc"),
    )
    scripts = [script for page in pages for script in _SCRIPT.findall(bytes(page.body).decode())]
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    cdn = "https://cdn.jsdelivr.net"
    return (
        f"default-src 'none'; script-src {cdn} {hashes}; "
        # Both pages write style elements as they go.
        f"style-src {cdn} 'unsafe-inline' https://fonts.googleapis.com; "
        "font-src https://fonts.gstatic.com; img-src 'self' data: https://fastapi.tiangolo.com "
        "https://cdn.redoc.ly; connect-src 'self'; worker-src blob:; frame-ancestors 'none'; "
        "base-uri 'none'; form-action 'none'"
    ).encode()
