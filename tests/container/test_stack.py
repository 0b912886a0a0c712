"""The stack: `docker-compose up -d` with three versions of Compose, hardened, and answering."""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from harness import (
    COMPOSE_PROGRAMS,
    ROOT,
    Stack,
    ask,
    copy_context,
    docker,
    inspect,
    logs,
    put_text,
    run,
    upload,
    volumes_of,
    wait_for,
)

DATA = ROOT / "tests/data"


@pytest.mark.parametrize("version", COMPOSE_PROGRAMS)
def test_every_compose_brings_it_up_and_down(
    version: str,
    image: str,
    compose_programs: None,
    tmp_path: Path,
    report: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Compose 1.29, 2 and 5 read one file, build the image, get healthy, and clean up."""
    directory = copy_context(tmp_path / f"compose{version}")
    # Compose 2 brings a client for BuildKit. The others have the classic builder, as has the
    # docker command without buildx: the Dockerfile must work with both.
    if version == "1":
        monkeypatch.setenv("DOCKER_BUILDKIT", "0")
        # By the docker command, as is 1.29's default: a context that it packs itself names owners,
        # and finds nothing of what test_image_check.py has built.
        monkeypatch.setenv("COMPOSE_DOCKER_CLI_BUILD", "1")
    # Built under another name: the image under test stays what it is.
    tag = f"{image}-compose{version}"
    stack = Stack(directory, version, {"WEB_IMAGE": tag})
    stack.compose("config", "-q")
    started = time.monotonic()
    try:
        stack.up("--build")
        report(f"compose {version}: up and healthy in {time.monotonic() - started:.0f} s")
        assert_hardened(stack)
        with stack.client() as client:
            assert client.get("/health").json()["status"] == "ok"
    finally:
        stack.down("-v")
        run(["docker", "rmi", "--no-prune", tag], check=False)
    assert docker("ps", "-aq", "--filter", f"name={stack.project}") == ""
    assert volumes_of(stack.project) == []


def assert_hardened(stack: Stack) -> None:
    """What each version made of the file's limits and restrictions."""
    for service, user in (("web", "1000:1000"), ("redis", "999:1000")):
        found = inspect(stack.container(service))
        host = found["HostConfig"]
        assert found["Config"]["User"] == user
        assert host["ReadonlyRootfs"] is True
        assert host["CapDrop"] == ["ALL"]
        assert not host["CapAdd"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Memory"] > 0
        assert host["NanoCpus"] > 0
        assert host["PidsLimit"] > 0
        assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert not host["Privileged"]
        networks = found["NetworkSettings"]["Networks"]
        assert [name.endswith("rag-network") for name in networks] == [True]
        status = docker("exec", stack.container(service), "cat", "/proc/1/status")
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE), status
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE), status
    web, redis = inspect(stack.container("web")), inspect(stack.container("redis"))
    assert web["NetworkSettings"]["Ports"] == {
        "8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}]
    }
    assert not any(redis["NetworkSettings"]["Ports"].values())
    # Longer than RAG_SHUTDOWN_SECONDS (8), or Docker would kill what still answers.
    assert web["Config"]["StopTimeout"] >= 12


def test_the_root_is_read_only(stack: Stack) -> None:
    """Neither service can write outside its volume and /tmp."""
    for service in ("web", "redis"):
        name = stack.container(service)
        done = run(["docker", "exec", name, "sh", "-c", "touch /x /data/x /tmp/x"], check=False)
        assert "'/x'" in done.stderr or "/x:" in done.stderr, done.stderr
        assert "Read-only file system" in done.stderr
        assert "/data" not in done.stderr
        assert "/tmp" not in done.stderr


def test_redis_is_bounded_and_durable(stack: Stack) -> None:
    """Redis may use 75 % of its limit, evicts the least used, and keeps an append-only file."""
    name = stack.container("redis")

    def config(option: str) -> str:
        return docker("exec", name, "redis-cli", "--raw", "config", "get", option).splitlines()[-1]

    limit_bytes = inspect(name)["HostConfig"]["Memory"]
    assert 0.6 * limit_bytes <= int(config("maxmemory")) <= 0.75 * limit_bytes
    assert config("maxmemory-policy") == "allkeys-lru"
    assert config("appendonly") == "yes"
    mounts = [(mount["Type"], mount["Destination"]) for mount in inspect(name)["Mounts"]]
    assert ("volume", "/data") in mounts


@pytest.mark.parametrize(
    ("filename", "question", "expected"),
    [
        ("handbook.pdf", "How often is the primary mirror washed with distilled water?", "47"),
        ("report.docx", "How many passengers were carried in 2024?", "48,210"),
        ("guide.md", "How long do I hold the recessed button for a factory reset?", "17"),
    ],
)
def test_a_document_goes_in_and_a_cited_answer_comes_out(
    stack: Stack, filename: str, question: str, expected: str
) -> None:
    """A PDF, a Word file and Markdown are ingested; the answer cites the very passage."""
    with stack.client() as client:
        document = upload(client, DATA / filename)
        answer = ask(client, question)
        assert expected in answer["answer"], answer
        assert answer["grounded"] is True
        citation = next(c for c in answer["citations"] if c["filename"] == filename)
        text = client.get(f"/v1/documents/{document['id']}/text").text
        assert text[citation["start"] : citation["end"]] == citation["quote"]


def test_the_sanity_script_passes_against_the_stack(stack: Stack) -> None:
    """`python tests_docker_sanity.py` finds the running stack sound."""
    script = [sys.executable, ROOT / "tests_docker_sanity.py"]
    done = run(["env", f"RAGDOCK_URL={stack.url}", *script], cwd=stack.directory, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "live" in done.stdout
    assert " 0 failed" in done.stdout


def test_the_smoke_test_passes_inside_the_stack(
    stack: Stack, report: Callable[[str], None]
) -> None:
    """`docker-compose exec web ragdock smoke` finds every step sound, metrics included."""
    started = time.monotonic()
    said = stack.compose("exec", "-T", "web", "ragdock", "smoke", "--strict")
    seconds = time.monotonic() - started
    lines = [line.split("\t") for line in said.splitlines() if "\t" in line]
    assert len(lines) == 14, said
    assert {line[0] for line in lines} == {"ok"}, said
    report(f"docker-compose exec web ragdock smoke: {seconds:.1f} s with the start of Python")
    for line in said.splitlines():
        report(f"  {line.expandtabs(12)}")


def test_the_logs_are_json_lines(stack: Stack) -> None:
    """In the container every line of the log is one JSON object."""
    done = run(["docker", "logs", stack.container("web")])
    lines = (done.stdout + done.stderr).splitlines()
    assert lines
    for line in lines:
        assert isinstance(json.loads(line), dict), line


def test_down_and_up_keeps_the_documents_and_the_cache(
    image: str, compose_programs: None, tmp_path: Path
) -> None:
    """`down` keeps ./data and Redis's volume; `down -v` removes the volume, never ./data."""
    stack = Stack(tmp_path / "keep")
    try:
        stack.up()
        with stack.client() as client:
            upload(client, DATA / "guide.md")
            first = ask(client, "What is the idle power of the device?")
        keys = redis_size(stack)
        assert keys > 0
        stack.down()
        assert volumes_of(stack.project) != []
        stack.up()
        assert redis_size(stack) == keys
        with stack.client() as client:
            again = ask(client, "What is the idle power of the device?")
        assert again["answer"] == first["answer"]
    finally:
        stack.down("-v")
    assert volumes_of(stack.project) == []
    assert list((stack.directory / "data").iterdir())


def redis_size(stack: Stack) -> int:
    return int(docker("exec", stack.container("redis"), "redis-cli", "dbsize"))


def test_two_of_web_share_one_port_range(
    image: str, compose_programs: None, tmp_path: Path, report: Callable[[str], None]
) -> None:
    """With WEB_PORT as a range, `up --scale web=2` gives two servers of the same documents."""
    stack = Stack(tmp_path / "scaled")
    ports = [stack.port, stack.port + 1]
    stack.write_env(WEB_PORT=f"{ports[0]}-{ports[1]}")
    clients = [
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) for port in ports
    ]
    try:
        stack.compose("up", "-d", "--no-build", "--scale", "web=2")
        for client in clients:
            wait_for("a server", lambda c=client: c.get("/readyz").status_code == 200, 90)
        put_text(clients[0], "shared", "The shed's door is green.")
        for client in clients:
            assert "green" in ask(client, "Which colour is the shed's door?")["answer"]
        stack.compose("up", "-d", "--no-build", "--scale", "web=2")
    finally:
        for client in clients:
            client.close()
        stack.down("-v")


def test_a_password_locks_redis_and_the_api_knows_it(
    image: str, compose_programs: None, tmp_path: Path
) -> None:
    """REDIS_PASSWORD in `.env` reaches the server, its health check and the API."""
    stack = Stack(tmp_path / "locked", environment={"REDIS_PASSWORD": "s3cret-of-the-test"})
    try:
        stack.up()
        with stack.client() as client:
            assert client.get("/health").json()["status"] == "ok"
        name = stack.container("redis")
        without = docker("exec", "-e", "REDISCLI_AUTH=", name, "redis-cli", "ping")
        assert "NOAUTH" in without
    finally:
        stack.down("-v")


def test_in_production_the_stack_wants_a_key(
    image: str, compose_programs: None, tmp_path: Path
) -> None:
    """Without a key `web` ends and says how to make one; with the key so made it runs."""
    stack = Stack(tmp_path / "keys", environment={"ENVIRONMENT": "production"})
    try:
        stack.compose("up", "-d", "--no-build", check=False)
        web = stack.container("web")
        wait_for("the refusal", lambda: "ragdock keys create" in logs(web) or None)
        run_in = ("run", "--rm", "-T", "--no-deps", "web", "ragdock", "keys")
        said = stack.compose(
            *run_in, "create", "--name", "stack", "--rights", "read,write,admin", "--json"
        )
        key = json.loads(said[said.index("{") : said.rindex("}") + 1])["key"]
        stack.up()
        with stack.client() as client:
            assert client.get("/health").json() == {"status": "ok"}
            assert client.get("/v1/collections").status_code == 401
            client.headers["Authorization"] = f"Bearer {key}"
            upload(client, DATA / "guide.md")
            question = "How long do I hold the recessed button for a factory reset?"
            assert ask(client, question)["grounded"]
            assert client.get("/metrics").status_code == 200
            stack.compose(*run_in, "revoke", "stack")
            assert client.get("/v1/collections").status_code == 401
        assert key not in logs(web)
    finally:
        stack.down("-v")


def test_a_taken_port_is_named(image: str, compose_programs: None, tmp_path: Path) -> None:
    """When WEB_PORT is taken, `up` fails and says which port it was."""
    stack = Stack(tmp_path / "taken")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", stack.port))
        taken.listen()
        try:
            said = stack.compose("up", "-d", "--no-build", check=False)
        finally:
            stack.down("-v")
    assert str(stack.port) in said
    assert "in use" in said or "already allocated" in said
