"""`ragdock advise --measure` on a machine with Docker."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, docker, run

pytestmark = pytest.mark.timing

LABEL = "label=io.ragdock.advise"


def advise(*arguments: str | Path, check: bool = True) -> tuple[int, str, str]:
    command = ["env", f"PYTHONPATH={ROOT / 'src'}", sys.executable, "-m", "ragdock", "advise"]
    done = run([*command, *arguments], check=check, cwd=Path("/"))
    return done.returncode, done.stdout, done.stderr


def test_a_containers_price_is_measured_and_nothing_stays(
    image: str, tmp_path: Path, report: Callable[[str], None]
) -> None:
    """Both sides do the same work in turns within the time; the result is part of the advice."""
    started = time.monotonic()
    _, out, _ = advise(
        "--measure", "--seconds", "40", "--image", image, "--dir", tmp_path, "--json"
    )
    assert time.monotonic() - started < 90
    found: dict[str, Any] = json.loads(out)
    assert found["not_measured"] is None
    results = {one["name"]: one for one in found["measurements"]["results"]}
    assert {"cpu", "memory", "disk", "read", "published", "published_new", "host"} <= results.keys()
    for one in results.values():
        assert one["n_rounds"] >= 3
        assert one["bare_ms"] > 0
        assert 0 < one["ratio_low"] <= one["ratio"] <= one["ratio_high"]
    # A proxy stands before a published port: that much is sure on any machine.
    assert results["published"]["ratio"] > 1
    assert found["situation"]["overhead"]["is_measured"] is True
    assert "measured here" in " ".join(reason["text"] for reason in found["reasons"])
    assert list(tmp_path.iterdir()) == []
    assert docker("ps", "-aq", "--filter", LABEL) == ""
    for one in results.values():
        report(
            f"advise: {one['title']:<48} bare {one['bare_ms']:8.3f} ms, container "
            f"{one['container_ms']:8.3f} ms, ratio {one['ratio']:.2f} "
            f"[{one['ratio_low']:.2f}, {one['ratio_high']:.2f}], n={one['n_rounds']}"
        )


def test_an_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Without the image it says how to make it, and advises without."""
    code, out, err = advise("--measure", "--image", "no-such:image", "--dir", tmp_path, "--yes")
    assert code == 0
    assert "docker build -t no-such:image ." in err
    assert out.startswith("Run it")


def test_an_image_without_python_is_told(image: str, tmp_path: Path) -> None:
    """What a container says instead of working is passed on, and nothing stays."""
    docker("build", "-t", "rag-no-python:test", "-", stdin="FROM scratch\nLABEL a=b\n")
    try:
        code, _, err = advise(
            "--measure", "--image", "rag-no-python:test", "--dir", tmp_path, "--yes"
        )
    finally:
        docker("rmi", "rag-no-python:test")
    assert code == 0
    assert "Not measured: A measuring process ended" in err
    assert docker("ps", "-aq", "--filter", LABEL) == ""
    assert list(tmp_path.iterdir()) == []
