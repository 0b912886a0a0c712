"""What every test gets."""

from __future__ import annotations

import os

import pytest

# Settings fall back to the environment, and a test must not depend on who runs it. The model's
# directory is the one thing that the outside may say.
_KEPT = {"RAG_MODEL_DIR"}
_PREFIXES = ("RAG_", "REDIS_")
_NAMES = {"ENVIRONMENT", "PORT"}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the caller's settings from the code under test."""
    for name in set(os.environ) - _KEPT:
        if name.startswith(_PREFIXES) or name in _NAMES:
            monkeypatch.delenv(name)
