"""The loader of test sets reads BEIR's form and says where a file is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from ragdock.errors import InputError
from ragdock.ops.evalset import (
    EvalDocument,
    EvalQuery,
    load_eval_set,
    load_queries,
    sample_negatives,
    sample_set,
)

CORPUS = '{"_id": "d1", "title": "One", "text": "first"}\n\n{"_id": 2, "text": "second"}\n'
QUERIES = (
    '{"_id": "q1", "text": "which?", "answers": ["a", "b"]}\n'
    '{"_id": "q2", "text": "what?", "answer": "c"}\n'
    '{"_id": "q3", "text": "unjudged"}\n'
)
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq2\t2\t1\nq2\td1\t0\nq3\td1\t0\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "corpus.jsonl").write_text(CORPUS, encoding="utf-8")
    (tmp_path / "queries.jsonl").write_text(QUERIES, encoding="utf-8")
    (tmp_path / "qrels.tsv").write_text(QRELS, encoding="utf-8")
    return tmp_path


def test_reads_documents_queries_and_gains(directory: Path) -> None:
    """Titles and answers are optional, ids may be numbers, and unjudged queries are left out."""
    loaded = load_eval_set(directory)
    assert loaded.name == directory.name
    assert loaded.documents == (
        EvalDocument("d1", "document.txt", b"One first"),
        EvalDocument("2", "document.txt", b"second"),
    )
    assert loaded.queries == (
        EvalQuery("q1", "which?", ("a", "b"), {"d1": 2.0}),
        EvalQuery("q2", "what?", ("c",), {"2": 1.0}),
    )


def test_finds_qrels_where_beir_puts_them(directory: Path) -> None:
    """The original layout with qrels/test.tsv works too."""
    (directory / "qrels").mkdir()
    (directory / "qrels.tsv").rename(directory / "qrels" / "test.tsv")
    assert len(load_eval_set(directory).queries) == 2


def test_queries_alone_serve_as_negatives(directory: Path) -> None:
    """Without a corpus or judgements every query is read, with no gains."""
    (directory / "corpus.jsonl").unlink()
    (directory / "qrels.tsv").unlink()
    assert [query.gains for query in load_queries(directory)] == [{}, {}, {}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("corpus.jsonl", '{"_id": "d1", "text": "x"}\n{nope\n', r"corpus.jsonl, line 2: not JSON"),
        ("corpus.jsonl", "[1]\n", "line 1: expected an object, not list"),
        ("corpus.jsonl", '{"_id": "d1"}\n', 'line 1: "text" must be a string, not None'),
        ("corpus.jsonl", '{"_id": "", "text": "x"}\n', '"_id" must be a string'),
        ("corpus.jsonl", CORPUS + CORPUS, "'d1' occurs twice"),
        ("corpus.jsonl", "", "is empty"),
        ("queries.jsonl", "", "is empty"),
        ("queries.jsonl", QUERIES + QUERIES, "'q1' occurs twice"),
        ("queries.jsonl", '{"_id": "q1", "text": "x", "answers": 3}', "list of strings, not 3"),
        ("queries.jsonl", '{"_id": "other", "text": "x"}', "same query ids"),
        ("qrels.tsv", "query-id\tcorpus-id\tscore\nq1 d1 1\n", "line 2: expected query-id"),
        ("qrels.tsv", "query-id\tcorpus-id\tscore\nq1\td1\thigh\n", "line 2: expected query-id"),
        ("qrels.tsv", "q1\td1\t1\nq2\t2\t1\n", "line 1: a header is expected"),
        ("qrels.tsv", "query-id\tcorpus-id\tscore\nq1\tother\t1\n", "same document ids"),
    ],
)
def test_errors_name_file_line_and_remedy(
    directory: Path, name: str, content: str, message: str
) -> None:
    """Each kind of damage is an InputError that says where it is."""
    (directory / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        load_eval_set(directory)
    assert name.split(".")[0] in str(caught.value) or "qrels" in str(caught.value)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    """The error says which of the three files is missing."""
    (directory / name).unlink()
    with pytest.raises(InputError, match=f"holds no {name}"):
        load_eval_set(directory)


def test_other_encodings_are_refused(directory: Path) -> None:
    """A file in Latin-1 is named with the byte where it stops being UTF-8."""
    (directory / "corpus.jsonl").write_bytes('{"_id": "d1", "text": "é"}'.encode("latin-1"))
    with pytest.raises(InputError, match=r"not UTF-8 \(byte 23\)"):
        load_eval_set(directory)


def test_line_separators_inside_a_text_do_not_end_the_line(directory: Path) -> None:
    """U+2028 in a JSON string belongs to the string."""
    (directory / "corpus.jsonl").write_text('{"_id": "d1", "text": "a\u2028b"}\n', encoding="utf-8")
    assert load_eval_set(directory).documents[0].content.decode() == "a\u2028b"


def test_the_samples_are_a_set() -> None:
    """Each sample question's relevant document is one of the set's; the negatives have none."""
    samples = sample_set()
    ids = {document.id for document in samples.documents}
    assert len(samples.queries) == 20
    assert all(set(query.gains) <= ids and query.answers for query in samples.queries)
    assert len(sample_negatives()) == 5
