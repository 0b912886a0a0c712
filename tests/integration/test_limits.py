"""Each limit on what is sent: what keeps it is taken, what is just over is refused by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from starlette.testclient import TestClient

from support.files import DATA, zip_bytes
from support.serving import serving

pytestmark = pytest.mark.timing


class Case(NamedTuple):
    """A limit: the setting, what keeps it and what doesn't, and how that is refused."""

    settings: dict[str, Any]
    within: Callable[[TestClient], httpx2.Response]
    over: Callable[[TestClient], httpx2.Response]
    status: int
    code: str
    says: str


def ask(length: int) -> Callable[[TestClient], httpx2.Response]:
    """A question of that many characters."""
    return lambda client: client.post("/v1/ask", json={"question": "a" * length})


def search(length: int, top_k: int = 5) -> Callable[[TestClient], httpx2.Response]:
    """A query of that many characters, for that many passages."""
    body = {"query": "a" * length, "top_k": top_k}
    return lambda client: client.post("/v1/search", json=body)


def texts(number: int) -> Callable[[TestClient], httpx2.Response]:
    """So many documents in one request."""
    documents = [{"text": f"text {n}"} for n in range(number)]
    return lambda client: client.post("/v1/documents", json={"documents": documents})


def file(
    content: bytes, name: str = "a.txt", wait: bool = True
) -> Callable[[TestClient], httpx2.Response]:
    """One file."""
    path = "/v1/documents?wait=true" if wait else "/v1/documents"
    return lambda client: client.post(path, files={"file": (name, content)})


def collection(padding: int) -> Callable[[TestClient], httpx2.Response]:
    """A small request in a body of so many bytes."""
    body = b'{"name": "c"}' + b" " * (padding - 13)
    return lambda client: client.post(
        "/v1/collections", content=body, headers={"content-type": "application/json"}
    )


def words(n_bytes: int) -> bytes:
    """A text of that length."""
    return (b"word " * (n_bytes // 5 + 1))[:n_bytes]


PDF = (DATA / "handbook.pdf").read_bytes()
MB = 2**20
CASES = {
    "question": Case(
        {"max_question_chars": 16}, ask(16), ask(17), 422, "question_too_long",
        "RAG_MAX_QUESTION_CHARS"),
    "query": Case(
        {"max_question_chars": 16}, search(16), search(17), 422, "query_too_long",
        "RAG_MAX_QUESTION_CHARS"),
    "results": Case({}, search(5, 100), search(5, 101), 422, "invalid_input", "body.top_k"),
    "documents of a request": Case(
        {"max_files": 2}, texts(2), texts(3), 422, "too_many_files", "RAG_MAX_FILES"),
    "file": Case(
        {"max_upload_mb": 1}, file(words(MB)), file(words(MB + 1)), 413, "too_large",
        "RAG_MAX_UPLOAD_MB"),
    "request": Case(
        {"max_request_mb": 2}, file(words(2 * MB - 1000)), file(words(2 * MB)), 413, "too_large",
        "RAG_MAX_REQUEST_MB"),
    "small body": Case({}, collection(MB), collection(MB + 1), 413, "too_large", "1 MiB"),
    "bytes that wait": Case(
        {"max_queue_mb": 1, "ingest": False}, file(words(1000), wait=False),
        file(words(2 * MB), wait=False), 503, "queue_full", "RAG_MAX_QUEUE_MB"),
    "pages": Case(
        {"max_pages": 1}, file(b"page", "a.md"), file(PDF, "a.pdf"), 422, "too_complex",
        "RAG_MAX_PAGES"),
    "files of an archive": Case(
        {"max_archive_files": 1}, file(zip_bytes({"a.md": b"one"}), "a.zip"),
        file(zip_bytes({"a.md": b"one", "b.md": b"two"}), "a.zip"), 422, "bomb",
        "RAG_MAX_ARCHIVE_FILES"),
    "bytes of an archive": Case(
        {"max_archive_mb": 1}, file(zip_bytes({"a.md": words(1000)}), "a.zip"),
        file(zip_bytes({f"{n}.md": bytes(f"{n} ", "ascii") + words(600_000) for n in range(2)}),
             "a.zip"), 422, "bomb", "RAG_MAX_ARCHIVE_MB"),
}  # fmt: skip


def ids(client: TestClient) -> list[str]:
    """The documents that the server knows."""
    documents = client.get("/v1/documents?limit=1000").json()["documents"]
    return [document["id"] for document in documents]


@pytest.mark.parametrize("name", CASES)
def test_limits(tmp_path: Path, name: str) -> None:
    """What keeps the limit is taken; what doesn't is refused with its name, and nothing is kept."""
    case = CASES[name]
    with serving(tmp_path / "data", **case.settings) as client:
        within = case.within(client)
        assert within.status_code < 300, within.text
        before = ids(client)
        over = case.over(client)
        assert (over.status_code, over.json()["code"]) == (case.status, case.code), over.text
        assert case.says in over.text
        # What was accepted before it failed is listed as failed.
        if case.code not in ("too_complex", "bomb"):
            assert ids(client) == before
        if case.status == 503:
            assert int(over.headers["retry-after"]) >= 1
