"""Where the sizing model's constants come from: a file, or what was measured for the release."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from ragdock.core.sizing import Constants
from ragdock.errors import InputError

__all__ = ["read_constants", "shipped_constants"]

_REMEDY = "write one with `make sizing-constants`"


def shipped_constants() -> Constants:
    """Those that come with the package; `origin` and `machine` say what they were measured on."""
    text = resources.files("ragdock.ops").joinpath("sizing.json").read_text(encoding="utf-8")
    return Constants.parse(json.loads(text), "sizing.json")


def read_constants(path: Path) -> Constants:
    """Those of a file: the object itself, or one that has it as `sizing` (`bench/run.py --json`).

    Raises `InputError`.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise InputError(
            f"constants={str(path)!r} can't be read ({exc.strerror}); {_REMEDY}.", field="constants"
        ) from exc
    except ValueError as exc:
        raise InputError(
            f"constants={str(path)!r} is not JSON; {_REMEDY}.", field="constants"
        ) from exc
    if isinstance(given, dict) and "sizing" in given:
        given = given["sizing"]
    return Constants.parse(given)
