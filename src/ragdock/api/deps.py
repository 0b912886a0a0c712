"""What routes need: the services and the gate, from the app's state."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Path, Query, Request

from ragdock.api.auth import principal_of
from ragdock.api.fields import DOCUMENT_ID, NAME
from ragdock.api.gate import Gate
from ragdock.bootstrap import Services
from ragdock.types import Principal

__all__ = [
    "CollectionName",
    "CollectionQuery",
    "DocumentId",
    "GateOf",
    "PrincipalOf",
    "ServicesOf",
    "state_of",
    "wants_fresh",
]


async def _services(request: Request) -> Services:
    return cast("Services", request.app.state.services)


async def _gate(request: Request) -> Gate:
    return cast("Gate", request.app.state.gate)


async def _principal(request: Request) -> Principal:
    return principal_of(request.scope)


PrincipalOf = Annotated[Principal, Depends(_principal)]
ServicesOf = Annotated[Services, Depends(_services)]
GateOf = Annotated[Gate, Depends(_gate)]
CollectionName = Annotated[str, Path(pattern=NAME, description="The collection's name.")]
CollectionQuery = Annotated[str, Query(pattern=NAME, description="The collection's name.")]
DocumentId = Annotated[str, Path(pattern=DOCUMENT_ID, description="The document's id.")]


def state_of(request: Request) -> tuple[Services, Gate]:
    """The same two without FastAPI's resolution, for routes that answer in microseconds."""
    state = request.app.state
    return state.services, state.gate


def wants_fresh(request: Request) -> bool:
    """Whether the caller refuses cached answers (`Cache-Control: no-cache` or `no-store`)."""
    control = request.headers.get("cache-control", "").lower()
    return "no-cache" in control or "no-store" in control
