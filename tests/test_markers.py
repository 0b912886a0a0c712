"""What measures time runs alone: the marker `timing` is where it has to be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
FOLDERS = ("unit", "contracts", "integration")
PATIENT_SECONDS = 5
"""A limit from here on leaves room for what else runs at the same time."""


def is_marked(body: ast.Module | ast.FunctionDef) -> bool:
    """Whether a function's decorators, or a module's `pytestmark`, name the marker."""
    if isinstance(body, ast.FunctionDef):
        return any("mark.timing" in ast.unparse(each) for each in body.decorator_list)
    return any("pytestmark = pytest.mark.timing" in ast.unparse(each) for each in body.body)


def limits_seconds(function: ast.FunctionDef) -> Iterator[float]:
    """The numbers that a test asserts a time to stay below."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            for each in ast.walk(node.test):
                if isinstance(each, ast.Compare):
                    yield from upper_limits(each)


def upper_limits(comparison: ast.Compare) -> Iterator[float]:
    terms = [comparison.left, *comparison.comparators]
    for below, operator, above in zip(terms, comparison.ops, terms[1:], strict=False):
        is_time = any(word in ast.unparse(below) for word in ("monotonic()", "perf_counter()"))
        if is_time and isinstance(operator, ast.Lt | ast.LtE) and isinstance(above, ast.Constant):
            yield float(str(above.value))


def unmarked(source: str) -> list[str]:
    """The tests of a module that hold a few seconds to account without the marker."""
    module = ast.parse(source)
    if is_marked(module):
        return []
    functions = [each for each in ast.walk(module) if isinstance(each, ast.FunctionDef)]
    return [
        each.name
        for each in functions
        if each.name.startswith("test_")
        and not is_marked(each)
        and any(limit < PATIENT_SECONDS for limit in limits_seconds(each))
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_measures_time_runs_alone(folder: str) -> None:
    """A test that asserts that something took less than five seconds is marked `timing`."""
    found = {
        path.name: names
        for path in sorted((HERE / folder).glob("test_*.py"))
        if (names := unmarked(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_a_missing_marker_is_noticed() -> None:
    """The search finds the limit in a chain, and takes the marker of function or module."""
    test = "def test_x():\n    assert 0.5 < time.monotonic() - start < 1.5\n"
    assert unmarked(test) == ["test_x"]
    assert unmarked(test.replace("1.5", "15")) == []
    assert unmarked(f"@pytest.mark.timing\n{test}") == []
    assert unmarked(f"pytestmark = pytest.mark.timing\n{test}") == []
