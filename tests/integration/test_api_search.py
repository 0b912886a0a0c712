"""`/v1/search`: passages, scores, filters, the cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from support.embedders import HashEmbedder
from support.serving import serving
from support.web import add, assert_problem

TEXTS = {
    "ferry": "The ferry Kittiwake leaves the island at seven in the morning.",
    "mirror": "The primary mirror is washed with distilled water every 47 days.",
    "honey": "Honey costs 8.50 a jar at the market in the valley.",
}
METADATA = {
    "ferry": {"year": 2024, "tags": ["sea", "time"], "open": True},
    "mirror": {"year": 2025, "tags": ["sky"], "open": False},
    "honey": {"year": 2026},
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Three texts with metadata."""
    with serving(tmp_path_factory.mktemp("search") / "data") as client:
        for name, text in TEXTS.items():
            add(client, text, name, metadata=METADATA[name], filename=f"{name}.txt")
        yield client


@pytest.mark.parametrize("mode", ["hybrid", "lexical", "dense"])
def test_each_mode_finds_the_passage(library: TestClient, mode: str) -> None:
    """Every mode ranks the fitting passage first, with the scores of its sides."""
    body = {"query": "when does the ferry leave", "mode": mode, "top_k": 2}
    found = library.post("/v1/search", json=body).json()
    assert (found["query"], found["mode"], found["collection"]) == (
        "when does the ferry leave",
        mode,
        "default",
    )
    hit = found["hits"][0]
    assert hit["document_id"] == "ferry"
    assert hit["filename"] == "ferry.txt"
    assert hit["metadata"] == METADATA["ferry"]
    assert hit["text"] == TEXTS["ferry"][hit["start"] : hit["end"]]
    assert (hit["scores"]["lexical"] is None) == (mode == "dense")
    assert (hit["scores"]["dense"] is None) == (mode == "lexical")
    fused = [hit["scores"]["fused"] for hit in found["hits"]]
    assert fused == sorted(fused, reverse=True)
    assert len(found["hits"]) <= 2
    assert {"total"} < set(found["timings_ms"])


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"year": 2025}, {"mirror"}),
        ({"year": {"gte": 2025}}, {"mirror", "honey"}),
        ({"year": [2024, 2026]}, {"ferry", "honey"}),
        ({"tags": "sea"}, {"ferry"}),
        ({"tags": {"exists": False}}, {"honey"}),
        ({"open": True}, {"ferry"}),
        ({"open": {"ne": True}}, {"mirror", "honey"}),
        ({"document_id": "honey", "year": 2026}, {"honey"}),
        ({"filename": "mirror.txt"}, {"mirror"}),
        ({"media_type": "text/html"}, set()),
        ({"year": "2025"}, set()),
        (None, set(TEXTS)),
        ({}, set(TEXTS)),
    ],
)
def test_filters_decide_what_is_seen(
    library: TestClient, filters: object, expected: set[str]
) -> None:
    """Only documents whose metadata hold are found, by either side."""
    for mode in ("hybrid", "dense"):
        body = {"query": "the", "mode": mode, "filters": filters, "top_k": 10}
        hits = library.post("/v1/search", json=body).json()["hits"]
        assert {hit["document_id"] for hit in hits} == expected


@pytest.mark.parametrize(
    "filters",
    [
        {"year": {"near": 2024}},
        {"year": {}},
        {"year": []},
        {"year": None},
        {"year": {"in": "x"}},
        {"year": {"gt": True}},
        {"": 1},
        {"k" * 129: 1},
        {f"k{n}": 1 for n in range(33)},
        {"year": [[1]]},
    ],
)
def test_bad_filters_are_refused(library: TestClient, filters: object) -> None:
    """A filter outside the language is a 422 that says where and what is allowed."""
    body = assert_problem(
        library.post("/v1/search", json={"query": "x", "filters": filters}), 422, "invalid_filter"
    )
    assert body["errors"][0]["field"].startswith("body.filters")


def test_the_second_search_is_a_hit_with_the_same_body(library: TestClient) -> None:
    """A cached answer equals the computed one but for `cache` and `timings_ms`."""
    bodies = []
    for expected in ("miss", "hit"):
        response = library.post("/v1/search", json={"query": "distilled water"})
        assert response.headers["x-cache"] == response.json()["cache"] == expected
        assert response.headers["cache-control"] == "no-store"
        body = response.json()
        assert body.pop("cache") == expected
        assert body.pop("timings_ms")["total"] >= 0
        bodies.append(body)
    assert bodies[0] == bodies[1]


def test_white_space_and_composition_share_an_answer(library: TestClient) -> None:
    """Questions equal after NFC and white space folding share a cache entry and an answer."""
    first = library.post("/v1/search", json={"query": "caf\u00e9  at the market"}).json()
    second = library.post("/v1/search", json={"query": " cafe\u0301 at\nthe market "}).json()
    assert (first["cache"], second["cache"]) == ("miss", "hit")
    assert first["hits"] == second["hits"]
    assert second["query"] == " cafe\u0301 at\nthe market "


@pytest.mark.parametrize("value", ["no-cache", "No-Cache", "max-age=0, no-cache", "no-store"])
def test_no_cache_bypasses(library: TestClient, value: str) -> None:
    """`Cache-Control: no-cache` in the request computes anew and says so."""
    body = {"query": "bypass the market"}
    library.post("/v1/search", json=body)
    response = library.post("/v1/search", json=body, headers={"Cache-Control": value})
    assert response.headers["x-cache"] == response.json()["cache"] == "bypass"


@pytest.mark.parametrize(
    "change",
    [{"top_k": 1}, {"mode": "lexical"}, {"filters": {"year": 2024}}, {"filters": {"year": 2024.0}}],
)
def test_parameters_have_entries_of_their_own(
    library: TestClient, change: dict[str, object]
) -> None:
    """What changes the result is part of the key."""
    body = {"query": f"key of {change}"}
    library.post("/v1/search", json=body)
    assert library.post("/v1/search", json=body | change).json()["cache"] == "miss"


def test_a_cache_of_zero_seconds_is_off(tmp_path: Path) -> None:
    """With RAG_CACHE_TTL_SECONDS=0 nothing is kept."""
    with serving(tmp_path / "data", cache_ttl_seconds=0) as client:
        for _ in range(2):
            assert client.post("/v1/search", json={"query": "x"}).json()["cache"] == "miss"


def test_the_query_is_embedded_once(tmp_path: Path) -> None:
    """Ask and search of the same text share the query's vector."""
    embedder = HashEmbedder()
    with serving(tmp_path / "data", embedder=embedder) as client:
        client.post("/v1/search", json={"query": "one vector"})
        calls = embedder.calls
        client.post("/v1/search", json={"query": "one vector", "top_k": 3})
        client.post("/v1/ask", json={"question": " one  vector"})
        assert embedder.calls == calls


def test_nothing_in_an_empty_collection(tmp_path: Path) -> None:
    """A search of an empty collection is an empty list, not an error."""
    with serving(tmp_path / "data") as client:
        assert client.post("/v1/search", json={"query": "anything"}).json()["hits"] == []
