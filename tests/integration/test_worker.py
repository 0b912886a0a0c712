"""Workers: processes of their own that do a server's documents."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support.ports import free_port
from support.serving import ROOT, ServerProcess, until
from support.web import add


def _post(client: httpx2.Client, text: str) -> str:
    response = client.post("/v1/documents", json={"documents": [{"text": text}]})
    assert response.status_code == 202, response.text
    return str(response.json()["documents"][0]["job_id"])


def _workers(client: httpx2.Client) -> dict[str, Any]:
    body = client.get("/health").json()
    (found,) = [one for one in body["dependencies"] if one["name"] == "workers"]
    return {**found, "server": body["status"]}


def test_a_server_leaves_the_work_to_workers(tmp_path: Path) -> None:
    """With RAG_INGEST=false nothing is indexed until a worker runs, and /health says so."""
    data = tmp_path / "data"
    server = ServerProcess(data, RAG_INGEST="false")
    worker = ServerProcess(data, worker=True)
    with server, server.client() as client:
        job = _post(client, "The ferry leaves at eight.")
        said = until(lambda: (w := _workers(client))["status"] == "down" and w, 30)
        assert said["server"] == "degraded"
        assert "ragdock worker" in said["detail"]
        assert client.get("/readyz").status_code == 200
        assert client.get(f"/v1/jobs/{job}").json()["status"] == "pending"
        with worker:
            until(lambda: client.get(f"/v1/jobs/{job}").json()["status"] == "done", 60)
            until(lambda: _workers(client)["status"] == "ok", 60)
            with worker.client() as status:
                assert status.get("/health").json()["status"] == "ok"
                metrics = status.get("/metrics").text
            assert 'rag_ingest_documents_total{outcome="indexed"} 1.0' in metrics
            assert (
                'rag_ingest_documents_total{outcome="indexed"}' not in client.get("/metrics").text
            )
            assert worker.stop() == 0
        add_later = _post(client, "And again at ten.")
        assert client.get(f"/v1/jobs/{add_later}").json()["status"] == "pending"


def test_a_worker_that_stops_gives_its_work_back(tmp_path: Path) -> None:
    """After SIGTERM nothing is left in work, and no attempt is counted."""
    data = tmp_path / "data"
    text = "\n\n".join(f"Paragraph {n} of a long book. " * 30 for n in range(3000))
    worker = ServerProcess(data, worker=True, RAG_SHUTDOWN_SECONDS=0.2)
    with ServerProcess(data, RAG_INGEST="false") as server, server.client() as client, worker:
        job = _post(client, text)
        until(lambda: client.get(f"/v1/jobs/{job}").json()["status"] == "processing", 60)
        assert worker.stop() == 0
        body = client.get(f"/v1/jobs/{job}").json()
        assert (body["status"], body["attempt"]) in (("pending", 0), ("done", 1))


@pytest.mark.model
def test_a_supervisor_keeps_its_workers_up(tmp_path: Path) -> None:
    """A killed process is started again, metrics are summed, and a stop leaves nobody behind."""
    port = free_port()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAG_", "REDIS_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "ragdock", "worker", "--processes", "2", "--port", str(port)],
        env={
            **kept,
            "RAG_DATA_DIR": str(tmp_path / "data"),
            "RAG_MODEL_DIR": str(ROOT / "models"),
            "PYTHONPATH": str(ROOT / "src"),
        },
        cwd=tmp_path,
    )
    try:
        url = f"http://127.0.0.1:{port}"

        def children() -> list[int]:
            listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            return [int(pid) for pid in listed.split()]

        def held() -> int:
            return len(list((tmp_path / "data" / "owners").glob("*.lock")))

        def well() -> bool:
            try:
                return bool(httpx2.get(f"{url}/health").json()["status"] == "ok")
            except httpx2.TransportError:
                return False

        until(well, 60)
        until(lambda: held() == 2, 60)
        first = children()
        os.kill(first[0], signal.SIGKILL)
        until(lambda: len(children()) == 2 and children() != first, 60)
        assert "rag_build_info" in httpx2.get(f"{url}/metrics").text
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not [pid for pid in first if Path(f"/proc/{pid}").exists()]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_a_wrong_setting_ends_a_worker(tmp_path: Path) -> None:
    """A worker that can't work says why in one sentence and exits with 2."""
    run = subprocess.run(
        [sys.executable, "-m", "ragdock", "worker"],
        env={**os.environ, "RAG_WORKERS": "none", "PYTHONPATH": str(ROOT / "src")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2
    assert "RAG_WORKERS" in run.stderr


def test_a_supervisor_ends_when_its_workers_cannot_run(tmp_path: Path) -> None:
    """Without a model, it says so and exits with 2, instead of starting processes for ever."""
    run = subprocess.run(
        [sys.executable, "-m", "ragdock", "worker", "--processes", "2"],
        env={
            **os.environ,
            "RAG_DATA_DIR": str(tmp_path / "data"),
            "RAG_MODEL_DIR": str(tmp_path / "nowhere"),
            "PYTHONPATH": str(ROOT / "src"),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2, run.stderr
    assert "RAG_MODEL_DIR" in run.stderr
    assert "Fatal Python error" not in run.stderr


def test_it_adds_up(tmp_path: Path) -> None:
    """A server with RAG_INGEST=true beside a worker shares the work with it."""
    data = tmp_path / "data"
    with ServerProcess(data) as server, ServerProcess(data, worker=True), server.client() as client:
        for n in range(20):
            add(client, f"Shared document number {n}.", f"shared-{n}")
        assert client.get("/v1/collections/default").json()["n_documents"] == 20
