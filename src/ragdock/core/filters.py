"""The filter language of search and ask: which documents a query may see.

A filter is an object; all its keys must hold. A key names a metadata field or one of `document_id`,
`filename`, `media_type`. Its value is

    "x", 3, true          equal (for a list field: contains)
    ["x", "y"]            equal to one of
    {"op": value, ...}    all of: eq, ne, in, gt, gte, lt, lte, exists

`ne` also holds for documents without the field; every other operator wants it present.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from ragdock.errors import InputError

__all__ = [
    "MAX_CONDITIONS",
    "MAX_IN_VALUES",
    "MAX_KEY_CHARACTERS",
    "RESERVED_KEYS",
    "Condition",
    "Filter",
    "parse_filter",
]

Scalar: TypeAlias = str | int | float | bool

RESERVED_KEYS: Final = ("document_id", "filename", "media_type")
MAX_CONDITIONS: Final = 32
MAX_IN_VALUES: Final = 1000
MAX_KEY_CHARACTERS: Final = 128

_ORDER_OPS: Final = frozenset({"gt", "gte", "lt", "lte"})
_SCALAR_OPS: Final = frozenset({"eq", "ne"}) | _ORDER_OPS
_OPS: Final = _SCALAR_OPS | {"in", "exists"}


@dataclass(frozen=True, slots=True)
class Condition:
    """`key op value`; `value` is a tuple for `in`, a bool for `exists`, else a scalar."""

    key: str
    op: str
    value: Scalar | tuple[Scalar, ...]


Filter: TypeAlias = tuple[Condition, ...]


def parse_filter(raw: Mapping[str, object] | None, *, field: str = "filters") -> Filter:
    """Read a filter object; raises `InputError` naming the field, the value and the remedy."""
    if not raw:
        return ()
    conditions: list[Condition] = []
    for key, value in raw.items():
        where = f"{field}.{key}"
        if not key or len(key) > MAX_KEY_CHARACTERS:
            raise InputError(
                f"A filter key has 1 to {MAX_KEY_CHARACTERS} characters, not {len(key)}.",
                field=field,
                code="invalid_filter",
            )
        if isinstance(value, Mapping):
            if not value:
                raise _bad(where, value, f"an object with at least one of {_names()}")
            conditions.extend(_condition(where, key, op, operand) for op, operand in value.items())
        elif isinstance(value, list):
            conditions.append(_condition(where, key, "in", value))
        else:
            conditions.append(_condition(where, key, "eq", value))
    if len(conditions) > MAX_CONDITIONS:
        raise InputError(
            f"A filter has at most {MAX_CONDITIONS} conditions, not {len(conditions)}.",
            field=field,
            code="invalid_filter",
        )
    return tuple(conditions)


def _condition(where: str, key: str, op: object, operand: object) -> Condition:
    if op not in _OPS:
        raise InputError(
            f"{where}: {op!r} is not an operator; use one of {_names()}.",
            field=where,
            code="invalid_filter",
        )
    name = str(op)
    if name == "in":
        if not isinstance(operand, list) or not operand or len(operand) > MAX_IN_VALUES:
            raise _bad(where, operand, f"a list of 1 to {MAX_IN_VALUES} values")
        return Condition(key, name, tuple(_scalar(where, item) for item in operand))
    if name == "exists":
        if not isinstance(operand, bool):
            raise _bad(where, operand, "true or false")
        return Condition(key, name, operand)
    value = _scalar(where, operand)
    if name in _ORDER_OPS and isinstance(value, bool):
        raise _bad(where, operand, "a number or a string, which have an order")
    return Condition(key, name, value)


def _scalar(where: str, value: object) -> Scalar:
    if isinstance(value, float) and value != value:  # NaN equals nothing, so it can't be asked for.
        raise _bad(where, value, "a finite number")
    if isinstance(value, str | int | float | bool):
        return value
    raise _bad(where, value, "a string, a number or a boolean")


def _bad(where: str, value: object, wanted: str) -> InputError:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return InputError(f"{where}: {shown} is not {wanted}.", field=where, code="invalid_filter")


def _names() -> str:
    return ", ".join(sorted(_OPS))
