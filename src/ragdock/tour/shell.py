"""Cells that need Docker: run where there is an engine, else shown as they were recorded."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ragdock.errors import ConfigurationError
from ragdock.tour.showing import PAGE_WIDTH

__all__ = ["RECORDING", "Shell", "command", "engine_version"]

RECORDING: Final = Path("docs/notebook/recorded.json")
_MAX_LINES: Final = 60
# Compose 2 and later are a plugin of `docker`; the scripts call it by the older name.
_COMPOSE: Final = 'docker-compose() { docker compose "$@"; }\n'
_ANSI: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Shell:
    """Runs scripts in a folder, or prints what they printed when the notebook was recorded.

    `environment` is added to what the scripts see. With `recording` (`RAGDOCK_TOUR_RECORD=1`) each
    output is written to `docs/notebook/recorded.json` of `root`, with the date and the engine.
    """

    def __init__(
        self,
        root: Path,
        folder: Path,
        environment: Mapping[str, str],
        *,
        docker: bool,
        recording: bool = False,
        say: Callable[[str], None],
    ) -> None:
        self._file = root / RECORDING
        self._folder = folder
        self._environment = dict(environment)
        self._docker = docker
        self._recording = recording
        self._say = say
        self._engine = engine_version() if docker else ""
        if docker and not self._engine:
            raise ConfigurationError(
                "No Docker Engine answers. Start it, or set RUN_DOCKER = False: then the cells "
                "show what was recorded."
            )

    def __call__(self, name: str, script: str, timeout_seconds: float = 900.0) -> None:
        """Run the script (bash, stops at the first error), or show its recording.

        Raises `ConfigurationError` when the script fails, or when nothing was recorded.
        """
        if self._docker:
            text = self._run(script, timeout_seconds)
            if self._recording:
                self._keep(name, script, text)
        else:
            entry = self.recorded(name)
            self._say(
                f"[Recorded {entry['recorded']} with Docker Engine {entry['engine']}, "
                f"{entry['base']}; not run now.]"
            )
            text = str(entry["output"])
        self._say(text.rstrip("\n"))

    def recorded(self, name: str) -> dict[str, Any]:
        """The recording of one cell."""
        cells = _read(self._file)
        if name not in cells:
            raise ConfigurationError(
                f"No cell {name!r} was recorded; known are {', '.join(sorted(cells)) or 'none'}."
            )
        return dict(cells[name])

    def _run(self, script: str, timeout_seconds: float) -> str:
        compose = "" if shutil.which("docker-compose") else _COMPOSE
        done = subprocess.run(  # noqa: S603 (the notebook's own lines)
            ["bash", "-euo", "pipefail", "-c", f"{compose}{script}"],  # noqa: S607
            cwd=self._folder,
            env={**os.environ, "COLUMNS": str(PAGE_WIDTH), **self._environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            check=False,
        )
        text = _plain(done.stdout)
        if done.returncode != 0:
            raise ConfigurationError(f"The script ended with {done.returncode}:\n{text}")
        return text

    def _keep(self, name: str, script: str, text: str) -> None:
        cells = _read(self._file)
        cells[name] = {
            "recorded": datetime.now(UTC).date().isoformat(),
            "engine": self._engine,
            "base": "stand-in base images" if os.environ.get("BASE_IMAGE") else "official images",
            "script": script,
            "output": text,
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(dict(sorted(cells.items())), indent=1, ensure_ascii=False)
        self._file.write_text(f"{content}\n", encoding="utf-8")


def command(root: Path, folder: Path, *words: str, model: Path, say: Callable[[str], None]) -> int:
    """Run `ragdock words...` of this checkout in the folder, show what it prints; its exit code."""
    done = subprocess.run(  # noqa: S603 (the notebook's own lines)
        [sys.executable, "-m", "ragdock", *words],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(root / "src"),
            "RAG_MODEL_DIR": str(model),
            "NO_COLOR": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=300,
        check=False,
    )
    say(done.stdout.rstrip("\n"))
    return done.returncode


def engine_version() -> str:
    """The version of the Docker Engine that answers, "" when none does."""
    if shutil.which("docker") is None:
        return ""
    try:
        done = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _plain(text: str) -> str:
    """Without colours and progress bars, and not longer than a reader bears."""
    lines = [_ANSI.sub("", line.rpartition("\r")[2]).rstrip() for line in text.splitlines()]
    if len(lines) > _MAX_LINES:
        half = _MAX_LINES // 2
        cut = len(lines) - 2 * half
        lines = [*lines[:half], f"[... {cut} lines ...]", *lines[-half:]]
    return "\n".join(lines) + "\n"
