"""Filters as SQL over `documents d` and its metadata fields."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ragdock.core.filters import Condition, Filter
from ragdock.types import Metadata

__all__ = ["field_rows", "where_documents"]

_COLUMNS: Final = {
    "document_id": "d.id",
    "filename": "d.filename",
    "media_type": "d.media_type",
}
MAX_INTEGER: Final = 2**63 - 1
_COMPARE: Final = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def field_rows(metadata: Metadata) -> Iterator[tuple[str, str, str | float | int]]:
    """(key, kind, value) of every indexed metadata value; a list gives a row an item."""
    for key, value in metadata.items():
        for item in value if isinstance(value, list) else [value]:
            yield key, *_typed(item)


def where_documents(filters: Filter) -> tuple[str, list[Any]]:
    """A WHERE expression over `documents d` and its bindings."""
    parts: list[str] = []
    bindings: list[Any] = []
    for condition in filters:
        sql, values = _condition(condition)
        parts.append(sql)
        bindings += values
    return " AND ".join(parts) or "1", bindings


def _typed(value: Any) -> tuple[str, str | float | int]:
    # true is not 1: kinds keep booleans, numbers and strings apart.
    if isinstance(value, bool):
        return "b", int(value)
    if isinstance(value, int):
        return "n", value if abs(value) <= MAX_INTEGER else _as_float(value)
    if isinstance(value, float):
        # SQLite turns NaN into NULL; it equals nothing, but the field is there.
        return ("n", value) if value == value else ("x", 0)
    return "s", str(value)


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)


def _condition(condition: Condition) -> tuple[str, list[Any]]:
    column = _COLUMNS.get(condition.key)
    if column is not None:
        return _column_condition(column, condition)
    if condition.op == "exists":
        return _membership(negated=condition.value is False, test="1", bindings=[condition.key])
    if condition.op == "ne":
        sql, values = _value_test("eq", condition.value)
        return _membership(negated=True, test=sql, bindings=[condition.key, *values])
    if condition.op == "in":
        sql, values = _any_of(condition.value)
        return _membership(negated=False, test=sql, bindings=[condition.key, *values])
    sql, values = _value_test(condition.op, condition.value)
    return _membership(negated=False, test=sql, bindings=[condition.key, *values])


def _value_test(op: str, value: object) -> tuple[str, list[Any]]:
    kind, typed = _typed(value)
    return f"f.kind = ? AND f.value {_COMPARE[op]} ?", [kind, typed]


def _any_of(values: object) -> tuple[str, list[Any]]:
    assert isinstance(values, tuple)
    by_kind: dict[str, list[str | float | int]] = {}
    for item in values:
        kind, value = _typed(item)
        by_kind.setdefault(kind, []).append(value)
    tests: list[str] = []
    bindings: list[Any] = []
    for kind, items in by_kind.items():
        tests.append(f"(f.kind = ? AND f.value IN ({_marks(items)}))")
        bindings += [kind, *items]
    return "(" + " OR ".join(tests) + ")", bindings


def _membership(*, negated: bool, test: str, bindings: list[Any]) -> tuple[str, list[Any]]:
    word = "NOT IN" if negated else "IN"
    sql = f"d.n {word} (SELECT f.document FROM fields f WHERE f.key = ? AND {test})"
    return sql, bindings


def _column_condition(column: str, condition: Condition) -> tuple[str, list[Any]]:
    """A reserved key is always present and always a string: no number equals it."""
    value = condition.value
    if condition.op == "exists":
        return ("1" if value else "0"), []
    if condition.op == "in":
        assert isinstance(value, tuple)
        items = [item for item in value if isinstance(item, str)]
        return (f"{column} IN ({_marks(items)})", items) if items else ("0", [])
    if not isinstance(value, str):
        return ("1" if condition.op == "ne" else "0"), []
    if condition.op == "ne":
        return f"{column} != ?", [value]
    return f"{column} {_COMPARE[condition.op]} ?", [value]


def _marks(values: Sequence[object]) -> str:
    # Bound one by one: through JSON, SQLite's own number reader may round a float differently.
    return ", ".join("?" * len(values))
