"""Nothing that people write shows where an operator looks: logs, metrics, audit, error bodies."""

from __future__ import annotations

import json
from pathlib import Path

from support.llm_server import LlmServer
from support.redis_server import RedisServer
from support.serving import ServerProcess
from support.sockets import connect, head, read_all

ADMIN = "CANARYkey" + "k" * 40
PASSWORD = "CANARYpassword"
LLM_KEY = "CANARYllmkey"
CANARIES = {
    "text": "CANARYtext",
    "question": "CANARYquestion",
    "file name": "CANARYfile",
    "metadata": "CANARYmeta",
    "title": "CANARYtitle",
    "key": "CANARYkey",
    "wrong key": "CANARYwrong",
    "password": PASSWORD,
    "LLM's key": LLM_KEY,
    "query string": "CANARYquerystring",
    "header": "CANARYheader",
    "path": "CANARYpath",
}
TEXT = "# CANARYtitle\n\nThe CANARYtext lamp burns for nine hours."


def talk(server: ServerProcess) -> list[str]:
    """A whole conversation, with all that can go wrong; the error bodies."""
    errors = []
    with server.client() as client:
        client.headers["Authorization"] = f"Bearer {ADMIN}"
        client.headers["X-Other"] = "CANARYheader"
        wrong = {"Authorization": "Bearer CANARYwrong" + "w" * 40}
        metadata = json.dumps({"owner": "CANARYmeta"})

        def upload(content: bytes, name: str) -> None:
            files = {"file": (name, content)}
            client.post("/v1/documents?wait=true", files=files, data={"metadata": metadata})

        upload(TEXT.encode(), "CANARYfile.md")
        upload(b"%PDF-1.7 CANARYtext broken", "CANARYfile.pdf")
        upload(b"PK\x03\x04CANARYtext", "CANARYfile.docx")
        for body in ({"question": "CANARYquestion lamp?"}, {"question": "lamp", "stream": True}):
            assert client.post("/v1/ask", json=body).status_code == 200
        client.post("/v1/search", json={"query": "CANARYquestion", "top_k": 3})
        for response in (
            client.post("/v1/ask", json={"question": "CANARYquestion" * 500}),
            client.post("/v1/ask", content=b"{CANARYquestion"),
            client.get("/v1/CANARYpath?x=CANARYquerystring"),
            client.get("/v1/documents/none?collection=none&x=CANARYquerystring"),
            client.get("/v1/collections", headers=wrong),
        ):
            assert response.status_code >= 400
            errors.append(response.text)
        for request in (
            head("GET", "/CANARYpath", "CANARYheader"),
            b"CANARYpath\r\n\r\n",
            head("POST", "/v1/ask?CANARYquerystring", "Content-Type: application/json",
                 f"Authorization: Bearer {ADMIN}", "Content-Length: 99") + b"CANARYquestion",
        ):  # fmt: skip
            with connect(server.port) as connection:
                connection.sendall(request)
                errors.append(read_all(connection).decode())
        errors.append(client.get("/metrics").text)
        errors.append(client.get("/health").text)
    return errors


def test_no_canary_leaves_its_place(tmp_path: Path) -> None:
    """At the most talkative level, with failures of every kind, no log line holds what was sent.

    The audit names document ids, which are made of file names when the caller names none; nothing
    else of what was sent is in it.
    """
    directory = tmp_path / "redis"
    directory.mkdir()
    with LlmServer() as llm, RedisServer(directory, "--requirepass", "another") as redis:
        server = ServerProcess(
            tmp_path / "data",
            RAG_LOG_LEVEL="debug",
            RAG_ADMIN_KEY=ADMIN,
            RAG_BODY_TIMEOUT_SECONDS=1,
            REDIS_HOST="127.0.0.1",
            REDIS_PORT=redis.port,
            REDIS_PASSWORD=PASSWORD,
            RAG_LLM_BASE_URL=llm.base_url,
            RAG_LLM_MODEL="http500",
            RAG_LLM_API_KEY=LLM_KEY,
        )
        with server:
            answers = talk(server)
            assert server.stop() == 0
    places = {"log": server.log.read_text()}
    audit = "".join(path.read_text() for path in (tmp_path / "data" / "audit").iterdir())
    places["audit"] = "\n".join(
        json.dumps({k: v for k, v in json.loads(line).items() if k != "documents"})
        for line in audit.splitlines()
    )
    assert '"level": "debug"' in places["log"]
    assert "documents.create" in places["audit"]
    found = [
        f"{what} in {place}: {line[:300]}"
        for place, text in places.items()
        for what, canary in CANARIES.items()
        for line in text.splitlines()
        if canary in line
    ]
    assert not found
    # A caller may be shown what it sent itself, but never a secret, and never a document.
    for what in (
        "text",
        "metadata",
        "title",
        "key",
        "wrong key",
        "password",
        "LLM's key",
        "header",
    ):
        assert CANARIES[what] not in "".join(answers), what
