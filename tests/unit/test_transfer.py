"""Export and import: what comes back finds what went out, and wrong lines are named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ragdock.adapters.stores.sqlite import SqliteKeeper, SqliteStore
from ragdock.bootstrap import Reindexing
from ragdock.cli.transfer import export_from, import_into
from ragdock.core.fingerprints import fingerprint_of
from ragdock.errors import ConflictError, InputError
from ragdock.services.reindex import Reindexer
from ragdock.types import Block, BlockKind, Chunk, PageSpan, ParsedDocument
from support.embedders import HashEmbedder
from support.stores import claimed, found, memory_directory, put, stage_parts, text_of

PARTS = [[f"alpha{p} word{p}x{n}." for n in range(5)] for p in range(4)]


@pytest.fixture
def home() -> Iterator[Path]:
    with memory_directory() as path:
        yield path


def opened(directory: Path, dim: int = 64) -> tuple[SqliteStore, Reindexing]:
    """A store, and what works on it with the settings of an embedder."""
    embedder = HashEmbedder(dim)
    store = SqliteStore(directory)
    fingerprint = fingerprint_of(embedder.id, dim, "chunker", 64)
    return store, Reindexing(store, Reindexer(embedder, 64), fingerprint, dim)


def fill(home: Path) -> Path:
    """An export of a collection with small and large documents."""
    store, reindexing = opened(home / "from")
    store.create_collection("c", reindexing.fingerprint, 64)
    for n in range(5):
        put(store, f"d{n}", f"first words{n} é 漢字\n\nsecond words{n}", n=n, tags=["a", "b"])
    job = claimed(store, "long")
    store.commit_document(job, *stage_parts(store, job, PARTS))
    assert export_from(reindexing, "c", str(home / "c.jsonl")) == 6
    store.close()
    return home / "c.jsonl"


def asked(directory: Path, collection: str, dim: int = 64) -> list[Any]:
    """Everything that searches and listings tell."""
    store = SqliteStore(directory)
    answers: list[Any] = []
    for query in ("words3", "second", "word2x3 alpha2", "漢字"):
        answers.append(found(store, query, collection=collection))
        with store.reader(collection) as reader:
            result = reader.dense(HashEmbedder(dim).embed([query])[0], 10)
            hits = reader.hits([one.chunk_id for one in result.hits])
        answers.append(
            [
                (hits[one.chunk_id].document_id, hits[one.chunk_id].text, round(one.score, 6))
                for one in result.hits
            ]
        )
    documents = store.documents(collection)
    for one in documents:
        answers.append((one.id, one.filename, one.sha256, one.metadata, one.title, one.n_chunks))
        answers.append(text_of(store, one.id, collection))
        answers.append(list(store.document_parts(collection, one.id)))
    store.close()
    return answers


def test_a_round_trip_loses_nothing(home: Path) -> None:
    """The imported collection finds the same, holds the same, and is sound; twice is as once."""
    file = fill(home)
    store, reindexing = opened(home / "to")
    assert import_into(reindexing, str(file), "other") == {
        "n_written": 6,
        "n_unchanged": 0,
        "embedded": False,
    }
    assert import_into(reindexing, str(file), "other")["n_unchanged"] == 6
    assert store.collection("other").n_documents == 6
    assert asked(home / "to", "other") == asked(home / "from", "c")
    put(store, "d1", "words1 anew", collection="other")
    assert import_into(reindexing, str(file), "other")["n_written"] == 1
    assert text_of(store, "d1", "other").startswith("first words1")
    store.close()
    verdict = SqliteKeeper(home / "to").verify(quick=False, progress=lambda *_: None)
    assert verdict.findings == ()


def labelled(home: Path) -> Path:
    """An export of a document with two pages, of which one has a label."""
    store, reindexing = opened(home / "from")
    store.create_collection("c", reindexing.fingerprint, 64)
    blocks = (Block(0, 6, BlockKind.PARAGRAPH), Block(8, 13, BlockKind.PARAGRAPH))
    pages = (PageSpan(1, 0, 6, "iv"), PageSpan(2, 6, 13))
    parsed = ParsedDocument("Alpha.\n\nBeta.", blocks, pages)
    chunks = [Chunk(0, 0, 6, "Alpha.", "", 1, "iv"), Chunk(1, 8, 13, "Beta.", "", 2)]
    vectors = HashEmbedder(64).embed(["alpha", "beta"])
    store.commit_document(claimed(store, "d"), parsed, chunks, vectors)
    export_from(reindexing, "c", str(home / "c.jsonl"))
    store.close()
    return home / "c.jsonl"


def labels(directory: Path) -> list[tuple[int | None, str]]:
    """Pages and labels of the hits and of the structure, which have to agree."""
    store = SqliteStore(directory)
    with store.reader("c") as reader:
        hits = reader.hits(range(20)).values()
    told = [(hit.page, hit.page_label) for hit in sorted(hits, key=lambda hit: hit.start)]
    (part,) = store.document_parts("c", "d")
    assert [(page.number, page.label) for page in part.pages] == told
    store.close()
    return told


@pytest.mark.parametrize("dim", [64, 32])
def test_labels_of_pages_come_back(home: Path, dim: int) -> None:
    """With the vectors of the export, and with ones that are made anew."""
    file = labelled(home)
    store, reindexing = opened(home / "to", dim)
    assert import_into(reindexing, str(file), None)["embedded"] == (dim == 32)
    store.close()
    assert labels(home / "to") == [(1, "iv"), (2, "")]


def test_exports_without_labels_are_as_before(home: Path) -> None:
    """Pages without a label have three elements and passages four, and such are imported."""
    head, line = labelled(home).read_bytes().splitlines()
    document = json.loads(line)
    assert document["pages"] == [[1, 0, 6, "iv"], [2, 6, 13]]
    assert document["chunks"] == [[0, 6, 1, "", "iv"], [8, 13, 2, ""]]
    document["pages"][0].pop()
    document["chunks"][0].pop()
    (home / "old.jsonl").write_bytes(head + b"\n" + json.dumps(document).encode())
    store, reindexing = opened(home / "to")
    import_into(reindexing, str(home / "old.jsonl"), None)
    store.close()
    assert labels(home / "to") == [(1, ""), (2, "")]


def test_compressed_files_and_large_documents(home: Path) -> None:
    """`.gz` works both ways, and a large document takes a line for each part."""
    lines = fill(home).read_bytes().splitlines()
    assert len(lines) == 1 + 5 + len(PARTS)
    store, reindexing = opened(home / "from")
    export_from(reindexing, "c", str(home / "c.jsonl.gz"))
    store.close()
    store, reindexing = opened(home / "to")
    assert import_into(reindexing, str(home / "c.jsonl.gz"), None)["n_written"] == 6
    assert store.collection("c").n_documents == 6
    store.close()


def test_vectors_of_another_embedder_are_made_anew(home: Path) -> None:
    """Texts and structure are taken over; where neither fits, the command is named."""
    file = fill(home)
    store, reindexing = opened(home / "to", 32)
    facts = import_into(reindexing, str(file), None)
    assert (facts["n_written"], facts["embedded"]) == (6, True)
    assert text_of(store, "long") == "\n\n".join("\n\n".join(part) for part in PARTS)
    assert found(store, "words3") == ["d3"] * len(found(store, "words3"))
    store.close()
    store, reindexing = opened(home / "to", 16)
    with pytest.raises(ConflictError, match="ragdock reindex c"):
        import_into(reindexing, str(file), None)
    store.close()


@pytest.mark.parametrize(
    "change",
    [
        {"id": 5},
        {"part": 1},
        {"start": 3},
        {"text": "short"},
        {"chunks": [[0, 10_000, None, ""]]},
        {"chunks": [[5, 5, None, ""]]},
        {"vectors": "AAAA"},
        {"vectors": "!"},
        {"pages": [[1, 0, 5, 7]]},
        {"pages": [[1, 0, 5, "a", "b"]]},
        {"chunks": [[0, 5, 1, "", None]]},
        {"blocks": [[0, 1, "nonsense", 0, ""]]},
        {"metadata": None},
        {"last": False},
    ],
    ids=str,
)
def test_wrong_lines_are_named(home: Path, change: dict[str, Any]) -> None:
    """A line that isn't right stops the import with its number; nothing of it is searchable."""
    lines = fill(home).read_bytes().splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | change).encode()
    (home / "wrong.jsonl").write_bytes(b"\n".join(lines))
    store, reindexing = opened(home / "to")
    with pytest.raises(InputError, match=r"Line [34] isn't right"):
        import_into(reindexing, str(home / "wrong.jsonl"), None)
    assert [one.id for one in store.documents("c")] == ["d0"]
    store.close()


def test_other_files_are_refused(home: Path) -> None:
    """What isn't an export is said not to be one."""
    store, reindexing = opened(home / "to")
    for data in (b"", b"x\n", b"[]\n", b"{}\n"):
        (home / "x").write_bytes(data)
        with pytest.raises(InputError):
            import_into(reindexing, str(home / "x"), None)
    store.close()
