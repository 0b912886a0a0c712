"""The notebook runs from top to bottom without Docker, and its challenges have solutions.

tests/container/test_notebook.py runs it in Jupyter, with Docker.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ragdock.core.advice import advise
from ragdock.core.advice_texts import NAMES
from ragdock.errors import ConfigurationError, InputError
from ragdock.tour import card, challenges
from ragdock.tour.dockerfiles import faults
from ragdock.tour.shell import RECORDING, Shell
from ragdock.tour.showing import PAGE_WIDTH, fitted
from support.models import model_dir

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "M3_1_Containerization_with_Docker.ipynb"
CELLS: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))["cells"]
WITHOUT_DOCKER = range(1, 8)
FENCED = re.compile(r"^```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)

# Runs the cells one after the other; a challenge's cell once as it is, then with its solution.
RUN = """
import json, re, sys
cells = json.load(open(sys.argv[1], encoding="utf-8"))["cells"]
solved = [int(number) for number in sys.argv[2:]]
space = {}
for before, cell in zip([None, *cells], cells):
    if cell["cell_type"] != "code":
        continue
    source = "".join(cell["source"])
    exec(compile(source, cell["id"], "exec"), space)
    found = re.fullmatch(r"challenge-(\\\\d+)-check", cell["id"])
    if found and int(found[1]) in solved:
        told = "".join(before["source"])
        exec(compile(told.split("```python\\\\n")[1].split("```")[0], cell["id"], "exec"), space)
        check = re.sub(r"^answer_.*\\\\n", "", source, flags=re.MULTILINE)
        exec(compile(check, cell["id"], "exec"), space)
""".replace("\\\\", "\\")


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


@pytest.mark.model
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """Every cell runs; the server cites, refuses, refreshes; each solution passes its check."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(FILE), *map(str, WITHOUT_DOCKER)],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "RAG_MODEL_DIR": str(model_dir().resolve()),
            "TMPDIR": str(tmp_path),
            "TOUR_SECONDS": "0.3",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert "[Recorded " in said
    assert "every quote is in its document" in said
    assert "I don't know." in said
    assert re.findall(r"^(miss|hit) - .* (nine|eleven)\.", said, re.MULTILINE) == [
        ("miss", "nine"), ("hit", "nine"), ("miss", "eleven"), ("hit", "eleven"),
    ]  # fmt: skip
    assert "works; 14 steps" in said
    assert re.findall(r"^FAIL (D\d+) \[", said, re.MULTILINE)[:5] == [
        "D35",
        "D30",
        "D38",
        "D24",
        "D20",
    ]
    for number in challenges.CHECKS:
        assert f"Challenge {number}: not yet: put your answer" in said
    for number in WITHOUT_DOCKER:
        assert f"Challenge {number}: done: " in said, said[-4000:]
    assert "exit code 0" in said.rstrip().splitlines()[-1]
    assert str(ROOT) not in said
    assert list(tmp_path.iterdir()) == []


def test_each_cell_with_docker_is_recorded() -> None:
    """Each has a recording of the script that stands in the notebook, with date and engine."""
    recorded = json.loads((ROOT / RECORDING).read_text(encoding="utf-8"))
    scripts = {}
    for cell in CELLS:
        if "docker" in cell["metadata"].get("tags", ()):
            collected: dict[str, str] = {}

            def docker(
                name: str, script: str, *_: object, kept: dict[str, str] = collected
            ) -> None:
                kept[name] = script

            exec(compile(source(cell), cell["id"], "exec"), {"docker": docker})
            scripts.update(collected)
    assert len(scripts) >= 7
    assert {name: entry["script"] for name, entry in recorded.items()} == scripts
    for entry in recorded.values():
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", entry["recorded"])
        assert entry["engine"]
        assert entry["output"].strip()
        assert str(ROOT) not in entry["output"]


def test_the_notebook_is_kept_without_outputs() -> None:
    """No output, no count: what it shows is what it does when it runs."""
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            assert not re.search(r"^(?:def|class) ", source(cell), re.MULTILINE), cell["id"]


def test_no_line_of_code_runs_off_the_page() -> None:
    """A page cuts off a line of code, so each fits."""
    for cell in CELLS:
        code = [source(cell)] if cell["cell_type"] == "code" else FENCED.findall(source(cell))
        for line in "\n".join(code).splitlines():
            assert len(line) <= PAGE_WIDTH, (cell["id"], line)


def test_output_fits_the_page() -> None:
    """Tabs become columns, long lines break below their text, and what is pasted stays whole."""
    table = "what\tms\tverdict\nHTTP: a request\t0.1\tdiffers\ndisk\t10.25\tmay be chance\nend"
    assert fitted(table).splitlines() == [
        "what             ms     verdict",
        "HTTP: a request  0.1    differs",
        "disk             10.25  may be chance",
        "end",
    ]
    words = "word " * 40
    told = fitted(
        f"a title\n\n  cause     {words}\n  fix       {words}\n{{{'x' * 200}}}"
    ).splitlines()
    assert told[:2] == ["a title", ""]
    assert [line[:12] for line in told[2:4]] == ["  cause     ", " " * 12]
    assert all(len(line) <= PAGE_WIDTH for line in told[:4])
    assert told[-2:] == [f"  fix       {words}", f"{{{'x' * 200}}}"]


def test_each_challenge_has_a_task_a_solution_and_a_check() -> None:
    """They come in order; the solution is folded away."""
    titles = [cell["id"] for cell in CELLS if re.fullmatch(r"challenge-\d+", cell["id"])]
    assert titles == [f"challenge-{number}" for number in challenges.CHECKS]
    for at, cell in enumerate(CELLS):
        if cell["id"] in titles:
            assert "<details><summary>Solution</summary>" in source(cell)
            assert "```python" in source(cell)
            assert CELLS[at + 1]["id"] == f"{cell['id']}-check"


WRONG: list[tuple[int, Any, str]] = [
    (1, "WEB_PORT=9090", "should be port 8080"),
    (1, "WEB_PORT=8080\nWEB_BIND=0.0.0.0", "open to the network"),
    (1, " WEB_PORT=8080", "without spaces"),
    (2, "http://127.0.0.1:9", "couldn't use the answer"),
    (3, {"url": "http://127.0.0.1:9", "acknowledged": ["a"] * 200, "exit_code": -9}, "1 documents"),
    (3, {"url": "http://127.0.0.1:9", "acknowledged": [], "exit_code": 0}, "wasn't killed"),
    (4, "FROM python\nCMD python x.py", "things are left"),
    (5, {"SIGKILL": 9}, "no code for"),
    (5, dict.fromkeys(challenges.ENDINGS, 0), "wrong: SIGTERM"),
    (6, {"cpus": 0, "memory_mb": 4096}, "don't keep the target"),
    (6, {"cpus": 10_000, "memory_mb": 4096}, "more than twice"),
    (6, {"memory_mb": 4096}, "couldn't use the answer"),
    (7, "/nowhere", "couldn't use the answer"),
]


@pytest.mark.parametrize(("number", "answer", "missing"), WRONG)
def test_a_wrong_answer_is_told_what_is_missing(number: int, answer: Any, missing: str) -> None:
    """Nothing wrong counts as done, and nothing raises."""
    said: list[str] = []
    outcome = challenges.check(number, answer, say=said.append)
    assert not outcome.done
    assert missing in outcome.said
    assert said == [f"Challenge {number}: not yet: {outcome.said}"]


def test_an_unknown_challenge_is_refused() -> None:
    """A number beyond the last names how many there are."""
    with pytest.raises(InputError, match="there are 8"):
        challenges.check(99, "", say=lambda _: None)


def test_our_own_dockerfile_has_no_fault() -> None:
    """The rules of the challenge hold for what we ship, and each can be broken."""
    ours = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert faults(ours) == []
    assert faults("") == ["there is no FROM"]
    assert len(faults("FROM python\nADD . /app\nENV API_KEY=sk-1\nCMD python x")) == 10


def test_the_card_is_what_advise_says() -> None:
    """Each row has the computed place; the card shows all four."""
    lines = card.card().splitlines()[2:]
    assert len(lines) == len(card.SITUATIONS)
    for line, (name, situation) in zip(lines, card.SITUATIONS.items(), strict=True):
        assert line.startswith(f"| {name} | **{NAMES[advise(situation).place]}** | ")
    assert {advise(situation).place for situation in card.SITUATIONS.values()} == set(NAMES)


def test_a_cell_without_docker_says_when_it_was_recorded(tmp_path: Path) -> None:
    """The recording's date and engine stand before its output; an unknown cell is an error."""
    said: list[str] = []
    shell = Shell(ROOT, tmp_path, {}, docker=False, say=said.append)
    shell("up", "whatever")
    assert re.match(r"\[Recorded \d{4}-\d\d-\d\d with Docker Engine [\d.+a-z]+, ", said[0])
    with pytest.raises(ConfigurationError, match="No cell 'nothing'"):
        shell("nothing", "true")


def test_the_newer_compose_is_used_where_there_is_no_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Compose is a plugin only, `docker-compose` in a script is `docker compose`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "cat"):
        (programs / name).symlink_to(str(shutil.which(name)))
    docker = programs / "docker"
    docker.write_text('#!/bin/sh\necho "docker $*"\n', encoding="utf-8")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    said: list[str] = []
    shell = Shell(ROOT, tmp_path, {}, docker=True, say=said.append)
    shell("up", "docker-compose up -d | cat")
    assert said == ["docker compose up -d"]
