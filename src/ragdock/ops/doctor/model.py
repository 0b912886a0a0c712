"""What a check is and what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from ragdock.ops.doctor.world import World

__all__ = ["DOCS", "Check", "Evidence", "Finding", "Scope", "Status"]

DOCS: Final = "docs/doctor.md"

Evidence: TypeAlias = Mapping[str, "str | int | float | bool | list[str] | None"]
"""Raw facts, by the name of the field they were read from. No value of a secret, ever."""


class Status(StrEnum):
    """What a check found; `skip` says that it couldn't look, and why."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


class Scope(StrEnum):
    """Where a check can look: at containers through the Engine API, or from inside of one."""

    HOST = "host"
    INSIDE = "inside"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check; a check that looks at several containers has one for each at fault.

    `subject` is what it is about (a container's or volume's name, a setting), "" for all.
    `summary` is one line for the table. `fix` are lines to paste into a shell; a line that
    needs a choice first is a comment. Those of `ok` and `skip` have neither cause nor fix.
    """

    status: Status
    summary: str
    subject: str = ""
    evidence: Evidence = field(default_factory=dict)
    cause: str = ""
    fix: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """`look` reads nothing but the world, changes nothing, and returns at least one finding.

    `symptom` is what the user sees, in the words that the tools print. `look` may let `WorldError`
    out: the doctor makes a `skip` of that.
    """

    id: str
    title: str
    scope: Scope
    symptom: str
    look: Callable[[World], list[Finding]]

    @property
    def docs(self) -> str:
        """Where the documentation explains it."""
        return f"{DOCS}#{self.id.lower()}"
