"""Uploads as streams: large files go to the store's disk as they come, and never stay behind."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ragdock.core.keys import document_id_of
from ragdock.services import ingest, intake
from ragdock.services.intake import Intake
from ragdock.types import Upload, Vectors
from support.embedders import HashEmbedder
from support.serving import serving, until
from support.web import assert_problem

LINE = b"The heron waits at the weir for hours.\n\n"
LARGE = LINE * 20_000
BOUNDARY = "edge"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """A server that takes files of up to 4 MiB."""
    with serving(tmp_path / "data", max_upload_mb=4, max_request_mb=16) as client:
        yield client


def spooled(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "data/contents").iterdir() if path.is_file()]


def form(*files: tuple[str, bytes]) -> bytes:
    body = b""
    for name, content in files:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"'
        body += head.encode() + b"\r\nContent-Type: text/plain\r\n\r\n" + content + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


def in_pieces(body: bytes, n_bytes: int) -> Iterator[bytes]:
    return (body[at : at + n_bytes] for at in range(0, len(body), n_bytes))


@pytest.mark.parametrize("piece_bytes", [997, 65536, 10**7])
def test_a_large_file_is_stored_exactly(
    client: TestClient, tmp_path: Path, piece_bytes: int
) -> None:
    """Whatever pieces a file comes in, it is found, exact, under the id that its content gives."""
    response = client.post(
        "/v1/documents?wait=true",
        content=in_pieces(form(("herons.txt", LARGE), ("small.txt", LINE)), piece_bytes),
        headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
    )
    assert response.status_code == 200, response.text
    large, small = response.json()["documents"]
    assert large["id"] == document_id_of("herons.txt", LARGE)
    assert small["id"] == document_id_of("small.txt", LINE)
    shown = client.get(f"/v1/documents/{large['id']}").json()
    assert shown["size_bytes"] == len(LARGE)
    assert shown["sha256"] == hashlib.sha256(LARGE).hexdigest()
    text = client.get(f"/v1/documents/{large['id']}/text")
    assert text.content == LARGE
    until(lambda: spooled(tmp_path) == [])


def test_large_files_are_spooled_and_small_ones_not(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is accepted of a large file is a place on the disk; a small file is bytes."""
    seen: list[Upload] = []
    ingester = client.app.state.services.ingester  # type: ignore[attr-defined]
    submit = ingester.submit

    def watched(collection: str, uploads: list[Upload]) -> Any:
        seen.extend(uploads)
        return submit(collection, uploads)

    monkeypatch.setattr(ingester, "submit", watched)
    client.post(
        "/v1/documents", files=[("file", ("a.txt", LARGE)), ("file", ("b.txt", LINE))]
    ).raise_for_status()
    assert [isinstance(upload.content, bytes) for upload in seen] == [False, True]


def test_a_file_over_the_limit_is_refused_on_the_way(client: TestClient, tmp_path: Path) -> None:
    """A file is refused as soon as it is too large, without the rest, and leaves nothing."""
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        for piece in in_pieces(form(("big.txt", LINE * 300_000)), 2**16):
            sent += len(piece)
            yield piece

    response = client.post(
        "/v1/documents",
        content=body(),
        headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
    )
    assert_problem(response, 413, "too_large", says="RAG_MAX_UPLOAD_MB")
    assert spooled(tmp_path) == []


def test_a_refused_form_leaves_nothing(client: TestClient, tmp_path: Path) -> None:
    """When a later part of a form is wrong, the files before it are gone."""
    bad = form(("a.txt", LARGE)).replace(f"--{BOUNDARY}--".encode(), f"--{BOUNDARY}".encode())
    bad += b'Content-Disposition: form-data; name="other"\r\n\r\nx\r\n'
    bad += f"--{BOUNDARY}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    response = client.post("/v1/documents", content=bad, headers=headers)
    assert_problem(response, 422, "invalid_input", field="body.other")
    assert spooled(tmp_path) == []
    response = client.post("/v1/documents", content=form(("a.txt", LARGE))[:-5], headers=headers)
    assert_problem(response, 400, "invalid_form", says="early")
    assert spooled(tmp_path) == []


def test_a_client_that_leaves_leaves_nothing(client: TestClient, tmp_path: Path) -> None:
    """An upload that breaks off in the middle is removed from the disk."""
    app: Any = client.app
    messages = [
        {"type": "http.request", "body": piece, "more_body": True}
        for piece in in_pieces(form(("a.txt", LARGE))[:700_000], 2**16)
    ]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        assert len(spooled(tmp_path)) == 1
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        pass

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/documents",
        "query_string": b"",
        "headers": [(b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "scheme": "http",
        "http_version": "1.1",
        "raw_path": b"/v1/documents",
        "root_path": "",
        "app": app,
    }

    async def request() -> None:
        with suppress(Exception):  # How it ends is the server's affair.
            await app(scope, receive, send)

    assert client.portal is not None
    client.portal.call(request)
    until(lambda: spooled(tmp_path) == [])


def test_a_full_queue_refuses_before_the_body(tmp_path: Path) -> None:
    """With too much waiting, an upload is refused by its declared length, and told to return."""
    with serving(tmp_path / "data", max_queue_mb=1, ingest=False) as client:
        client.app.state.services.intake.add(2**20)  # type: ignore[attr-defined]
        response = client.post("/v1/documents", files=[("file", ("a.txt", LARGE))])
        assert_problem(response, 503, "queue_full", says="RAG_MAX_QUEUE_MB")
        assert response.headers["retry-after"] == "10"
        texts = {"documents": [{"text": "x" * 1000}]}
        assert_problem(client.post("/v1/documents", json=texts), 503, "queue_full")
        client.app.state.services.intake.add(-(2**20))  # type: ignore[attr-defined]
        assert client.post("/v1/documents", json=texts).status_code == 202


def test_what_is_received_is_counted_and_given_back(client: TestClient) -> None:
    """After uploads that succeed and that fail, nothing counts as being received or kept."""
    found: Intake = client.app.state.services.intake  # type: ignore[attr-defined]
    client.post("/v1/documents", files=[("file", ("a.txt", LARGE)), ("file", ("b.txt", LINE))])
    client.post("/v1/documents", files=[("wrong", ("a.txt", LARGE))])
    client.post("/v1/documents", json={"documents": [{"text": "x"}]})
    client.post("/v1/documents", content=b"{", headers={"Content-Type": "application/json"})
    assert found.received() == (0, 0, 0)


def test_small_files_are_spooled_when_memory_is_short(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When other requests hold the memory for small files, they go to the disk as well."""
    monkeypatch.setattr(intake, "KEPT_BYTES", 100)
    response = client.post("/v1/documents?wait=true", files=[("file", ("b.txt", LINE * 10))])
    assert response.status_code == 200
    found = client.get(f"/v1/documents/{response.json()['documents'][0]['id']}/text")
    assert found.content == LINE * 10


def test_large_json_is_refused(tmp_path: Path) -> None:
    """A JSON body is held in memory, so it may have 16 MiB; the answer names the other way."""
    body = b'{"documents": [{"text": "' + b"words " * 3_000_000 + b'"}]}'
    with serving(tmp_path / "data", max_upload_mb=64, max_request_mb=64) as client:
        headers = {"Content-Type": "application/json"}
        response = client.post("/v1/documents", content=body, headers=headers)
        assert_problem(response, 413, "too_large", says="multipart/form-data")


class Held(HashEmbedder):
    """Embeds no text of herons until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = threading.Event()

    def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Vectors:
        if not urgent and any("heron" in text for text in texts):
            self.may.wait(60)
        return super().embed(texts, urgent=urgent)


def test_large_files_hold_up_no_small_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many large files wait, a small one is searchable soon."""
    monkeypatch.setattr(ingest, "LARGE_BYTES", 100_000)
    embedder = Held()
    with serving(tmp_path / "data", embedder=embedder, ingest=True) as client:
        files = [("file", (f"{n}.txt", LARGE[: 200_000 + n * 40])) for n in range(6)]
        client.post("/v1/documents", files=files).raise_for_status()
        small = [("file", ("small.txt", b"A kestrel hovers."))]
        response = client.post("/v1/documents?wait=true", files=small)
        assert response.json()["documents"][0]["status"] == "done"
        listed = client.get("/v1/jobs").json()["jobs"]
        assert sum(job["status"] != "done" for job in listed) == 6
        embedder.may.set()
        until(lambda: all(job["status"] == "done" for job in client.get("/v1/jobs").json()["jobs"]))
