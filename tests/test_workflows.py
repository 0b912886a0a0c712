"""The GitHub workflows: pinned, with few rights, and saying what `.ci/run` and the image say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
MAY_WRITE = {
    ("release.yml", "build"): {"packages"},
    ("release.yml", "publish"): {"packages", "id-token", "attestations"},
}
"""Which jobs may change what; all others only read."""


def loaded(path: Path) -> dict[str, Any]:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(workflow, dict)
    # YAML 1.1 reads the key `on` as true.
    return {("on" if key is True else str(key)): value for key, value in workflow.items()}


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in loaded(path)["jobs"].values() for step in job["steps"]]


def test_the_two_workflows_are_there() -> None:
    """One tests each change, one publishes each tag."""
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_digest(path: Path) -> None:
    """Each action is a commit, with the version that it is in a comment; the same everywhere."""
    lines = [line for line in path.read_text("utf-8").splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.search(r"uses: [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line
    everywhere = "".join(other.read_text("utf-8") for other in WORKFLOWS)
    pins = re.findall(r"uses: (\S+)@(\S+)", everywhere)
    assert len({name for name, _ in pins}) == len(set(pins))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_rights_are_few(path: Path) -> None:
    """Nothing is permitted to all jobs; a job has what it is listed with, and a time limit."""
    workflow = loaded(path)
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        writes = {what for what, right in job["permissions"].items() if right == "write"}
        assert writes == MAY_WRITE.get((path.name, name), set())
        assert set(job["permissions"].values()) <= {"read", "write"}
        assert job["timeout-minutes"] <= 90
        assert re.fullmatch(r"ubuntu-24\.04|\$\{\{ matrix\.runner \}\}", job["runs-on"])
    for step in steps(path):
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_scripts_take_values_from_the_environment(path: Path) -> None:
    """No expression stands in a script, where a branch's name could become a command."""
    for step in steps(path):
        assert "${{" not in step.get("run", "")
    assert "pull_request_target" not in path.read_text("utf-8")


def test_ci_does_what_ci_run_does() -> None:
    """The workflow runs the script, on the runner's own engine, for changes and for main."""
    workflow = loaded(ROOT / ".github/workflows/ci.yml")
    assert set(workflow["on"]) == {"pull_request", "push"}
    (command,) = [step["run"] for step in steps(WORKFLOWS[0]) if "run" in step]
    assert command.endswith("bash .ci/run")
    assert "RAGDOCK_USE_AMBIENT_DOCKER=1" in command
    assert "RAGDOCK_USE_AMBIENT_DOCKER" in (ROOT / "scripts/engine.sh").read_text("utf-8")


def test_a_release_is_for_two_platforms_with_papers() -> None:
    """Both are built on their own kind of machine, with SBOM and provenance, then signed."""
    workflow = loaded(ROOT / ".github/workflows/release.yml")
    assert workflow["on"] == {"push": {"tags": ["v*.*.*"]}}
    build = workflow["jobs"]["build"]
    platforms = {
        item["platform"]: item["runner"] for item in build["strategy"]["matrix"]["include"]
    }
    assert set(platforms) == {"amd64", "arm64"}
    assert platforms["arm64"].endswith("-arm")
    (push,) = [step for step in build["steps"] if "build-push-action" in step.get("uses", "")]
    assert push["with"]["sbom"] is True
    assert push["with"]["provenance"] == "mode=max"
    assert "push-by-digest=true" in push["with"]["outputs"]
    declared = set(
        re.findall(r"^ARG ([A-Z]+)", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    )
    given = {line.split("=")[0] for line in push["with"]["build-args"].splitlines()}
    assert given == {"VERSION", "REVISION", "CREATED", "SOURCE"} <= declared
    publish = str(workflow["jobs"]["publish"]["steps"])
    for word in ("imagetools create", "attest-build-provenance", "cosign sign --yes"):
        assert word in publish


def test_every_locked_package_has_wheels_for_both_platforms() -> None:
    """The runtime lock's compiled packages list more than one wheel, so arm64 can be among them.

    The lock is made with `--universal`, so it names the hashes of all platforms; that pip finds one
    for aarch64 was checked with `uv pip install --python-platform aarch64-manylinux_2_36`.
    """
    lock = (ROOT / "requirements.txt").read_text("utf-8")
    blocks = re.findall(r"^([a-z0-9-]+)==\S+.*\n((?:    --hash=.*\n)+)", lock, re.MULTILINE)
    hashes = {name: block.count("--hash") for name, block in blocks}
    for name in ("apsw", "httptools", "numpy", "onnxruntime", "pydantic-core", "pypdfium2",
                 "selectolax", "simsimd", "uvloop", "protobuf", "charset-normalizer"):  # fmt: skip
        assert hashes[name] > 2, name
