"""Secrets from files, as docs/security.md shows them, in real containers."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from harness import ROOT, Stack, docker, inspect, run

UNUSED = ("llm_api_key", "embed_api_key")


def test_secrets_come_from_files_and_stand_in_no_variable(
    image: str, compose_programs: None, tmp_path: Path
) -> None:
    """With the `#~` lines uncommented, Redis wants its password, web has it, and the admin key."""
    stack = Stack(tmp_path / "secrets-stack", environment={"ENVIRONMENT": "production"})
    values = {name: secrets.token_hex(32) for name in ("redis_password", "admin_key")}
    folder = stack.directory / "secrets"
    folder.mkdir(mode=0o700)
    for name, value in values.items():
        (folder / name).write_text(f"{value}\n", encoding="ascii")
        (folder / name).chmod(0o444)
    (stack.directory / "docker-compose.yml").write_text(_uncommented(), encoding="utf-8")
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
        redis = stack.container("redis")
        assert "NOAUTH" in docker("exec", redis, "redis-cli", "dbsize")
        for service in ("web", "redis"):
            found = str(inspect(stack.container(service)))
            said = run(["docker", "logs", stack.container(service)])
            for value in values.values():
                assert value not in found
                assert value not in said.stdout + said.stderr
    finally:
        stack.down("-v")
        shutil.rmtree(folder)


def _uncommented() -> str:
    """The compose file with its lines for secrets, but for those that the test has none of."""
    lines = (ROOT / "docker-compose.yml").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = []
    for line in lines:
        line = line.replace("#~ ", "", 1)
        for name in UNUSED:
            line = line.replace(f", {name}", "")
        marked = any(f"secrets/{name}" in line for name in UNUSED)
        if not marked and not any(f"{name.upper()}_FILE:" in line for name in UNUSED):
            kept.append(line)
    return "".join(kept)
