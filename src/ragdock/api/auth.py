"""Who asks, and what they may: every route declares its right, and is guarded before anything else.

`Authentication` (a middleware) finds out who asks, so that limits can count by key before a body is
read. `Guarded` (the class of every route) refuses who may not, before a parameter or the body is
looked at. `create_app` refuses a route that declares nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final, TypeVar

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from ragdock.api.problems import problem_responses
from ragdock.errors import ForbiddenError, RagdockError, UnauthorizedError
from ragdock.services.keys import Keys
from ragdock.services.tenancy import acting_as
from ragdock.types import Principal, Right

__all__ = [
    "SECURITY_SCHEMES",
    "Authentication",
    "Guarded",
    "guarded_router",
    "principal_of",
    "public",
    "require_declared",
    "requires",
]

SECURITY_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_SECURITY: Final[list[dict[str, list[str]]]] = [{scheme: []} for scheme in SECURITY_SCHEMES]
_NO_KEY: Final = "missing_key"
_ADVICE: Final = (
    "This needs a valid API key: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
)
# What these open is about everybody, so a list of collections excludes it.
_OF_ALL: Final = frozenset({Right.METRICS, Right.ADMIN})
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class _Declared(Enum):
    PUBLIC = "public"


def requires(right: Right) -> Callable[[Endpoint], Endpoint]:
    """Declare the right that a route needs; stands below the router's decorator."""

    def declare(endpoint: Endpoint) -> Endpoint:
        endpoint.__dict__["required_right"] = right
        return endpoint

    return declare


def public(endpoint: Endpoint) -> Endpoint:
    """Declare that a route is for everybody."""
    endpoint.__dict__["required_right"] = _Declared.PUBLIC
    return endpoint


class Authentication:
    """Puts who asks into the scope: `scope["principal"]`, None for nobody that is known."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            keys: Keys = scope["app"].state.services.keys
            scope["token"] = token = _token(scope)
            scope["principal"] = None
            try:
                scope["principal"] = keys.authenticate(token)
            except RagdockError as exc:
                # Told by the routes that need to know; /health must answer all the same.
                scope["authentication_error"] = exc
        await self._app(scope, receive, send)


def _token(scope: Scope) -> str | None:
    """The key that a request carries; a scheme other than Bearer is some proxy's affair."""
    token = None
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return str(value[7:].strip().decode("latin-1"))
        if name == b"x-api-key" and token is None:
            token = str(value.strip().decode("latin-1"))
    return token


class Guarded(APIRoute):
    """A route that is entered only with the right that it declares; without one, admin's."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        declared = getattr(endpoint, "required_right", None)
        self.is_declared = declared is not None
        self.is_public = declared is _Declared.PUBLIC
        self.right = declared if isinstance(declared, Right) else Right.ADMIN
        if not self.is_public:
            options["openapi_extra"] = {
                **(options.get("openapi_extra") or {}),
                "security": _SECURITY,
                "x-required-right": self.right.value,
            }
            options["responses"] = problem_responses(401, 403) | (options.get("responses") or {})
        super().__init__(path, endpoint, **options)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or serve with the caller's collections in sight and no others."""
        principal: Principal | None = scope["principal"]
        # Another method than the route's is answered by 405, whoever asks.
        if not self.is_public and scope["method"] in (self.methods or ()):
            principal = self._admitted(scope, principal)
        with acting_as(principal):
            await super().handle(scope, receive, send)

    def _admitted(self, scope: Scope, principal: Principal | None) -> Principal:
        if principal is None:
            error: RagdockError | None = scope.get("authentication_error")
            if error is not None:
                raise error
            raise UnauthorizedError(_ADVICE, code=None if scope["token"] is not None else _NO_KEY)
        if not principal.may(self.right) or (
            self.right in _OF_ALL and principal.collections is not None
        ):
            raise ForbiddenError(f"This key lacks the right `{self.right.value}`.")
        return principal


def guarded_router(prefix: str = "", *, tags: list[str | Enum]) -> APIRouter:
    """A router whose routes are `Guarded`."""
    return APIRouter(prefix=prefix, tags=tags, route_class=Guarded)


def require_declared(routes: Iterable[BaseRoute]) -> None:
    """Raise `TypeError`, naming the route, when one has declared no right."""
    for route in routes:
        if not isinstance(route, Guarded) or not route.is_declared:
            methods = ", ".join(sorted(getattr(route, "methods", None) or ()))
            raise TypeError(
                f"{methods} {getattr(route, 'path', route)} declares no right: make its router "
                "with guarded_router, and put @requires(Right....) or @public above its function."
            )


def principal_of(scope: Scope) -> Principal:
    """Who asks, in a route that only somebody can enter."""
    principal = scope["principal"]
    assert isinstance(principal, Principal)
    return principal
