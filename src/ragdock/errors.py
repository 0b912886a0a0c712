"""Every error that ragdock raises on purpose.

    RagdockError
    ├── ConfigurationError     a setting is wrong: names the variable, the value and the remedy
    ├── UnauthorizedError      no key, or one that opens nothing
    ├── ForbiddenError         the key lacks a right
    ├── InputError             the caller's input is wrong: names the field
    │   ├── NotFoundError      no such collection, document or job
    │   ├── ConflictError      it exists already, or is in another state
    │   └── TooLargeError      over a limit
    ├── DocumentError          a document's bytes can't become text (a failed job's reason)
    ├── GivenUpError           nobody waits any more: the request is late, or its caller has left
    ├── FetchError             a URL can't be fetched
    ├── UnavailableError       a dependency or a limit refuses for now; says when to come back
    │   ├── StoreError
    │   ├── EmbedderError
    │   ├── GeneratorError     the LLM: `reason` is one of timeout, http, connection, cut, protocol
    │   └── CacheError
    └── IntegrityError         stored data is not what was written

`code` is stable and meant for programs; `str(error)` is a full sentence meant for the caller of the
API, so it never holds a secret, a path of the server or the text of a foreign exception.
"""

from __future__ import annotations

__all__ = [
    "CacheError",
    "ConfigurationError",
    "ConflictError",
    "DocumentError",
    "EmbedderError",
    "FetchError",
    "ForbiddenError",
    "GeneratorError",
    "GivenUpError",
    "InputError",
    "IntegrityError",
    "NotFoundError",
    "RagdockError",
    "StoreError",
    "TooLargeError",
    "UnauthorizedError",
    "UnavailableError",
    "collection_not_found",
    "job_not_found",
]


class RagdockError(Exception):
    """Base of every error raised on purpose; `code` is stable, the message is for people."""

    code = "internal"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class ConfigurationError(RagdockError):
    """A setting is wrong; the message names the variable, the value and the remedy."""

    code = "configuration"


class UnauthorizedError(RagdockError):
    """No key, or one that opens nothing; which of the reasons it is stays unsaid."""

    code = "unauthorized"


class ForbiddenError(RagdockError):
    """The key lacks a right; the message names it."""

    code = "forbidden"


class InputError(RagdockError):
    """The caller's input is wrong; `field` names where (for example `body.filters.year`)."""

    code = "invalid_input"

    def __init__(self, message: str, *, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.field = field


class NotFoundError(InputError):
    """No such collection, document or job."""

    code = "not_found"


class ConflictError(InputError):
    """It exists already, or its state forbids this."""

    code = "conflict"


class TooLargeError(InputError):
    """Over a size limit; the message names the limit and the setting that raises it."""

    code = "too_large"


class DocumentError(RagdockError):
    """The bytes can't become text; `code` tells why (`encrypted`, `truncated`, `empty`, ...)."""

    code = "unreadable"


class FetchError(RagdockError):
    """A URL can't be fetched; tells nothing of a network that the caller can't see itself."""

    code = "fetch_failed"


class GivenUpError(RagdockError):
    """Nobody waits any more for what is being worked on."""

    code = "deadline_exceeded"


class UnavailableError(RagdockError):
    """Refused for now; `retry_after_seconds` tells when it is worth coming back."""

    code = "unavailable"

    def __init__(
        self, message: str, *, retry_after_seconds: float = 1.0, code: str | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after_seconds = retry_after_seconds


class StoreError(UnavailableError):
    """The store can't be read or written."""

    code = "store_unavailable"


class EmbedderError(UnavailableError):
    """The embedder failed or is full."""

    code = "embedder_unavailable"


class GeneratorError(UnavailableError):
    """The LLM failed; `reason` is one of timeout, http, connection, cut, protocol, busy."""

    code = "generator_unavailable"

    def __init__(self, message: str, *, reason: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.reason = reason


class CacheError(UnavailableError):
    """The cache can't be reached; callers go on without it."""

    code = "cache_unavailable"


class IntegrityError(RagdockError):
    """Stored data is not what was written."""

    code = "integrity"


# What is absent and what a key may not see must read the same, so it is said in one place.


def collection_not_found(name: str) -> NotFoundError:
    """The error for a collection that doesn't exist, or doesn't for the caller."""
    return NotFoundError(
        f"There is no collection {name!r}; create it with POST /v1/collections.",
        field="collection",
        code="collection_not_found",
    )


def job_not_found() -> NotFoundError:
    """The error for a job that doesn't exist, or doesn't for the caller.

    Its number isn't told: to the caller the job has another name, or none.
    """
    return NotFoundError("There is no such job.", field="path.job_id")
