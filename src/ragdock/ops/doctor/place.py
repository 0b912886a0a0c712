"""Where the doctor stands, and which processes are ragdock's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ragdock.ops.doctor.world import World, WorldError

__all__ = [
    "Process",
    "is_inside",
    "our_servers",
    "processes",
    "servers_over",
]

_MARKERS: Final = ("/.dockerenv", "/run/.containerenv")
# Platforms that say it themselves; an image's file system runs there without Docker's marks.
_PLATFORMS: Final = ("KUBERNETES_SERVICE_HOST", "FLY_APP_NAME", "RENDER", "RAILWAY_ENVIRONMENT")
_RUNTIMES: Final = re.compile(r"[/-](?:docker|kubepods|containerd|libpod|crio|lxc)\b")
# What a container's root is; a virtual machine that was made from an image has a disk there.
_LAYERED: Final = frozenset({"overlay", "fuse.fuse-overlayfs", "aufs", "btrfs", "zfs", "virtiofs"})
_OURS: Final = re.compile(
    r"(?:m3_1_dockerize\.py\0(?:.*\0)?--(?P<shim>serve|worker)\b)"
    r"|(?:(?:^|[/\0])ragdock(?:/__main__\.py)?\0(?P<command>serve|worker)\b)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Process:
    """One process: `role` is `serve` or `worker` for ours, else ""; `inside` of a container."""

    pid: int
    parent: int
    state: str
    name: str
    role: str
    inside: bool


def is_inside(world: World) -> bool:
    """Whether this process runs in a container.

    Docker's marker file alone doesn't say so: a virtual machine whose disk was made from an image
    has it as well.
    """
    environment = world.environ()
    if any(name in environment for name in _PLATFORMS):
        return True
    if _RUNTIMES.search(_read(world, "/proc/self/cgroup")):
        return True
    marked = any(_exists(world, marker) for marker in _MARKERS)
    return marked and _root_type(world) in _LAYERED


def our_servers(world: World) -> list[Process]:
    """The processes of `ragdock serve` and `ragdock worker`, in containers of this host too."""
    return [process for process in processes(world) if process.role]


def servers_over(world: World, directory: str) -> list[Process]:
    """Our processes that have the data directory open; in a container, all of them.

    Others on this machine may be another ragdock's. Who may not see their files isn't told of them.
    """
    if is_inside(world):
        return our_servers(world)
    return [
        one for one in our_servers(world) if not one.inside and _has_open(world, one.pid, directory)
    ]


def _has_open(world: World, pid: int, directory: str) -> bool:
    try:
        names = world.entries(f"/proc/{pid}/fd")
    except WorldError:
        return False
    for name in names:
        try:
            path = world.link(f"/proc/{pid}/fd/{name}")
        except WorldError:
            continue  # Closed since.
        if path.startswith(f"{directory.rstrip('/')}/"):
            return True
    return False


def processes(world: World) -> Iterator[Process]:
    """All processes that can be seen, by number; those that end meanwhile are left out."""
    try:
        names = world.entries("/proc")
    except WorldError:
        return
    for pid in sorted(int(name) for name in names if name.isdigit()):
        try:
            yield _process(world, pid)
        except (WorldError, ValueError, IndexError):
            continue


def _process(world: World, pid: int) -> Process:
    # `pid (name, which may hold anything) state parent ...`: proc_pid_stat(5).
    stat = world.read(f"/proc/{pid}/stat")
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    state, parent = stat[stat.rindex(")") + 1 :].split()[:2]
    role, inside = "", False
    # Only of Python programs: the arguments of others are none of our business.
    if state != "Z" and name.startswith(("python", "ragdock", "m3_1_docker")):
        found = _OURS.search(world.read(f"/proc/{pid}/cmdline"))
        if found:
            role = found["shim"] or found["command"]
            inside = bool(_RUNTIMES.search(_read(world, f"/proc/{pid}/cgroup")))
    return Process(pid, int(parent), state, name, role, inside)


def _root_type(world: World) -> str:
    """The type of the file system at /, of the last mount there (the one that is seen)."""
    found = ""
    for line in _read(world, "/proc/self/mountinfo").splitlines():
        head, _, tail = line.partition(" - ")
        if head.split()[4:5] == ["/"]:
            found = tail.split(" ")[0]
    return found


def _read(world: World, path: str) -> str:
    try:
        return world.read(path)
    except WorldError:
        return ""


def _exists(world: World, path: str) -> bool:
    try:
        world.stat(path)
    except WorldError:
        return False
    return True
