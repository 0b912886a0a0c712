"""Secrets from files, as docs/security.md shows them, in real containers."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from harness import Stack, docker, inspect, run, secrets_from_files, wait_for


def test_secrets_come_from_files_and_stand_in_no_variable(
    image: str, compose_programs: None, tmp_path: Path
) -> None:
    """With the `#~` lines uncommented, Redis wants its password; web and worker have theirs."""
    environment = {
        "ENVIRONMENT": "production",
        "COMPOSE_PROFILES": "worker",
        "RAG_INGEST": "false",
    }
    stack = Stack(tmp_path / "secrets-stack", environment=environment)
    values = {
        name: secrets.token_hex(32) for name in ("redis_password", "admin_key", "metrics_key")
    }
    folder = secrets_from_files(stack, values)
    try:
        stack.up()
        with stack.client() as client:
            assert client.get("/v1/collections").status_code == 401
            client.headers["Authorization"] = f"Bearer {values['admin_key']}"
            assert client.get("/v1/collections").status_code == 200
            health = client.get("/health").json()
            assert health["status"] == "ok", health
            states = {entry["name"]: entry["status"] for entry in health["dependencies"]}
            assert states["redis"] == "ok", health
            client.headers["Authorization"] = f"Bearer {values['metrics_key']}"
            assert client.get("/v1/collections").status_code == 403
            assert client.get("/metrics").status_code == 200
        wait_for("the worker", lambda: stack.health("worker") == "healthy", 60)
        redis = stack.container("redis")
        assert "NOAUTH" in docker("exec", redis, "redis-cli", "dbsize")
        for service in ("web", "worker", "redis"):
            found = str(inspect(stack.container(service)))
            said = run(["docker", "logs", stack.container(service)])
            for value in values.values():
                assert value not in found
                assert value not in said.stdout + said.stderr
    finally:
        stack.down("-v")
        shutil.rmtree(folder)
