"""`/v1/collections`."""

from __future__ import annotations

from fastapi import Request, Response

from ragdock.api.auditing import about
from ragdock.api.auth import guarded_router, requires
from ragdock.api.deps import CollectionName, GateOf, ServicesOf
from ragdock.api.problems import problem_responses
from ragdock.api.schemas import CollectionBody, CollectionList, CollectionRequest
from ragdock.bootstrap import DEFAULT_COLLECTION
from ragdock.errors import ConflictError
from ragdock.types import Right

__all__ = ["router"]

router = guarded_router("/v1/collections", tags=["collections"])


@router.get("", response_model_exclude_none=True, responses=problem_responses(503))
@requires(Right.READ)
async def list_collections(services: ServicesOf, gate: GateOf) -> CollectionList:
    """All collections, by name."""
    found = await gate.run(services.store.collections)
    return CollectionList(collections=[CollectionBody.of(collection) for collection in found])


@router.post(
    "",
    status_code=201,
    response_model_exclude_none=True,
    responses=problem_responses(400, 409, 413, 422, 503),
)
@requires(Right.WRITE)
async def create_collection(
    request: Request, body: CollectionRequest, services: ServicesOf, gate: GateOf
) -> CollectionBody:
    """Make an empty collection."""
    about(request, collection=body.name)
    created = await gate.run(
        services.store.create_collection, body.name, services.fingerprint, services.embedder.dim
    )
    return CollectionBody.of(created)


@router.get("/{name}", response_model_exclude_none=True, responses=problem_responses(404, 422, 503))
@requires(Right.READ)
async def get_collection(
    name: CollectionName, services: ServicesOf, gate: GateOf
) -> CollectionBody:
    """One collection."""
    return CollectionBody.of(await gate.run(services.store.collection, name))


@router.delete("/{name}", status_code=204, responses=problem_responses(404, 409, 422, 503))
@requires(Right.WRITE)
async def drop_collection(name: CollectionName, services: ServicesOf, gate: GateOf) -> Response:
    """Remove a collection and all its documents."""
    if name == DEFAULT_COLLECTION:
        await gate.run(services.store.collection, name)  # It needn't exist for the caller.
        raise ConflictError(
            f"The collection {name!r} always exists; delete its documents instead.",
            field="path.name",
        )
    await gate.run(services.store.drop_collection, name)
    return Response(status_code=204)
