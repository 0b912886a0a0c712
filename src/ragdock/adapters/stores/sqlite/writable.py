"""Whether a directory takes files, told in words that help."""

from __future__ import annotations

import os
from pathlib import Path

from ragdock.errors import ConfigurationError

__all__ = ["make_writable"]


def make_writable(directory: Path, root: Path) -> None:
    """Make the directory, below the data directory `root`; `ConfigurationError` if it won't do."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as exc:
        raise ConfigurationError(
            f"RAG_DATA_DIR={str(root)!r} can't be written by user {os.getuid()}: "
            f"{os.strerror(exc.errno or 0)}. On the host run `sudo chown -R {os.getuid()} "
            f"<that directory>`, or set USER_ID in .env to the directory's owner."
        ) from exc
