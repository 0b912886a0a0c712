"""What became of the containers' processes: running, ended, killed, started over and over."""

from __future__ import annotations

import re
from typing import Any, Final

from ragdock.ops.doctor.history import events_of, killed_for_memory, last_lines
from ragdock.ops.doctor.mending import override, set_variables, up
from ragdock.ops.doctor.model import Check, Finding, Scope, Status
from ragdock.ops.doctor.place import our_servers
from ragdock.ops.doctor.stack import (
    Container,
    compose_command,
    containers,
    each,
    has_compose_file,
    numbers,
    seconds_of,
    variable,
)
from ragdock.ops.doctor.world import World, WorldError

__all__ = ["CHECKS"]

MEMORY_VARIABLES: Final = {"web": "WEB_MEMORY", "worker": "WORKER_MEMORY"}
SIGNALS: Final = {
    134: ("SIGABRT", "The process gave up on itself (abort): the log's last lines say over what."),
    135: ("SIGBUS", "A mapped file or /dev/shm had no room behind it: see D29."),
    136: ("SIGFPE", "Native code divided by zero."),
    139: ("SIGSEGV", "Native code reached for memory that isn't its own."),
}
_REQUIRED: Final = ("web", "redis")
SETTLED_SECONDS: Final = 120.0
MANY_RESTARTS: Final = 3

NO_KEY: Final = "There is no API key"
_REASONS: Final = (
    (r"chown|PermissionError|Permission denied", "It may not write where it must: see D30."),
    (r"Read-only file system|No usable temporary directory", "It writes where it can't: see D31."),
    (NO_KEY, "Outside development it wants an API key first."),
    (r"exec format error", "The program is for another processor: see D14."),
    (r"[Aa]ddress already in use", "Two processes want the same port in the container."),
    (r"No space left on device", "The disk is full: see D09."),
    (r"Input should be|must be|Unset it", "A setting is wrong: the log names it."),
)  # fmt: skip


def _runs(world: World) -> list[Finding]:
    """D00."""
    ours = containers(world)
    if not ours:
        bare = [server for server in our_servers(world) if not server.inside]
        if bare:
            said = f"ragdock runs without Docker, as process {bare[0].pid}"
            return [Finding(Status.OK, said)]
        return [_nothing_runs(world)]
    found = [finding for one in ours if (finding := _state(world, one))]
    services = {one.service for one in ours}
    absent = [name for name in _REQUIRED if name not in services and services & {*_REQUIRED}]
    if absent:
        names = " and ".join(absent)
        found.append(
            Finding(
                Status.FAIL,
                f"there is no container of {names}",
                subject=names,
                evidence={"services": sorted(services)},
                cause="It was never started, or was removed.",
                fix=(up(world, ours[0]),),
            )
        )
    running = ", ".join(one.service or one.name for one in ours if one.running)
    return found or [Finding(Status.OK, f"running: {running}")]


def _nothing_runs(world: World) -> Finding:
    place = world.environ().get("COMPOSE_PROJECT_NAME") or world.environ().get("PWD", "")
    here = has_compose_file(world)
    fix = (up(world),) if here else ("# In the folder of docker-compose.yml:", up(world))
    return Finding(
        Status.WARN,
        "no container of ragdock runs, nor did one end here",
        evidence={"looked_for": place},
        cause="The stack isn't started, or belongs to another project (--project).",
        fix=fix,
    )


def _state(world: World, one: Container) -> Finding | None:
    state = str(one.get("State", "Status"))
    if state in ("running", "restarting"):
        return None
    code, error = one.get("State", "ExitCode"), str(one.get("State", "Error") or "")
    evidence = {"status": state, "exit_code": code, "error": error}
    start = up(world, one)
    if state == "paused":
        fix = (f"docker unpause {one.name}",)
        return Finding(Status.FAIL, "is paused", one.name, evidence, "Somebody paused it.", fix)
    if state == "created":
        cause = "The Engine couldn't start it." if error else "It waits for another service."
        said = f"was never started: {error}" if error else "was made but never started"
        return Finding(Status.FAIL, said[:300], one.name, evidence, cause, (start,))
    stopped = code in (0, 143)
    return Finding(
        Status.WARN if stopped else Status.FAIL,
        "is stopped" if stopped else f"has ended with exit code {code}",
        one.name,
        evidence,
        "It was stopped, or had done its work." if stopped else "Its last lines say why.",
        (start,) if stopped else (f"docker logs --tail 50 {one.name}", start),
    )


def _instruction(world: World, one: Container) -> Finding | None:
    """D18."""
    if one.get("State", "ExitCode") != 132:
        return None
    try:
        flags = re.search(
            r"^(?:flags|Features)\s*:(.*)$", world.read("/proc/cpuinfo"), re.MULTILINE
        )
    except WorldError:
        flags = None
    has = set(flags[1].split()) if flags else set()
    missing = [name for name in ("avx", "avx2") if flags and name not in has]
    return Finding(
        Status.FAIL,
        "was killed by SIGILL: an instruction that this processor doesn't have",
        one.name,
        {"exit_code": 132, "missing": missing},
        "A wheel in the image was compiled for a newer processor"
        + (f" (this one lacks {', '.join(missing)})." if missing else "."),
        (
            f"# Run it on another machine, or build the wheels here: "
            f"{compose_command(world, one)} build --no-cache {one.service}",
        ),
    )


def _signal(world: World, one: Container) -> Finding | None:
    """D19."""
    code = one.get("State", "ExitCode")
    if code not in SIGNALS or (one.running and not one.get("RestartCount")):
        return None
    name, cause = SIGNALS[code]
    lines = last_lines(world, one)
    fix = (
        override(world, one, ["shm_size: 256m"])
        if code == 135
        else (
            f"docker logs --tail 50 {one.name}",
            up(world, one, "--force-recreate", one.service),
        )
    )
    evidence = {"exit_code": code, "signal": name, "log": lines}
    return Finding(Status.FAIL, f"was killed by {name}", one.name, evidence, cause, fix)


def _memory_fix(world: World, one: Container) -> tuple[str, ...]:
    limit = int(numbers(one.get("HostConfig", "Memory")) or 0)
    if not limit:
        return ("# The host has no memory left: stop something else, or give it more.",)
    wanted = f"{max(limit * 2 >> 20, 512)}m"
    if variable := MEMORY_VARIABLES.get(one.service):
        return set_variables(world, one, **{variable: wanted})
    return override(world, one, [f"mem_limit: {wanted}"])


def _out_of_memory(world: World, one: Container) -> Finding | None:
    """D20."""
    ended = one.get("State", "OOMKilled") is True
    deaths = [
        event
        for event in events_of(world, one, "die")
        if _exit_code(event) == 137 and killed_for_memory(world, one, at=event)
    ]
    if not ended and not deaths:
        return None
    limit = int(numbers(one.get("HostConfig", "Memory")) or 0)
    evidence: dict[str, Any] = {
        "OOMKilled": ended,
        "limit_bytes": limit,
        "restarts": one.get("RestartCount"),
        "kills_in_events": len(deaths),
        "log": last_lines(world, one, 3),
    }
    if one.running:
        evidence["since"] = str(one.get("State", "StartedAt"))
    return Finding(
        Status.FAIL,
        f"was killed for using more than its {limit >> 20} MiB of memory",
        one.name,
        evidence,
        "The kernel ended its first process when the memory limit was reached.",
        _memory_fix(world, one),
    )


def _exit_code(event: dict[str, Any]) -> int | None:
    code = (event.get("Actor") or {}).get("Attributes", {}).get("exitCode")
    return int(code) if str(code).isdigit() else None


def _worker_out_of_memory(world: World, one: Container) -> Finding | None:
    """D20b."""
    started = seconds_of(one.get("State", "StartedAt")) or 0.0
    seen = [event for event in events_of(world, one, "oom") if _at(event) > started]
    count = _kill_counter(world, one)
    if not seen and not count:
        return None
    limit = int(numbers(one.get("HostConfig", "Memory")) or 0)
    return Finding(
        Status.FAIL,
        "runs on, but the kernel killed a process in it for memory",
        one.name,
        {"oom_kill": count, "oom_events": len(seen), "limit_bytes": limit, "OOMKilled": False},
        "A child process (a worker, a parser) went over the limit, and its work is lost.",
        _memory_fix(world, one),
    )


def _at(event: dict[str, Any]) -> float:
    return (numbers(event.get("timeNano")) or 0.0) / 1e9


def _kill_counter(world: World, one: Container) -> int | None:
    """How often the kernel killed in the container's control group, if this host may know."""
    try:
        groups = world.read(f"/proc/{one.get('State', 'Pid')}/cgroup")
    except WorldError:
        return None
    for line in groups.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        names = {
            "": f"/sys/fs/cgroup{path}/memory.events",
            "memory": f"/sys/fs/cgroup/memory{path}/memory.oom_control",
        }
        if controllers in names:
            try:
                text = world.read(names[controllers])
            except WorldError:
                continue
            if found := re.search(r"^oom_kill (\d+)", text, re.MULTILINE):
                return int(found[1])
    return None


def _restarts(world: World, one: Container) -> Finding | None:
    """D23."""
    count = int(numbers(one.get("RestartCount")) or 0)
    started = seconds_of(one.get("State", "StartedAt")) or 0.0
    looping = one.get("State", "Restarting") is True or (
        count >= MANY_RESTARTS and world.now() - started < SETTLED_SECONDS
    )
    if not looping:
        return None
    times = f"{count} restart{'s' * (count != 1)}"
    lines = last_lines(world, one, 8)
    text = "\n".join(lines)
    reason = next((said for pattern, said in _REASONS if re.search(pattern, text)), "")
    code = _last_exit_code(world, one)
    return Finding(
        Status.FAIL,
        f"starts over and over: {times}, exit code {'unknown' if code is None else code}",
        one.name,
        {
            "restarts": count,
            "exit_code": code,
            "started": str(one.get("State", "StartedAt")),
            "log": lines,
        },
        reason or "It ends soon after each start; its last lines say why.",
        _after_loop(world, one, text),
    )


def _last_exit_code(world: World, one: Container) -> int | None:
    """Of the end before; while the process runs again, the Engine's description says 0."""
    if not one.running:
        return int(numbers(one.get("State", "ExitCode")) or 0)
    ends = events_of(world, one, "die")
    return _exit_code(ends[-1]) if ends else None


def _after_loop(world: World, one: Container, text: str) -> tuple[str, ...]:
    named = re.search(r"Error: ([A-Z][A-Z0-9_]+)=", text)
    if named and variable(world, named[1]):
        return (f"sed -i '/^{named[1]}=/d' .env", up(world, one))
    if NO_KEY in text and one.service:
        make = f"run --rm {one.service} ragdock keys create --name admin --rights admin"
        return (f"{compose_command(world, one)} {make}", up(world, one))
    again = up(world, one, "--force-recreate", one.service).rstrip()
    return (f"docker logs --tail 50 {one.name}", f"# Mend what it says, then: {again}")


CHECKS: Final = (
    Check(
        "D00",
        "The stack runs",
        Scope.HOST,
        "curl: (7) Failed to connect to localhost port 8000: Connection refused",
        _runs,
    ),
    Check(
        "D18",
        "The processor knows the instructions",
        Scope.HOST,
        "exit 132 (Illegal instruction), and nothing in the log",
        each(_instruction, "no container ended by SIGILL"),
    ),
    Check(
        "D19",
        "No crash of native code",
        Scope.HOST,
        "exit 134, 135 or 139; Fatal Python error: Segmentation fault",
        each(_signal, "no container ended by a signal of a crash"),
    ),
    Check(
        "D20",
        "Containers stay within their memory",
        Scope.HOST,
        "exit 137, and the log just stops",
        each(_out_of_memory, "no container was killed for memory"),
    ),
    Check(
        "D20b",
        "Processes in containers stay within the memory",
        Scope.HOST,
        "requests die while the container runs on; was sent SIGKILL! Perhaps out of memory?",
        each(_worker_out_of_memory, "no process in them was killed for memory", Container.is_up),
    ),
    Check(
        "D23",
        "Containers don't restart in a loop",
        Scope.HOST,
        "Restarting (3) 2 seconds ago",
        each(_restarts, "no restart loop in {n} container{s}"),
    ),
)
