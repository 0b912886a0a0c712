"""Health, readiness, liveness, metrics, and the front door."""

from __future__ import annotations

import time
from typing import Any

from fastapi import Request, Response
from starlette.responses import JSONResponse

from ragdock import __version__
from ragdock.api.auth import guarded_router, public, requires
from ragdock.api.deps import ServicesOf
from ragdock.api.schemas import DependencyBody, HealthBody, StatusBody
from ragdock.bootstrap import Services
from ragdock.errors import RagdockError
from ragdock.services.readiness import Report
from ragdock.types import Right

__all__ = ["router"]

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

router = guarded_router(tags=["operations"])


@router.get("/", include_in_schema=False)
@public
async def front_door(request: Request) -> dict[str, str]:
    """Where things are."""
    app = request.app
    docs = {"docs": app.docs_url, "openapi": app.openapi_url} if app.openapi_url else {}
    return {"name": "ragdock", "version": __version__, **docs, "health": "/health"}


@router.get(
    "/health",
    response_model=HealthBody | StatusBody,
    responses={
        503: {"model": HealthBody | StatusBody, "description": "A required dependency is down."}
    },
)
@public
async def health(request: Request, services: ServicesOf) -> Response:
    """Ask every dependency: 200 when the server can serve (`ok`, `degraded`), else 503.

    The details are for who sees all collections; to others it tells the status alone.
    """
    report, queue = await _ask(request, services)
    principal = request.scope["principal"]
    if principal is None or principal.collections is not None:
        # Counts and causes are about everybody's documents.
        return _reported({"status": report.status}, report)
    body = HealthBody(
        status=report.status,
        version=__version__,
        environment=services.settings.environment,
        uptime_seconds=round(time.monotonic() - request.app.state.started_at, 3),
        dependencies=[
            DependencyBody(
                name=check.name,
                status=check.status,
                latency_ms=check.latency_ms,
                required=check.required,
                detail=check.detail,
            )
            for check in report.checks
        ],
        queue=queue,
    )
    return _reported(body.model_dump(), report)


@router.get(
    "/readyz",
    response_model=StatusBody,
    responses={503: {"model": StatusBody, "description": "A required dependency is down."}},
)
@public
async def readiness(request: Request, services: ServicesOf) -> Response:
    """The same verdict as /health in one word."""
    report, _ = await _ask(request, services)
    return _reported({"status": report.status}, report)


@router.get("/livez")
@public
async def liveness() -> StatusBody:
    """The process runs; asks nothing."""
    return StatusBody(status="ok")


@router.get("/metrics", include_in_schema=False)
@requires(Right.METRICS)
async def metrics(request: Request, services: ServicesOf) -> Response:
    """All metrics, for Prometheus."""
    text = await request.app.state.health_gate.run(_render, services)
    return Response(text, media_type=METRICS_TYPE)


def _render(services: Services) -> bytes:
    report = services.readiness.report()
    return services.metrics.render(services.vitals.measure(report))


async def _ask(request: Request, services: Services) -> tuple[Report, dict[str, int]]:
    # Its own small pool: a server full of requests is busy, not dead.
    gate = request.app.state.health_gate
    report: Report = await gate.run(services.readiness.report)
    queue: dict[str, int] = await gate.run(_queue, services)
    return report, queue


def _queue(services: Services) -> dict[str, int]:
    try:
        depth = services.store.queue_depth()
    except RagdockError:
        return {}
    return {state.value: n_documents for state, n_documents in depth.items()}


def _reported(body: dict[str, Any], report: Report) -> Response:
    return JSONResponse(body, 503 if report.status == "unavailable" else 200)
