"""The threat model names a test for each of its lines, and each of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in TEXT.split("## Threats")[1].split("## Rates")[0].splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| Threat |"))
]


def functions(path: Path) -> set[str]:
    """The names of a file's functions, those of classes included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_each_threat_names_tests_that_exist(row: list[str]) -> None:
    """A line has a threat, what stops it, what remains, and at least one test of this tree."""
    assert len(row) == 4
    threat, stops, _, tests = row
    assert threat
    assert stops
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", tests)
    assert named, f"no test is named for: {threat}"
    assert len(named) == tests.count("`") // 2
    for path, name in named:
        assert (ROOT / path).is_file(), path
        assert name in functions(ROOT / path), f"{path} has no {name}"


def test_there_is_a_line_for_each_way_in() -> None:
    """The model isn't empty, and speaks of keys, limits, files, URLs, documents and browsers."""
    assert len(ROWS) > 30
