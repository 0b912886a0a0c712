"""The notebook in Jupyter, with Docker: every cell runs, and the last challenge can be solved."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from harness import BASE_IMAGES, ROOT, make, run

FILE = "M3_1_Containerization_with_Docker.ipynb"


@pytest.fixture(scope="module")
def jupyter() -> Path:
    """Jupyter in an environment of its own, as `make notebook` makes it."""
    make(".cache/notebook/.done")
    return ROOT / ".cache/notebook/bin/jupyter"


def test_the_notebook_runs_in_jupyter_with_docker(
    image: str, compose_programs: None, jupyter: Path, tmp_path: Path
) -> None:
    """No cell fails; containers are started, proven, broken, diagnosed, mended and removed."""
    notebook = json.loads((ROOT / FILE).read_text(encoding="utf-8"))
    _solve(notebook, 8)
    solved = ROOT / ".cache/notebook" / "executed.ipynb"
    solved.write_text(json.dumps(notebook), encoding="utf-8")
    # It builds one as well; the image under test stays what it is.
    tag = f"{image}-tour"
    environment = {
        **BASE_IMAGES,
        "RUN_DOCKER": "1",
        "WEB_IMAGE": tag,
        "TOUR_SECONDS": "1",
        "TMPDIR": str(tmp_path),
        "RAG_MODEL_DIR": str(ROOT / "models"),
    }
    run(
        [
            "env", *(f"{name}={value}" for name, value in environment.items()),
            jupyter, "nbconvert", "--to", "notebook", "--execute", "--inplace",
            "--ExecutePreprocessor.timeout=900", solved,
        ],
        timeout_seconds=1500,
        cwd=ROOT,
    )  # fmt: skip
    cells = json.loads(solved.read_text(encoding="utf-8"))["cells"]
    said = "".join(
        "".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", ())
    )
    assert "[Recorded " not in said
    assert said.count("works; 14 steps") == 2
    assert "Measured here: " in said
    assert re.search(r"FAIL D38 .*\n(?s:.*)OK +D38", said)
    assert "Challenge 8: done: exit code 137, OOMKilled true." in said
    kinds = {
        kind
        for cell in cells
        for output in cell.get("outputs", ())
        for kind in output.get("data", ())
    }
    assert {"image/png", "text/markdown", "application/vnd.jupyter.widget-view+json"} <= kinds
    pictures = [
        output["metadata"]["image/png"]
        for cell in cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", ())
    ]
    assert pictures
    assert all(picture["alt"] for picture in pictures)
    run([jupyter, "nbconvert", "--to", "html", solved], timeout_seconds=300, cwd=ROOT)
    label = "label=com.docker.compose.project=ragdock-tour"
    assert run(["docker", "ps", "-aq", "--filter", label]).stdout == ""
    run(["docker", "rmi", "--no-prune", tag])


def _solve(notebook: dict[str, list[dict[str, object]]], number: int) -> None:
    """Put a challenge's folded solution in the place of None."""
    for before, cell in zip(notebook["cells"], notebook["cells"][1:], strict=False):
        if cell["id"] == f"challenge-{number}-check":
            told = "".join(map(str, before["source"]))  # type: ignore[call-overload]
            solution = told.split("```python\n")[1].split("```")[0]
            asked = "".join(map(str, cell["source"]))  # type: ignore[call-overload]
            cell["source"] = re.sub(
                r"^answer_.*\n", lambda _, text=solution: text, asked, flags=re.MULTILINE
            )
