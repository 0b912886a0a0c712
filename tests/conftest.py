"""What every test gets."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Settings fall back to the environment, and a test must not depend on who runs it. The model's
# directory is the one thing that the outside may say.
_KEPT = {"RAG_MODEL_DIR"}
_PREFIXES = ("RAG_", "REDIS_")
_NAMES = {"ENVIRONMENT", "PORT"}


@pytest.fixture(autouse=True, scope="session")
def _clean_environment() -> Iterator[None]:
    """Hide the caller's settings from the code under test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - _KEPT:
            if name.startswith(_PREFIXES) or name in _NAMES:
                patch.delenv(name)
        yield
