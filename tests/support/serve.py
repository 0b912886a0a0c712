"""A server for tests: `python -m support.serve [--hashed]`, settings from the environment."""

from __future__ import annotations

import sys

from ragdock.api.server import run
from ragdock.settings import Settings

if __name__ == "__main__":
    embedder = None
    if "--hashed" in sys.argv:
        from support.embedders import HashEmbedder

        embedder = HashEmbedder()
    run(Settings.load(), embedder=embedder)
