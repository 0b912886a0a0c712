"""The sample corpus: the handbook of an invented island ferry line, and questions about it.

`handbook/` holds eleven short documents in four formats. `questions.jsonl` holds one object a line:
`question`, `answers` (strings that a right answer contains; none for a question about something
else) and `file` (the document that holds the answer, or null).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

__all__ = ["SampleQuestion", "sample_files", "sample_questions"]


@dataclass(frozen=True, slots=True)
class SampleQuestion:
    """A question; off topic when `file` is None, and then nothing in the corpus answers it."""

    question: str
    answers: tuple[str, ...]
    file: str | None


def sample_files() -> tuple[Path, ...]:
    """The documents by name. The package lies unpacked on disk, as every wheel is installed."""
    return tuple(sorted(path for path in (_root() / "handbook").iterdir() if path.is_file()))


def sample_questions() -> tuple[SampleQuestion, ...]:
    """All questions, the off-topic ones last."""
    lines = (_root() / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(
        SampleQuestion(row["question"], tuple(row["answers"]), row["file"])
        for row in map(json.loads, lines)
    )


def _root() -> Path:
    return Path(str(resources.files("ragdock.samples")))
