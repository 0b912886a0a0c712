"""Idempotency-Key: a write that is sent again is answered as before, and done once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from ragdock.adapters.stores.sqlite.answers import SqliteAnswers
from ragdock.api.idempotency import RequestDigest
from ragdock.errors import ConflictError
from ragdock.types import KeptAnswer, Vectors
from support.embedders import HashEmbedder
from support.serving import serving, until
from support.web import assert_problem

FIELD = "header.idempotency-key"


class _Gated(HashEmbedder):
    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()

    def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Vectors:
        self.gate.wait(20.0)
        return super().embed(texts, urgent=urgent)


@pytest.fixture
def embedder() -> _Gated:
    """An embedder that waits as the test wants."""
    return _Gated()


@pytest.fixture
def api(tmp_path: Path, embedder: _Gated) -> Iterator[TestClient]:
    """A server of the test's own."""
    with serving(tmp_path / "data", embedder=embedder) as client:
        yield client
        embedder.gate.set()


def _headers(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def _same(first: Any, second: Any) -> None:
    assert second.status_code == first.status_code
    assert second.content == first.content
    assert second.headers.get("content-type") == first.headers.get("content-type")
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"


def test_each_write_is_answered_as_the_first_time(api: TestClient) -> None:
    """Create, upload, replace, retry, delete and drop: the second answer is the first one."""

    def twice(method: str, path: str, status: int, **options: Any) -> Any:
        headers = _headers(f"{method} {path}".replace(" ", "-"))
        first = api.request(method, path, headers=headers, **options)
        assert first.status_code == status, first.text
        _same(first, api.request(method, path, headers=headers, **options))
        return first

    twice("POST", "/v1/collections", 201, json={"name": "mine"})
    body = {"documents": [{"id": "d", "text": "The quay is long."}]}
    twice("POST", "/v1/documents?collection=mine&wait=true", 200, json=body)
    files = {"file": ("f.txt", b"The quay is short.")}
    twice("PUT", "/v1/documents/d?collection=mine&wait=true", 200, files=files)
    (job,) = api.get("/v1/jobs", params={"collection": "mine", "limit": 1}).json()["jobs"]
    twice("POST", f"/v1/jobs/{job['id']}/retry", 409)
    twice("DELETE", "/v1/documents/d?collection=mine", 204)
    twice("DELETE", "/v1/documents/d?collection=mine&again=1", 404)
    twice("DELETE", "/v1/collections/mine", 204)
    assert api.get("/v1/jobs").json()["jobs"] == []


def test_another_request_is_refused(api: TestClient) -> None:
    """The same key with another body, query or file is 422; on another path it is another key."""
    body = {"documents": [{"id": "d", "text": "One."}]}
    path = "/v1/documents"
    assert api.post(path, json=body, headers=_headers("k")).status_code == 202
    other = {"documents": [{"id": "d", "text": "Two."}]}
    for response in (
        api.post(path, json=other, headers=_headers("k")),
        api.post(f"{path}?wait=true", json=body, headers=_headers("k")),
        api.post(path, files={"file": ("a.txt", b"One.")}, headers=_headers("k")),
    ):
        assert_problem(response, 422, "idempotency_mismatch", field=FIELD)
    replaced = api.put(f"{path}/d", json={"text": "Three."}, headers=_headers("k"))
    assert replaced.status_code == 202
    for n, content in enumerate((b"Same.", b"Same.", b"Other.")):
        response = api.put(
            f"{path}/f", files={"file": ("a.txt", content)}, headers=_headers("upload")
        )
        assert response.status_code == (202, 202, 422)[n]


def test_a_wrong_key_is_refused(api: TestClient) -> None:
    """A key of more than 200 characters, with spaces, or of none is 422; searches take none."""
    for key in ("", "a b", "x" * 201):
        response = api.delete("/v1/documents/d", headers=_headers(key))
        assert_problem(response, 422, "invalid_input", field=FIELD)
    found = api.post("/v1/search", json={"query": "x"}, headers=_headers("a b"))
    assert found.status_code == 200


def test_the_first_one_still_running_is_a_conflict(api: TestClient, embedder: _Gated) -> None:
    """While the first request is worked on, the second is told to come back."""
    embedder.gate.clear()
    body = {"documents": [{"id": "slow", "text": "The slow boat."}]}
    answers: list[Any] = []

    def send() -> None:
        answers.append(api.post("/v1/documents?wait=true", json=body, headers=_headers("k")))

    thread = threading.Thread(target=send)
    thread.start()
    until(lambda: api.get("/v1/jobs").json()["jobs"])
    second = api.post("/v1/documents?wait=true", json=body, headers=_headers("k"))
    assert_problem(second, 409, "idempotency_running", field=FIELD)
    assert second.headers["retry-after"]
    embedder.gate.set()
    thread.join(20)
    _same(answers[0], api.post("/v1/documents?wait=true", json=body, headers=_headers("k")))


def test_refusals_of_the_moment_are_not_kept(tmp_path: Path) -> None:
    """A 503 is tried again under the same key, and may then succeed."""
    with serving(tmp_path / "data", max_queue=1) as api:
        two = {"documents": [{"text": "One."}, {"text": "Two."}]}
        for _ in range(2):
            response = api.post("/v1/documents", json=two, headers=_headers("k"))
            assert_problem(response, 503, "queue_full")
            assert "idempotency-replayed" not in response.headers
        one = {"documents": [{"text": "One."}]}
        assert api.post("/v1/documents", json=one, headers=_headers("k")).status_code == 202


class _Clock:
    id = "test"

    def __init__(self) -> None:
        self.now = 0.0
        self.step = 0.0

    def wall(self) -> float:
        return 1e9 + self.now + self.step

    def steady(self) -> float:
        return self.now


def test_answers_are_kept_for_a_day(tmp_path: Path) -> None:
    """They expire after 24 hours that passed, and not by a step of the wall clock."""
    clock = _Clock()
    answers = SqliteAnswers(tmp_path, clock=clock)
    kept = KeptAnswer("digest", 202, (("content-type", "application/json"),), b"{}")
    assert answers.begin("s", "k") is None
    answers.finish("s", "k", kept)
    clock.step = 10 * 86_400.0
    clock.now = 86_300.0
    assert answers.begin("s", "k") == kept
    assert answers.begin("other", "k") is None
    clock.now = 86_500.0
    assert answers.begin("s", "k") is None
    answers.close()


def test_what_a_dead_process_left_is_taken_over(tmp_path: Path) -> None:
    """A request that is begun elsewhere is a conflict while its process lives, and free after."""
    first, second = SqliteAnswers(tmp_path), SqliteAnswers(tmp_path)
    assert first.begin("s", "k") is None
    with pytest.raises(ConflictError):
        second.begin("s", "k")
    first.close()
    assert second.begin("s", "k") is None
    second.forget("s", "k")
    assert second.begin("s", "k") is None
    second.close()


def _digest(content_type: str, body: bytes, cuts: list[int]) -> str:
    digest = RequestDigest(
        {
            "query_string": b"",
            "headers": [
                (b"content-type", content_type.encode()),
                (b"content-length", b"%d" % len(body)),
            ],
        }
    )
    ends = sorted({min(cut, len(body)) for cut in cuts} | {len(body)})
    start = 0
    for end in ends:
        more = end < len(body)
        digest.update({"type": "http.request", "body": body[start:end], "more_body": more})
        start = end
    assert digest.is_complete
    return digest.hexdigest()


@given(st.lists(st.integers(0, 120), max_size=6), st.binary(max_size=40))
def test_a_forms_boundary_does_not_count(cuts: list[int], content: bytes) -> None:
    """However a form is cut into pieces and whatever its boundary is, its digest is the same."""

    def form(boundary: str) -> tuple[str, bytes]:
        mark = b"--" + boundary.encode()
        return (
            f"multipart/form-data; boundary={boundary}",
            mark
            + b'\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
            + content
            + b"\r\n"
            + mark
            + b"--\r\n",
        )

    whole = _digest(*form("aXbXaXbXc"), [])
    assert _digest(*form("qqqqwwwweeee"), cuts) == whole
    assert _digest(form("aXbXaXbXc")[0], form("aXbXaXbXc")[1] + b"x", cuts) != whole
