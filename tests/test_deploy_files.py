"""The deployment files: what the platforms' schemas admit, and what the server needs of each.

The schemas are the platforms' own and not copied here. Which keys they admit was checked by hand on
2026-11-22: render.yaml with render.com/schema/render.yaml.json, fly.toml with SchemaStore's
fly.json, railway.json with docs.railway.com/config-as-code/reference.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ragdock.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
RUN_AS = ["python", "m3_1_dockerize.py", "--serve", "--run-as", "1000:1000"]
RENDER: dict[str, Any] = yaml.safe_load((DEPLOY / "render.yaml").read_text("utf-8"))
RAILWAY: dict[str, Any] = json.loads((DEPLOY / "railway.json").read_text("utf-8"))
FLY: dict[str, Any] = tomllib.loads((DEPLOY / "fly.toml").read_text("utf-8"))
TLS: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.tls.yml").read_text("utf-8"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))

RENDER_WEB = {
    "autoDeploy", "autoDeployTrigger", "branch", "buildCommand", "buildFilter", "disk",
    "dockerCommand", "dockerContext", "dockerfilePath", "domain", "domains", "envVars",
    "healthCheckPath", "image", "initialDeployHook", "maxShutdownDelaySeconds", "name",
    "numInstances", "plan", "preDeployCommand", "previewPlan", "previews",
    "pullRequestPreviewsEnabled", "region", "registryCredential", "repo", "rootDir", "runtime",
    "scaling", "startCommand", "type",
}  # fmt: skip
RENDER_KEY_VALUE = {
    "ipAllowList", "maxmemoryPolicy", "name", "plan", "previewPlan", "region", "type",
}  # fmt: skip
RAILWAY_BUILD = {"builder", "buildCommand", "dockerfilePath", "watchPatterns"}
RAILWAY_DEPLOY = {
    "cronSchedule", "drainingSeconds", "healthcheckPath", "healthcheckTimeout",
    "multiRegionConfig", "numReplicas", "overlapSeconds", "preDeployCommand",
    "restartPolicyMaxRetries", "restartPolicyType", "sleepApplication", "startCommand",
}  # fmt: skip
FLY_TOP = {
    "app", "build", "console_command", "deploy", "env", "experimental", "files",
    "host_dedication_id", "http_checks", "http_service", "kill_signal", "kill_timeout", "metrics",
    "mounts", "primary_region", "processes", "services", "statics", "swap_size_mb", "vm",
}  # fmt: skip


def shutdown_seconds() -> float:
    return float(Settings.model_fields["shutdown_seconds"].default)


def settings_names() -> set[str]:
    fields = Settings.model_fields.values()
    return {str(field.validation_alias.choices[0]) for field in fields}  # type: ignore[union-attr]


def dockerfile_of_volumes() -> str:
    return (DEPLOY / "volume.Dockerfile").read_text(encoding="utf-8")


# ---- Render ------------------------------------------------------------------------------------


def test_render_admits_the_blueprint() -> None:
    """Every key is one of Render's, and what it wants is there."""
    assert set(RENDER) == {"services"}
    web, cache = RENDER["services"]
    assert {"type", "name", "runtime"} <= set(web) <= RENDER_WEB
    assert {"type", "name", "ipAllowList"} <= set(cache) <= RENDER_KEY_VALUE
    assert web["plan"] in {"starter", "standard", "pro"}
    assert web["region"] == cache["region"]
    assert set(web["disk"]) == {"name", "mountPath", "sizeGB"}
    for variable in web["envVars"]:
        assert set(variable) in ({"key", "value"}, {"key", "generateValue"}, {"key", "fromService"})
        # Render's schema takes strings and numbers; a number would lose how it was written.
        assert isinstance(variable.get("value", ""), str)
        source = variable.get("fromService")
        assert source is None or (source["type"], source["name"]) == (cache["type"], cache["name"])


def test_render_runs_one_instance_that_owns_its_disk() -> None:
    """One instance, the disk at /data, the image that gives it to user 1000, time to stop."""
    web, cache = RENDER["services"]
    assert web["numInstances"] == 1
    assert "scaling" not in web
    assert web["disk"]["mountPath"] == "/data"
    assert (ROOT / web["dockerfilePath"]).samefile(DEPLOY / "volume.Dockerfile")
    assert web["healthCheckPath"] == "/readyz"
    assert web["maxShutdownDelaySeconds"] >= shutdown_seconds() + 5
    assert cache["ipAllowList"] == []
    assert cache["maxmemoryPolicy"] == "allkeys-lru"


def test_render_makes_the_first_key() -> None:
    """Production, with a key that Render makes and that the server takes; no secret in the file."""
    variables = {variable["key"]: variable for variable in RENDER["services"][0]["envVars"]}
    assert set(variables) <= settings_names()
    assert variables["ENVIRONMENT"]["value"] == "production"
    assert variables["RAG_ADMIN_KEY"] == {"key": "RAG_ADMIN_KEY", "generateValue": True}
    # What it makes is 256 bits in base64.
    made = "q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k="
    assert Settings(_env_file=None, RAG_ADMIN_KEY=made).admin_key is not None  # type: ignore[call-arg]


# ---- Railway -----------------------------------------------------------------------------------


def test_railway_admits_the_file() -> None:
    """Every key is one of Railway's; seconds are numbers, because strings are refused."""
    assert set(RAILWAY) == {"$schema", "build", "deploy"}
    assert set(RAILWAY["build"]) <= RAILWAY_BUILD
    assert set(RAILWAY["deploy"]) <= RAILWAY_DEPLOY
    assert RAILWAY["build"] == {"builder": "DOCKERFILE", "dockerfilePath": "Dockerfile"}
    for name in ("drainingSeconds", "healthcheckTimeout", "numReplicas", "restartPolicyMaxRetries"):
        assert isinstance(RAILWAY["deploy"][name], int)


def test_railway_runs_one_replica_that_owns_its_volume() -> None:
    """One replica, the command that gives /data to user 1000, time to stop."""
    deploy = RAILWAY["deploy"]
    assert deploy["numReplicas"] == 1
    assert deploy["startCommand"].split() == RUN_AS
    assert deploy["healthcheckPath"] == "/readyz"
    assert deploy["drainingSeconds"] >= shutdown_seconds() + 5
    page = (ROOT / "docs/deploy/railway.md").read_text(encoding="utf-8")
    assert "RAILWAY_RUN_UID=0" in page
    assert "--mount-path /data" in page


# ---- Fly ---------------------------------------------------------------------------------------


def test_fly_admits_the_file() -> None:
    """Every key is one of Fly's."""
    assert set(FLY) <= FLY_TOP
    allowed = {"source", "destination", "initial_size", "snapshot_retention"}
    assert set(FLY["mounts"]) <= allowed
    assert set(FLY["build"]) == {"dockerfile", "args"}
    assert set(FLY["env"]) <= settings_names()
    assert all(isinstance(value, str) for value in FLY["env"].values())


def test_fly_runs_one_machine_that_owns_its_volume() -> None:
    """The volume at /data, the image for it, SIGTERM and time to stop, no sleep."""
    assert FLY["mounts"]["destination"] == "/data"
    assert (DEPLOY / FLY["build"]["dockerfile"]).exists()
    assert FLY["kill_signal"] == "SIGTERM"
    assert FLY["kill_timeout"] >= shutdown_seconds() + 5
    service = FLY["http_service"]
    assert str(service["internal_port"]) == FLY["env"]["PORT"]
    assert service["force_https"] is True
    assert service["auto_stop_machines"] == "off"
    assert [check["path"] for check in service["checks"]] == ["/readyz"]
    # More at once than the server lets wait would be refused by it.
    limit = 32 + 256
    assert service["concurrency"]["hard_limit"] <= limit
    assert "--ha=false" in (ROOT / "docs/deploy/fly.md").read_text(encoding="utf-8")


def test_the_image_for_volumes_is_ours_and_drops_root() -> None:
    """It adds nothing but the user at the start and the command that leaves root."""
    lines = [line for line in dockerfile_of_volumes().splitlines() if line and line[0] != "#"]
    assert [line.split()[0] for line in lines] == ["ARG", "FROM", "USER", "CMD"]
    assert lines[1] == "FROM ${IMAGE}"
    assert lines[2] == "USER 0:0"
    assert json.loads(lines[3].removeprefix("CMD ")) == RUN_AS
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    (image,) = re.findall(r"^ARG IMAGE=(\S+)$", dockerfile_of_volumes(), re.MULTILINE)
    assert image == FLY["build"]["args"]["IMAGE"] == f"ghcr.io/OWNER/rag-api:{version}"


# ---- a server of one's own ---------------------------------------------------------------------


def test_only_the_proxy_is_open_and_only_it_is_believed() -> None:
    """Ports 80 and 443 are the proxy's; the server trusts its address, which is fixed."""
    proxy, web = TLS["services"]["proxy"], TLS["services"]["web"]
    assert proxy["ports"] == [
        "${HTTP_PORT:-80}:80",
        "${HTTPS_PORT:-443}:443",
        "${HTTPS_PORT:-443}:443/udp",
    ]
    assert "ports" not in web
    assert COMPOSE["services"]["web"]["ports"][0].startswith("${WEB_BIND:-127.0.0.1}")
    address = proxy["networks"]["edge"]["ipv4_address"]
    assert web["environment"]["RAG_TRUSTED_PROXIES"] == f"${{RAG_TRUSTED_PROXIES:-{address}}}"
    assert set(web["networks"]) == {"rag-network", "edge"}
    assert list(proxy["networks"]) == ["edge"]
    assert web["environment"]["ENVIRONMENT"] == "${ENVIRONMENT:-production}"
    # Docker gives the others addresses that aren't the proxy's.
    (pool,) = TLS["networks"]["edge"]["ipam"]["config"]
    default = {name: re.sub(r"^.*:-|\}$", "", value) for name, value in pool.items()}
    fixed = ipaddress.ip_address(re.sub(r"^.*:-|\}$", "", address))
    assert fixed in ipaddress.ip_network(default["subnet"])
    assert fixed not in ipaddress.ip_network(default["ip_range"])


def test_the_proxy_is_hardened_and_pinned() -> None:
    """Like the other services: a read-only root, one capability, limits, rotated logs, a digest."""
    proxy = TLS["services"]["proxy"]
    assert proxy["read_only"] is True
    assert (proxy["cap_drop"], proxy["cap_add"]) == (["ALL"], ["NET_BIND_SERVICE"])
    assert proxy["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "cpus", "pids_limit", "healthcheck", "logging"} <= set(proxy)
    assert re.fullmatch(
        r"\$\{CADDY_IMAGE:-caddy:[\d.]+-alpine@sha256:[0-9a-f]{64}\}", proxy["image"]
    )
    grace_seconds = int(proxy["stop_grace_period"].removesuffix("s"))
    assert grace_seconds >= int(COMPOSE["services"]["web"]["stop_grace_period"].removesuffix("s"))


def test_the_proxys_limits_are_the_servers() -> None:
    """Body size, header time, idle time and waiting time fit the server's own."""
    caddyfile = (DEPLOY / "Caddyfile").read_text(encoding="utf-8")
    fields = Settings.model_fields
    size_mb = fields["max_request_mb"].default
    assert f"{{$RAG_MAX_REQUEST_MB:{size_mb}}} * 1048576" in caddyfile
    proxy = TLS["services"]["proxy"]["environment"]
    assert proxy["RAG_MAX_REQUEST_MB"] == f"${{RAG_MAX_REQUEST_MB:-{size_mb}}}"
    assert f"read_header {fields['body_timeout_seconds'].default:.0f}s" in caddyfile
    (waits,) = re.findall(r"response_header_timeout (\d+)s", caddyfile)
    longest = fields["request_timeout_seconds"].default + fields["wait_timeout_seconds"].default
    assert int(waits) > longest
    from ragdock.api.server import KEEP_ALIVE_SECONDS

    (keeps,) = re.findall(r"\n\t+keepalive (\d+)s", caddyfile)
    assert int(keeps) < KEEP_ALIVE_SECONDS
    assert "flush_interval -1" in caddyfile
    # Nobody's word about a client's address is taken.
    assert "trusted_proxies" not in caddyfile


def test_the_proxys_variables_are_the_caddyfiles() -> None:
    """What compose hands to Caddy is what the Caddyfile reads, or has a default there."""
    read = set(re.findall(r"\{\$([A-Z_]+)", (DEPLOY / "Caddyfile").read_text("utf-8")))
    given = set(TLS["services"]["proxy"]["environment"])
    assert given <= read
    assert read - given == {"CADDY_ADMIN", "CADDY_HTTP_PORT", "CADDY_HTTPS_PORT", "UPSTREAM"}


# ---- PORT --------------------------------------------------------------------------------------

SHOW = "from ragdock.settings import Settings; print(Settings.load().port)"


@pytest.mark.parametrize(("port", "listens"), [("10000", 10000), ("", 8000), (None, 8000)])
def test_server_and_probe_go_where_the_platform_says(
    tmp_path: Path, port: str | None, listens: int
) -> None:
    """PORT is honoured by both; empty or missing it is 8000."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src")}
    if port is not None:
        environment["PORT"] = port

    def said(*arguments: str) -> str:
        ran = subprocess.run(
            [sys.executable, *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return ran.stdout + ran.stderr

    assert said("-c", SHOW).strip() == str(listens)
    probed = said(str(ROOT / "m3_1_dockerize.py"), "--health", "--timeout", "1")
    assert f"http://127.0.0.1:{listens}" in probed


@pytest.mark.parametrize("page", ["vps", "render", "railway", "fly"])
def test_every_platform_has_a_whole_page(page: str) -> None:
    """Steps, volume, Redis, health, costs, scaling, backup, rollback and keys; no price."""
    text = (ROOT / f"docs/deploy/{page}.md").read_text(encoding="utf-8")
    for word in ("## Steps", "Redis", "/readyz", "## Costs", "caling", "## Back up", "oll back"):
        assert word in text, word
    assert re.search(r"(?i)volume|disk", text)
    assert re.search(r"RAG_ADMIN_KEY|ragdock keys create", text)
    assert not re.search(r"[$€]\s?\d|\d\s?(?:USD|EUR|dollars|euros)", text)
