"""`/health`, `/readyz`, `/livez`, `/metrics`, `/`: the truth, also when it is bad."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ragdock import __version__
from ragdock.adapters.metrics.tables import MEASURED, METRICS
from ragdock.errors import StoreError
from support.embedders import HashEmbedder
from support.serving import ServerProcess, serving, until
from support.web import add, ask, assert_problem

pytestmark = pytest.mark.timing

MODEL_DIR = Path(os.environ.get("RAG_MODEL_DIR") or Path(__file__).parents[2] / "models")


def test_health_tells_all(api: TestClient) -> None:
    """A healthy server says so, with version, uptime, each dependency and the queue."""
    response = api.get("/health")
    body = response.json()
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert (body["status"], body["version"]) == ("ok", __version__)
    assert body["environment"] == "development"
    assert body["uptime_seconds"] >= 0
    assert body["queue"] == {"pending": 0, "processing": 0, "failed": 0}
    assert {d["name"]: d["required"] for d in body["dependencies"]} == {
        "store": True,
        "embedder": True,
        "worker": True,
    }
    assert all(d["status"] == "ok" and d["latency_ms"] >= 0 for d in body["dependencies"])
    assert api.get("/readyz").json() == {"status": "ok"}
    assert api.get("/livez").json() == {"status": "ok"}
    assert api.get("/").json()["version"] == __version__


class FragileEmbedder(HashEmbedder):
    """Says that it is broken on demand."""

    broken = False

    def ping(self) -> None:
        """Raise when broken."""
        if self.broken:
            raise StoreError("The model is gone.")


def test_a_required_dependency_that_is_down_is_503(tmp_path: Path) -> None:
    """Health and readiness are real 503s with the reason; liveness stays; it heals."""
    embedder = FragileEmbedder()
    with serving(tmp_path / "data", embedder=embedder) as client:
        assert client.get("/health").status_code == 200
        embedder.broken = True
        until(lambda: client.get("/readyz").status_code == 503)
        body = client.get("/health").json()
        assert body["status"] == "unavailable"
        (down,) = [d for d in body["dependencies"] if d["status"] == "down"]
        assert (down["name"], down["required"]) == ("embedder", True)
        assert down["detail"] == "The model is gone."
        assert client.get("/livez").status_code == 200
        assert 'rag_dependency_up{dependency="embedder"} 0.0' in client.get("/metrics").text
        embedder.broken = False
        until(lambda: client.get("/health").status_code == 200)


def test_a_hung_dependency_doesnt_hang_health(tmp_path: Path) -> None:
    """A ping that never returns makes health 503 in seconds, however many ask at once."""
    embedder = HashEmbedder()
    hold = threading.Event()
    embedder.ping = lambda: (hold.wait(30), None)[1]  # type: ignore[method-assign]
    with serving(tmp_path / "data", embedder=embedder) as client:
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(client.get("/health").status_code))
            for _ in range(8)
        ]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        assert client.get("/livez").status_code == 200
        for thread in threads:
            thread.join(20)
        assert statuses == [503] * 8
        assert time.monotonic() - start < 10
        hold.set()


def test_a_broken_store_is_503_everywhere(tmp_path: Path) -> None:
    """When the store can't be read: 503 with Retry-After on requests, and health says store."""
    with serving(tmp_path / "data") as client:
        client.app.state.services.store.close()  # type: ignore[attr-defined]
        for response in (
            client.get("/v1/collections"),
            client.post("/v1/ask", json={"question": "x"}),
            client.post("/v1/documents", json={"documents": [{"text": "x"}]}),
        ):
            assert_problem(response, 503, "store_unavailable")
            assert int(response.headers["retry-after"]) >= 1
        body = client.get("/health")
        assert body.status_code == 503
        down = [d["name"] for d in body.json()["dependencies"] if d["status"] == "down"]
        assert "store" in down
        assert client.get("/metrics").status_code == 200


def test_failed_documents_are_counted(tmp_path: Path) -> None:
    """The queue in health and metrics counts what failed."""
    with serving(tmp_path / "data") as client:
        client.put("/v1/documents/x?wait=true", files={"file": ("x.txt", b"\xef\xbb\xbf\xc3\x28")})
        assert client.get("/health").json()["queue"]["failed"] == 1
        assert 'rag_queue_documents{state="failed"} 1.0' in client.get("/metrics").text


def use_everything(client: TestClient) -> None:
    """Make every metric move."""
    add(client, "The well is 31 metres deep.", "well")
    add(client, "The well is 31 metres deep.", "well")
    for _ in range(2):
        ask(client, "How deep is the well?")
    client.get("/nowhere")
    client.get("/health")


def test_every_metric_appears_after_use(tmp_path: Path) -> None:
    """Each metric of the table is exposed with its labels, and no id or question is a label."""
    with serving(tmp_path / "data", max_queue=1) as client:
        use_everything(client)
        texts = [{"text": "a"}, {"text": "b"}]
        assert client.post("/v1/documents", json={"documents": texts}).status_code == 503
        response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = response.text
    for _, exposed, _, labels, _ in METRICS.values():
        if exposed in (
            "rag_cache_errors_total",
            "rag_connections_closed_total",
            "rag_trace_spans_total",
            "rag_url_fetches_total",
        ):
            assert exposed in text  # What doesn't happen has no labels.
            continue
        lines = [line for line in text.splitlines() if line.startswith(exposed)]
        assert lines, exposed
        assert all(f'{label}="' in line for line in lines[:1] for label in labels)
    for name, (_, exposed, _, _) in MEASURED.items():
        # Neither a Redis nor a backup is here.
        absent = name.startswith("redis_") or name == "backup"
        assert (f"\n{exposed}" in text) is not absent, exposed
    assert "rag_documents 1.0" in text
    assert 'rag_health_status{status="ok"} 1.0' in text
    assert 'rag_request_seconds_count{method="POST",route="/v1/ask",status="200"} 2.0' in text
    assert 'route="unmatched",status="404"' in text
    assert 'rag_ingest_documents_total{outcome="unchanged"} 1.0' in text
    assert 'rag_cache_lookups_total{kind="answer",result="hit"} 1.0' in text
    assert 'rag_refused_total{reason="queue_full"} 1.0' in text
    assert "rag_requests_in_flight 1.0" in text
    assert "well" not in text


def test_logs_are_json_with_request_ids_and_no_content(tmp_path: Path) -> None:
    """A server's log is JSON lines that carry request ids, and never a text, question or secret."""
    server = ServerProcess(
        tmp_path / "data", REDIS_HOST="127.0.0.1", REDIS_PORT=9, REDIS_PASSWORD="hunter2"
    )
    with server, server.client() as client:
        add(client, "The well is 31 metres deep.", "well")
        headers = {"X-Request-ID": "trace-7"}
        client.post("/v1/ask", json={"question": "How deep is the well?"}, headers=headers)
        client.get("/v1/documents/nothing-here", headers=headers)
        assert server.stop() == 0
    text = server.log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    traced = [line["message"] for line in lines if line.get("request_id") == "trace-7"]
    assert "POST /v1/ask 200" in traced
    assert "GET /v1/documents/{document_id} 404" in traced
    for secret in ("31 metres", "How deep", "hunter2", "nothing-here"):
        assert secret not in text


@pytest.mark.model
def test_two_workers_are_one_server(tmp_path: Path) -> None:
    """With RAG_WORKERS=2 the metrics are the sum, writes are seen by both, SIGTERM ends all."""
    server = ServerProcess(
        tmp_path / "data", hashed=False, RAG_WORKERS=2, RAG_MODEL_DIR=MODEL_DIR.resolve()
    )
    with server:
        for number in range(30):
            with server.client() as client:  # A connection each, so that both workers are met.
                if number % 10 == 0:
                    text = f"The well is {number} metres deep."
                    client.put(
                        "/v1/documents/well?wait=true", json={"text": text}
                    ).raise_for_status()
                    depth = number
                answer = ask(client, "How deep is the well?")
                assert f"{depth} metres" in answer["answer"]
        with server.client() as client:
            text = client.get("/metrics").text
        asked = 'rag_request_seconds_count{method="POST",route="/v1/ask",status="200"} 30.0'
        assert asked in text
        # What holds for all of them is told once, and not the sum.
        for line in ("rag_documents 1.0", 'rag_health_status{status="ok"} 1.0'):
            assert text.count(f"\n{line}\n") == 1, line
        assert text.count("\nrag_data_free_bytes ") == 1
        assert 'rag_build_info{version="' in text
        assert server.stop() == 0


@pytest.mark.model
def test_a_process_that_starts_slowly_is_waited_for(tmp_path: Path) -> None:
    """A busy machine delays imports by seconds; no process is ended for that, again and again."""
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(
        "import sys, time\n"
        "if any('multiprocessing.spawn' in word for word in sys.orig_argv):\n"
        "    time.sleep(7)\n"
    )
    server = ServerProcess(
        tmp_path / "data",
        hashed=False,
        RAG_WORKERS=2,
        RAG_MODEL_DIR=MODEL_DIR.resolve(),
        PYTHONPATH=slow,
    )
    with server:
        log = server.log.read_text()
        assert log.count("Started server process") == 2
        assert "died" not in log
        assert server.stop() == 0


def test_the_log_of_an_upload_names_no_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the name nor the words of a document are logged when it is indexed or fails."""
    with caplog.at_level(logging.DEBUG, "ragdock"), serving(tmp_path / "data") as client:
        files = {"file": ("payroll-2026.txt", b"Ada earns 100.")}
        client.put("/v1/documents/a?wait=true", files=files)
        files = {"file": ("payroll-2026.txt", b"\xef\xbb\xbf\xc3\x28 Ada earns 100.")}
        client.put("/v1/documents/b?wait=true", files=files)
    logged = json.dumps([str(vars(record)) for record in caplog.records])
    assert "document indexed" in logged
    assert "payroll" not in logged
    assert "Ada" not in logged
