"""A tenant's store, method by method: nothing reaches the real one under a hidden name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from ragdock.errors import ForbiddenError, NotFoundError, RagdockError, collection_not_found
from ragdock.ports import Store
from ragdock.services.tenancy import TenantStore, acting_as
from ragdock.types import Job, JobKind, JobState, Principal, Right

HIDDEN, OWN = "hidden", "own"
TENANT = Principal("id", "tenant", frozenset({Right.READ, Right.WRITE}), frozenset({OWN}))
ADMIN = Principal("admin", "admin", frozenset({Right.ADMIN}))
JOB = Job(
    1, "x", HIDDEN, "d", JobKind.INDEX, JobState.FAILED, "d.md", "text/plain", 1, "", {}, 1,
    None, None, None, 0.0, 0.0,
)  # fmt: skip
METHODS = sorted(
    name for name, _ in inspect.getmembers(Store, inspect.isfunction) if name[0] != "_"
)
# What a worker does with jobs that it was given, and what belongs to no collection.
FOR_WORKERS = {
    "claim", "close", "commit_document", "expand", "fail", "last_change", "oldest", "ping",
    "progress", "purge", "queue_bytes", "queue_depth", "release", "renew", "secret", "spool",
    "stage", "workers",
}  # fmt: skip


class Spied:
    """Answers every call, and notes it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, method: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append((method, (arguments, options)))
            if "\x00" in arguments:
                if method == "peek_state_key":
                    return None
                raise collection_not_found("\x00")
            if method == "job":
                return JOB
            return () if method in ("jobs", "collections", "job_changes") else method

        return call


@pytest.fixture
def spied() -> Spied:
    return Spied()


@pytest.fixture
def tenant(spied: Spied) -> Iterator[TenantStore]:
    with acting_as(TENANT):
        yield TenantStore(spied)  # type: ignore[arg-type]


def arguments_of(method: str, name: str) -> dict[str, Any]:
    """Arguments for every parameter that has no default, `name` for the collection's."""
    given: dict[str, Any] = {}
    for parameter in list(inspect.signature(getattr(Store, method)).parameters.values())[1:]:
        if parameter.name in ("collection", "name"):
            given[parameter.name] = name
        elif parameter.name == "collections":
            given[parameter.name] = [name]
        elif parameter.default is inspect.Parameter.empty:
            given[parameter.name] = 1
    return given


def asked(call: Any, arguments: dict[str, Any]) -> Any:
    """What it answers, or the error that it raises."""
    try:
        return call(**arguments)
    except RagdockError as exc:
        return exc


@pytest.mark.parametrize("method", METHODS)
def test_it_has_every_method_of_a_store(method: str) -> None:
    """The same parameters, so that whoever adds one decides what a tenant may see by it."""
    real, own = (inspect.signature(getattr(owner, method)) for owner in (Store, TenantStore))
    assert str(own) == str(real)


@pytest.mark.parametrize("method", sorted(set(METHODS) - FOR_WORKERS))
def test_a_hidden_name_never_arrives(tenant: TenantStore, spied: Spied, method: str) -> None:
    """The tenant is told that there is nothing, and the store isn't even asked."""
    found = asked(getattr(tenant, method), arguments_of(method, HIDDEN))
    assert found in ((), None) or isinstance(found, NotFoundError | ForbiddenError)
    assert HIDDEN not in repr(spied.calls)
    # Looking at whose job it is may be all that is done with it.
    assert [name for name, _ in spied.calls if name in ("retry", "cancel", "open_content")] == []


@pytest.mark.parametrize("method", sorted(set(METHODS) - FOR_WORKERS))
def test_an_own_name_is_passed_on(tenant: TenantStore, spied: Spied, method: str) -> None:
    """The tenant's own collection is asked for as it is."""
    given = arguments_of(method, OWN)
    if {"collection", "name", "collections"} & set(given):
        getattr(tenant, method)(**given)
        assert OWN in repr(spied.calls)
        assert spied.calls[-1][0] == method


@pytest.mark.parametrize("principal", [None, replace(TENANT, collections=frozenset())])
def test_nobody_sees_nothing(spied: Spied, principal: Principal | None) -> None:
    """For a caller who showed no key there is no collection at all, whatever a route does."""
    with acting_as(principal):
        store = TenantStore(spied)  # type: ignore[arg-type]
        assert store.collections() == ()
        assert store.jobs() == ()
        with pytest.raises(NotFoundError):
            store.collection("default")


def test_an_admin_and_a_worker_see_all(spied: Spied) -> None:
    """A key without a list, and work that nobody asked for by HTTP, reach everything."""
    store = TenantStore(spied)  # type: ignore[arg-type]
    assert store.job(1) is JOB
    with acting_as(ADMIN):
        assert store.job(1) is JOB
        assert store.collection(HIDDEN) == "collection"
        with acting_as(TENANT), pytest.raises(NotFoundError):
            store.job(1)
        assert store.job(1) is JOB
