"""`create_app(settings)`: the HTTP application; nothing happens before its lifespan."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema
from starlette.middleware.cors import CORSMiddleware

from ragdock import __version__
from ragdock.api.addresses import parse_networks
from ragdock.api.auditing import Auditor
from ragdock.api.auth import SECURITY_SCHEMES, Authentication, require_declared
from ragdock.api.feed import Feed
from ragdock.api.gate import Gate
from ragdock.api.headers import SecurityHeaders, cors_options, parse_origins
from ragdock.api.idempotency import HEADER_PARAMETER, Idempotency, takes_key
from ragdock.api.limiting import UNLIMITED_PATHS, KeyRate, RateGate
from ragdock.api.middleware import Envelope
from ragdock.api.problems import install_problem_handlers, problem_responses
from ragdock.api.protocol import ConnectionRules
from ragdock.api.routes import collections, documents, health, jobs, search, urls
from ragdock.api.schemas import (
    AskRequest,
    Problem,
    SearchRequest,
    TextDocuments,
    TextReplacement,
    UrlsRequest,
)
from ragdock.api.signals import before_stopping
from ragdock.bootstrap import DEFAULT_COLLECTION, Services, open_services
from ragdock.core.keys import sha256_hex
from ragdock.core.media import detect_media_type
from ragdock.ports import Embedder, Fetcher
from ragdock.samples import sample_files
from ragdock.settings import Settings
from ragdock.types import Upload

__all__ = ["create_app"]

HEALTH_PLACES = 4
RATE_PLACES = 4
AUDIT_PLACES = 1
AUDIT_WAITING = 10_000
TITLE = "ragdock"
OPENAPI_URL = "/openapi.json"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

log = logging.getLogger(__name__)


def create_app(
    settings: Settings, *, embedder: Embedder | None = None, fetcher: Fetcher | None = None
) -> FastAPI:
    """The application; its lifespan opens the services and closes them in reverse order.

    `embedder` and `fetcher` replace the configured ones (tests).
    """

    trusted = parse_networks(settings.trusted_proxies)
    origins = parse_origins(settings.cors_origins)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, ConnectionRules]]:
        with ExitStack() as stack:
            services = stack.enter_context(
                open_services(settings, work=settings.ingest, embedder=embedder, fetcher=fetcher)
            )
            services.keys.require_some()
            _warn_when_open(services)
            services.keys.start()
            app.state.services = services
            app.state.gate = Gate(settings.max_concurrency, settings.max_waiting, services.metrics)
            stack.callback(app.state.gate.close)
            app.state.health_gate = Gate(HEALTH_PLACES, settings.max_waiting, services.metrics)
            stack.callback(app.state.health_gate.close)
            app.state.feed = feed = Feed(services.store, services.metrics, settings.max_waiting)
            feed.start()
            stack.enter_context(before_stopping(feed.hang_up))
            rate_gate = Gate(RATE_PLACES, settings.max_waiting, services.metrics)
            stack.callback(rate_gate.close)
            app.state.rates = RateGate(services.limits, rate_gate, trusted)
            audit_gate = Gate(AUDIT_PLACES, AUDIT_WAITING, services.metrics)
            stack.callback(audit_gate.close)
            app.state.auditor = (
                None
                if settings.audit == "off"
                else Auditor(services.audit, audit_gate, services.metrics)
            )
            app.state.fetch_gate = Gate(
                urls.FETCHES_AT_ONCE, settings.max_waiting, services.metrics
            )
            stack.callback(app.state.fetch_gate.close)
            app.state.n_waiting = 0
            app.state.started_at = time.monotonic()
            if settings.samples:
                _add_samples(services)
            log.info(
                "ragdock is ready",
                extra={
                    "version": __version__,
                    "environment": settings.environment,
                    "embedder": services.embedder.id,
                    "generator": services.answerer.generator_id,
                    "cache": "redis" if settings.redis_host else "memory",
                },
            )
            yield {"connections": _connection_rules(settings, services)}
            await feed.stop()
        log.info("ragdock has stopped")

    app = FastAPI(
        title=TITLE,
        openapi_url=OPENAPI_URL if settings.docs else None,
        version=__version__,
        description="Documents in, cited answers out.",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        # A later release traces with OpenTelemetry; until then its hooks only cost time.
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    # In order of use: the first that matches is taken, and each that doesn't costs some time. The
    # routes themselves: what `include_router` would add to them they have, and one level of
    # matching less is a tenth of a cached answer.
    routers = [module.router for module in (search, health, collections, documents, jobs, urls)]
    for router in routers:
        require_declared(router.routes)
        app.router.routes.extend(router.routes)
    install_problem_handlers(app, [route for router in routers for route in router.routes])
    # The last one added is the first to see a request. A key has to be known to be limited.
    app.add_middleware(Idempotency)
    app.add_middleware(KeyRate)
    app.add_middleware(Authentication)
    app.add_middleware(
        Envelope,
        settings=settings,
        headers=SecurityHeaders(TITLE, app.openapi_url, trusted),
    )
    if origins:
        app.add_middleware(CORSMiddleware, **cors_options(origins))
    _complete_schema(app)
    return app


def _complete_schema(app: FastAPI) -> None:
    """Add the models that FastAPI can't see: problems, and bodies that routes read themselves."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            bodies = (
                Problem,
                TextDocuments,
                TextReplacement,
                SearchRequest,
                AskRequest,
                UrlsRequest,
            )
            _, extra = models_json_schema(
                [(model, "validation") for model in bodies],
                ref_template="#/components/schemas/{model}",
            )
            components = schema.setdefault("components", {}).setdefault("schemas", {})
            for name, model in extra["$defs"].items():
                components.setdefault(name, model)
            schema["components"]["securitySchemes"] = SECURITY_SCHEMES
            _add_limits(schema)
            _add_idempotency(schema)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's documented way to extend it.


def _connection_rules(settings: Settings, services: Services) -> ConnectionRules:
    return ConnectionRules(
        settings.body_timeout_seconds, settings.max_connections, services.metrics
    )


def _add_limits(schema: dict[str, Any]) -> None:
    """Add what any route may answer before it is entered: too often, too slow, too late."""
    limits = problem_responses(408, 429, 503)
    for path, operations in schema["paths"].items():
        if path not in UNLIMITED_PATHS:
            for operation in operations.values():
                for status, response in limits.items():
                    operation["responses"].setdefault(str(status), response)


def _add_idempotency(schema: dict[str, Any]) -> None:
    """Add the header that all writes take, and what it may be answered by."""
    answers = problem_responses(409, 422)
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if takes_key(method.upper(), path):
                operation.setdefault("parameters", []).append(HEADER_PARAMETER)
                for status, response in answers.items():
                    operation["responses"].setdefault(str(status), response)


def _warn_when_open(services: Services) -> None:
    settings = services.settings
    if not services.keys.is_on and settings.host not in LOOPBACK:
        log.warning(
            "there is no API key: whoever reaches this server can read and delete everything; "
            "`ragdock keys create` makes one",
            extra={"host": settings.host, "environment": settings.environment},
        )


def _add_samples(services: Services) -> None:
    """Ingest the sample corpus into an empty default collection; harmless when done twice."""
    if services.store.collection(DEFAULT_COLLECTION).n_documents:
        return
    uploads = []
    for path in sample_files():
        content = path.read_bytes()
        media_type = detect_media_type(path.name, None, content[:4096])
        if media_type is None:
            continue
        uploads.append(
            Upload(
                document_id=path.name,
                filename=path.name,
                media_type=media_type,
                content=content,
                sha256=sha256_hex(content),
                metadata={"source": "samples"},
            )
        )
    services.ingester.submit(DEFAULT_COLLECTION, uploads)
