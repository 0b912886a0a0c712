"""A server, or a worker, for tests.

`python -m support.serve [--hashed[=DIM]] [--worker] [--stepping]`.
Settings come from the environment.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ragdock.api.server import run
from ragdock.cli.worker import run_worker
from ragdock.settings import Settings

if TYPE_CHECKING:
    from support.embedders import HashEmbedder


def _step_the_clock() -> None:
    """Have `time.time` jump a day ahead and a day back every second, for all of this process."""
    real = time.time

    def stepped() -> float:
        now = real()
        return now + (0.0, 86_400.0, -86_400.0)[int(time.monotonic()) % 3]

    time.time = stepped


def hash_embedder(argv: Sequence[str]) -> HashEmbedder | None:
    """The embedder that `--hashed` or `--hashed=DIM` asks for."""
    for argument in argv:
        option, _, dim = argument.partition("=")
        if option == "--hashed":
            from support.embedders import HashEmbedder

            return HashEmbedder(int(dim)) if dim else HashEmbedder()
    return None


if __name__ == "__main__":
    if "--stepping" in sys.argv:
        _step_the_clock()
    embedder = hash_embedder(sys.argv)
    if "--worker" in sys.argv:
        settings = Settings.load()
        run_worker(settings, port=settings.port, embedder=embedder)
    else:
        run(Settings.load(), embedder=embedder)
