"""`ragdock reindex` with an embedder for tests: `python -m support.reindex --hashed[=DIM] NAME`."""

from __future__ import annotations

import json
import sys

from ragdock.bootstrap import open_reindexing
from ragdock.cli.reindex import run
from ragdock.settings import Settings
from support.serve import hash_embedder

if __name__ == "__main__":
    with open_reindexing(Settings.load(), embedder=hash_embedder(sys.argv)) as reindexing:
        sys.stderr.write(json.dumps(run(reindexing, sys.argv[-1])) + "\n")
