"""The filter language."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ragdock.core.filters import MAX_CONDITIONS, MAX_IN_VALUES, Condition, parse_filter
from ragdock.errors import InputError


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (None, ()),
        ({}, ()),
        ({"a": "x"}, (Condition("a", "eq", "x"),)),
        ({"a": 3}, (Condition("a", "eq", 3),)),
        ({"a": True}, (Condition("a", "eq", True),)),
        ({"a": ["x", 2, False]}, (Condition("a", "in", ("x", 2, False)),)),
        ({"a": {"in": [1]}}, (Condition("a", "in", (1,)),)),
        ({"a": {"exists": False}}, (Condition("a", "exists", False),)),
        (
            {"a": {"gte": 1, "lt": 2.5}, "b": {"ne": "x"}},
            (Condition("a", "gte", 1), Condition("a", "lt", 2.5), Condition("b", "ne", "x")),
        ),
        ({"document_id": "d"}, (Condition("document_id", "eq", "d"),)),
    ],
)
def test_what_filters_mean(raw: dict[str, Any] | None, expected: tuple[Condition, ...]) -> None:
    """Values are equality, lists membership, objects operators."""
    assert parse_filter(raw) == expected


@pytest.mark.parametrize(
    ("raw", "field", "says"),
    [
        ({"a": None}, "filters.a", "None is not a string, a number or a boolean"),
        ({"a": {}}, "filters.a", "at least one of eq, exists, gt"),
        ({"a": {"like": "x"}}, "filters.a", "'like' is not an operator"),
        ({"a": {"in": []}}, "filters.a", "1 to 1000 values"),
        ({"a": []}, "filters.a", "1 to 1000 values"),
        ({"a": [0] * (MAX_IN_VALUES + 1)}, "filters.a", "1 to 1000 values"),
        ({"a": {"in": "x"}}, "filters.a", "'x' is not a list"),
        ({"a": {"exists": 1}}, "filters.a", "1 is not true or false"),
        ({"a": {"gt": True}}, "filters.a", "have an order"),
        ({"a": {"eq": [1]}}, "filters.a", "[1] is not a string"),
        ({"a": [[1]]}, "filters.a", "[1] is not a string"),
        ({"a": math.nan}, "filters.a", "finite"),
        ({"": 1}, "filters", "1 to 128 characters, not 0"),
        ({"k" * 129: 1}, "filters", "1 to 128 characters, not 129"),
        ({f"k{n}": 1 for n in range(MAX_CONDITIONS + 1)}, "filters", "at most 32 conditions"),
    ],
)
def test_wrong_filters_say_where_and_what(raw: dict[str, Any], field: str, says: str) -> None:
    """An error names the field, quotes the value and states what is allowed."""
    with pytest.raises(InputError) as error:
        parse_filter(raw)
    assert error.value.code == "invalid_filter"
    assert error.value.field == field
    assert says in str(error.value)


def test_long_values_are_quoted_short() -> None:
    """An error message doesn't repeat a megabyte."""
    with pytest.raises(InputError) as error:
        parse_filter({"a": {"in": "x" * 10_000}}, field="body.filters")
    assert len(str(error.value)) < 200
    assert error.value.field == "body.filters.a"
