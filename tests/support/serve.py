"""A server, or a worker, for tests: `python -m support.serve [--hashed] [--worker]`.

Settings come from the environment.
"""

from __future__ import annotations

import sys

from ragdock.api.server import run
from ragdock.cli.worker import run_worker
from ragdock.settings import Settings

if __name__ == "__main__":
    embedder = None
    if "--hashed" in sys.argv:
        from support.embedders import HashEmbedder

        embedder = HashEmbedder()
    if "--worker" in sys.argv:
        settings = Settings.load()
        run_worker(settings, port=settings.port, embedder=embedder)
    else:
        run(Settings.load(), embedder=embedder)
