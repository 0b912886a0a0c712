"""The load test itself, small: a server of its own, both loops, faults, and a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from loadtest import commands


def test_a_small_load_test_finds_nothing_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps, rates, a paused Redis, a slow and a failing LLM: no error beyond the design."""
    code = commands.main(
        ["load", "--quick", "--hashed", "--engine", "plain", "--workers", "1", "--scale", "0.3",
         "--mix", "n_popular=5", "--out", str(tmp_path)]
    )  # fmt: skip
    said = capsys.readouterr().out
    assert code == 0, said
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    (run,) = results["runs"]
    assert [step["concurrency"] for step in run["steps"]] == [1, 4, 16]
    assert all(step["n_ok"] for step in run["steps"])
    assert run["knee"]["peak_per_second"] > 0
    assert all(row["n_ok"] for row in run["open"])
    found = {fault["name"]: fault for fault in results["faults"]["faults"]}
    assert set(found) == {"Redis paused", "LLM slow", "LLM failing"}
    assert all(fault["as_designed"] for fault in found.values())
    assert "Faults under load" in (tmp_path / "report.html").read_text(encoding="utf-8")
