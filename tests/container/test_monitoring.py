"""The profile `monitoring` with a real Prometheus: what it scrapes, shows, and warns of.

Grafana's own image isn't needed: each query of the dashboard is asked of Prometheus itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from harness import (
    BASE_IMAGES,
    COMPOSE_PROGRAMS,
    IMAGE,
    ROOT,
    Stack,
    ask,
    container,
    docker,
    inspect,
    put_text,
    run,
    wait_for,
)

from support.ports import free_port

MONITORING = ROOT / "deploy/monitoring"
SERVICES = ("web", "redis", "exporter", "prometheus")
SELECTOR = re.compile(r"\b(?:rag[_:][a-z0-9_:]+|up)\b(?:\{[^}]*\})?")
N_QUESTIONS = 40


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of Debian's `prometheus` and `promtool`, unpacked and not installed."""
    kept = ROOT / ".cache/prometheus"
    if not (kept / "usr/bin/promtool").exists():
        folder = tmp_path_factory.mktemp("deb")
        run(["apt-get", "download", "-qq", "prometheus"], cwd=folder, timeout_seconds=300)
        (package,) = folder.glob("*.deb")
        run(["dpkg-deb", "-x", package, kept])
    return kept / "usr/bin"


@pytest.fixture(scope="session")
def prometheus_image(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The official image where a registry is in reach, else a stand-in with Debian's binary."""
    base = BASE_IMAGES.get("BASE_IMAGE", "")
    if not base.startswith("ragdock-standin/"):
        return ""
    folder = tmp_path_factory.mktemp("prometheus")
    for name in ("prometheus", "promtool"):
        shutil.copy2(tools / name, folder)
    (folder / "Dockerfile").write_text(
        f"FROM {base}\n"
        "COPY prometheus promtool /bin/\n"
        "RUN mkdir /prometheus && chown 65534:65534 /prometheus\n"
        'ENTRYPOINT ["/bin/prometheus"]\n',
        encoding="utf-8",
    )
    docker("build", "-q", "-t", "ragdock-standin/prometheus:2", folder)
    return "ragdock-standin/prometheus:2"


class Monitored(Stack):
    """A stack with its monitoring; Grafana is left out."""

    def ask_prometheus(self, path: str, **parameters: str) -> Any:
        address = f"http://127.0.0.1:{self.environment['PROMETHEUS_PORT']}/api/v1/{path}"
        response = httpx2.get(address, params=parameters, timeout=10, trust_env=False)
        body = response.json()
        assert body["status"] == "success", (parameters, body)
        return body["data"]

    def series(self, expression: str) -> list[dict[str, Any]]:
        return list(self.ask_prometheus("query", query=expression)["result"])

    def value(self, expression: str) -> float:
        (found,) = self.series(expression)
        return float(found["value"][1])


@pytest.fixture(scope="module")
def stack(
    image: str,
    compose_programs: None,
    prometheus_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Monitored]:
    """Two server processes, Redis, the exporter and Prometheus, with some traffic behind them."""
    folder = tmp_path_factory.mktemp("monitored")
    hasten(shutil.copytree(MONITORING, folder / "deploy/monitoring") / "prometheus")
    (folder / "metrics_key").touch()
    socket = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    environment = {
        "DOCKER_SOCKET": socket,
        "METRICS_KEY_FILE": str(folder / "metrics_key"),
        "PROMETHEUS_PORT": str(free_port()),
        "RAG_MAX_QUEUE": "3",
        "RAG_WORKERS": "2",
    }
    if prometheus_image:
        environment["PROMETHEUS_IMAGE"] = prometheus_image
    found = Monitored(folder, environment=environment)
    try:
        found.compose("--profile", "monitoring", "up", "-d", "--no-build", *SERVICES)
        found.wait_healthy(150)
        traffic(found)
        yield found
    finally:
        found.compose("--profile", "monitoring", "down", "-v", "-t", "5", check=False)


def hasten(folder: Path) -> None:
    """Scrape and evaluate every two seconds; wait for nothing."""
    for name in ("prometheus.yml", "recording.yml", "alerts.yml"):
        text = (folder / name).read_text(encoding="utf-8")
        text = re.sub(r"((?:_|\b)(?:interval|timeout)): \w+", r"\1: 2s", text)
        text = re.sub(r"\bfor: \w+", "for: 2s", text)
        (folder / name).write_text(text, encoding="utf-8")


def traffic(found: Monitored) -> None:
    """Uploads, searches, questions that are cached and not, a refusal, a backup."""
    for number in range(N_QUESTIONS):
        with found.client() as client:  # A connection each, so that both processes are met.
            if number == 0:
                put_text(client, "well", "The well is 31 metres deep. Nobody drinks from it.")
                texts = [{"text": f"Text {each}."} for each in range(9)]
                refused = client.post("/v1/documents", json={"documents": texts})
                assert refused.status_code == 503, refused.text
            ask(client, f"How deep is the well? {number % 4 or ''}".strip())
            client.post("/v1/search", json={"query": "well"})
    docker("exec", found.container("web"), "ragdock", "backup", "/data/backup.gz")


def expressions() -> list[tuple[str, str]]:
    """Title and query of each panel, for all containers."""
    text = (MONITORING / "grafana/dashboards/ragdock.json").read_text(encoding="utf-8")
    return [
        (panel["title"], target["expr"].replace("$container", ".*"))
        for panel in json.loads(text)["panels"]
        for target in panel.get("targets", ())
    ]


def alerts() -> dict[str, str]:
    """Name and expression of each alert."""
    text = (MONITORING / "prometheus/alerts.yml").read_text(encoding="utf-8")
    groups = yaml.safe_load(text)["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def test_the_rules_pass_their_own_tests(tools: Path) -> None:
    """promtool finds no fault, and each alert fires and keeps quiet as alerts.test.yml says."""
    folder = MONITORING / "prometheus"
    run([tools / "promtool", "check", "rules", folder / "recording.yml", folder / "alerts.yml"])
    run([tools / "promtool", "check", "config", "--syntax-only", folder / "prometheus.yml"])
    run([tools / "promtool", "test", "rules", MONITORING / "alerts.test.yml"])


def test_all_is_scraped(stack: Monitored) -> None:
    """Server, exporter and Prometheus are targets that answer; an absent worker is none."""

    def settled() -> bool:
        targets = stack.ask_prometheus("targets")["activeTargets"]
        states = {each["labels"]["job"]: each["health"] for each in targets}
        wanted = {"ragdock", "ragdock-containers", "prometheus"}
        return set(states) == wanted and set(states.values()) == {"up"}

    wait_for("all targets to be up", settled, 30)
    wait_for("Prometheus to be healthy", lambda: stack.health("prometheus") == "healthy", 45)
    wait_for("the exporter to be healthy", lambda: stack.health("exporter") == "healthy", 45)
    seen = {each["metric"]["service"] for each in stack.series("rag_container_pids")}
    assert seen == set(SERVICES)


def test_every_query_of_the_dashboard_has_data(
    stack: Monitored, report: Callable[[str], None]
) -> None:
    """No panel is empty once there was some traffic."""
    queries = [(title, query) for title, query in expressions() if "ALERTS" not in query]
    empty: list[tuple[str, str]] = []

    def all_have_data() -> bool:
        empty[:] = [pair for pair in queries if not stack.series(pair[1])]
        return not empty

    try:
        wait_for("data in every panel", all_have_data, 90, every=1)
    except AssertionError:
        pytest.fail(f"no data in: {empty}")
    report(f"dashboard: {len(queries)} queries, all with data")


def test_every_alert_looks_at_series_that_exist(
    stack: Monitored, report: Callable[[str], None]
) -> None:
    """Each selector of each alert finds something, so that a quiet alert is a good sign."""
    selectors = {selector for expr in alerts().values() for selector in SELECTOR.findall(expr)}

    def missing() -> list[str]:
        return [each for each in sorted(selectors) if not stack.series(each)]

    wait_for("series for every alert", lambda: not missing(), 30, every=1)
    rules = [rule for group in stack.ask_prometheus("rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
    assert {rule["name"] for rule in rules if rule["type"] == "alerting"} == set(alerts())
    report(f"alerts: {len(alerts())}, {len(selectors)} selectors, all with series")


def test_two_processes_are_one_server(stack: Monitored) -> None:
    """Counts are the sum of both processes; what holds for both is told once, and not twice."""
    asked = 'sum(rag_request_seconds_count{route="/v1/ask",status="200"})'
    wait_for("all questions", lambda: stack.value(asked) == N_QUESTIONS, 15)
    assert stack.value("rag_documents") == 1
    assert stack.value("rag_redis_keys") >= 1
    assert stack.value('rag_health_status{status="ok"}') == 1
    hits = stack.value('sum(rag_cache_lookups_total{kind="answer",result="hit"})')
    assert hits >= N_QUESTIONS - 2 * 4


def test_only_prometheus_reaches_the_exporter(stack: Monitored) -> None:
    """It has no capability, writes nowhere, publishes nothing, and the server can't name it."""
    exporter = inspect(stack.container("exporter"))
    assert exporter["HostConfig"]["CapDrop"] == ["ALL"]
    assert exporter["HostConfig"]["ReadonlyRootfs"] is True
    assert not any(exporter["NetworkSettings"]["Ports"].values())
    connect = "import socket; socket.create_connection(('exporter', 9101), 3)"
    done = run(["docker", "exec", stack.container("web"), "python", "-c", connect], check=False)
    assert done.returncode != 0
    for name in ("prometheus", "exporter"):
        ports = inspect(stack.container(name))["HostConfig"]["PortBindings"] or {}
        hosts = {each["HostIp"] for bindings in ports.values() for each in bindings}
        assert hosts <= {"127.0.0.1"}


def test_a_restart_loop_raises_the_alarm(stack: Monitored, report: Callable[[str], None]) -> None:
    """A container that ends at once, again and again, is told by name; so is its end by memory."""
    labels = [
        f"--label=com.docker.compose.project={stack.project}",
        "--label=com.docker.compose.service=flapper",
    ]
    hog = "import time; time.sleep(3); bytearray(10**8)"
    arguments = ["--restart=always", "--memory=32m", *labels, IMAGE, "python", "-c", hog]
    with container(*arguments) as name:
        called = inspect(name)["Name"].removeprefix("/")
        fired: dict[str, float] = {}

        def firing() -> bool:
            for each in stack.ask_prometheus("alerts")["alerts"]:
                if each["labels"].get("container") == called and each["state"] == "firing":
                    fired[each["labels"]["alertname"]] = 1
            return {"ContainerRestarting", "ContainerOutOfMemory"} <= set(fired)

        wait_for("both alerts", firing, 90, every=1)
        assert stack.series('ALERTS{alertstate="firing",alertname="ContainerRestarting"}')
        restarts = inspect(name)["RestartCount"]
    report(f"live: {', '.join(sorted(fired))} fired after {restarts} restarts")


def test_prometheus_is_let_in_by_its_own_key(
    stack: Monitored, report: Callable[[str], None]
) -> None:
    """The key of docs/monitoring.md, put into its file, counts at the next scrape."""
    words = ("keys", "create", "--name", "prometheus", "--rights", "metrics")
    key = docker("exec", stack.container("web"), "ragdock", *words).split()[-1]
    up = 'up{job="ragdock"}'
    wait_for("the server to want a key", lambda: stack.value(up) == 0, 30)
    (stack.directory / "metrics_key").write_text(f"{key}\n", encoding="ascii")
    wait_for("Prometheus to be let in", lambda: stack.value(up) == 1, 30)
    with stack.client(headers={"Authorization": f"Bearer {key}"}) as client:
        assert client.get("/v1/collections").status_code == 403
        assert client.post("/v1/ask", json={"question": "How deep?"}).status_code == 403
        assert client.get("/metrics").status_code == 200
    report("metrics: a key with `metrics` is scraped with, and opens nothing under /v1")


@pytest.mark.parametrize("version", sorted(COMPOSE_PROGRAMS))
def test_the_profile_is_for_every_compose(version: str, compose_programs: None) -> None:
    """Compose 1.29, 2 and 5 read it; without the profile, none of its images is wanted."""
    program = COMPOSE_PROGRAMS[version]
    for profile in ([], ["--profile", "monitoring"]):
        done = run([*program, *profile, "-f", ROOT / "docker-compose.yml", "config"], cwd=ROOT)
        if version != "1":  # Which tells all services, whatever their profile.
            assert ("grafana/grafana" in done.stdout) is bool(profile)
