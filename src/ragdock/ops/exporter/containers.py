"""What the Engine says of a container (`/json`, `/stats`), as samples.

Formats: https://docs.docker.com/reference/api/engine/version/v1.41/. Every field may be missing: a
container that doesn't run has no stats, and cgroup v1 and v2 count under different names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from ragdock.ops.exporter.exposition import Sample

__all__ = [
    "ONE_OFF_LABEL",
    "PROJECT_LABEL",
    "SERVICE_LABEL",
    "identity",
    "of_inspection",
    "of_stats",
]

PROJECT_LABEL: Final = "com.docker.compose.project"
ONE_OFF_LABEL: Final = "com.docker.compose.oneoff"
SERVICE_LABEL: Final = "com.docker.compose.service"
STATES: Final = ("running", "restarting", "paused", "exited", "created", "dead")
HEALTH: Final = ("healthy", "unhealthy", "starting", "none")
NANO: Final = 1e9


def identity(inspection: Mapping[str, Any]) -> tuple[str, str, str]:
    """The labels: name, Compose service and project ("" for a container without Compose)."""
    labels = _map(inspection, "Config", "Labels")
    return (
        str(inspection.get("Name", "")).removeprefix("/"),
        str(labels.get(SERVICE_LABEL, "")),
        str(labels.get(PROJECT_LABEL, "")),
    )


def of_inspection(inspection: Mapping[str, Any]) -> Iterator[Sample]:
    """State, health, restarts and limits."""
    who = identity(inspection)
    state = _map(inspection, "State")
    yield Sample("restarts", _number(inspection.get("RestartCount")) or 0.0, who)
    status = str(state.get("Status", ""))
    yield from (Sample("state", float(status == each), (*who, each)) for each in STATES)
    health = str(_map(inspection, "State", "Health").get("Status") or "none")
    # What isn't running has no health, whatever its last check said.
    health = health if status == "running" else "none"
    yield from (Sample("health", float(health == each), (*who, each)) for each in HEALTH)
    yield Sample("oom_killed", float(bool(state.get("OOMKilled"))), who)
    if (started_at := _instant(state.get("StartedAt"))) is not None:
        yield Sample("started", started_at, who)
    # While it runs again, the Engine says 0 here.
    if not state.get("Running") and _instant(state.get("FinishedAt")) is not None:
        yield Sample("exit_code", _number(state.get("ExitCode")) or 0.0, who)
    yield from _limits(_map(inspection, "HostConfig"), who)


def _limits(host: Mapping[str, Any], who: tuple[str, str, str]) -> Iterator[Sample]:
    if memory := _number(host.get("Memory")):
        yield Sample("memory_limit", memory, who)
    quota, period = _number(host.get("CpuQuota")), _number(host.get("CpuPeriod"))
    if nano := _number(host.get("NanoCpus")):
        yield Sample("cpu_limit", nano / NANO, who)
    elif quota and quota > 0:
        yield Sample("cpu_limit", quota / (period or 100_000), who)
    if (pids := _number(host.get("PidsLimit"))) and pids > 0:
        yield Sample("pids_limit", pids, who)


def of_stats(stats: Mapping[str, Any], who: tuple[str, str, str]) -> Iterator[Sample]:
    """Memory, CPU, processes and network; nothing of a container that doesn't run."""
    memory = _map(stats, "memory_stats")
    usage = _number(memory.get("usage"))
    if usage is None:
        return
    detail = _map(memory, "stats")
    # As `docker stats` and cAdvisor have it; the first name is of cgroup v1, the other of v2.
    inactive = detail.get("total_inactive_file", detail.get("inactive_file"))
    yield Sample("memory", max(0.0, usage - (_number(inactive) or 0.0)), who)
    cpu = _map(stats, "cpu_stats")
    yield Sample("cpu", (_number(_map(cpu, "cpu_usage").get("total_usage")) or 0.0) / NANO, who)
    throttling = _map(cpu, "throttling_data")
    yield Sample("periods", _number(throttling.get("periods")) or 0.0, who)
    yield Sample("throttled_periods", _number(throttling.get("throttled_periods")) or 0.0, who)
    yield Sample("throttled", (_number(throttling.get("throttled_time")) or 0.0) / NANO, who)
    if (pids := _number(_map(stats, "pids_stats").get("current"))) is not None:
        yield Sample("pids", pids, who)
    if networks := _map(stats, "networks"):
        for family, name in (("received", "rx_bytes"), ("sent", "tx_bytes")):
            each = (_number(_map(networks, key).get(name)) or 0.0 for key in networks)
            yield Sample(family, sum(each), who)


def _map(value: Any, *path: str) -> Mapping[str, Any]:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _instant(value: Any) -> float | None:
    """Seconds since 1970 of the Engine's time with nanoseconds; None for its zero, year 1."""
    if not isinstance(value, str) or value.startswith("0001-"):
        return None
    try:
        return datetime.fromisoformat(value).timestamp()
    except ValueError:
        return None
