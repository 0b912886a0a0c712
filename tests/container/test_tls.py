"""TLS in front of the server: the real Caddy, with our Caddyfile, before a real server process."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from harness import COMPOSE_PROGRAMS, ROOT, Stack, docker, run, wait_for

from support.llm_server import LlmServer
from support.ports import free_port
from support.serving import ServerProcess

KEY = "tls-test-key-0123456789-0123456789-abcdef"
ADDRESS_RATE = 120


@pytest.fixture(scope="module")
def caddy() -> str:
    """The program; Debian's, installed when it is missing."""
    if shutil.which("caddy") is None:
        # Its package would start a service on port 80.
        run(["apt-get", "download", "-y", "-qq", "caddy"], cwd=Path("/tmp"), timeout_seconds=300)
        (package,) = Path("/tmp").glob("caddy_*.deb")
        run(["dpkg-deb", "-x", package, "/tmp/ragdock-caddy"])
        package.unlink()
        return "/tmp/ragdock-caddy/usr/bin/caddy"
    return "caddy"


@dataclass(frozen=True)
class Site:
    """A server behind Caddy."""

    server: ServerProcess
    port: int
    authority: Path

    def client(self, address: str = "127.0.0.5") -> httpx2.Client:
        """A client at an address of its own, which trusts the site's authority."""
        context = ssl.create_default_context(cafile=str(self.authority))
        transport = httpx2.HTTPTransport(local_address=address, verify=context)
        return httpx2.Client(
            base_url=f"https://localhost:{self.port}",
            transport=transport,
            timeout=60,
            headers={"Authorization": f"Bearer {KEY}"},
        )


@pytest.fixture(scope="module")
def site(caddy: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Caddy with a certificate of its own before a server that believes its address."""
    directory = tmp_path_factory.mktemp("tls")
    port = free_port()
    with (
        LlmServer() as llm,
        ServerProcess(
            directory / "data",
            ENVIRONMENT="production",
            RAG_ADMIN_KEY=KEY,
            RAG_TRUSTED_PROXIES="127.0.0.1",
            RAG_ADDRESS_RATE_PER_MINUTE=ADDRESS_RATE,
            RAG_RATE_PER_MINUTE=0,
            RAG_LLM_BASE_URL=llm.base_url,
            RAG_LLM_MODEL="slow",
            RAG_MAX_REQUEST_MB=32,
        ) as server,
    ):
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "XDG_DATA_HOME": str(directory / "share"),
            "XDG_CONFIG_HOME": str(directory / "config"),
            "SITE_ADDRESS": "localhost",
            "CADDY_TLS": "tls internal",
            "CADDY_ADMIN": "off",
            "CADDY_HTTP_PORT": str(free_port()),
            "CADDY_HTTPS_PORT": str(port),
            "RAG_MAX_REQUEST_MB": "32",
            "UPSTREAM": f"127.0.0.1:{server.port}",
        }
        command = [
            caddy,
            "run",
            "--adapter",
            "caddyfile",
            "--config",
            str(ROOT / "deploy/Caddyfile"),
        ]
        with (directory / "caddy.log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        authority = directory / "share/caddy/pki/authorities/local/root.crt"
        found = Site(server, port, authority)
        try:
            wait_for("Caddy's certificate", authority.exists, 30)
            with found.client() as client:
                wait_for("Caddy", lambda: client.get("/readyz").status_code == 200, 30)
            yield found
        finally:
            process.terminate()
            process.wait(20)


def test_the_caddyfile_is_valid_and_formatted(caddy: str) -> None:
    """Caddy finds nothing wrong with it, with and without the variables."""
    path = str(ROOT / "deploy/Caddyfile")
    for more in ({}, {"SITE_ADDRESS": "rag.example.org", "ACME_EMAIL": "ops@example.org"}):
        subprocess.run(
            [caddy, "validate", "--adapter", "caddyfile", "--config", path],
            env={"PATH": os.environ["PATH"], "HOME": "/tmp", **more},
            check=True,
            capture_output=True,
        )
    formatted = run([caddy, "fmt", path]).stdout
    assert formatted == Path(path).read_text(encoding="utf-8")


def test_http_2_and_the_headers_of_https(site: Site) -> None:
    """The proxy speaks HTTP/2, and the server knows that its client came by TLS."""
    context = ssl.create_default_context(cafile=str(site.authority))
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", site.port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert secure.selected_alpn_protocol() == "h2"
    with site.client() as client:
        assert "max-age" in client.get("/v1/collections").headers["strict-transport-security"]


def test_uploads_pass_and_have_the_servers_limit(site: Site) -> None:
    """20 MB go through; what RAG_MAX_REQUEST_MB refuses is refused with 413."""
    with site.client() as client:
        text = b"The ferry to Amber Island leaves at nine. " * 500_000
        accepted = client.post("/v1/documents", files={"file": ("big.txt", text)})
        assert accepted.status_code == 202, accepted.text
        job = accepted.json()["documents"][0]["job_id"]
        client.post(f"/v1/jobs/{job}/cancel")
        for size in (34_000_000, 60_000_000):
            refused = client.post("/v1/documents", files={"file": ("huge.txt", b"x" * size)})
            assert refused.status_code == 413


def test_a_stream_is_not_held_back(site: Site) -> None:
    """The first words of an answer come while the LLM still writes the others."""
    with site.client() as client:
        put = client.put(
            "/v1/documents/ferry",
            params={"wait": "true"},
            json={"text": "The ferry to Amber Island leaves at nine every single morning."},
        )
        assert put.status_code == 200, put.text
        came: list[float] = []
        question = {"question": "When does the ferry to Amber Island leave?", "stream": True}
        with client.stream("POST", "/v1/ask", json=question) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            for chunk in response.iter_bytes():
                came += [time.monotonic()] * chunk.count(b"event: delta")
    assert len(came) >= 5
    assert came[-1] - came[0] > 0.6


def test_the_clients_own_address_is_counted_and_recorded(site: Site) -> None:
    """The audit has the address that Caddy saw, whatever a client claims to be."""
    claims = {"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.7"}
    with site.client("127.0.0.5") as client:
        made = client.post("/v1/collections", json={"name": "from-five"}, headers=claims)
        assert made.status_code == 201, made.text
    with site.client("127.0.0.6") as client:
        assert client.post("/v1/collections", json={"name": "from-six"}).status_code == 201
    records = wait_for("both records", lambda: _creations(site.server, 2))
    assert [record["address"] for record in records] == ["127.0.0.5", "127.0.0.6"]


def _creations(server: ServerProcess, n_wanted: int) -> list[dict[str, Any]] | None:
    files = sorted((server.log.parent / "data/audit").glob("*.jsonl"))
    lines = "".join(path.read_text(encoding="utf-8") for path in files).splitlines()
    records = [json.loads(line) for line in lines]
    found = [record for record in records if record.get("action") == "collections.create"]
    return found if len(found) >= n_wanted else None


def test_a_spoofed_address_buys_no_rate(site: Site) -> None:
    """One client's requests use up one address's rate, under however many names it comes."""
    statuses: list[int] = []
    lock = threading.Lock()

    # Four times the rate at once: a machine would need three minutes for it to stay within.
    def send(number: int) -> None:
        with site.client("127.0.0.7") as client:
            for step in range(ADDRESS_RATE):
                spoofed = {"X-Forwarded-For": f"198.51.{number}.{step % 250}"}
                status = client.get("/v1/collections", headers=spoofed).status_code
                with lock:
                    statuses.append(status)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(429) > 0
    with site.client("127.0.0.8") as client:
        assert client.get("/v1/collections").status_code == 200


def test_who_passes_the_proxy_by_is_not_believed(site: Site) -> None:
    """The server itself ignores the header from an address that isn't the proxy's."""
    transport = httpx2.HTTPTransport(local_address="127.0.0.9")
    with httpx2.Client(base_url=site.server.url, transport=transport) as client:
        headers = {"Authorization": f"Bearer {KEY}", "X-Forwarded-For": "203.0.113.8"}
        made = client.post("/v1/collections", json={"name": "from-nine"}, headers=headers)
        assert made.status_code == 201
    records = wait_for("the record", lambda: _creations(site.server, 3))
    assert records[-1]["address"] == "127.0.0.9"


@pytest.mark.parametrize("version", ["1", "2", "5"])
def test_every_compose_reads_the_override(
    compose_programs: None, version: str, tmp_path: Path
) -> None:
    """Compose 1.29, 2 and 5 merge it: the proxy alone is open, and the server believes it alone."""
    for name in ("docker-compose.yml", "deploy"):
        source = ROOT / name
        target = tmp_path / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)
    command = [
        *COMPOSE_PROGRAMS[version],
        "-f",
        "docker-compose.yml",
        "-f",
        "deploy/compose.tls.yml",
    ]
    refused = run([*command, "config"], cwd=tmp_path, check=False)
    # 2.40 says it and exits with 0.
    assert "set SITE_ADDRESS" in refused.stderr
    (tmp_path / ".env").write_text("SITE_ADDRESS=rag.example.org\n", encoding="utf-8")
    merged = run([*command, "config"], cwd=tmp_path).stdout
    assert "10.213.253.2" in merged
    assert "rag.example.org" in merged
    assert merged.count("127.0.0.1") >= 1


def test_the_whole_stack_behind_the_proxy(
    image: str, compose_programs: None, caddy: str, tmp_path: Path
) -> None:
    """Compose's own networks: TLS in front, one trusted address, and `web` reached by it alone."""
    context = tmp_path / "proxy"
    context.mkdir()
    shutil.copy2(shutil.which(caddy) or caddy, context / "caddy")
    # The program that is at hand, in an image that is at hand; what Compose does is what is tested.
    (context / "Dockerfile").write_text(
        f"FROM {image}\nUSER 0:0\nCOPY caddy /usr/local/bin/caddy\n"
        "RUN chown 0:0 /data && mkdir /config\nENV XDG_DATA_HOME=/data\n"
        'ENV XDG_CONFIG_HOME=/config\nCMD ["caddy", "run", "--adapter", "caddyfile", "--config", '
        '"/etc/caddy/Caddyfile"]\n',
        encoding="utf-8",
    )
    docker("build", "-q", "-t", "rag-api-proxy:test", context, timeout_seconds=300)
    directory = tmp_path / "stack"
    shutil.copytree(ROOT / "deploy", directory / "deploy")
    port = free_port()
    stack = Stack(
        directory,
        environment={
            "COMPOSE_FILE": "docker-compose.yml:deploy/compose.tls.yml",
            "CADDY_IMAGE": "rag-api-proxy:test",
            "CADDY_TLS": "tls internal",
            "HTTP_PORT": str(free_port()),
            "HTTPS_PORT": str(port),
            "RAG_ADMIN_KEY": KEY,
            "SITE_ADDRESS": "localhost",
        },
    )
    try:
        stack.up()
        proxy = stack.container("proxy")
        authority = tmp_path / "root.crt"
        inside = "/data/caddy/pki/authorities/local/root.crt"
        wait_for(
            "Caddy's certificate",
            lambda: (
                run(["docker", "cp", f"{proxy}:{inside}", authority], check=False).returncode == 0
            ),
            60,
        )
        context_of_tls = ssl.create_default_context(cafile=str(authority))
        headers = {"Authorization": f"Bearer {KEY}", "X-Forwarded-For": "203.0.113.9"}
        with httpx2.Client(verify=context_of_tls, trust_env=False, headers=headers) as client:
            url = f"https://localhost:{port}"
            wait_for("the site", lambda: client.get(f"{url}/readyz").status_code == 200, 60)
            assert client.post(f"{url}/v1/collections", json={"name": "a"}).status_code == 201
        command = ["exec", "-T", "web", "ragdock", "audit", "--json"]
        recorded = stack.compose(*command)
        # The machine itself, as it is seen on the proxy's network: not the proxy, not the claim.
        lines = [line for line in recorded.splitlines() if line.startswith("{")]
        addresses = {json.loads(line)["address"] for line in lines}
        assert addresses != {"10.213.253.2"}
        assert all(address.startswith("10.213.253.") for address in addresses)
        published = docker(
            "ps",
            "--format",
            "{{.Names}} {{.Ports}}",
            "--filter",
            "label=com.docker.compose.service=web",
        )
        assert "0.0.0.0" not in published
    finally:
        stack.down("-v")
        run(["docker", "rmi", "-f", "rag-api-proxy:test"], check=False)
