"""Jobs over HTTP: followed while they run, retried, cancelled, by ids that tell nothing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ragdock.errors import EmbedderError
from ragdock.types import Vectors
from support.embedders import HashEmbedder
from support.serving import ServerProcess, serving, until
from support.web import add, assert_problem


class _Gated(HashEmbedder):
    """Embeds documents only while the gate is open, and fails while it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.down = False

    def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Vectors:
        """As the base does, after the gate."""
        if not urgent:
            self.gate.wait(20.0)
            if self.down:
                raise EmbedderError("The embedder is down.", retry_after_seconds=0.1)
        return super().embed(texts, urgent=urgent)


@pytest.fixture
def embedder() -> _Gated:
    """An embedder that waits and fails as the test wants."""
    return _Gated()


@pytest.fixture
def api(tmp_path: Path, embedder: _Gated) -> Iterator[TestClient]:
    """A server of the test's own."""
    with serving(tmp_path / "data", embedder=embedder) as client:
        yield client
        embedder.gate.set()


def _post(api: TestClient, text: str, name: str) -> str:
    response = api.post("/v1/documents", json={"documents": [{"id": name, "text": text}]})
    assert response.status_code == 202, response.text
    return str(response.json()["documents"][0]["job_id"])


def _status(api: TestClient, job: str) -> str:
    return str(api.get(f"/v1/jobs/{job}").json()["status"])


def _events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if line[:1] not in ("", ":")
        )
        if fields:
            assert fields["event"] == "job"
            found.append((fields["id"], json.loads(fields["data"])))
    return found


def _search(api: TestClient, words: str) -> list[str]:
    hits = api.post("/v1/search", json={"query": words, "mode": "lexical"}).json()["hits"]
    return [hit["document_id"] for hit in hits]


def test_a_job_is_told_in_full(api: TestClient) -> None:
    """A finished job says what was done, by which attempt, and when."""
    job = add(api, "The lighthouse opens at nine.", "lighthouse")["job_id"]
    body = api.get(f"/v1/jobs/{job}").json()
    assert body["id"] == job
    assert (body["status"], body["outcome"], body["stage"]) == ("done", "indexed", None)
    assert (body["percent"], body["attempt"], body["next_attempt_at"]) == (100, 1, None)
    assert body["updated_at"] >= body["created_at"]
    found = api.get("/v1/jobs", params={"document_id": "lighthouse"}).json()["jobs"]
    assert [one["id"] for one in found] == [job]
    assert api.get("/v1/jobs", params={"document_id": "other"}).json()["jobs"] == []


def test_a_cancelled_job_is_not_searchable(api: TestClient, embedder: _Gated) -> None:
    """Cancelling work in progress leaves the former version, and a retry does it after all."""
    add(api, "Old harbour rules.", "rules")
    embedder.gate.clear()
    job = _post(api, "New harbour regulations.", "rules")
    until(lambda: _status(api, job) == "processing")
    response = api.post(f"/v1/jobs/{job}/cancel")
    assert response.status_code == 202
    assert response.json()["status"] == "cancelled"
    assert api.post(f"/v1/jobs/{job}/cancel").status_code == 202
    embedder.gate.set()
    time.sleep(0.3)
    assert _status(api, job) == "cancelled"
    assert _search(api, "regulations") == []
    assert _search(api, "rules") == ["rules"]
    assert api.get("/v1/documents/rules").json()["status"] == "done"
    again = api.post(f"/v1/jobs/{job}/retry")
    assert (again.status_code, again.json()["status"]) == (202, "pending")
    until(lambda: _status(api, job) == "done")
    assert _search(api, "regulations") == ["rules"]
    assert_problem(api.post(f"/v1/jobs/{job}/cancel"), 409, "job_finished", field="path.job_id")
    assert_problem(api.post(f"/v1/jobs/{job}/retry"), 409, "job_not_retriable", field="path.job_id")


def test_an_outage_waits_and_tells_why(api: TestClient, embedder: _Gated) -> None:
    """While the embedder is down a document waits with the reason, and is indexed afterwards."""
    embedder.down = True
    job = _post(api, "Tide tables of the bay.", "tides")
    body = until(lambda: (b := api.get(f"/v1/jobs/{job}").json())["next_attempt_at"] and b)
    assert body["status"] == "pending"
    assert body["error"] == {"code": "embedder_unavailable", "message": "The embedder is down."}
    embedder.down = False
    until(lambda: _status(api, job) == "done")
    assert api.get(f"/v1/jobs/{job}").json()["error"] is None


def test_a_failed_job_can_be_retried(api: TestClient) -> None:
    """A document that can't be read fails with a reason, and fails again when retried."""
    files = {"file": ("scan.pdf", b"%PDF-1.4 this is no PDF at all")}
    response = api.post("/v1/documents?wait=true", files=files)
    assert response.status_code == 422
    (job,) = api.get("/v1/jobs", params={"status": "failed"}).json()["jobs"]
    assert api.post(f"/v1/jobs/{job['id']}/retry").status_code == 202
    again = until(lambda: (b := api.get(f"/v1/jobs/{job['id']}").json())["error"] and b)
    assert (again["status"], again["attempt"]) == ("failed", 1)


def test_unknown_jobs_are_not_found(api: TestClient) -> None:
    """Every route of a job answers 404 alike, for ids that are wrong and for none at all."""
    for job in ("7", "job_zzzzzzzzzzzzz", "job_0000000000000"):
        for method, path in (
            ("GET", ""),
            ("GET", "/events"),
            ("POST", "/retry"),
            ("POST", "/cancel"),
        ):
            response = api.request(method, f"/v1/jobs/{job}{path}")
            assert_problem(response, 404, "not_found", field="path.job_id")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A real server: event streams need one."""
    data_dir = tmp_path_factory.mktemp("jobs") / "data"
    with ServerProcess(data_dir, RAG_MAX_WAITING=3) as running:
        yield running


def test_a_finished_jobs_events_end(server: ServerProcess) -> None:
    """Its stream is one event and an end; who has seen that event is told not to come back."""
    with server.client() as client:
        job = client.post(
            "/v1/documents?wait=true", json={"documents": [{"text": "The mill turns."}]}
        ).json()["documents"][0]["job_id"]
        response = client.get(f"/v1/jobs/{job}/events")
        assert response.headers["content-type"].startswith("text/event-stream")
        ((event, body),) = _events(response.text)
        assert (body["id"], body["status"]) == (job, "done")
        headers = {"Last-Event-ID": event}
        assert client.get(f"/v1/jobs/{job}/events", headers=headers).status_code == 204


def test_events_follow_a_job_to_its_end(server: ServerProcess) -> None:
    """From pending to done without a gap, and nothing after."""
    text = "\n\n".join(f"Paragraph {n} of the pilot book. " * 20 for n in range(200))
    with server.client() as client:
        job = client.post("/v1/documents", json={"documents": [{"text": text}]}).json()[
            "documents"
        ][0]["job_id"]
        states = [body for _, body in _events(client.get(f"/v1/jobs/{job}/events").text)]
    assert {body["id"] for body in states} == {job}
    assert states[-1]["status"] == "done"
    assert states[-1]["percent"] == 100


def test_events_of_a_collection_resume(server: ServerProcess) -> None:
    """A listener sees every document of its collection alone, and goes on where it was."""
    with server.client() as client, server.client() as writer:
        for name in ("mine", "other"):
            writer.post("/v1/collections", json={"name": name})

        def write(name: str, text: str) -> str:
            response = writer.post(
                "/v1/documents?wait=true", json={"collection": name, "documents": [{"text": text}]}
            )
            return str(response.json()["documents"][0]["job_id"])

        def listen(headers: dict[str, str]) -> list[tuple[str, Any]]:
            path = "/v1/jobs/events?collection=mine"
            with client.stream("GET", path, headers=headers) as stream:
                lines = stream.iter_lines()
                assert next(lines) == ": listening"
                ready.set()
                block: list[str] = []
                seen = []
                for line in lines:
                    block.append(line)
                    if line == "":
                        seen += _events("\n".join(block) + "\n")
                        block = []
                        if seen and seen[-1][1]["status"] == "done":
                            return seen
            return seen

        ready = threading.Event()
        found: list[tuple[str, Any]] = []
        thread = threading.Thread(target=lambda: found.extend(listen({})))
        thread.start()
        assert ready.wait(10)
        write("other", "Not for this listener.")
        first = write("mine", "For this listener.")
        thread.join(20)
        assert not thread.is_alive()
        assert {body["id"] for _, body in found} == {first}
        missed = write("mine", "While nobody listened.")
        again = listen({"Last-Event-ID": found[-1][0]})
        assert {body["id"] for _, body in again} == {missed}


def test_too_many_listeners_are_refused(server: ServerProcess) -> None:
    """Beyond the bound a listener is sent away with Retry-After, and free places count again."""
    path = "/v1/jobs/events"
    with server.client() as client:
        streams = [client.stream("GET", path) for _ in range(3)]
        for stream in streams:
            assert stream.__enter__().status_code == 200
        refused = client.get(path)
        assert_problem(refused, 503, "too_many_listeners")
        assert refused.headers["retry-after"]
        for stream in streams:
            stream.__exit__(None, None, None)

        def free() -> bool:
            with client.stream("GET", path) as stream:
                return stream.status_code == 200

        until(free)


@pytest.mark.timing
def test_listeners_do_not_delay_a_stop(tmp_path: Path) -> None:
    """A server with an open event stream ends it and stops at once."""
    server = ServerProcess(tmp_path / "data").start()
    with server.client() as client, client.stream("GET", "/v1/jobs/events") as stream:
        lines = stream.iter_lines()
        assert next(lines) == ": listening"
        start = time.monotonic()
        assert server.stop() == 0
        assert list(lines) == [""]
    assert time.monotonic() - start < 4.0
