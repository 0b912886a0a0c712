#!/usr/bin/env python3
"""Runs the examples of the documentation against a real server, and renews their outputs.

    python scripts/examples.py           run them, rewrite what they print
    python scripts/examples.py --check   exit 1 and show where they print something else

An example is a `console` block between `<!-- begin run -->` and `<!-- end run -->`: lines that
start with `$ ` are commands (a trailing backslash continues one), the others are what they printed.
All examples of a page run in order, in an empty directory, against one server with the sample
corpus, which stands in for the one at http://localhost:8000. Numbers with a fraction, times and
uptimes differ from run to run and count as equal. It needs the embedding model (`make serve` builds
it); RAG_MODEL_DIR says where.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/api.md")
PUBLIC_URL = "http://localhost:8000"
START_SECONDS = 60.0
COMMAND_SECONDS = 60.0

_BLOCK = re.compile(r"(<!-- begin run -->\n```console\n)(.*?)(```\n<!-- end run -->)", re.DOTALL)
_MASKS = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)?"), "<time>"),
    (re.compile(r"\d+\.\d+(e-?\d+)?"), "<number>"),
    (re.compile(r'("(?:embed|lexical|dense|fuse|extract|total)"): \d+'), r"\1: <number>"),
    (re.compile(r"\bup \d+ s\b"), "up <number> s"),
    (re.compile(r"x-request-id: \S+"), "x-request-id: <id>"),
    (re.compile(r'"request_id": ?"[^"]+"'), '"request_id": "<id>"'),
    (re.compile(r"minilm-l6-v2-int8:[0-9a-f]{8}"), "minilm-l6-v2-int8:<hash>"),
    (re.compile(r"job_[0-9a-z]{13}"), "<job>"),
    (re.compile(r" {2,}|-{3,}|─+|━+"), " "),
)


def pages() -> list[Path]:
    """The pages that hold examples."""
    return [ROOT / name for name in PAGES if (ROOT / name).exists()]


def masked(text: str) -> str:
    """The text without what differs from run to run."""
    for pattern, stand_in in _MASKS:
        text = pattern.sub(stand_in, text)
    return text


def commands(block: str) -> list[str]:
    """The commands of a block, continued lines joined as the shell would."""
    found: list[str] = []
    continued = False
    for line in block.splitlines():
        if continued:
            found[-1] += f"\n{line}"
        elif line.startswith("$ "):
            found.append(line[2:])
        else:
            continue
        continued = line.endswith("\\")
    return found


def examples(page: Path) -> list[str]:
    """The commands of all examples of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [command for match in _BLOCK.finditer(text) for command in commands(match[2])]


def rewritten(text: str, url: str, directory: Path) -> str:
    """The page with every example run anew."""

    def renew(match: re.Match[str]) -> str:
        shown = "".join(
            f"$ {command}\n{run(command, url, directory)}" for command in commands(match[2])
        )
        return f"{match[1]}{shown}{match[3]}"

    return _BLOCK.sub(renew, text)


def run(command: str, url: str, directory: Path) -> str:
    """What a command prints, both streams, ending in a line end if there is anything."""
    binaries = directory.parent / "bin"
    environment = {
        "HOME": str(directory),
        "PATH": f"{binaries}:/usr/local/bin:/usr/bin:/bin",
        "RAGDOCK_URL": url,
        "COLUMNS": "100",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
    }
    done = subprocess.run(
        ["bash", "-c", command.replace(PUBLIC_URL, url)],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    printed = done.stdout.replace(url, PUBLIC_URL).replace("\r\n", "\n")
    lines = "\n".join(line.rstrip() for line in printed.strip("\n").splitlines())
    return f"{lines}\n" if lines else ""


@contextmanager
def server() -> Iterator[tuple[str, Path]]:
    """A server with the sample corpus, all of it searchable: its URL and an empty directory."""
    with tempfile.TemporaryDirectory(prefix="ragdock-docs-") as name:
        scratch = Path(name)
        for folder in ("data", "here", "bin"):
            (scratch / folder).mkdir()
        _programs(scratch / "bin")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "PORT": str(port),
            "RAG_DATA_DIR": str(scratch / "data"),
            "RAG_MODEL_DIR": os.environ.get("RAG_MODEL_DIR") or str(ROOT / "models"),
            "RAG_SAMPLES": "true",
        }
        with (scratch / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "m3_1_dockerize.py"), "--serve"],
                cwd=scratch,
                env=environment,
                stdout=log,
                stderr=log,
            )
        try:
            if not _ready(url, process):
                raise RuntimeError((scratch / "log").read_text(encoding="utf-8", errors="replace"))
            yield url, scratch / "here"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def _programs(directory: Path) -> None:
    """`ragdock` and `python` as the examples call them."""
    source = ROOT / "src"
    for name, line in {
        "ragdock": f'PYTHONPATH="{source}" exec "{sys.executable}" -m ragdock "$@"',
        "python": f'exec "{sys.executable}" "$@"',
    }.items():
        program = directory / name
        program.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        program.chmod(0o755)


def _ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the server is healthy and has worked off its queue."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                queue = json.load(answer)["queue"]
            if not queue.get("pending") and not queue.get("processing"):
                return True
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.1)
    return False


def main(arguments: list[str]) -> int:
    """Run the examples of every page; each page gets a server of its own."""
    check = arguments == ["--check"]
    stale = False
    for page in pages():
        before = page.read_text(encoding="utf-8")
        with server() as (url, directory):
            after = rewritten(before, url, directory)
        if masked(before) == masked(after):
            continue
        stale = True
        if check:
            print("\n".join(difflib.unified_diff(
                masked(before).splitlines(), masked(after).splitlines(),
                page.name, "what it prints", lineterm="", n=1,
            )))  # fmt: skip
        else:
            page.write_text(after, encoding="utf-8", newline="\n")
            print(page.relative_to(ROOT))
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
