"""Where tests find the built embedding model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

__all__ = ["model_dir"]


def model_dir() -> Path:
    """`RAG_MODEL_DIR`, else `models` in the repository; skips the test when nothing is built."""
    directory = Path(os.environ.get("RAG_MODEL_DIR") or Path(__file__).parents[2] / "models")
    if not (directory / "manifest.json").is_file():
        pytest.skip("no embedding model: run `make model`, or set RAG_MODEL_DIR")
    return directory
