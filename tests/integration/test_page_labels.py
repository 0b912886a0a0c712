"""Pages are cited as they are called: from the PDF's labels through the parser to the citation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from ragdock.services import retrieve
from support.files import CRASHING_LABELS, LABELS, pdf_bytes
from support.serving import serving
from support.web import add, ask, events

PAGES = {
    "i": "The foreword was written by Wilhelmina Strand in a single night.",
    "ii": "Thanks go to the keepers of the archive at Oldenhaven.",
    "1": "The bell of the tower was cast in bronze by Matthias Orlof.",
    "2": "Its rope is replaced every eleven years by the sexton.",
    "3": "In winter nobody rings it, because of the frost.",
    "A-1": "The appendix lists nineteen founders and their marks.",
}


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server with a book whose pages have names, and with a text that has no pages."""
    with serving(tmp_path_factory.mktemp("labels") / "data") as client:
        put(client, "book", pdf_bytes(*PAGES.values(), catalogue=LABELS))
        add(client, "The ferryman whistles.", "song")
        yield client


def put(client: TestClient, key: str, content: bytes) -> None:
    """Upload a PDF and wait for it."""
    answer = client.put(
        f"/v1/documents/{key}", params={"wait": True}, files={"file": (f"{key}.pdf", content)}
    )
    assert answer.json()["documents"][0]["status"] == "done", answer.text


def search(client: TestClient, query: str) -> list[dict[str, Any]]:
    """The hits."""
    found: list[dict[str, Any]] = client.post("/v1/search", json={"query": query}).json()["hits"]
    return found


def test_hits_tell_the_pages_names(book: TestClient) -> None:
    """Every passage has the number of its page in the file, and what the page is called."""
    told = {}
    for text in PAGES.values():
        hit = search(book, text)[0]
        told[hit["text"]] = (hit["page"], hit["page_label"])
    names = enumerate(PAGES, start=1)
    assert list(told.values()) == [(n, None if name == str(n) else name) for n, name in names]
    assert list(told) == list(PAGES.values())


@pytest.mark.parametrize(
    ("question", "page", "label"),
    [
        ("Who has written the foreword?", 1, "i"),
        ("Who has cast the bell of the tower?", 3, "1"),
        ("How many founders does the appendix list?", 6, "A-1"),
        ("Who whistles?", None, None),
    ],
)
def test_citations_tell_the_pages_names(
    book: TestClient, question: str, page: int | None, label: str | None
) -> None:
    """Computed, cached and streamed: a citation names the page as the book does, or says null."""
    streamed = book.post("/v1/ask", json={"question": question, "stream": True})
    answers = (ask(book, question), ask(book, question), events(streamed)[-1][1])
    for answer in answers:
        first = answer["citations"][0]
        assert (first["page"], first["page_label"]) == (page, label)


@pytest.mark.parametrize("name", CRASHING_LABELS)
def test_labels_that_crash_the_parser_are_left_out(book: TestClient, name: str) -> None:
    """The document is searchable all the same, by the numbers of its pages."""
    key = f"bad-{list(CRASHING_LABELS).index(name)}"
    pages = (f"{key} begins.", f"{key} goes on.", f"{key} ends with a xylophone.")
    put(book, key, pdf_bytes(*pages, catalogue=CRASHING_LABELS[name]))
    hit = next(hit for hit in search(book, f"{key} xylophone") if hit["document_id"] == key)
    assert hit["page_label"] is None


def test_the_schema_says_what_a_label_is(book: TestClient) -> None:
    """Hits and citations document the field, and always have it."""
    schemas = book.get("/openapi.json").json()["components"]["schemas"]
    for name in ("HitBody", "CitationBody"):
        field = schemas[name]["properties"]["page_label"]
        assert "the page's own name where it differs from its number" in field["description"]
        assert field["anyOf"] == [{"type": "string"}, {"type": "null"}]
        assert "page_label" in schemas[name]["required"]


def test_what_was_cached_before_there_were_labels_is_not_answered(
    book: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept values are answered as they are, so those of the former form have other keys."""
    question = "Who replaces the rope?"
    bodies = (("search", {"query": question}), ("ask", {"question": question}))
    retriever = book.app.state.services.retriever  # type: ignore[attr-defined]
    former = tuple(part for part in retriever._method if part != retrieve.FORMAT)
    with monkeypatch.context() as before:
        before.setattr(retriever, "_method", former)
        for cache in ("miss", "hit"):
            for path, body in bodies:
                assert book.post(f"/v1/{path}", json=body).json()["cache"] == cache
    for cache in ("miss", "hit"):
        for path, body in bodies:
            assert book.post(f"/v1/{path}", json=body).json()["cache"] == cache
