"""Reads retrieval test sets in the form of BEIR (Thakur et al. 2021, arXiv:2104.08663).

    corpus.jsonl    {"_id", "title", "text"}                a document a line
    queries.jsonl   {"_id", "text", "answers" | "answer"}   a query a line; answers are optional
    qrels.tsv       query-id, corpus-id, score              with a header; or qrels/test.tsv

Errors name the file, the line and the remedy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ragdock.errors import InputError
from ragdock.samples import sample_files, sample_questions

__all__ = [
    "EvalDocument",
    "EvalQuery",
    "EvalSet",
    "load_eval_set",
    "load_queries",
    "sample_negatives",
    "sample_set",
]


@dataclass(frozen=True, slots=True)
class EvalDocument:
    """A document of the set, as a file; in BEIR's form it is title, a blank and text."""

    id: str
    filename: str
    content: bytes


@dataclass(frozen=True, slots=True)
class EvalQuery:
    """A query, the strings that a right answer contains, and the gain of each judged document."""

    id: str
    text: str
    answers: tuple[str, ...]
    gains: dict[str, float]


@dataclass(frozen=True, slots=True)
class EvalSet:
    """A whole set: documents in file order, and the queries that have a relevant document."""

    name: str
    documents: tuple[EvalDocument, ...]
    queries: tuple[EvalQuery, ...]


def load_eval_set(directory: Path) -> EvalSet:
    """Read a set; raises `InputError` with file, line and remedy."""
    documents = tuple(_documents(_file(directory, "corpus.jsonl")))
    if not documents:
        raise InputError(f"{directory / 'corpus.jsonl'} is empty; put one document on each line.")
    gains = _judgements(_file(directory, "qrels.tsv", "qrels/test.tsv"))
    queries = load_queries(directory, gains=gains)
    judged = tuple(query for query in queries if query.gains)
    if not judged:
        raise InputError(
            f"No query of {directory / 'queries.jsonl'} has a relevant document in the qrels; "
            "check that both use the same query ids."
        )
    known = {document.id for document in documents}
    if not any(document_id in known for query in judged for document_id in query.gains):
        raise InputError(
            f"No relevant document of {directory}'s qrels is in corpus.jsonl; "
            "check that both use the same document ids."
        )
    return EvalSet(directory.resolve().name, documents, judged)


def sample_set() -> EvalSet:
    """The sample corpus that comes with the package, and the questions that it answers."""
    documents = tuple(
        EvalDocument(path.name, path.name, path.read_bytes()) for path in sample_files()
    )
    queries = tuple(
        EvalQuery(str(number), item.question, item.answers, {item.file: 1.0})
        for number, item in enumerate(sample_questions(), start=1)
        if item.file is not None
    )
    return EvalSet("samples", documents, queries)


def sample_negatives() -> tuple[EvalQuery, ...]:
    """The questions that the sample corpus doesn't answer."""
    return tuple(
        EvalQuery(str(number), item.question, (), {})
        for number, item in enumerate(sample_questions(), start=1)
        if item.file is None
    )


def load_queries(
    directory: Path, *, gains: dict[str, dict[str, float]] | None = None
) -> tuple[EvalQuery, ...]:
    """Read queries.jsonl alone, for a set whose questions serve as negatives."""
    path = _file(directory, "queries.jsonl")
    queries: dict[str, EvalQuery] = {}
    for where, row in _rows(path):
        query_id = _text(where, row, "_id")
        if query_id in queries:
            raise InputError(f"{where}: the query id {query_id!r} occurs twice; ids are unique.")
        relevant = {key: gain for key, gain in (gains or {}).get(query_id, {}).items() if gain > 0}
        queries[query_id] = EvalQuery(
            query_id, _text(where, row, "text"), _answers(where, row), relevant
        )
    if not queries:
        raise InputError(f"{path} is empty; put one query on each line.")
    return tuple(queries.values())


def _documents(path: Path) -> Iterator[EvalDocument]:
    seen: set[str] = set()
    for where, row in _rows(path):
        document_id = _text(where, row, "_id")
        if document_id in seen:
            raise InputError(f"{where}: the document id {document_id!r} occurs twice.")
        seen.add(document_id)
        title = _text(where, row, "title") if row.get("title") else ""
        text = f"{title} {_text(where, row, 'text')}".strip()
        # JSON can write lone surrogates, which no file can hold.
        yield EvalDocument(document_id, "document.txt", text.encode("utf-8", "replace"))


def _judgements(path: Path) -> dict[str, dict[str, float]]:
    gains: dict[str, dict[str, float]] = {}
    lines = _read(path).replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = line.split("\t")
        try:
            query_id, document_id, score = cells
            gains.setdefault(query_id, {})[document_id] = float(score)
        except ValueError:
            raise InputError(
                f"{path}, line {number}: expected query-id, corpus-id and a number, "
                f"separated by tabs, not {line[:80]!r}."
            ) from None
    if len(cells := lines[0].split("\t")) == 3 and _is_number(cells[2]):
        raise InputError(
            f"{path}, line 1: a header is expected (query-id, corpus-id, score), "
            "and this looks like data; add one."
        )
    return gains


def _rows(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    # Not splitlines(): JSON strings may hold U+2028 and its kin, which that would take for an end.
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as exc:
            raise InputError(f"{where}: not JSON ({exc.msg}, column {exc.colno}).") from None
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object, not {type(row).__name__}.")
        yield where, row


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InputError(f"{path} is not UTF-8 (byte {exc.start}); convert it first.") from None
    except OSError as exc:
        raise InputError(f"{path} can't be read: {exc.strerror}.") from None


def _text(where: str, row: dict[str, object], key: str) -> str:
    value = row.get(key)
    # Some published sets have numbers as ids; both sides are read as text.
    if key == "_id" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or (key == "_id" and not value):
        raise InputError(f'{where}: "{key}" must be a string, not {value!r}.')
    return value


def _answers(where: str, row: dict[str, object]) -> tuple[str, ...]:
    answers = row.get("answers", row.get("answer"))
    if answers is None:
        return ()
    if isinstance(answers, str):
        return (answers,)
    if isinstance(answers, list) and all(isinstance(answer, str) for answer in answers):
        return tuple(answers)
    raise InputError(f'{where}: "answers" must be a string or a list of strings, not {answers!r}.')


def _file(directory: Path, *names: str) -> Path:
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise InputError(
        f"{directory} holds no {names[0]}; "
        "a test set has corpus.jsonl, queries.jsonl and qrels.tsv."
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
