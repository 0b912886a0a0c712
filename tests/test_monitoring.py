"""deploy/monitoring agrees with itself, with the metrics, with compose, and with the runbook."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from ragdock.adapters.metrics.tables import MEASURED, METRICS
from ragdock.api.auth import Guarded
from ragdock.api.routes.health import router
from ragdock.ops.exporter.exposition import FAMILIES

ROOT = Path(__file__).resolve().parents[1]
MONITORING = ROOT / "deploy/monitoring"
RUNBOOK = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
WATCHERS = {
    name: service
    for name, service in COMPOSE["services"].items()
    if service.get("profiles") == ["monitoring"]
}
NAME = re.compile(r"\brag[_:][a-z0-9_:]+")
START = MONITORING / "grafana/start.sh"


def load(name: str) -> Any:
    return yaml.safe_load((MONITORING / name).read_text(encoding="utf-8"))


def rules(name: str) -> list[dict[str, Any]]:
    """All rules of a file, of all its groups."""
    return [rule for group in load(f"prometheus/{name}")["groups"] for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml")}
RECORDED = {rule["record"]: rule["expr"] for rule in rules("recording.yml")}
DASHBOARD: dict[str, Any] = json.loads(
    (MONITORING / "grafana/dashboards/ragdock.json").read_text(encoding="utf-8")
)


def exposed() -> set[str]:
    """Every series that the application or the exporter tells, and what is recorded of them."""
    names = set(RECORDED)
    for kind, name, *_ in [*METRICS.values(), *MEASURED.values(), *FAMILIES.values()]:
        suffixes = ("_bucket", "_count", "_sum") if kind == "histogram" else ("",)
        names |= {name + suffix for suffix in suffixes}
    return names


def labels_of(name: str) -> set[str]:
    """The labels that a metric of ours has, and those that Prometheus adds."""
    base = re.sub(r"_(bucket|count|sum)$", "", name)
    for _, exposed_name, _, labels, *_ in [
        *METRICS.values(),
        *MEASURED.values(),
        *FAMILIES.values(),
    ]:
        if exposed_name in (base, name):
            return set(labels) | {"le", "job", "instance"}
    return set()


def queries() -> list[str]:
    """Every query of the dashboard."""
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


# ---- Alerts ------------------------------------------------------------------------------------


def test_every_alert_has_its_entry_in_the_runbook() -> None:
    """Each alert links a heading of its own name, and each such heading has its alert."""
    headings = re.findall(r"^### (.+)$", RUNBOOK, re.MULTILINE)
    assert sorted(headings) == sorted(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{anchor(name)}"


@pytest.mark.parametrize("name", ALERTS)
def test_an_entry_says_what_to_do(name: str) -> None:
    """It tells what the alert means and how urgent it is, where to look, what to do, the doctor."""
    entry = RUNBOOK.split(f"\n### {name}\n")[1].split("\n## ")[0].split("\n### ")[0]
    assert f"**Means** ({ALERTS[name]['labels']['severity']})" in entry
    for part in ("**Look here", "**Doctor:** `"):
        assert part in entry
    assert "o this:**" in entry


def test_the_doctor_has_the_checks_that_the_runbook_names() -> None:
    """Each id after --only is a check, and leads to what the doctor's page says of it."""
    checks = ROOT / "src/ragdock/ops/doctor/checks"
    text = "".join(path.read_text(encoding="utf-8") for path in checks.glob("*.py"))
    if text:
        named = re.findall(r"--only ([A-Z0-9a-z,]+)", RUNBOOK)
        ids = {each for together in named for each in together.split(",")}
        assert ids <= set(re.findall(r'"([A-Z]\d+[a-z]?)"', text))
        assert ids <= set(re.findall(r"\[(\w+)\]\(doctor\.md#\w+\)", RUNBOOK))


# No check looks for a backup.
@pytest.mark.parametrize("name", sorted({*ALERTS} - {"BackupOld", "BackupMissing"}))
def test_an_entry_leads_to_the_checks_that_find_its_cause(name: str) -> None:
    """A link a check, to its own heading of docs/doctor.md."""
    entry = RUNBOOK.split(f"\n### {name}\n")[1].split("\n## ")[0].split("\n### ")[0]
    links = re.findall(r"\[(\w+)\]\(doctor\.md#(\w+)\)", entry)
    assert links
    assert all(anchor == check.lower() for check, anchor in links)


def test_the_four_metrics_and_the_data_are_watched() -> None:
    """Restarts, memory and CPU, latency, health, data: each has alerts, each alert has one."""
    watched = Counter(rule["labels"]["metric"] for rule in ALERTS.values())
    assert set(watched) == {"restarts", "memory", "cpu", "latency", "health", "data"}
    assert {rule["labels"]["severity"] for rule in ALERTS.values()} == {"page", "ticket"}


def test_every_alert_is_tested_both_ways() -> None:
    """alerts.test.yml has, for each alert, a moment at which it fires and one at which not."""
    cases = load("alerts.test.yml")
    tried = [case for test in cases["tests"] for case in test["alert_rule_test"]]
    fires = {case["alertname"] for case in tried if case["exp_alerts"]}
    quiet = {case["alertname"] for case in tried if not case["exp_alerts"]}
    assert fires == quiet == set(ALERTS)


def test_rules_name_metrics_that_exist() -> None:
    """No alert and no recording rule asks for a series or a label that nobody tells."""
    for expression in [*RECORDED.values(), *(rule["expr"] for rule in ALERTS.values())]:
        assert_known(expression)


def test_the_dashboard_names_metrics_that_exist() -> None:
    """No panel asks for a series or a label that nobody tells; ALERTS is Prometheus's own."""
    assert len(queries()) > 40
    for query in queries():
        if "ALERTS" not in query:
            assert_known(query)


def assert_known(expression: str) -> None:
    names = set(NAME.findall(expression)) - {"rag:"}
    assert names or "up{" in expression, expression
    assert names <= exposed(), expression
    for name, matchers in re.findall(r"\b(rag_[a-z0-9_]+)\{([^}]*)\}", expression):
        used = set(re.findall(r"([a-z_]+)(?:=|!)", matchers))
        assert used <= labels_of(name), (name, used)


def test_thresholds_follow_the_objective() -> None:
    """The objective of 99.5 % stands in the budget, the burn rates and the dashboard alike."""
    assert RECORDED["rag:error_budget:remaining14d"].endswith("/ 0.005")
    assert ALERTS["ErrorBudgetBurningFast"]["expr"].count("14.4 * 0.005") == 2
    assert ALERTS["ErrorBudgetBurning"]["expr"].count("6 * 0.005") == 2
    assert all("/ 0.005" in query for query in queries() if "request_errors" in query)


# ---- Dashboard ---------------------------------------------------------------------------------


def test_the_dashboard_is_what_its_script_makes() -> None:
    """scripts/dashboard.py was run after it was changed."""
    path = ROOT / "scripts/dashboard.py"
    spec = importlib.util.spec_from_file_location("dashboard", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(["--check"]) == 0


def test_panels_are_explained_and_lie_side_by_side() -> None:
    """Each panel has a text, a source that is provisioned, its own id, and a place of its own."""
    source = load("grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}


def test_the_dashboard_shows_what_was_asked_for() -> None:
    """Restarts, memory and CPU of the limits, p50 p95 p99, health, cache, queue, Redis, budget."""
    shown = " ".join(queries())
    for name in (
        "rag_container_restarts_total", "rag:container_memory:ratio", "rag:container_cpu:ratio",
        "rag:request_seconds:p50", "rag:request_seconds:p95", "rag:request_seconds:p99",
        "rag_health_status", "rag_container_health", "rag:cache_hits:ratio", "rag_queue_documents",
        "rag_queue_oldest_seconds", "rag:ingested_documents", "rag_query_stage_seconds",
        "rag_redis_memory_bytes", "rag_redis_evicted_keys_total", "rag:error_budget:remaining14d",
    ):  # fmt: skip
        assert name in shown, name


# ---- Compose -----------------------------------------------------------------------------------


def test_monitoring_is_asked_for() -> None:
    """Exporter, Prometheus and Grafana are in the profile, so a plain `up` starts none of them."""
    assert set(WATCHERS) == {"exporter", "prometheus", "grafana"}


@pytest.mark.parametrize("name", WATCHERS)
def test_watchers_are_hardened(name: str) -> None:
    """No capabilities, a read-only root, limits, rotated logs, a user, a probe; mounts too."""
    service = WATCHERS[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert {"mem_limit", "cpus", "pids_limit", "user", "healthcheck", "tmpfs"} <= set(service)
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert not {"container_name", "privileged", "cap_add", "network_mode", "pid"} & set(service)
    for volume in service["volumes"]:
        assert volume.endswith(":ro") or volume.split(":")[0] in COMPOSE["volumes"]


def test_nothing_is_published_beyond_the_loopback() -> None:
    """Prometheus never is; Grafana only when told; the exporter isn't published at all."""
    assert "ports" not in WATCHERS["exporter"]
    assert WATCHERS["prometheus"]["ports"] == ["127.0.0.1:${PROMETHEUS_PORT:-9090}:9090"]
    assert WATCHERS["grafana"]["ports"] == ["${GRAFANA_BIND:-127.0.0.1}:${GRAFANA_PORT:-3000}:3000"]


def test_the_socket_is_the_exporters_alone() -> None:
    """No other service mounts it, and the server shares no network with the one that does."""
    for name, service in COMPOSE["services"].items():
        mounted = any("docker.sock" in volume for volume in service.get("volumes", ()))
        assert mounted is (name == "exporter")
        if name not in WATCHERS:
            assert "monitoring" not in service["networks"]
    assert WATCHERS["exporter"]["networks"] == ["monitoring"]


def test_other_images_are_pinned() -> None:
    """By tag and digest; the exporter is the image of the server."""
    for name in ("prometheus", "grafana"):
        assert re.search(r":v?\d+\.\d+\.\d+@sha256:[0-9a-f]{64}\}$", WATCHERS[name]["image"])
    assert WATCHERS["exporter"]["image"] == COMPOSE["services"]["web"]["image"]


def test_prometheus_asks_where_they_answer() -> None:
    """The scraped names and ports are compose's; every mounted file is there."""
    jobs = {job["job_name"]: job for job in load("prometheus/prometheus.yml")["scrape_configs"]}
    port = int(COMPOSE["services"]["web"]["environment"]["PORT"])
    for job, service in (("ragdock", "web"), ("ragdock-worker", "worker")):
        (found,) = jobs[job]["dns_sd_configs"]
        assert (found["names"], found["port"]) == ([service], port)
    command = WATCHERS["exporter"]["command"]
    target = f"exporter:{command[command.index('--port') + 1]}"
    assert jobs["ragdock-containers"]["static_configs"] == [{"targets": [target]}]
    for service in WATCHERS.values():
        for volume in service["volumes"]:
            path = re.sub(r"^\$\{[A-Z_]+:-(.*?)\}", r"\1", volume).split(":")[0]
            assert path.startswith("/") or path in COMPOSE["volumes"] or (ROOT / path).exists()
    # No key, for a server that needs none.
    assert (MONITORING / "prometheus/no-key").read_bytes() == b""


def test_the_key_that_is_told_is_for_the_metrics_alone() -> None:
    """Page, example and configuration have Prometheus given the right of /metrics and no other."""
    page = (ROOT / "docs/monitoring.md").read_text(encoding="utf-8")
    told = re.findall(r"keys create \S+ \S+ --rights (\S+)", page)
    (right,) = {
        route.right
        for route in router.routes
        if isinstance(route, Guarded) and route.path == "/metrics"
    }
    assert told == [right] == ["metrics"]
    for place, said in (
        (".env.example", "A file with a `metrics` key"),
        ("deploy/monitoring/prometheus/prometheus.yml", "the right `metrics` and no other"),
        ("docs/operations.md", "wants one with the right `metrics`"),
    ):
        assert said in (ROOT / place).read_text(encoding="utf-8")


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0", "localhost", "::1", ""])
@pytest.mark.parametrize(
    "password", ["", "admin", "short", "admin1234567890", "changeme20262026", "a-long-Password-1"]
)
def test_grafana_is_opened_to_others_with_a_password_only(bind: str, password: str) -> None:
    """Beyond the loopback an empty, short or usual password is refused; on it, one isn't needed."""
    ran = subprocess.run(
        ["bash", START, "env"],
        env={"BIND": bind, "PASSWORD": password, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    on_loopback = bind == "127.0.0.1"
    assert (ran.returncode == 0) is (on_loopback or password == "a-long-Password-1"), ran.stderr
    if ran.returncode:
        assert "GRAFANA_PASSWORD" in ran.stderr
        assert not password or password not in ran.stderr
        return
    got = dict(line.split("=", 1) for line in ran.stdout.splitlines())
    assert "PASSWORD" not in got
    if password:
        assert got["GF_SECURITY_ADMIN_PASSWORD"] == password
        assert "GF_AUTH_ANONYMOUS_ENABLED" not in got
    else:
        assert len(got["GF_SECURITY_ADMIN_PASSWORD"]) >= 32
        assert got["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
