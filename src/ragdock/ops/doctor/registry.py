"""All checks: those that the modules of `checks/` export, in the order of their ids."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable
from functools import cache

from ragdock.errors import InputError
from ragdock.ops.doctor import checks
from ragdock.ops.doctor.model import Check

__all__ = ["all_checks", "chosen"]


@cache
def all_checks() -> tuple[Check, ...]:
    """Every check once, D before R, each by number."""
    found: dict[str, Check] = {}
    for module in pkgutil.iter_modules(checks.__path__):
        for check in importlib.import_module(f"{checks.__name__}.{module.name}").CHECKS:
            assert check.id not in found, f"{check.id} is defined twice"
            found[check.id] = check
    return tuple(sorted(found.values(), key=lambda check: _order(check.id)))


def chosen(only: Iterable[str] = (), skip: Iterable[str] = ()) -> tuple[Check, ...]:
    """The checks of these ids (all, when none is named) without those to skip.

    Raises `InputError` for an id that doesn't exist.
    """
    known = {check.id.upper(): check for check in all_checks()}
    wanted, unwanted = ({name.upper() for name in names} for names in (only, skip))
    for name in sorted((wanted | unwanted) - known.keys()):
        raise InputError(
            f"There is no check {name!r}; `ragdock doctor --list` names all.", field="check"
        )
    return tuple(
        check
        for name, check in known.items()
        if name not in unwanted and (not wanted or name in wanted)
    )


def _order(name: str) -> tuple[str, int, str]:
    letters, number, rest = re.fullmatch(r"([A-Z]+)(\d+)(.*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    return letters, int(number), rest
