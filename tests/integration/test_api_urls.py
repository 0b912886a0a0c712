"""`POST /v1/urls`: the server fetches, accepts and tells of each URL."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from ragdock.adapters.fetchers.http import HttpFetcher
from ragdock.api.app import create_app
from ragdock.bootstrap import open_services
from ragdock.core.addresses import is_public
from ragdock.errors import ConfigurationError
from support.embedders import HashEmbedder
from support.raw_server import RawServer, response
from support.serving import make_settings
from support.web import assert_problem

pytestmark = pytest.mark.timing

FERRY = b"# Ferry\n\nThe ferry to Vessey leaves at nine from the north pier.\n"

LARGE = b"Harbours are described at length. " * 15_000


def pages(head: bytes) -> Iterable[bytes]:
    """A small web site."""
    path = head.split()[1].partition(b"?")[0].decode()
    if path == "/slow":
        time.sleep(3)
    found = {
        "/ferry.md": response(FERRY, headers="Content-Type: text/plain\r\n"),
        "/light": response(
            b"<h1>Light</h1><p>The keeper keeps seven goats.", headers="Content-Type: text/html\r\n"
        ),
        "/to-inside": response(status="302 Found", headers="Location: http://127.0.0.2/\r\n"),
        "/large.txt": response(LARGE),
        "/large.exe": response(b"MZ\x90" + LARGE),
        "/huge.txt": response(LARGE * 4, length=False),
        "/empty": response(b" \n"),
        "/image": response(b"\x89PNG\r\n\x1a\n", headers="Content-Type: image/png\r\n"),
    }
    yield found.get(path, response(status="404 Not Found"))


@pytest.fixture(scope="module")
def site() -> Iterator[RawServer]:
    with RawServer(pages) as server:
        yield server


@pytest.fixture(scope="module")
def client(site: RawServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server that may fetch; the tests' own policy makes 127.0.0.1 a public address."""
    settings = make_settings(
        tmp_path_factory.mktemp("urls") / "data", fetch_urls=True, fetch_timeout_seconds=1.5
    )
    fetcher = HttpFetcher(
        max_bytes=2**20,
        resolve=lambda _: ["127.0.0.1"],
        is_allowed=lambda address: address == "127.0.0.1" or is_public(address),
        ports={site.port, 80},
    )
    app = create_app(settings, embedder=HashEmbedder(), fetcher=fetcher)
    with TestClient(app) as client:
        yield client


def send(client: TestClient, site: RawServer, *paths: str, **more: Any) -> httpx2.Response:
    urls = [f"http://docs.example:{site.port}{path}" for path in paths]
    return client.post("/v1/urls", json={"urls": urls, **more})


def test_urls_become_searchable_documents(client: TestClient, site: RawServer) -> None:
    """With `wait` the answer is 200 and the contents are found, with metadata and source."""
    answer = send(
        client, site, "/ferry.md?sig=s3cret", "/light", metadata={"port": "Vessey"}, wait=True
    )
    assert answer.status_code == 200, answer.text
    ferry, light = answer.json()["documents"]
    assert (ferry["status"], ferry["outcome"], ferry["filename"]) == ("done", "indexed", "ferry.md")
    assert ferry["url"] == f"http://docs.example:{site.port}/ferry.md?sig=s3cret"
    assert light["filename"] == "light.html"
    found = client.post("/v1/search", json={"query": "goats", "top_k": 1}).json()["hits"][0]
    assert found["document_id"] == light["id"]
    assert found["metadata"] == {
        "port": "Vessey",
        "source_url": f"http://docs.example:{site.port}/light",
    }
    kept = client.get(f"/v1/documents/{ferry['id']}").json()
    assert "s3cret" not in str(kept["metadata"])
    assert kept["media_type"] == "text/markdown"


def test_the_same_url_again_is_the_same_document(client: TestClient, site: RawServer) -> None:
    """Fetching again doubles nothing, and says `unchanged`; twice in a request is once."""
    send(client, site, "/ferry.md", wait=True)
    before = client.get("/v1/collections/default").json()["n_documents"]
    again = send(client, site, "/ferry.md", "/ferry.md", wait=True).json()["documents"]
    assert [item["outcome"] for item in again] == ["unchanged"]
    assert client.get("/v1/collections/default").json()["n_documents"] == before


def test_without_waiting_the_answer_is_202(client: TestClient, site: RawServer) -> None:
    """The document has a job, as an uploaded one."""
    answer = send(client, site, "/light?v=2")
    assert answer.status_code == 202
    job = answer.json()["documents"][0]["job_id"]
    assert client.get(f"/v1/jobs/{job}").status_code == 200


def test_a_large_page_goes_over_the_disk(client: TestClient, site: RawServer) -> None:
    """What is larger than the memory's share is spooled, indexed, and gone from the spool."""
    done = send(client, site, "/large.txt", wait=True).json()["documents"][0]
    assert done["outcome"] == "indexed"
    kept = client.get(f"/v1/documents/{done['id']}").json()
    assert (kept["size_bytes"], kept["sha256"]) == (len(LARGE), hashlib.sha256(LARGE).hexdigest())


def test_what_is_not_accepted_leaves_the_disk(client: TestClient, site: RawServer) -> None:
    """A large content that turns out too large, or of no known format, is removed again."""
    data_dir = client.app.state.services.settings.data_dir  # type: ignore[attr-defined]
    before = {path for path in data_dir.rglob("*") if path.stat().st_size > 200_000}
    assert send(client, site, "/huge.txt").json()["code"] == "too_large"
    assert send(client, site, "/large.exe").json()["code"] == "unsupported_media_type"
    assert {path for path in data_dir.rglob("*") if path.stat().st_size > 200_000} <= before


def test_each_url_tells_its_own_failure(client: TestClient, site: RawServer) -> None:
    """Good ones are accepted beside bad ones, which carry code and reason."""
    answer = send(
        client, site, "/ferry.md", "/missing", "/to-inside", "/empty", "/image", wait=True
    )
    assert answer.status_code == 200
    documents = answer.json()["documents"]
    assert [item["status"] for item in documents] == ["done", *["failed"] * 4]
    assert [(item["error"] or {}).get("code") for item in documents] == [
        *(None, "fetch_failed", "fetch_failed", "empty", "unsupported_media_type")
    ]
    assert documents[1]["error"]["message"] == "The host answers with status 404."
    assert documents[1]["id"] is documents[1]["job_id"] is None


def test_when_all_fail_it_is_a_problem(client: TestClient, site: RawServer) -> None:
    """422 with an entry for each URL, also for what is no URL of the web."""
    answer = client.post(
        "/v1/urls", json={"urls": ["file:///etc/passwd", f"http://x.example:{site.port}/missing"]}
    )
    body = assert_problem(answer, 422, "bad_url", field="body.urls.0")
    assert [error["field"] for error in body["errors"]] == ["body.urls.0", "body.urls.1"]


def test_the_urls_of_a_request_share_its_time(client: TestClient, site: RawServer) -> None:
    """Twenty slow URLs on four places end together, in the time of one."""
    start = time.monotonic()
    answer = send(client, site, *(f"/slow?{number}" for number in range(20)))
    assert time.monotonic() - start < 4
    assert_problem(answer, 422, "fetch_timeout")


def test_searches_go_on_while_hosts_are_slow(client: TestClient, site: RawServer) -> None:
    """Fetches have places of their own."""
    thread = threading.Thread(target=send, args=(client, site, "/slow?a", "/slow?b"))
    thread.start()
    start = time.monotonic()
    assert client.post("/v1/search", json={"query": "goats"}).status_code == 200
    assert time.monotonic() - start < 1
    thread.join()


def test_wrong_requests(client: TestClient, site: RawServer) -> None:
    """A missing collection is told before anything is fetched; shapes and numbers are checked."""
    n_heads = len(site.heads)
    assert_problem(send(client, site, "/light", collection="no"), 404, "collection_not_found")
    assert len(site.heads) == n_heads
    for body in ({}, {"urls": []}, {"urls": ["http://a.example/"] * 21}, {"urls": "http://a/"}):
        assert_problem(client.post("/v1/urls", json=body), 422, "invalid_input")
    assert_problem(client.post("/v1/urls", content=b"x"), 415, "unsupported_media_type")


def test_fetches_are_counted(client: TestClient, site: RawServer) -> None:
    """The metrics tell outcomes, and no host."""
    send(client, site, "/ferry.md", "/missing")
    metrics = client.get("/metrics").text
    assert 'rag_url_fetches_total{outcome="fetched"}' in metrics
    assert 'rag_url_fetches_total{outcome="fetch_failed"}' in metrics
    assert "docs.example" not in metrics


def test_it_is_off_by_default(api: TestClient) -> None:
    """Without RAG_FETCH_URLS the answer is 403, which names the setting, and nothing is fetched."""
    answer = api.post("/v1/urls", json={"urls": ["http://127.0.0.1:9/"]})
    assert_problem(answer, 403, "fetch_disabled", says="RAG_FETCH_URLS")


def test_no_setting_reaches_loopback(site: RawServer, tmp_path: Path) -> None:
    """Allowing the host by name allows none of its private addresses."""
    settings = make_settings(tmp_path / "data", fetch_urls=True, fetch_hosts="localhost,127.0.0.1")
    n_connections = site.n_connections
    with TestClient(create_app(settings, embedder=HashEmbedder())) as client:
        for url in (
            f"http://127.0.0.1:{site.port}/light",
            "http://localhost/",
            "http://127.0.0.1/",
        ):
            answer = client.post("/v1/urls", json={"urls": [url]})
            assert answer.status_code == 422
            assert answer.json()["code"] in ("fetch_failed", "fetch_refused")
    assert site.n_connections == n_connections


def test_a_wrong_list_of_hosts_is_told_at_the_start(tmp_path: Path) -> None:
    """RAG_FETCH_HOSTS with a URL in it is a configuration error."""
    settings = make_settings(tmp_path / "d", fetch_urls=True, fetch_hosts="https://a.example/")
    with (
        pytest.raises(ConfigurationError, match="RAG_FETCH_HOSTS"),
        open_services(settings, work=False, embedder=HashEmbedder()),
    ):
        pass
