"""`Idempotency-Key`: a write that is sent again is answered as the first time, and not done again.

As the IETF's draft-ietf-httpapi-idempotency-key-header-07 has it: the same key with another request
is 422, with one that is still being worked on 409. Answers are kept for a day, for each API key,
method and path by themselves. What went wrong on the server's side (5xx), or will be different
later by nature (401, 403, 408, 413, 429), isn't kept: sending it again is a new attempt.

A crash between a write and its answer leaves a request that nobody works on: it is done again, and
finds its work done, because the same content under the same id is the same document.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import Any, Final

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ragdock.api.gate import Gate
from ragdock.api.problems import problem, problem_of
from ragdock.errors import ConflictError, InputError, RagdockError
from ragdock.ports import Answers
from ragdock.types import KeptAnswer, Principal

__all__ = ["HEADER_PARAMETER", "Idempotency", "RequestDigest", "takes_key"]

WRITES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
READS_BY_POST: Final = frozenset({"/v1/search", "/v1/ask"})
MAX_BODY_BYTES: Final = 16 * 2**20
_NAME: Final = b"idempotency-key"
_LONGEST: Final = 200
_GOOD: Final = re.compile(rb"[\x21-\x7e]{1,%d}" % _LONGEST)
_NOT_KEPT: Final = frozenset({401, 403, 408, 413, 429})
_KEPT_HEADERS: Final = frozenset({"content-type", "location", "allow", "www-authenticate"})
_BOUNDARY: Final = re.compile(rb'boundary="?([^";,\s]+)', re.IGNORECASE)


HEADER_PARAMETER: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A name of the sender's choice for this request: within a day the same request "
    "with the same key gets the first answer (with the header `Idempotency-Replayed: true`) and is "
    "not done again. Another request with that key is 422, one while the first is in work 409.",
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": _LONGEST,
        "pattern": r"^[\x21-\x7E]+$",
    },
}
"""As OpenAPI has it, for the operations that `takes_key` names."""


def takes_key(method: str, path: str) -> bool:
    """Whether requests of that kind are done once for each key."""
    return method in WRITES and path not in READS_BY_POST


class RequestDigest:
    """What tells two requests apart: the query, the kind of content, and the body.

    A form's boundary is made up anew for each request, so it counts as a mark and not by its text.
    """

    def __init__(self, scope: Scope) -> None:
        content_type = _header(scope, b"content-type") or b""
        kind = content_type.partition(b";")[0].strip().lower()
        found = _BOUNDARY.search(content_type) if kind == b"multipart/form-data" else None
        self._boundary = b"--" + found[1] if found else None
        self._rest = b""
        self._hash = hashlib.sha256(b"%s\0%s\0" % (scope.get("query_string", b""), kind))
        # Known without reading: and whoever waits for the client to leave may have read already.
        length = _header(scope, b"content-length") or b"0"
        self.is_complete = length == b"0" and _header(scope, b"transfer-encoding") is None

    def update(self, message: Message) -> None:
        """Take in the next message of the request."""
        if message["type"] != "http.request":
            return
        piece: bytes = message.get("body", b"")
        if self._boundary is None:
            self._hash.update(piece)
        else:
            *parts, last = (self._rest + piece).split(self._boundary)
            for part in parts:
                self._hash.update(part + b"\0boundary\0")
            n_sure = max(0, len(last) - len(self._boundary) + 1)
            self._hash.update(last[:n_sure])
            self._rest = last[n_sure:]
        self.is_complete = not message.get("more_body", False)

    def hexdigest(self) -> str:
        """The digest of a complete request."""
        whole = self._hash.copy()
        whole.update(self._rest)
        return whole.hexdigest()


class Idempotency:
    """The middleware; inside of authentication, because a key is its sender's own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._forgetting: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        key = _key(scope)
        principal: Principal | None = scope.get("principal") if key is not None else None
        if key is None or principal is None:
            await self._app(scope, receive, send)
            return
        if not _GOOD.fullmatch(key):
            wrong = InputError(
                f"An Idempotency-Key has 1 to {_LONGEST} visible ASCII characters.",
                field="header.idempotency-key",
            )
            await problem_of(wrong)(scope, receive, send)
            return
        state = scope["app"].state
        exchange = _Exchange(
            state.services.answers,
            state.gate,
            (f"{principal.key_id} {scope['method']} {scope['path']}", key.decode("ascii")),
            RequestDigest(scope),
            receive,
        )
        try:
            kept = await exchange.begin()
        except ConflictError as exc:
            running = problem(
                409,
                exc.code,
                str(exc),
                errors=[{"field": "header.idempotency-key", "message": str(exc)}],
                headers={"Retry-After": "1"},
            )
            await running(scope, receive, send)
            return
        except RagdockError as exc:
            await problem_of(exc)(scope, receive, send)
            return
        if kept is not None:
            response = await exchange.repeated(kept)
            await response(scope, receive, send)
            return
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except BaseException:
            task = asyncio.create_task(exchange.forget())
            self._forgetting.add(task)
            task.add_done_callback(self._forgetting.discard)
            raise
        await exchange.keep()
        for message in exchange.messages:
            await send(message)


class _Exchange:
    """A request with a key, and its answer, which is held back until it is kept."""

    def __init__(
        self,
        answers: Answers,
        gate: Gate,
        name: tuple[str, str],
        digest: RequestDigest,
        receive: Receive,
    ) -> None:
        self._answers = answers
        self._gate = gate
        self._name = name
        self._digest = digest
        self._receive = receive
        self.messages: list[Message] = []

    async def begin(self) -> KeptAnswer | None:
        return await self._gate.run(self._answers.begin, *self._name)

    async def forget(self) -> None:
        await self._gate.run(self._answers.forget, *self._name)

    async def receive(self) -> Message:
        message = await self._receive()
        self._digest.update(message)
        return message

    async def send(self, message: Message) -> None:
        self.messages.append(message)

    async def repeated(self, kept: KeptAnswer) -> Response:
        """The first answer, if this is the same request."""
        await self._read_rest()
        if self._digest.hexdigest() != kept.request:
            other = "This Idempotency-Key was used for another request; take a new one."
            return problem(
                422,
                "idempotency_mismatch",
                other,
                errors=[{"field": "header.idempotency-key", "message": other}],
            )
        headers = {**dict(kept.headers), "Idempotency-Replayed": "true"}
        return Response(kept.body, kept.status, headers=headers)

    async def keep(self) -> None:
        """Keep the answer, or forget the request where it isn't one to keep."""
        start: Message = self.messages[0] if self.messages else {"status": 500}
        body = b"".join(message.get("body", b"") for message in self.messages[1:])
        status: int = start["status"]
        lasting = status < 500 and status not in _NOT_KEPT and len(body) <= MAX_BODY_BYTES
        if not lasting or not await self._read_rest():
            await self.forget()
            return
        raw: list[tuple[bytes, bytes]] = list(start.get("headers", ()))
        headers = tuple(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in raw
            if name.decode("latin-1").lower() in _KEPT_HEADERS
        )
        answer = KeptAnswer(self._digest.hexdigest(), status, headers, body)
        await self._gate.run(self._answers.finish, *self._name, answer)

    async def _read_rest(self) -> bool:
        """Read what nobody wanted of the body; False when it doesn't come whole."""
        while not self._digest.is_complete:
            message = await self.receive()
            if message["type"] != "http.request":
                return False
        return True


def _key(scope: Scope) -> bytes | None:
    if scope["type"] != "http" or not takes_key(scope["method"], scope["path"]):
        return None
    return _header(scope, _NAME)


def _header(scope: Scope, wanted: bytes) -> bytes | None:
    return next((value for name, value in scope["headers"] if name == wanted), None)
