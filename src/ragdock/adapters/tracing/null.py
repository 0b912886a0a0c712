"""Traces that nobody collects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from ragdock.ports import Attributes

__all__ = ["NullTracer"]


class _Nothing:
    """A span that keeps nothing, and the block that it is for."""

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing."""

    def rename(self, name: str) -> None:
        """Nothing."""

    def note(self, attributes: Attributes) -> None:
        """Nothing."""

    def fail(self, kind: str) -> None:
        """Nothing."""


_NOTHING: Final = _Nothing()
_NO_HEADERS: Final[Mapping[str, str]] = {}


class NullTracer:
    """`Tracer` that traces nothing."""

    @property
    def is_on(self) -> bool:
        """Never."""
        return False

    def request(self, name: str, headers: Mapping[str, str]) -> _Nothing:  # noqa: ARG002
        """Nothing."""
        return _NOTHING

    def job(self, name: str, cause: str, attributes: Attributes) -> _Nothing:  # noqa: ARG002
        """Nothing."""
        return _NOTHING

    def step(
        self,
        name: str,  # noqa: ARG002
        attributes: Attributes | None = None,  # noqa: ARG002
        *,
        kind: Literal["internal", "client"] = "internal",  # noqa: ARG002
    ) -> _Nothing:
        """Nothing."""
        return _NOTHING

    def note_cause(self, cause: str) -> None:
        """Nothing."""

    def headers(self) -> Mapping[str, str]:
        """None."""
        return _NO_HEADERS

    def close(self) -> None:
        """Nothing."""
