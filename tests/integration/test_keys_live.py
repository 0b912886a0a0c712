"""Keys on real servers: starting, refusing to start, seeing changes of other processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ragdock.errors import StoreError
from support.serving import ROOT, ServerProcess, serving, until
from support.web import add, assert_problem

ADMIN_KEY = "an-admin-key-for-live-tests-0123456789"


def ragdock(
    data_dir: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAG_", "REDIS_"))}
    return subprocess.run(
        [sys.executable, "-m", "ragdock", *arguments],
        env={**kept, "PYTHONPATH": str(ROOT / "src"), "RAG_DATA_DIR": str(data_dir), **environment},
        cwd=data_dir.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_without_a_key_a_server_for_others_does_not_start(tmp_path: Path, environment: str) -> None:
    """It ends with 2 and one sentence: why, and the commands that make a key."""
    done = ragdock(tmp_path / "data", "serve", ENVIRONMENT=environment)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "ragdock keys create --name admin --rights admin" in done.stderr
    assert "docker-compose run --rm web ragdock keys create" in done.stderr
    assert "RAG_ADMIN_KEY" in done.stderr


def test_prometheus_needs_no_more_than_its_right(tmp_path: Path) -> None:
    """A key made by the command, and one from a file: `/metrics`, and nothing of the content."""
    data_dir = tmp_path / "data"
    file = tmp_path / "metrics_key"
    file.write_text("m" * 40 + "\n")
    environment = {"ENVIRONMENT": "production", "RAG_METRICS_KEY_FILE": str(file)}
    refused = ragdock(data_dir, "serve", **environment)
    assert refused.returncode == 2, refused.stderr
    assert "no API key but for the metrics" in refused.stderr
    made = ragdock(data_dir, "keys", "create", "--name", "prometheus", "--rights", "metrics")
    with ServerProcess(data_dir, RAG_ADMIN_KEY=ADMIN_KEY, **environment) as server:
        with server.client() as client:
            client.headers.update(bearer(ADMIN_KEY))
            add(client, "The well is 31 metres deep.", "well")
            for key in (made.stdout.strip(), "m" * 40):
                client.headers.update(bearer(key))
                assert 'rag_queue_documents{state="pending"}' in client.get("/metrics").text
                assert "dependencies" in client.get("/health").json()
                for method, path in (
                    ("GET", "/v1/collections"), ("GET", "/v1/documents"), ("GET", "/v1/jobs"),
                    ("POST", "/v1/ask"), ("POST", "/v1/search"), ("POST", "/v1/collections"),
                    ("DELETE", "/v1/documents/well"), ("DELETE", "/v1/collections/default"),
                ):  # fmt: skip
                    assert_problem(client.request(method, path), 403, "forbidden")
            client.headers.update(bearer(ADMIN_KEY))
            assert client.get("/metrics").status_code == 200
            assert client.get("/v1/documents/well").status_code == 200
            del client.headers["Authorization"]
            assert_problem(client.get("/metrics"), 401, "missing_key")
        assert ragdock(data_dir, "keys", "revoke", "prometheus").returncode == 0
        with server.client() as client:
            assert client.get("/metrics", headers=bearer(made.stdout.strip())).status_code == 401
        assert server.stop() == 0
    assert "m" * 40 not in server.log.read_text()
    both = ragdock(data_dir, "serve", RAG_ADMIN_KEY="m" * 40, **environment)
    assert both.returncode == 2
    assert "RAG_METRICS_KEY has the value of RAG_ADMIN_KEY" in both.stderr
    assert "m" * 40 not in both.stderr


def test_two_servers_see_a_key_come_and_go(tmp_path: Path) -> None:
    """What the command line makes or revokes, both servers know at their next request."""
    data_dir = tmp_path / "data"
    with ServerProcess(data_dir) as one, ServerProcess(data_dir) as two:
        clients = [one.client(), two.client()]
        assert [c.get("/v1/collections").status_code for c in clients] == [200, 200]
        made = ragdock(data_dir, "keys", "create", "--name", "web", "--json")
        key = json.loads(made.stdout)["key"]
        for client in clients:
            assert_problem(client.get("/v1/collections"), 401, "missing_key")
            assert client.get("/v1/collections", headers=bearer(key)).status_code == 200
            assert client.get("/v1/collections", headers={"X-API-Key": key}).status_code == 200
        assert ragdock(data_dir, "keys", "revoke", "web").returncode == 0
        for client in clients:
            refused = client.get("/v1/collections", headers=bearer(key))
            assert_problem(refused, 401, "unauthorized")
            assert client.get("/health").json() == {"status": "ok"}
            client.close()
        assert one.stop() == 0
    listed = json.loads(ragdock(data_dir, "keys", "list", "--json").stdout)["keys"]
    assert listed[0]["last_used_at"] is not None
    for server in (one, two):
        assert key not in server.log.read_text()
        assert key[13:56] not in server.log.read_text()


def test_the_probe_and_the_commands_work_with_keys_on(tmp_path: Path) -> None:
    """The container's probe needs no key; a command without one says what to do, with one works."""
    with ServerProcess(tmp_path / "data", ENVIRONMENT="production", RAG_ADMIN_KEY=ADMIN_KEY) as one:
        shim = str(ROOT / "m3_1_dockerize.py")
        probe = subprocess.run(
            [sys.executable, shim, "--health", "--url", one.url], capture_output=True, check=False
        )
        assert probe.returncode == 0, probe.stderr
        without = ragdock(tmp_path, "collections", "ls", "--url", one.url)
        assert without.returncode == 1
        assert "RAGDOCK_API_KEY" in without.stderr
        with_key = ragdock(tmp_path, "collections", "ls", "--url", one.url,
                           RAGDOCK_API_KEY=ADMIN_KEY)  # fmt: skip
        assert "default" in with_key.stdout
        assert ADMIN_KEY not in one.log.read_text()
        sanity = [sys.executable, str(ROOT / "tests_docker_sanity.py")]
        environment = {**os.environ, "RAGDOCK_URL": one.url, "RAGDOCK_API_KEY": ADMIN_KEY}
        done = subprocess.run(sanity, env=environment, capture_output=True, text=True, check=False)
        assert " live " in done.stdout
        live = [line for line in done.stdout.splitlines() if " live " in line]
        failed = [line for line in live if not line.startswith("ok")]
        # Hashed words answer no question, so that check alone may fail here.
        assert [line for line in failed if "document goes in" not in line] == [], done.stdout
        del environment["RAGDOCK_API_KEY"]
        done = subprocess.run(sanity, env=environment, capture_output=True, text=True, check=False)
        assert "The checks send RAGDOCK_API_KEY" in done.stdout


def test_an_open_server_beyond_loopback_warns(tmp_path: Path) -> None:
    """In development without keys, listening on all addresses is a warning in the log."""

    def warnings(**environment: Any) -> list[str]:
        server = ServerProcess(tmp_path / "data", **environment)
        with server:
            server.stop()
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
        return [line["message"] for line in lines if line["level"] == "warning"]

    (warning,) = warnings(RAG_HOST="0.0.0.0")
    assert "no API key" in warning
    assert warnings() == []
    assert warnings(RAG_HOST="0.0.0.0", RAG_ADMIN_KEY=ADMIN_KEY) == []


def test_a_body_is_not_waited_for_without_a_key(tmp_path: Path) -> None:
    """Who has no key is refused when the headers are there, before a byte of the body is."""
    with ServerProcess(tmp_path / "data", RAG_ADMIN_KEY=ADMIN_KEY) as server:
        for path in ("/v1/collections", "/v1/documents", "/v1/ask"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
                head = (
                    f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                    "Content-Length: 1000\r\n\r\n"
                )
                connection.sendall(head.encode())
                assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_unreadable_keys_are_503_and_health_answers(tmp_path: Path) -> None:
    """When the keys can't be read nobody is let in, and the public routes go on."""
    with serving(tmp_path / "data", admin_key=ADMIN_KEY) as client:

        def broken(_: str) -> None:
            raise StoreError("The store is busy; retry shortly.")

        client.app.state.services.keys._store.peek = broken  # type: ignore[attr-defined]
        response = client.get("/v1/collections", headers=bearer(ADMIN_KEY))
        assert_problem(response, 503, "store_unavailable")
        assert response.headers["retry-after"]
        assert client.get("/livez").status_code == 200
        assert client.get("/health", headers=bearer(ADMIN_KEY)).json() == {"status": "ok"}


def test_every_way_to_send_a_key(tmp_path: Path) -> None:
    """Bearer in any case, X-API-Key, and a proxy's own scheme beside it."""
    with serving(tmp_path / "data", admin_key=ADMIN_KEY) as client:

        def status(*headers: tuple[str, str]) -> int:
            return client.get("/v1/collections", headers=list(headers)).status_code

        assert status(("Authorization", f"bearer  {ADMIN_KEY} ")) == 200
        assert status(("X-API-Key", ADMIN_KEY)) == 200
        assert status(("Authorization", "Basic eDp5"), ("X-API-Key", ADMIN_KEY)) == 200
        assert status(("X-API-Key", "wrong"), ("Authorization", f"Bearer {ADMIN_KEY}")) == 200
        assert status(("Authorization", "Bearer wrong"), ("X-API-Key", ADMIN_KEY)) == 401
        assert status(("Authorization", "Bearer ")) == 401
        assert status(("Authorization", ADMIN_KEY)) == 401
        assert client.get("/v1/collections", headers={"X-API-Key": b"\xff\xfe"}).status_code == 401  # type: ignore[dict-item]
        assert client.patch("/v1/collections").status_code == 405
        assert client.get("/nowhere").status_code == 404


def test_what_a_tenant_learns_of_a_full_queue(tmp_path: Path) -> None:
    """The refusal says that the queue is full, and no number of anybody's documents."""
    with serving(tmp_path / "data", admin_key=ADMIN_KEY, max_queue=1) as client:
        client.headers.update(bearer(ADMIN_KEY))
        texts = [{"text": f"text {number}"} for number in range(7)]
        response = client.post("/v1/documents", json={"documents": texts})
        body = assert_problem(response, 503, "queue_full")
        assert not any(character.isdigit() for character in body["detail"])


def test_a_first_key_closes_and_the_last_use_is_kept(tmp_path: Path) -> None:
    """Within one process: open, closed by the first key, still closed when it is revoked."""
    with serving(tmp_path / "data") as client:
        add(client, "The well is 31 metres deep.", "well")
        keys = client.app.state.services.keys  # type: ignore[attr-defined]
        made, key = keys.create("web", rights={"read"})
        assert client.get("/v1/documents").status_code == 401
        assert client.get("/v1/documents", headers=bearer(key)).status_code == 200
        keys.flush()
        until(lambda: keys.all()[0].last_used_at)
        keys.revoke(made.id)
        assert client.get("/v1/documents", headers=bearer(key)).status_code == 401
        assert client.get("/v1/documents").status_code == 401
