"""What the image is built from agrees with the code: the model's inputs, the locks, the probe."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from ragdock.adapters.embedders.minilm_build import SOURCES
from ragdock.cli import probe

ROOT = Path(__file__).resolve().parents[2]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_model_stage_copies_what_the_build_imports() -> None:
    """The Dockerfile's list for the model stage is the import closure of minilm_build, no more."""
    stage = read("Dockerfile").split(" AS model\n")[1].split("\nFROM ")[0]
    copied = set(re.findall(r"src/(ragdock/\S+\.py)", stage))
    assert copied == closure("ragdock.adapters.embedders.minilm_build")


def closure(module: str) -> set[str]:
    """The files below src that importing `module` may load, by its import statements."""
    found: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        path = ROOT / "src" / name.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        relative = path.relative_to(ROOT / "src").as_posix()
        if not path.exists() or relative in found:
            continue
        found.add(relative)
        todo += [name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1)]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ragdock"):
                todo += [str(node.module), *(f"{node.module}.{a.name}" for a in node.names)]
    return found


def test_the_weights_are_those_that_the_build_knows() -> None:
    """requirements/weights.txt names minilm_build's first source, by the same hash."""
    lines = [line for line in read("requirements/weights.txt").splitlines() if line[0] != "#"]
    words = " ".join(lines).replace("\\", " ").split()
    assert words == [SOURCES[0].requirement, f"--hash=sha256:{SOURCES[0].sha256}"]


def test_the_probe_gives_up_before_docker_does() -> None:
    """The probe's deadline is below that of both health checks, so that its reason is seen."""
    image = re.findall(r"--timeout=(\d+)s", read("Dockerfile"))
    web = read("docker-compose.yml").split("\n  redis:\n")[0]
    stack = re.findall(r" timeout: (\d+)s\n", web)
    assert (len(image), len(stack)) == (1, 1)
    assert min(map(int, image + stack)) > probe.DEFAULT_TIMEOUT_SECONDS


def locked(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", read(name), re.MULTILINE))


def test_the_locks_hold_what_is_asked_for() -> None:
    """Each package of an .in file is in its lock; model and tests run on the server's versions."""
    runtime = locked("requirements.txt")
    for source in sorted((ROOT / "requirements").glob("*.in")):
        is_runtime = source.stem == "runtime"
        lock = runtime if is_runtime else locked(f"requirements/{source.stem}.txt")
        asked = re.findall(r"^([A-Za-z0-9][\w.-]*)", source.read_text("utf-8"), re.MULTILINE)
        missing = {name.lower().replace("_", "-") for name in asked} - set(lock)
        assert missing == set(), source.name
        if source.stem in ("model", "dev"):
            shared = set(lock) & set(runtime)
            assert {name: lock[name] for name in shared} == {name: runtime[name] for name in shared}


def test_the_package_asks_for_what_is_locked() -> None:
    """pyproject.toml and requirements/runtime.in name the same packages."""
    project = tomllib.loads(read("pyproject.toml"))["project"]["dependencies"]
    names = {re.split(r"[<>=; ]", line)[0] for line in project}
    asked = set(re.findall(r"^([a-z0-9-]+)", read("requirements/runtime.in"), re.MULTILINE))
    assert names == asked
