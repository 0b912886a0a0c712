"""The container's files agree with each other and with the settings."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from ragdock.adapters.embedders.minilm_build import SOURCES
from ragdock.cli import probe
from ragdock.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
WEB: dict[str, Any] = COMPOSE["services"]["web"]
REDIS: dict[str, Any] = COMPOSE["services"]["redis"]
WORKER: dict[str, Any] = COMPOSE["services"]["worker"]
# The image and compose decide these inside the container; a user sets them outside of it.
CONTAINER_DECIDES = {"RAG_HOST", "PORT", "RAG_DATA_DIR", "RAG_MODEL_DIR"}
# Variables of docker-compose.yml that are no settings of ours.
OF_COMPOSE = {
    "USER_ID", "GROUP_ID", "WEB_BIND", "WEB_PORT", "WEB_CPUS", "WEB_MEMORY", "WEB_IMAGE",
    "BASE_IMAGE", "REDIS_IMAGE", "WORKER_PROCESSES", "WORKER_MEMORY", "WORKER_CPUS",
    "GRAFANA_BIND", "GRAFANA_PORT", "GRAFANA_PASSWORD", "GRAFANA_IMAGE", "PROMETHEUS_PORT",
    "PROMETHEUS_IMAGE", "METRICS_KEY_FILE", "DOCKER_SOCKET", "EXPORTER_USER", "EXPORTER_ENGINE",
}  # fmt: skip
# Where the stack's defaults differ from the program's.
IN_THE_STACK = {"ENVIRONMENT": "development", "REDIS_HOST": "redis"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def variables() -> dict[str, Any]:
    """Each setting's variable and default."""
    return {
        str(field.validation_alias.choices[0]): field.default  # type: ignore[union-attr]
        for field in Settings.model_fields.values()
    }


def example() -> dict[str, str]:
    return dict(re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", read(".env.example"), re.MULTILINE))


def test_the_example_environment_names_every_setting() -> None:
    """.env.example has each variable of the settings and of compose, and no other."""
    assert set(example()) == set(variables()) | OF_COMPOSE


def test_the_example_environment_shows_the_defaults() -> None:
    """A value in .env.example is the default, so uncommenting a line changes nothing."""
    for name, default in variables().items():
        shown = example()[name]
        if name in IN_THE_STACK:
            assert shown == IN_THE_STACK[name]
        elif default is None:
            assert shown == "", name
        elif isinstance(default, bool):
            assert shown == str(default).lower(), name
        elif isinstance(default, (int, float)):
            assert float(shown) == default, name
        else:
            assert not isinstance(default, SecretStr)
            assert shown == str(default), name


def test_compose_passes_every_setting_on() -> None:
    """What a user writes into .env reaches the container, under the same name."""
    environment = WEB["environment"]
    assert set(environment) == (set(variables()) - CONTAINER_DECIDES) | {"PORT"}
    assert environment["PORT"] == "8000"
    for name in set(environment) - {"PORT"}:
        default = IN_THE_STACK.get(name, "6379" if name == "REDIS_PORT" else "")
        assert environment[name] == f"${{{name}:-{default}}}"


def test_empty_variables_mean_the_defaults() -> None:
    """Compose passes a variable that .env lacks as an empty one; that is the default."""
    assert Settings.model_config["env_ignore_empty"] is True


def test_compose_and_dockerfile_name_the_same_base() -> None:
    """The base image stands in the Dockerfile and, for BASE_IMAGE, as compose's default."""
    (base,) = re.findall(r"^ARG BASE=(\S+)$", read("Dockerfile"), re.MULTILINE)
    assert WEB["build"]["args"]["BASE"] == f"${{BASE_IMAGE:-{base}}}"
    assert re.search(r"@sha256:[0-9a-f]{64}$", base)


def test_the_grace_period_covers_the_shutdown() -> None:
    """Docker waits longer than the server takes to finish running requests."""
    grace_seconds = int(WEB["stop_grace_period"].removesuffix("s"))
    assert grace_seconds >= variables()["RAG_SHUTDOWN_SECONDS"] + 5


def test_the_probe_gives_up_before_docker_does() -> None:
    """The probe's own deadline is below the health check's, so that its reason is seen."""
    assert int(WEB["healthcheck"]["timeout"].removesuffix("s")) > probe.DEFAULT_TIMEOUT_SECONDS
    (seconds,) = re.findall(r"^HEALTHCHECK .*--timeout=(\d+)s", read("Dockerfile"), re.MULTILINE)
    assert int(seconds) > probe.DEFAULT_TIMEOUT_SECONDS


def test_redis_stays_below_its_limit() -> None:
    """maxmemory is 75 % of the container's memory: rewriting its file needs the rest."""
    (maxmemory,) = re.findall(r"--maxmemory (\d+)mb", REDIS["command"][-1])
    assert int(maxmemory) == 0.75 * int(REDIS["mem_limit"].removesuffix("m"))


@pytest.mark.parametrize("service", [WEB, WORKER, REDIS], ids=["web", "worker", "redis"])
def test_services_are_hardened(service: dict[str, Any]) -> None:
    """No capabilities, a read-only root, limits, rotated logs, a fixed user, no fixed name."""
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["tmpfs"]
    assert {"mem_limit", "cpus", "pids_limit", "user", "healthcheck"} <= set(service)
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert service["networks"] == ["rag-network"]
    # A fixed name would stop a second project and `--scale`.
    assert not {"container_name", "privileged", "cap_add", "network_mode", "pid"} & set(service)


def test_the_worker_is_web_without_requests() -> None:
    """It has web's image, user, data, settings and probe, its own command, and no open port."""
    for name in ("image", "user", "volumes", "tmpfs", "healthcheck", "stop_grace_period"):
        assert WORKER[name] == WEB[name]
    assert WORKER["profiles"] == ["worker"]
    assert "ports" not in WORKER
    assert "--worker" in WORKER["command"]
    # The probe asks the port that web has in its container.
    assert WORKER["command"][-2:] == ["--port", WEB["environment"]["PORT"]]
    different = {"RAG_WORKERS": "${WORKER_PROCESSES:-}", "RAG_INGEST": ""}
    assert WORKER["environment"] == WEB["environment"] | different


def test_compose_keeps_to_what_all_versions_read() -> None:
    """No key that Compose 1.29 rejects or that later versions call obsolete."""
    assert set(COMPOSE) == {"x-hardening", "services", "networks", "volumes"}
    text = read("docker-compose.yml")
    newer = r"^ *(?:start_interval|env_file|develop|include|secrets):"
    assert not re.search(newer, text, re.MULTILINE)


def test_the_model_stage_copies_what_the_build_imports() -> None:
    """The Dockerfile's list for the model stage is the import closure of minilm_build, no more."""
    stage = read("Dockerfile").split(" AS model\n")[1].split("\nFROM ")[0]
    copied = set(re.findall(r"src/(ragdock/\S+\.py)", stage))
    assert copied == closure("ragdock.adapters.embedders.minilm_build")


def closure(module: str) -> set[str]:
    """The files below src that importing `module` loads, by its import statements."""
    found: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        path = ROOT / "src" / name.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        relative = path.relative_to(ROOT / "src").as_posix()
        if not path.exists() or relative in found:
            continue
        found.add(relative)
        todo += [name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1)]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ragdock"):
                todo += [str(node.module), *(f"{node.module}.{a.name}" for a in node.names)]
    return found


def test_the_weights_are_those_that_the_build_knows() -> None:
    """requirements/weights.txt names minilm_build's first source, by the same hash."""
    lines = [line for line in read("requirements/weights.txt").splitlines() if line[0] != "#"]
    words = " ".join(lines).replace("\\", " ").split()
    assert words == [SOURCES[0].requirement, f"--hash=sha256:{SOURCES[0].sha256}"]


def test_the_build_context_admits_what_is_copied() -> None:
    """Every source of a COPY from the context is on .dockerignore's allow-list."""
    admitted = re.findall(r"^!(.+)$", read(".dockerignore"), re.MULTILINE)
    joined = re.sub(r" *\\\n *", " ", read("Dockerfile"))
    for line in re.findall(r"^COPY (?!--from)(.+)$", joined, re.MULTILINE):
        for source in line.split()[:-1]:
            below = [a for a in admitted if source == a or source.startswith(f"{a}/")]
            above = [a for a in admitted if a.startswith(f"{source}/")]
            assert below or above, source


def locked(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", read(name), re.MULTILINE))


def test_the_locks_hold_what_is_asked_for() -> None:
    """Each package of an .in file is in its lock; shared packages have one version."""
    runtime = locked("requirements.txt")
    for source in sorted((ROOT / "requirements").glob("*.in")):
        is_runtime = source.stem == "runtime"
        lock = runtime if is_runtime else locked(f"requirements/{source.stem}.txt")
        for name in re.findall(r"^([A-Za-z0-9._-]+)", source.read_text("utf-8"), re.MULTILINE):
            if name != "-r":
                assert name.lower().replace("_", "-") in lock, f"{name} of {source.name}"
        if source.stem in ("model", "dev"):
            shared = set(lock) & set(runtime)
            assert {n: lock[n] for n in shared} == {n: runtime[n] for n in shared}


def test_the_package_asks_for_what_is_locked() -> None:
    """pyproject.toml and requirements/runtime.in name the same packages."""
    project = tomllib.loads(read("pyproject.toml"))["project"]["dependencies"]
    names = {re.split(r"[<>=; ]", line)[0] for line in project}
    asked = set(re.findall(r"^([a-z0-9-]+)", read("requirements/runtime.in"), re.MULTILINE))
    assert names == asked


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda p: p.name)
def test_scripts_are_executable_and_parse(script: Path) -> None:
    """Every shell script is executable, has LF line ends and is valid bash."""
    assert script.stat().st_mode & 0o111
    assert b"\r" not in script.read_bytes()
    subprocess.run(["bash", "-n", script], check=True)


def uncommented() -> dict[str, Any]:
    """docker-compose.yml with the lines for secrets in files."""
    return dict(yaml.safe_load(re.sub(r"#~ ?", "", read("docker-compose.yml"))))


def test_the_example_for_secrets_is_whole() -> None:
    """Uncommented, each secret has a file, a service that gets it, and a setting that reads it."""
    compose = uncommented()
    web, redis = compose["services"]["web"], compose["services"]["redis"]
    assert all(set(secret) == {"file"} for secret in compose["secrets"].values())
    assert set(web["secrets"]) == set(compose["secrets"])
    # A service that inherits the settings needs the files too.
    assert compose["services"]["worker"]["secrets"] == web["secrets"]
    assert redis["secrets"] == ["redis_password"]
    of_files = {n: v for n, v in web["environment"].items() if n.endswith("_FILE")}
    fields = Settings.model_fields.values()
    assert set(of_files) == {
        f"{field.validation_alias.choices[0]}_FILE"  # type: ignore[union-attr]
        for field in fields
        if "SecretStr" in str(field.annotation)
    }
    assert {f"/run/secrets/{name}" for name in compose["secrets"]} == set(of_files.values())
    # Compose 1.29 knows neither `environment:` nor `name:` without a version for secrets.
    assert set(compose) - {"secrets"} == set(COMPOSE)
    assert "/secrets/" in read(".gitignore").splitlines()


@pytest.mark.parametrize("which", ["command", "healthcheck"])
@pytest.mark.parametrize("is_there", [True, False])
def test_redis_takes_its_password_from_the_file(tmp_path: Path, which: str, is_there: bool) -> None:
    """The shell of command and health check prefers the secret's file where there is one."""
    secret = tmp_path / "password"
    if is_there:
        secret.write_text("from-the-file\n")
    script = REDIS["command"][-1] if which == "command" else REDIS["healthcheck"]["test"][-1]
    script = script.replace("$$", "$").replace("/run/secrets/redis_password", str(secret))
    shown = 'exec echo "auth=$REDISCLI_AUTH"'
    script = re.sub(r"exec docker-entrypoint.*|redis-cli ping.*", shown, script, flags=re.DOTALL)
    ran = subprocess.run(
        ["sh", "-c", script],
        env={"REDISCLI_AUTH": "from-env", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == ("auth=from-the-file" if is_there else "auth=from-env")
