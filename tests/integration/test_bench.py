"""The benchmarks run, however little they measure here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_benchmark_runs(tmp_path: Path) -> None:
    """`make bench` prints and writes each of its tables, every number beside its floor."""
    file = tmp_path / "numbers.json"
    run = subprocess.run(
        [sys.executable, "bench/run.py", "--dry", "--sizes", "200", "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "Requests a second over HTTP" in run.stdout
    results = json.loads(file.read_text(encoding="utf-8"))
    assert results["ingest"][0]["embedder alone chunks/s"] > 0
    assert results["query"][0]["sum"] > 0
    assert any("bare route/s" in row for row in results["http"])
