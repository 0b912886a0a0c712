"""What the tests of the HTTP API say again and again."""

from __future__ import annotations

import json
from typing import Any

import httpx2

__all__ = ["add", "ask", "assert_problem", "events", "inventory"]


def add(client: httpx2.Client, text: str, document_id: str | None = None, **more: Any) -> Any:
    """Index a text and wait for it; what the server said of it."""
    params = {"wait": "true"}
    if "collection" in more:
        params["collection"] = more.pop("collection")
    document = {"text": text, **({"id": document_id} if document_id else {}), **more}
    response = client.post("/v1/documents", params=params, json={"documents": [document]})
    assert response.status_code == 200, response.text
    return response.json()["documents"][0]


def ask(client: httpx2.Client, question: str, **more: Any) -> Any:
    """Ask, and return the answer object."""
    response = client.post("/v1/ask", json={"question": question, **more})
    assert response.status_code == 200, response.text
    assert response.headers["x-cache"] == response.json()["cache"]
    return response.json()


def assert_problem(
    response: httpx2.Response,
    status: int,
    code: str,
    *,
    field: str | None = None,
    says: str = "",
) -> Any:
    """The response is this problem, in full; its body."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["code"] == code, body
    assert body["status"] == status
    assert body["type"] == "about:blank"
    assert body["title"]
    assert body["request_id"] == response.headers["x-request-id"]
    if field is not None:
        assert field in [error["field"] for error in body["errors"]], body
        assert all(error["message"] for error in body["errors"])
    assert says.lower() in response.text.lower(), body
    return body


def inventory(client: httpx2.Client) -> Any:
    """All that the server holds: collections with their counts, documents and jobs."""
    collections = client.get("/v1/collections").json()["collections"]
    documents = [
        client.get("/v1/documents", params={"collection": c["name"], "limit": 1000}).json()
        for c in collections
    ]
    return collections, documents, client.get("/v1/jobs?limit=1000").json()


def events(response: httpx2.Response) -> list[tuple[str, Any]]:
    """The (name, data) of a server-sent event stream."""
    assert response.headers["content-type"].startswith("text/event-stream"), response.text
    found = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        assert name.startswith("event: ")
        assert data.startswith("data: ")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found
