#!/usr/bin/env python3
"""Checks an image, and the files it is built from, against the 68 checkpoints of docs/container.md.

    scripts/image_check.py --image rag-api:latest    everything; wants a Docker Engine
    scripts/image_check.py --levels files            what needs neither tools nor engine
    scripts/image_check.py --skip builds             all but the two builds without a cache

`make image-check` installs the tools (requirements/image.txt) into .cache/image-tools and runs it.
The bill of materials goes to dist/sbom.cdx.json, the licences to dist/licences.md. BASE_IMAGE names
the base for the builds. The table in docs/container.md is written by scripts/docs.py.
Exit code: 0 when nothing failed, 1 when something did, 2 for wrong options.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from imagecheck.checkpoints import ALL, LEVELS
from imagecheck.image import size_line
from imagecheck.runner import FAIL, Outcome, run_all, summary
from imagecheck.subject import ROOT, Subject


def composes() -> dict[str, str]:
    """The Compose programs that are at hand, by version."""
    found = {v: str(ROOT / f".cache/compose-{v}/bin/docker-compose") for v in ("2", "5")}
    found = {version: path for version, path in found.items() if Path(path).exists()}
    if installed := shutil.which("docker-compose"):
        found["on PATH"] = installed
    return found


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--image", default="rag-api:latest", help="tag in the engine")
    parser.add_argument("--base", default=os.environ.get("BASE_IMAGE", ""), help="base of builds")
    parser.add_argument("--levels", default=",".join(LEVELS), help="comma-separated")
    parser.add_argument("--skip", default="", help="levels to leave out, comma-separated")
    parser.add_argument("--only", default="", help="checkpoints, comma-separated: A1,C4")
    parser.add_argument("--json", action="store_true", help="print outcomes as JSON")
    found = parser.parse_args()
    levels = set(found.levels.split(",")) - set(found.skip.split(","))
    if levels - set(LEVELS):
        parser.error(f"levels are {', '.join(LEVELS)}")
    only = set(filter(None, found.only.split(",")))
    if only - {each.id for each in ALL}:
        parser.error("--only takes A1 ... D14")
    found.levels, found.only = levels, only
    return found


def show(outcome: Outcome) -> None:
    print(f"{outcome.checkpoint.id:<4} {outcome.status:<10} {outcome.checkpoint.title}", flush=True)
    for problem in outcome.problems:
        print(f"       {problem}")


def main() -> int:
    """Run the checks and print one line a checkpoint; returns the exit code."""
    asked = options()
    subject = Subject(image=asked.image, base=asked.base, composes=composes())
    chosen = [each for each in ALL if not asked.only or each.id in asked.only]
    began = time.monotonic()
    outcomes = run_all(subject, chosen, asked.levels, (lambda _: None) if asked.json else show)
    if asked.json:
        print(json.dumps([
            {"id": o.checkpoint.id, "status": o.status, "problems": o.problems} for o in outcomes
        ], indent=1))  # fmt: skip
    else:
        if "image" in asked.levels:
            print(f"\n{size_line(subject)}")
        n_tested = sum(bool(outcome.checkpoint.tests) for outcome in outcomes)
        print(f"{n_tested} have more to them, which `make test-container` shows on a whole stack")
        print(f"{summary(outcomes)} ({time.monotonic() - began:.0f} s)")
    return 1 if any(outcome.status == FAIL for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
