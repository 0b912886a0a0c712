"""The whole chaos: 2,000 documents under 200 kills, a full disk, a jumping clock, two servers.

    python bench/chaos.py [SCALE]

Runs tests/integration/test_chaos.py at SCALE (10 is all of it, 1 what the tests run) and prints the
counts: what was acknowledged, refused, found, torn, doubled; what was asked and answered.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FULL_SCALE = "10"


def main() -> int:
    """Run it; pytest's exit code."""
    scale = sys.argv[1] if len(sys.argv) > 1 else FULL_SCALE
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-s", "-q", "tests/integration/test_chaos.py"],
        cwd=ROOT,
        env={**os.environ, "CHAOS_SCALE": scale},
        check=False,
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
