"""The processes of this container: the first one's duties."""

from __future__ import annotations

import re
from typing import Final

from ragdock.ops.doctor.model import Check, Finding, Scope
from ragdock.ops.doctor.place import processes
from ragdock.ops.doctor.reading import fail, ok, read_or, skip, warn
from ragdock.ops.doctor.world import World

__all__ = ["CHECKS"]

MANY: Final = 5
SIGTERM_BIT: Final = 1 << 14
_INITS: Final = frozenset(
    {"docker-init", "tini", "dumb-init", "s6-svscan", "systemd", "init", "catatonit", "pause"}
)
_INIT: Final = (
    "# in docker-compose.yml, service web: init: true",
    "docker-compose up -d web      # or: docker run --init ...",
)


def _deaf(world: World) -> list[Finding]:
    """D45i."""
    name = read_or(world, "/proc/1/comm").strip()
    if "doctor" in read_or(world, "/proc/1/cmdline").split("\0"):
        return skip("the doctor itself is the main process here")
    found = re.search(r"^SigCgt:\s*([0-9a-f]+)", world.read("/proc/1/status"), re.MULTILINE)
    if not found:
        return skip("/proc/1/status doesn't tell which signals are handled")
    evidence = {"pid_1": name, "SigCgt": found[1]}
    if int(found[1], 16) & SIGTERM_BIT or name in _INITS:
        return ok(f"process 1 ({name}) takes SIGTERM", **evidence)
    shell = name in ("sh", "bash", "dash", "ash", "busybox")
    return [
        fail(
            f"process 1 ({name}) ignores SIGTERM",
            "A shell doesn't hand the signal to what it started: the command is in shell form."
            if shell
            else "The kernel delivers no signal to process 1 that it has no handler for.",
            (
                '# in the Dockerfile: CMD ["python", "m3_1_dockerize.py", "--serve"], as a list',
                *_INIT,
            ),
            "process 1",
            **evidence,
        )
    ]


def _zombies(world: World) -> list[Finding]:
    """D46i."""
    everybody = list(processes(world))
    names = {one.pid: one.name for one in everybody}
    dead = [one for one in everybody if one.state == "Z"]
    if not everybody:
        return skip("no process can be seen")
    if len(dead) < MANY:
        return ok(f"{len(everybody)} processes, {len(dead)} of them ended and not yet waited for")
    parents = sorted({one.parent for one in dead})
    return [
        warn(
            f"{len(dead)} processes ended and were never waited for",
            "Each keeps a number until its parent asks how it ended; orphans fall to process 1, "
            f"and that ({names.get(1, '?')}) doesn't ask unless it is an init.",
            _INIT,
            "zombies",
            zombies=len(dead),
            names=sorted({one.name for one in dead})[:5],
            parents=[f"{pid} {names.get(pid, '?')}" for pid in parents[:5]],
        )
    ]


CHECKS: Final = (
    Check(
        "D45i",
        "The main process takes SIGTERM",
        Scope.INSIDE,
        "docker stop takes 10 s and the container exits with 137",
        _deaf,
    ),
    Check(
        "D46i",
        "Ended processes are waited for",
        Scope.INSIDE,
        "the number of processes grows; <defunct> in ps",
        _zombies,
    ),
)
