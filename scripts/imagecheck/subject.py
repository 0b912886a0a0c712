"""What is checked: a checkout and, where there is an engine, an image built from it."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
# Larger files are models and libraries; a private key is a few kilobytes.
LARGEST_TEXT_BYTES = 200_000


class ToolError(Exception):
    """A program that the checks need is missing or broke off; the message says which."""


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, continuation lines joined."""

    word: str
    rest: str
    line: int


@dataclass(frozen=True)
class Entry:
    """One file of the image's root."""

    path: str
    mode: int
    uid: int
    gid: int
    kind: str  # As tarfile has it: "0" file, "5" directory, "2" link ...
    text: str = ""  # Of small regular files.


@dataclass
class Subject:
    """The files below `root`, the image `image`, the programs in `tools`.

    Everything is read when first asked for, so a check of files needs neither engine nor tools.
    """

    root: Path = ROOT
    image: str = ""
    tools: Path = ROOT / ".cache/image-tools/bin"
    # Compose programs by version, each a command.
    composes: dict[str, str] = field(default_factory=dict)
    # What the base image is called in the engine; empty is what the Dockerfile names.
    base: str = ""

    def text(self, name: str) -> str:
        path = self.root / name
        return path.read_text(encoding="utf-8") if path.exists() else ""

    @cached_property
    def instructions(self) -> list[Instruction]:
        return parse_dockerfile(self.text("Dockerfile"))

    @cached_property
    def stages(self) -> list[list[Instruction]]:
        """The instructions of each stage, FROM first."""
        found: list[list[Instruction]] = []
        for each in self.instructions:
            if each.word == "FROM":
                found.append([])
            if found:
                found[-1].append(each)
        return found

    def shipped(self) -> list[Instruction]:
        """The instructions whose results are in the image: the last stage, and those below it."""
        names = {stage_name(stage): stage for stage in self.stages}
        found: list[Instruction] = []
        stage = self.stages[-1] if self.stages else []
        while stage:
            found = [*stage[1:], *found]
            stage = names.get(stage[0].rest.split()[0], [])
        return found

    @cached_property
    def compose(self) -> dict[str, Any]:
        return dict(yaml.safe_load(self.text("docker-compose.yml")) or {})

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        return dict(self.compose.get("services", {}))

    @cached_property
    def tracked(self) -> list[str]:
        """What git holds, or would; without git, every file."""
        done = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"],
            cwd=self.root, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            return [name for name in done.stdout.split("\0") if (self.root / name).is_file()]
        files = (path for path in self.root.rglob("*") if path.is_file())
        return [path.relative_to(self.root).as_posix() for path in files]

    # ---- the image --------------------------------------------------------------------------

    @cached_property
    def inspected(self) -> dict[str, Any]:
        (found,) = json.loads(run(["docker", "image", "inspect", self.image]).stdout)
        return dict(found)

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.inspected["Config"])

    @property
    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in self.config.get("Env") or [])

    @cached_property
    def rootfs(self) -> list[Entry]:
        """Every file of the image, as `docker export` shows it."""
        name = run(["docker", "create", self.image]).stdout.strip()
        try:
            with subprocess.Popen(["docker", "export", name], stdout=subprocess.PIPE) as export:
                assert export.stdout is not None
                with tarfile.open(fileobj=export.stdout, mode="r|") as archive:
                    return list(entries(archive))
        finally:
            run(["docker", "rm", "-v", name])

    def file(self, path: str) -> str:
        """The text of one small file of the image, or nothing."""
        return next((entry.text for entry in self.rootfs if entry.path == path), "")

    def tool(self, name: str, *arguments: str | Path, cwd: Path | None = None) -> Ran:
        """Run one of the programs of requirements/image.txt."""
        program = self.tools / name
        if not program.exists():
            raise ToolError(f"{program} is missing: `make image-check` installs it")
        return run([program, *arguments], check=False, cwd=cwd or self.root, timeout_seconds=300)


Ran = subprocess.CompletedProcess[str]
Check = Callable[[Subject], list[str]]


def run(
    command: Sequence[str | Path],
    *,
    check: bool = True,
    cwd: Path | None = None,
    timeout_seconds: float = 120,
    environment: dict[str, str] | None = None,
) -> Ran:
    """Run a program; a failure raises `ToolError` with what it said, unless `check` is false."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", check=False,
            timeout=timeout_seconds, cwd=cwd, env=environment,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ToolError(f"{' '.join(words)}: {exc}") from exc
    if check and done.returncode != 0:
        raise ToolError(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def parse_dockerfile(text: str) -> list[Instruction]:
    """The instructions in order, comments left out, words in capitals."""
    found: list[Instruction] = []
    pending, began = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not line.strip() and not pending):
            continue
        began = began or number
        pending += line.removesuffix("\\").strip() + " "
        if line.endswith("\\"):
            continue
        word, _, rest = pending.strip().partition(" ")
        found.append(Instruction(word.upper(), rest.strip(), began))
        pending, began = "", 0
    return found


def stage_name(stage: Sequence[Instruction]) -> str:
    found = re.search(r"\sAS\s+(\S+)$", stage[0].rest, re.IGNORECASE)
    return found[1] if found else ""


def entries(archive: tarfile.TarFile) -> Iterator[Entry]:
    for member in archive:
        text = ""
        if member.isreg() and member.size <= LARGEST_TEXT_BYTES:
            content = archive.extractfile(member)
            text = content.read().decode("utf-8", "replace") if content else ""
        yield Entry(
            "/" + member.name.removeprefix("./").strip("/"),
            member.mode, member.uid, member.gid, member.type.decode(), text,
        )  # fmt: skip


def scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ragdock-image-check-")
