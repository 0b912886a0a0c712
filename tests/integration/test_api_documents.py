"""`/v1/documents`, `/v1/jobs` and `/v1/collections`: accept, replace, list, show, delete."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ragdock.types import Vectors
from support.embedders import HashEmbedder
from support.serving import serving, until
from support.web import add, ask, assert_problem, inventory

BAD = b"\xef\xbb\xbf\xc3\x28"
"""A file that says that it is UTF-8, and is not."""

DOCUMENT_FIELDS = {
    *("id", "collection", "filename", "media_type", "title", "status", "error", "size_bytes"),
    *("sha256", "version", "n_characters", "n_chunks", "n_pages", "metadata", "created_at"),
    *("updated_at", "job_id"),
}


class GatedEmbedder(HashEmbedder):
    """Embeds documents only while the gate is open; queries always."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Vectors:
        """Wait for the gate unless it is a query."""
        if not urgent:
            self.gate.wait(30)
        return super().embed(texts, urgent=urgent)


def test_json_texts_are_accepted_and_searchable(api: TestClient) -> None:
    """A text sent as JSON is done, indexed, and answers questions at once with `wait`."""
    told = add(api, "The kiln reaches 1240 degrees.", "kiln", metadata={"year": 2026})
    assert told == {
        "id": "kiln",
        "filename": "text.txt",
        "status": "done",
        "job_id": told["job_id"],
        "outcome": "indexed",
        "error": None,
    }
    assert "1240" in ask(api, "What does the kiln reach?")["answer"]


def test_a_file_is_accepted_and_shown(api: TestClient) -> None:
    """An uploaded file has the file's name, size and hash, and metadata from the form."""
    content = "Zwölf Bienenstöcke ziehen um.\n".encode()
    response = api.post(
        "/v1/documents?wait=true",
        files={"file": ("bienen.txt", content)},
        data={"metadata": '{"team": ["a", "b"], "n": 3, "x": 1.5, "ok": true}', "id": "bees"},
    )
    assert response.status_code == 200, response.text
    body = api.get("/v1/documents/bees").json()
    assert set(body) == DOCUMENT_FIELDS
    assert body["filename"] == "bienen.txt"
    assert body["media_type"] == "text/plain"
    assert body["size_bytes"] == len(content)
    assert body["sha256"] == hashlib.sha256(content).hexdigest()
    assert body["n_chunks"] == 1
    assert body["n_characters"] == len(content.decode())
    assert body["metadata"] == {"team": ["a", "b"], "n": 3, "x": 1.5, "ok": True}
    assert body["created_at"].endswith("+00:00")
    assert api.get("/v1/documents/bees/text").text == content.decode()


def test_without_wait_the_answer_is_202_and_the_job_tells(api: TestClient) -> None:
    """An upload is acknowledged before it is processed; its job leads from there to done."""
    response = api.post("/v1/documents", json={"documents": [{"text": "A swift text.", "id": "s"}]})
    assert response.status_code == 202
    told = response.json()["documents"][0]
    assert told["status"] in ("pending", "processing", "done")
    until(lambda: api.get(f"/v1/jobs/{told['job_id']}").json()["status"] == "done")
    job = api.get(f"/v1/jobs/{told['job_id']}").json()
    assert (job["kind"], job["outcome"], job["document_id"]) == ("index", "indexed", "s")


def test_the_same_file_twice_is_unchanged(api: TestClient) -> None:
    """Without an id, name and content are the identity: a second upload changes nothing."""
    before = api.get("/v1/collections/default").json()
    upload = {"file": ("twice.txt", b"The same words twice.")}
    first = api.post("/v1/documents?wait=true", files=upload).json()["documents"][0]
    once = api.get("/v1/collections/default").json()
    second = api.post("/v1/documents?wait=true", files=upload).json()["documents"][0]
    assert first["id"] == second["id"]
    assert first["id"].startswith("doc-")
    assert (first["outcome"], second["outcome"]) == ("indexed", "unchanged")
    assert api.get("/v1/collections/default").json() == once
    assert once["n_documents"] == before["n_documents"] + 1


def test_the_same_file_twice_in_one_request_is_one_document(api: TestClient) -> None:
    """Identical uploads of one request share a job, and nothing is doubled."""
    files = [("file", ("pair.txt", b"A pair of twins."))] * 2
    told = api.post("/v1/documents?wait=true", files=files).json()["documents"]
    assert [one["status"] for one in told] == ["done", "done"]
    assert told[0]["job_id"] == told[1]["job_id"]
    assert api.get(f"/v1/documents/{told[0]['id']}").json()["n_chunks"] == 1


@pytest.mark.parametrize("change", [{"text": "B"}, {"filename": "b.txt"}, {"metadata": {"a": 2}}])
def test_two_contents_for_one_id_are_refused(api: TestClient, change: dict[str, object]) -> None:
    """Two different documents with one id in one request are a mistake, and nothing is stored."""
    one = {"id": "clash", "text": "A", "filename": "a.txt", "metadata": {"a": 1}}
    before = inventory(api)
    response = api.post("/v1/documents", json={"documents": [one, one | change]})
    assert_problem(response, 422, "duplicate_id", field="body", says="'clash'")
    assert inventory(api) == before


def test_put_replaces(api: TestClient) -> None:
    """PUT swaps the document's content as a whole; the creation time stays."""
    add(api, "The gate opens at eight.", "gate")
    first = api.get("/v1/documents/gate").json()
    response = api.put("/v1/documents/gate?wait=true", json={"text": "The gate opens at nine."})
    assert response.status_code == 200
    second = api.get("/v1/documents/gate").json()
    assert second["version"] == second["job_id"] != first["version"]
    assert second["created_at"] == first["created_at"]
    assert api.get("/v1/documents/gate/text").text == "The gate opens at nine."
    hits = api.post("/v1/search", json={"query": "gate opens eight"}).json()["hits"]
    assert [hit["text"] for hit in hits if hit["document_id"] == "gate"] == [
        "The gate opens at nine."
    ]


def test_put_takes_a_file_and_makes_new_documents(api: TestClient) -> None:
    """PUT of an unknown id creates it, from a file with metadata as well."""
    response = api.put(
        "/v1/documents/new~one:1@x?wait=true",
        files={"file": ("new.md", b"# New\n\nA new page.")},
        data={"metadata": '{"kind": "page"}'},
    )
    assert response.status_code == 200
    body = api.get("/v1/documents/new~one:1@x").json()
    assert (body["filename"], body["metadata"]) == ("new.md", {"kind": "page"})


def test_delete_then_404(api: TestClient) -> None:
    """After DELETE the document, its text and its passages are gone; a second DELETE is a 404."""
    add(api, "The quagga is extinct.", "quagga")
    assert api.delete("/v1/documents/quagga").status_code == 204
    for call in (
        api.get("/v1/documents/quagga"),
        api.get("/v1/documents/quagga/text"),
        api.delete("/v1/documents/quagga"),
    ):
        assert_problem(call, 404, "document_not_found", says="'quagga'")
    hits = api.post("/v1/search", json={"query": "quagga", "mode": "lexical"}).json()["hits"]
    assert hits == []
    assert "quagga" not in api.get("/v1/documents?limit=1000").text


@pytest.mark.parametrize("document_id", ["a.b", "A~1", "x:y@z", "0", "a" * 200, "v1.2-rc_3"])
def test_odd_ids_work(api: TestClient, document_id: str) -> None:
    """Every id that the pattern allows can be written, shown, read and deleted."""
    add(api, f"Text of {document_id[:9]}.", document_id)
    assert api.get(f"/v1/documents/{document_id}").json()["id"] == document_id
    assert api.get(f"/v1/documents/{document_id}/text").status_code == 200
    assert api.delete(f"/v1/documents/{document_id}").status_code == 204


@pytest.mark.parametrize("document_id", ["a/b", "-a", ".a", "a b", "ü", "a" * 201, "a%00b", "a\n"])
def test_bad_ids_are_refused(api: TestClient, document_id: str) -> None:
    """An id outside the pattern is a 422 that names it, and nothing is stored."""
    before = inventory(api)
    response = api.post("/v1/documents", json={"documents": [{"text": "x", "id": document_id}]})
    assert_problem(response, 422, "invalid_input", field="body.documents.0.id")
    form = api.post("/v1/documents", files={"file": ("x.txt", b"x")}, data={"id": document_id})
    assert_problem(form, 422, "invalid_input", field="body.id")
    assert inventory(api) == before


def test_pages_hold_all_documents_once(tmp_path: Path) -> None:
    """Walking the pages gives each document once and in order: searchable, failed or waiting."""
    embedder = GatedEmbedder()
    with serving(tmp_path / "data", embedder=embedder, max_files=50) as client:
        embedder.gate.set()
        for number in range(0, 20, 2):
            add(client, f"Even {number}.", f"d{number:02}")
        embedder.gate.clear()
        later = [{"text": f"Odd {n}.", "id": f"d{n:02}"} for n in range(1, 20, 2)]
        later.append({"text": "Even four, anew.", "id": "d04"})
        assert client.post("/v1/documents", json={"documents": later}).status_code == 202
        seen: list[dict[str, object]] = []
        after: str | None = ""
        while after is not None:
            page = client.get("/v1/documents", params={"limit": 3, "after": after}).json()
            assert len(page["documents"]) <= 3
            seen += page["documents"]
            after = page["next"]
        assert [body["id"] for body in seen] == [f"d{n:02}" for n in range(20)]
        waiting = {str(body["id"]) for body in seen if body["status"] != "done"}
        assert waiting == {f"d{n:02}" for n in range(1, 20, 2)} | {"d04"}
        anew = client.get("/v1/documents/d04").json()
        assert anew == next(body for body in seen if body["id"] == "d04")
        assert (anew["n_chunks"], anew["n_characters"]) == (1, 7)
        assert client.get("/v1/documents/d04/text").text == "Even 4."
        embedder.gate.set()
        until(lambda: client.get("/v1/documents/d04/text").text == "Even four, anew.")


def test_a_deleted_failure_is_not_listed(tmp_path: Path) -> None:
    """A document that failed is listed with its reason until it is deleted or replaced."""
    with serving(tmp_path / "data") as client:
        for name in ("x", "y"):
            client.put(f"/v1/documents/{name}", files={"file": (f"{name}.txt", BAD)})
            until(
                lambda name=name: client.get(f"/v1/documents/{name}").json()["status"] == "failed"
            )
        failed = client.get("/v1/documents/x").json()
        assert failed["error"]["code"]
        assert failed["version"] is None
        client.delete("/v1/documents/x")
        client.put("/v1/documents/y?wait=true", json={"text": "Whole again."})
        listed = client.get("/v1/documents").json()["documents"]
        assert [(body["id"], body["status"], body["error"]) for body in listed] == [
            ("y", "done", None)
        ]


def test_wait_that_times_out_is_202(tmp_path: Path) -> None:
    """With `wait`, a document that takes too long is accepted with 202, and done later."""
    embedder = GatedEmbedder()
    with serving(tmp_path / "data", embedder=embedder, wait_timeout_seconds=0.2) as client:
        response = client.post("/v1/documents?wait=true", json={"documents": [{"text": "Slow."}]})
        assert response.status_code == 202
        told = response.json()["documents"][0]
        assert told["status"] in ("pending", "processing")
        embedder.gate.set()
        until(lambda: client.get(f"/v1/documents/{told['id']}").json()["status"] == "done")


@pytest.mark.timing
def test_waiting_clients_leave_room_for_others(tmp_path: Path) -> None:
    """Any number of clients that wait for documents hold no place that a search needs."""
    embedder = GatedEmbedder()
    with serving(
        tmp_path / "data", embedder=embedder, max_concurrency=2, wait_timeout_seconds=30
    ) as client:
        statuses: list[int] = []

        def send(number: int) -> None:
            told = client.post(
                "/v1/documents?wait=true", json={"documents": [{"text": f"Text {number}."}]}
            )
            statuses.append(told.status_code)

        threads = [threading.Thread(target=send, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        until(lambda: len(client.get("/v1/jobs").json()["jobs"]) == 8)
        start = time.monotonic()
        assert client.post("/v1/search", json={"query": "text"}).status_code == 200
        assert time.monotonic() - start < 5
        assert statuses == []
        embedder.gate.set()
        for thread in threads:
            thread.join(30)
        assert statuses == [200] * 8


def test_a_full_queue_is_503(tmp_path: Path) -> None:
    """Beyond RAG_MAX_QUEUE uploads get 503 with Retry-After, and nothing is stored."""
    embedder = GatedEmbedder()
    with serving(tmp_path / "data", embedder=embedder, max_queue=2) as client:
        texts = [{"text": f"Text {n}."} for n in range(2)]
        assert client.post("/v1/documents", json={"documents": texts}).status_code == 202
        response = client.post("/v1/documents", json={"documents": [{"text": "One more."}]})
        assert_problem(response, 503, "queue_full", says="RAG_MAX_QUEUE")
        assert int(response.headers["retry-after"]) >= 1
        assert len(client.get("/v1/jobs").json()["jobs"]) == 2
        embedder.gate.set()


def test_all_failed_is_one_problem(api: TestClient) -> None:
    """With `wait`, a request whose documents all failed is a 422 with one entry a document."""
    response = api.post(
        "/v1/documents?wait=true", files=[("file", ("a.txt", BAD)), ("file", ("b.txt", BAD + b"!"))]
    )
    body = assert_problem(response, 422, "wrong_encoding", field="a.txt")
    assert [error["field"] for error in body["errors"]] == ["a.txt", "b.txt"]


def test_some_failed_is_told_one_by_one(api: TestClient) -> None:
    """With `wait`, good and bad documents of one request are 200 with each one's state."""
    files = [("file", ("good.txt", b"All good.")), ("file", ("bad.txt", BAD))]
    response = api.post("/v1/documents?wait=true", files=files)
    assert response.status_code == 200
    good, bad = response.json()["documents"]
    assert (good["status"], good["error"]) == ("done", None)
    assert bad["status"] == "failed"
    assert bad["error"]["message"]


def test_jobs_page_newest_first(api: TestClient) -> None:
    """Jobs come newest first, and `next` leads through all of them once."""
    for number in range(5):
        add(api, f"Paged {number}.", f"paged-{number}")
    ids: list[str] = []
    before: str | None = None
    while True:
        params = {"limit": 2, "status": "done"} | ({"before": before} if before else {})
        page = api.get("/v1/jobs", params=params).json()
        ids += [job["id"] for job in page["jobs"]]
        before = page["next"]
        if before is None:
            break
    assert len(set(ids)) == len(ids)
    assert len(ids) >= 5
    for unknown in ("999999", "job_0000000000000", f"{ids[0]}x", ids[0].upper()):
        assert_problem(api.get(f"/v1/jobs/{unknown}"), 404, "not_found", field="path.job_id")
    assert_problem(
        api.get("/v1/jobs", params={"before": "7"}), 404, "not_found", field="query.before"
    )


def test_collections_come_and_go(api: TestClient) -> None:
    """A collection can be made once, filled, listed and dropped with all it holds."""
    made = api.post("/v1/collections", json={"name": "mine"})
    assert made.status_code == 201
    assert made.json()["n_documents"] == 0
    assert_problem(
        api.post("/v1/collections", json={"name": "mine"}), 409, "conflict", field="body.name"
    )
    add(api, "Only in mine.", "m", collection="mine")
    assert api.get("/v1/collections/mine").json()["n_documents"] == 1
    names = [body["name"] for body in api.get("/v1/collections").json()["collections"]]
    assert names == sorted(names)
    assert {"default", "mine"} <= set(names)
    assert ask(api, "Only in mine?", collection="mine")["grounded"]
    body = {"documents": [{"text": "In mine by the body.", "id": "n"}], "collection": "mine"}
    assert api.post("/v1/documents?wait=true", json=body).status_code == 200
    assert api.get("/v1/documents/n?collection=mine").status_code == 200
    assert api.delete("/v1/collections/mine").status_code == 204
    assert_problem(api.get("/v1/collections/mine"), 404, "collection_not_found", says="'mine'")
    assert_problem(api.delete("/v1/collections/default"), 409, "conflict", field="path.name")


def test_the_query_parameter_wins_over_the_body(api: TestClient) -> None:
    """`?collection=` decides where both name a collection."""
    api.post("/v1/collections", json={"name": "left"})
    body = {"documents": [{"text": "Here.", "id": "here"}], "collection": "left"}
    api.post("/v1/documents?wait=true&collection=default", json=body)
    assert api.get("/v1/documents/here").status_code == 200
    assert api.get("/v1/documents/here?collection=left").status_code == 404
