"""What the kernel lets this container have: memory, processes, files, processors."""

from __future__ import annotations

from typing import Final

from ragdock.ops.doctor.model import Check, Finding, Scope
from ragdock.ops.doctor.place import is_inside, servers_over
from ragdock.ops.doctor.reading import (
    cpu,
    fail,
    memory,
    mib,
    ok,
    pids,
    read_or,
    settings,
    skip,
    warn,
)
from ragdock.ops.doctor.world import World, WorldError

__all__ = ["CHECKS"]

NEAR: Final = 0.9
MIN_PERIODS: Final = 300
"""Of 100 ms in which something ran: half a minute, so that a start alone is no finding."""
THROTTLED: Final = 0.25
_MORE_MEMORY: Final = "echo WEB_MEMORY=4g >> .env && docker-compose up -d web"
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def _killed(world: World) -> list[Finding]:
    """D20c."""
    found = memory(world)
    evidence = {
        "source": found.source,
        "oom_kill": found.n_killed,
        "limit_bytes": found.limit_bytes,
        "used_bytes": found.used_bytes,
        "without_page_cache_bytes": found.held_bytes,
    }
    limit = "no limit" if found.limit_bytes is None else f"a limit of {mib(found.limit_bytes)}"
    if found.n_killed:
        return [
            fail(
                f"the kernel killed {found.n_killed} processes of this container: out of memory",
                f"All processes together wanted more than {limit} allows. The container goes on "
                "running when only a child was killed, so Docker says nothing of it.",
                (_MORE_MEMORY, "# or fewer processes: RAG_WORKERS, RAG_THREADS"),
                "memory",
                **evidence,
            )
        ]
    if found.limit_bytes is not None and found.held_bytes > NEAR * found.limit_bytes:
        return [
            warn(
                f"memory is {found.held_bytes / found.limit_bytes:.0%} full, page cache left out",
                f"With {limit} the kernel kills the largest process soon.",
                (_MORE_MEMORY, "# or fewer processes: RAG_WORKERS, RAG_THREADS"),
                "memory",
                **evidence,
            )
        ]
    return ok(f"{mib(found.held_bytes)} in use, {limit}, nothing was killed", **evidence)


def _tasks(world: World) -> list[Finding]:
    """D21i."""
    current, limit, refused = pids(world)
    evidence = {"pids.current": current, "pids.max": limit, "refused": refused}
    if limit is None:
        return ok(f"{current} threads and processes, without a limit", **evidence)
    if current >= NEAR * limit or refused:
        past = current < NEAR * limit
        return [
            (warn if past else fail)(
                f"{refused} new threads or processes were refused"
                if past
                else f"{current} of {limit} threads and processes are in use",
                "Each thread counts against `pids_limit`; the next one fails with "
                '"can\'t start new thread" or "Resource temporarily unavailable".',
                (
                    "# in docker-compose.yml, service web: pids_limit: 512",
                    "docker-compose up -d web",
                    "# or fewer threads: RAG_WORKERS, RAG_THREADS, OPENBLAS_NUM_THREADS=1",
                ),
                "pids",
                **evidence,
            )
        ]
    return ok(f"{current} of {limit} threads and processes", **evidence)


def _descriptors(world: World) -> list[Finding]:
    """D22."""
    inside = is_inside(world)
    servers = [one.pid for one in servers_over(world, str(settings(world)["data_dir"]))]
    found: list[Finding] = []
    most = (0.0, "")
    for pid in servers or ([1] if inside else []):
        limit = _limit(read_or(world, f"/proc/{pid}/limits"), "Max open files")
        try:
            n_open = len(world.entries(f"/proc/{pid}/fd"))
        except WorldError:
            continue  # Another user's process.
        if limit is None:
            continue
        most = max(most, (n_open / limit, f"process {pid} has {n_open} of {limit} files open"))
        if n_open >= NEAR * limit:
            found.append(
                fail(
                    f"process {pid} has {n_open} of {limit} files and sockets open",
                    'The next file or connection fails with "Too many open files".',
                    (
                        "# in docker-compose.yml, service web: ulimits: { nofile: 65536 }",
                        "docker-compose up -d web",
                        "# or fewer connections: RAG_MAX_CONNECTIONS",
                    ),
                    f"process {pid}",
                    pid=pid,
                    open=n_open,
                    limit=limit,
                )
            )
    if not most[1]:
        return skip("no server process whose files this user may count")
    return found or ok(most[1])


def _limit(table: str, name: str) -> int | None:
    """The soft limit of /proc/<pid>/limits."""
    for line in table.splitlines():
        if line.startswith(name):
            soft = line[len(name) :].split()[0]
            return int(soft) if soft.isdigit() else None
    return None


def _throttled(world: World) -> list[Finding]:
    """D47i."""
    found = cpu(world)
    if found.quota is None:
        return ok("no limit of CPU time", source=found.source)
    evidence: dict[str, str | int | float | None] = {
        "source": found.source,
        "quota_cpus": round(found.quota, 3),
        "nr_periods": found.n_periods,
        "nr_throttled": found.n_throttled,
    }
    problems = []
    if threads := _too_many_threads(world, found.quota):
        name, n_threads, wanted = threads
        problems.append(
            warn(
                f"{name}={n_threads}, but the container may use {found.quota:g} CPUs",
                "More threads than processors take turns, and each turn waits for the quota.",
                (f"# in .env: {name}={wanted} (or no line at all)", "docker-compose up -d web"),
                name,
                **evidence,
            )
        )
    share = found.n_throttled / found.n_periods if found.n_periods else 0.0
    if found.n_periods >= MIN_PERIODS and share >= THROTTLED:
        problems.append(
            warn(
                f"out of CPU time in {share:.0%} of the periods",
                f"The limit of {found.quota:g} CPUs is used up before a period of 100 ms ends, so "
                "everything stands still until the next: latency comes in steps.",
                ("echo WEB_CPUS=2.0 >> .env && docker-compose up -d web",),
                "cpu",
                **evidence,
            )
        )
    return problems or ok(f"{found.quota:g} CPUs, throttled in {share:.0%} of periods", **evidence)


def _too_many_threads(world: World, quota: float) -> tuple[str, int, int] | None:
    wanted = max(1, round(quota))
    environment = world.environ()
    for name in _THREAD_VARIABLES:
        if environment.get(name, "").isdigit() and int(environment[name]) > wanted:
            return name, int(environment[name]), wanted
    try:
        threads = settings(world).get("threads")
    except WorldError:
        return None
    return ("RAG_THREADS", threads, wanted) if threads and threads > wanted else None


CHECKS: Final = (
    Check(
        "D20c",
        "No process was killed for want of memory",
        Scope.INSIDE,
        "exit 137, or requests that die while the container goes on running",
        _killed,
    ),
    Check(
        "D21i",
        "There is room for threads and processes",
        Scope.INSIDE,
        "RuntimeError: can't start new thread; BlockingIOError: [Errno 11] Resource temporarily "
        "unavailable",
        _tasks,
    ),
    Check(
        "D22",
        "There is room for open files and connections",
        Scope.BOTH,
        "OSError: [Errno 24] Too many open files",
        _descriptors,
    ),
    Check(
        "D47i",
        "CPU time and threads fit the quota",
        Scope.INSIDE,
        "latency that jumps; slower with more threads",
        _throttled,
    ),
)
