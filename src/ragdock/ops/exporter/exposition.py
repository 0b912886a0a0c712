"""The exporter's metrics, and their text. No client library: all values come from the Engine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

__all__ = ["CONTAINER", "FAMILIES", "Sample", "exposition"]

CONTAINER: Final = ("container", "service", "project")

# short name -> (kind, exposed name, help, labels)
FAMILIES: Final[dict[str, tuple[str, str, str, tuple[str, ...]]]] = {
    "up": ("gauge", "rag_engine_up", "1 when the Docker Engine answered this scrape, else 0.", ()),
    "seconds": (
        "gauge",
        "rag_engine_scrape_seconds",
        "How long the Engine took to answer this scrape.",
        (),
    ),
    "restarts": (
        "counter",
        "rag_container_restarts_total",
        "Restarts by the restart policy since the container was created.",
        CONTAINER,
    ),
    "events": (
        "counter",
        "rag_container_events_total",
        "Events since the exporter started (start, die, oom, unhealthy).",
        (*CONTAINER, "event"),
    ),
    "state": (
        "gauge",
        "rag_container_state",
        "1 for the state it is in (running, restarting, paused, exited, created, dead), else 0.",
        (*CONTAINER, "state"),
    ),
    "health": (
        "gauge",
        "rag_container_health",
        "1 for what its health check says (healthy, unhealthy, starting, none), else 0.",
        (*CONTAINER, "status"),
    ),
    "started": (
        "gauge",
        "rag_container_start_time_seconds",
        "When it was last started, in seconds since 1970.",
        CONTAINER,
    ),
    "exit_code": (
        "gauge",
        "rag_container_last_exit_code",
        "How it ended; absent while it runs.",
        CONTAINER,
    ),
    "oom_killed": (
        "gauge",
        "rag_container_oom_killed",
        "1 when its main process was last ended by the kernel for want of memory, else 0.",
        CONTAINER,
    ),
    "memory": (
        "gauge",
        "rag_container_memory_working_set_bytes",
        "Memory in use without the file cache that the kernel can take back.",
        CONTAINER,
    ),
    "memory_limit": (
        "gauge",
        "rag_container_memory_limit_bytes",
        "Its memory limit; absent without one.",
        CONTAINER,
    ),
    "cpu": ("counter", "rag_container_cpu_seconds_total", "CPU time used.", CONTAINER),
    "cpu_limit": (
        "gauge",
        "rag_container_cpu_limit_cores",
        "Its CPU limit, in CPUs; absent without one.",
        CONTAINER,
    ),
    "periods": (
        "counter",
        "rag_container_cpu_periods_total",
        "Scheduling periods (0.1 s) in which it wanted CPU.",
        CONTAINER,
    ),
    "throttled_periods": (
        "counter",
        "rag_container_cpu_throttled_periods_total",
        "Those in which its CPU limit stopped it.",
        CONTAINER,
    ),
    "throttled": (
        "counter",
        "rag_container_cpu_throttled_seconds_total",
        "Time for which its CPU limit stopped its threads.",
        CONTAINER,
    ),
    "pids": ("gauge", "rag_container_pids", "Processes and threads.", CONTAINER),
    "pids_limit": (
        "gauge",
        "rag_container_pids_limit",
        "How many it may have; absent without a limit.",
        CONTAINER,
    ),
    "received": (
        "counter",
        "rag_container_network_receive_bytes_total",
        "Bytes received over its networks.",
        CONTAINER,
    ),
    "sent": (
        "counter",
        "rag_container_network_transmit_bytes_total",
        "Bytes sent over its networks.",
        CONTAINER,
    ),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a family, with the values of its labels in their order."""

    family: str
    value: float
    labels: tuple[str, ...] = field(default=())


def exposition(samples: Iterable[Sample]) -> bytes:
    """The text that Prometheus reads, version 0.0.4; families without a sample are left out."""
    by_family: dict[str, list[Sample]] = {name: [] for name in FAMILIES}
    for sample in samples:
        by_family[sample.family].append(sample)
    lines = []
    for family, found in by_family.items():
        if not found:
            continue
        kind, name, text, labels = FAMILIES[family]
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        for sample in found:
            pairs = ",".join(
                f'{label}="{_escaped(value)}"'
                for label, value in zip(labels, sample.labels, strict=True)
            )
            lines.append(f"{name}{{{pairs}}} {sample.value!r}" if pairs else
                         f"{name} {sample.value!r}")  # fmt: skip
    return "".join(f"{line}\n" for line in lines).encode()


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
