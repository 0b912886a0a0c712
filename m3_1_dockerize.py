#!/usr/bin/env python3
"""Starts the RAG API or a worker, or asks whether it is healthy: the container's commands.

python m3_1_dockerize.py --serve [options of `ragdock serve`]
python m3_1_dockerize.py --worker [options of `ragdock worker`]
python m3_1_dockerize.py --health [--url URL] [--timeout SECONDS]
"""

from __future__ import annotations

import signal
import sys


def main(arguments: list[str]) -> int:
    """Run what the first argument asks for; returns the process's exit code."""
    try:
        import ragdock  # noqa: F401
    except ModuleNotFoundError:
        # In a checkout the package need not be installed.
        from pathlib import Path

        sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command == "--health":
        from ragdock.cli import probe

        return probe.main(rest)
    if command in ("--serve", "--worker"):
        # As process 1 of a container it would ignore a stop that comes while it still imports.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        from ragdock.cli.main import main as cli

        return cli([command[2:], *rest]) or 0
    (sys.stdout if command in ("-h", "--help") else sys.stderr).write(f"{__doc__}\n")
    return 0 if command in ("-h", "--help") else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
