"""The steps of a smoke test and what came of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ragdock.errors import RagdockError

__all__ = ["SKIPPABLE", "STEPS", "Report", "Said", "Status", "Step", "StepError"]

STEPS: Final = {
    "connect": "something listens, and it is ragdock",
    "health": "it says that it can serve",
    "collection": "a collection to work in",
    "ingest": "a document is accepted",
    "wait": "its job ends well",
    "search": "a search finds it, at the place in the text that it names",
    "ask": "a question is answered from it, and the answer is cited",
    "citation": "the citation's span is its quotation, in the stored text",
    "cache": "the same question again is answered from the cache, alike",
    "delete": "the document is deleted",
    "gone": "it can neither be read nor found",
    "stale": "no answer, from a cache or anew, knows it",
    "metrics": "the metrics have counted this",
    "cleanup": "nothing is left behind",
}
"""Every step in order, and what it checks."""

SKIPPABLE: Final = frozenset({"cache", "metrics"})
"""Steps that a deployment may leave out on purpose."""


class Status(StrEnum):
    """What came of a step. `warn`: it serves, but not as it should. `skip` says why."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


class StepError(RagdockError):
    """A step's promise is broken; the text is for people, and says what to do where it can."""

    code = "smoke"


@dataclass(frozen=True, slots=True)
class Said:
    """What a step has to say when it is not broken."""

    detail: str = ""
    status: Status = Status.OK


@dataclass(frozen=True, slots=True)
class Step:
    """A step that is over."""

    name: str
    status: Status
    seconds: float
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """The whole run. `left_behind` names what could not be removed, `interrupted` a Ctrl-C."""

    url: str
    collection: str
    steps: tuple[Step, ...]
    seconds: float
    left_behind: tuple[str, ...] = ()
    interrupted: bool = False

    @property
    def failed(self) -> tuple[Step, ...]:
        """The steps that failed."""
        return tuple(step for step in self.steps if step.status is Status.FAIL)

    @property
    def warned(self) -> tuple[Step, ...]:
        """The steps that warn."""
        return tuple(step for step in self.steps if step.status is Status.WARN)

    @property
    def ok(self) -> bool:
        """Whether everything that was looked at works."""
        return not (self.failed or self.interrupted or self.left_behind)
