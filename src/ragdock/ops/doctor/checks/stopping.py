"""How containers stop, and whether their first process does what an init must."""

from __future__ import annotations

import re
from typing import Any, Final

from ragdock.ops.doctor.history import events_of, last_lines
from ragdock.ops.doctor.mending import override, set_variables
from ragdock.ops.doctor.model import Check, Finding, Scope, Status
from ragdock.ops.doctor.place import Process, processes
from ragdock.ops.doctor.stack import Container, dig, each, numbers, seconds_of, texts
from ragdock.ops.doctor.world import World

__all__ = ["CHECKS"]

SIGNALS: Final = {
    "SIGHUP": 1, "SIGINT": 2, "SIGQUIT": 3, "SIGUSR1": 10, "SIGUSR2": 12, "SIGTERM": 15,
}  # fmt: skip
SIGKILL: Final = 9
INITS: Final = ("docker-init", "tini", "dumb-init", "catatonit", "s6-svscan", "systemd")
SHELLS: Final = ("sh", "bash", "dash", "ash")
_WAITING: Final = re.compile(
    r"Waiting for (?:connections|background tasks) to|shutting down", re.IGNORECASE
)
MANY_ZOMBIES: Final = 3
STARTING_SECONDS: Final = 10.0


def _status(world: World, one: Container) -> dict[str, str]:
    """The fields of its first process's `/proc/<pid>/status`."""
    text = world.read(f"/proc/{one.get('State', 'Pid')}/status")
    return {
        name: rest.strip() for name, _, rest in (line.partition(":") for line in text.splitlines())
    }


def _stops(world: World, one: Container) -> Finding | None:
    """D45."""
    killed = _killed_after_asking(world, one)
    if one.running:
        return _ignores(world, one, killed)
    patient = _WAITING.search("\n".join(last_lines(world, one)))
    if killed is None or patient:
        return None
    return _refuses(world, one, {"seconds_until_kill": round(killed, 1)}, "It")


def _ignores(world: World, one: Container, killed: float | None) -> Finding | None:
    fields = _status(world, one)
    number = SIGNALS.get(str(one.get("Config", "StopSignal") or "SIGTERM"), 15)
    caught = int(fields.get("SigCgt", ""), 16) >> (number - 1) & 1
    # A process that isn't the first of its namespace dies of a signal that it doesn't handle.
    first = fields.get("NSpid", "1").split()[-1] == "1"
    name = fields.get("Name", "")
    # An init has no handlers either: it waits for signals (sigtimedwait) and hands them on.
    if caught or not first or name in INITS or one.get("HostConfig", "Init") is True:
        return None
    # A program that is still loading has no handlers yet; a shell never gets any.
    started = seconds_of(one.get("State", "StartedAt")) or 0.0
    loading = one.get("State", "Health", "Status") == "starting"
    if loading and name not in SHELLS and world.now() - started < STARTING_SECONDS:
        return None
    evidence: dict[str, Any] = {"pid_1": name, "SigCgt": fields.get("SigCgt"), "signal": number}
    if killed is not None:
        evidence["seconds_until_kill"] = round(killed, 1)
    who = "The shell" if name in SHELLS else f"{name}, the first process,"
    return _refuses(world, one, evidence, who)


def _refuses(world: World, one: Container, evidence: dict[str, Any], who: str) -> Finding:
    command = texts(one.get("Config", "Entrypoint")) + texts(one.get("Config", "Cmd"))
    evidence["command"] = " ".join(command)[:200]
    return Finding(
        Status.FAIL,
        "doesn't react to SIGTERM, so that each stop waits and then kills",
        one.name,
        evidence,
        f"{who} has no handler for SIGTERM, and the kernel gives process 1 no default.",
        override(world, one, ["init: true"]),
    )


def _killed_after_asking(world: World, one: Container) -> float | None:
    """Seconds from the stop signal to SIGKILL, the last time that it came to that."""
    asked, found = 0.0, None
    for event in events_of(world, one, "kill"):
        signal = str(dig(event, "Actor", "Attributes", "signal"))
        at = (numbers(event.get("timeNano")) or 0.0) / 1e9
        if signal == str(SIGKILL):
            found = at - asked if asked else None
        else:
            asked = at
    return found


def _stops_in_time(world: World, one: Container) -> Finding | None:
    """D45b."""
    grace = numbers(one.get("Config", "StopTimeout"))
    own = one.environment().get("RAG_SHUTDOWN_SECONDS", "")
    wanted = float(own) if re.fullmatch(r"\d+(\.\d+)?", own) else None
    killed = None if one.running else _killed_after_asking(world, one)
    lines = last_lines(world, one, 3)
    waited = killed is not None and _WAITING.search("\n".join(lines)) is not None
    too_long = wanted is not None and grace is not None and wanted >= grace
    if not waited and not too_long:
        return None
    fit = max(int(grace or 10) // 2, 1)
    return Finding(
        Status.FAIL,
        f"lets running requests take {own or 'longer'} s, but is killed after {grace or 10:g} s",
        one.name,
        {"RAG_SHUTDOWN_SECONDS": own, "stop_grace_period_seconds": grace, "log": lines},
        "SIGKILL comes before the server has finished what it had accepted.",
        set_variables(world, one, RAG_SHUTDOWN_SECONDS=fit),
    )


def _zombies(world: World, one: Container) -> Finding | None:
    """D46. The Engine's `top` leaves dead processes out on kernels of today, `/proc` doesn't."""
    everyone = {process.pid: process for process in processes(world)}
    if one.get("State", "Pid") not in everyone:
        return Finding(Status.SKIP, "the Engine's processes aren't this machine's", one.name)

    def is_below(process: Process | None) -> bool:
        while process is not None and process.pid != one.get("State", "Pid"):
            process = everyone.get(process.parent)
        return process is not None

    own = [process for process in everyone.values() if is_below(process)]
    dead = [f"{process.pid} {process.name}" for process in own if process.state == "Z"]
    if len(dead) < MANY_ZOMBIES:
        return None
    return Finding(
        Status.WARN,
        f"has {len(dead)} dead processes that nobody buries",
        one.name,
        {"zombies": len(dead), "processes": len(own), "examples": dead[:3]},
        "Its first process doesn't wait for children that it inherits; each holds a process id.",
        override(world, one, ["init: true"]),
    )


CHECKS: Final = (
    Check(
        "D45",
        "Containers stop when they are asked",
        Scope.HOST,
        "docker stop takes 10 s, and the exit code is 137",
        each(_stops, "who runs in {n} container{s} handles SIGTERM"),
    ),
    Check(
        "D45b",
        "Containers have time to finish",
        Scope.HOST,
        "the log ends in `Waiting for connections to close.`, and the exit code is 137",
        each(_stops_in_time, "stopping takes less than what is allowed", lambda one: one.is_ours),
    ),
    Check(
        "D46",
        "No dead processes pile up",
        Scope.HOST,
        "<defunct> in ps, more and more process ids",
        each(_zombies, "no zombies in {n} container{s}", Container.is_up),
    ),
)
