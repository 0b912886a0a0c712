"""The machine and the versions: numbers belong to them."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["cpus", "environment", "machine"]

ROOT = Path(__file__).resolve().parents[1]


def cpus() -> float:
    """Processors that this process may use: its affinity, cut by the cgroup's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _quota()
    return min(float(allowed or 1), quota) if quota else float(allowed or 1)


def machine() -> str:
    """One line: processor, number, memory."""
    return f"{_processor()}, {cpus():g} processors, {_memory_gb():.0f} GB, {platform.machine()}"


def environment() -> dict[str, Any]:
    """What a reader needs to judge the numbers."""
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine(),
        "cpus": cpus(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _commit(),
        "load_average_before": round(os.getloadavg()[0], 2),
        "cgroup": "v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1",
    }


def _quota() -> float | None:
    for read in (_quota_v2, _quota_v1):
        try:
            quota = read()
        except (OSError, ValueError):
            continue
        if quota is not None and quota > 0:
            return quota
    return None


def _quota_v2() -> float | None:
    quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1() -> float | None:
    root = Path("/sys/fs/cgroup/cpu")
    quota = int((root / "cpu.cfs_quota_us").read_text())
    return None if quota <= 0 else quota / int((root / "cpu.cfs_period_us").read_text())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "?")


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return done.stdout.strip() or "?"
