"""What checks of the inside share: findings in a line, and the kernel's files as values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from ragdock.ops.doctor.model import Finding, Status
from ragdock.ops.doctor.world import FileStat, World, WorldError

__all__ = [
    "Cpu",
    "Listener",
    "Memory",
    "can_write",
    "cpu",
    "fail",
    "fields_of",
    "listeners",
    "may_write",
    "memory",
    "mib",
    "mount_of",
    "ok",
    "pids",
    "read_or",
    "settings",
    "skip",
    "stat_of",
    "status_id",
    "warn",
]

_NO_LIMIT: Final = 2**50
"""Version 1 of cgroups says "no limit" by a number of bytes that no machine has."""
_LISTEN: Final = "0A"
_ESCAPES: Final = (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\"))


def ok(summary: str, **evidence: Any) -> list[Finding]:
    """All is well."""
    return [Finding(Status.OK, summary, evidence=evidence)]


def skip(summary: str) -> list[Finding]:
    """The check doesn't apply here."""
    return [Finding(Status.SKIP, summary)]


def warn(
    summary: str, cause: str, fix: tuple[str, ...], subject: str = "", **evidence: Any
) -> Finding:
    """Something will go wrong, or goes wrong unnoticed."""
    return Finding(Status.WARN, summary, subject, evidence, cause, fix)


def fail(
    summary: str, cause: str, fix: tuple[str, ...], subject: str = "", **evidence: Any
) -> Finding:
    """Something doesn't work."""
    return Finding(Status.FAIL, summary, subject, evidence, cause, fix)


def settings(world: World) -> dict[str, Any]:
    """ragdock's settings by field; `WorldError` when they are wrong, which G01 tells."""
    found = world.ragdock("settings")
    if not isinstance(found, dict):
        raise WorldError("unsupported", "the settings make no sense")
    return found


def read_or(world: World, path: str, default: str = "") -> str:
    """A file's text, or the default when it can't be read."""
    try:
        return world.read(path)
    except WorldError:
        return default


def fields_of(text: str) -> dict[str, int]:
    """`name number` a line, as most files of cgroups are."""
    pairs = (line.split() for line in text.splitlines())
    return {
        pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].lstrip("-").isdigit()
    }


def mib(size_bytes: float) -> str:
    """A size for people."""
    return (
        f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"
    )


# Control groups: docs.kernel.org/admin-guide/cgroup-v1/memory.html and .../cgroup-v2.html


@dataclass(frozen=True, slots=True)
class Memory:
    """Of the own cgroup, in bytes. `held_bytes` can't be taken away: no page cache in it."""

    limit_bytes: int | None
    used_bytes: int
    held_bytes: int
    n_killed: int
    source: str


def memory(world: World) -> Memory:
    """Version 2 or 1, as it is mounted; `WorldError` when neither is."""
    root = "/sys/fs/cgroup"
    events = read_or(world, f"{root}/memory.events")
    if events:
        limit = world.read(f"{root}/memory.max").strip()
        used = int(world.read(f"{root}/memory.current"))
        stat = fields_of(read_or(world, f"{root}/memory.stat"))
        # `file` includes tmpfs (`shmem`), which the kernel can't drop without swap.
        cache = stat.get("file", 0) - stat.get("shmem", 0)
        n_killed = fields_of(events).get("oom_kill", 0)
        source = f"{root}/memory.events"
    else:
        root = f"{root}/memory"
        limit = world.read(f"{root}/memory.limit_in_bytes").strip()
        used = int(world.read(f"{root}/memory.usage_in_bytes"))
        stat = fields_of(read_or(world, f"{root}/memory.stat"))
        cache = stat.get("total_cache", 0) - stat.get("total_shmem", 0)
        n_killed = fields_of(world.read(f"{root}/memory.oom_control")).get("oom_kill", 0)
        source = f"{root}/memory.oom_control"
    number = int(limit) if limit.isdigit() else _NO_LIMIT
    return Memory(
        number if number < _NO_LIMIT else None, used, max(0, used - cache), n_killed, source
    )


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPUs that the own cgroup may use (None: all), and how often it had to wait for more."""

    quota: float | None
    n_periods: int
    n_throttled: int
    source: str


def cpu(world: World) -> Cpu:
    """Version 2 or 1; `WorldError` when neither is mounted."""
    root = "/sys/fs/cgroup"
    limit = read_or(world, f"{root}/cpu.max").split()
    if len(limit) == 2:
        quota, period = limit[0], int(limit[1])
    else:
        root = f"{root}/cpu"
        quota = world.read(f"{root}/cpu.cfs_quota_us").strip()
        period = int(world.read(f"{root}/cpu.cfs_period_us"))
    stat = fields_of(read_or(world, f"{root}/cpu.stat"))
    allowed = int(quota) / period if quota.isdigit() and period > 0 else None
    return Cpu(allowed, stat.get("nr_periods", 0), stat.get("nr_throttled", 0), f"{root}/cpu.stat")


def pids(world: World) -> tuple[int, int | None, int]:
    """Tasks (threads count), the limit, and how often a new one was refused."""
    root = "/sys/fs/cgroup"
    current = read_or(world, f"{root}/pids.current")
    if not current:
        root = f"{root}/pids"
        current = world.read(f"{root}/pids.current")
    limit = world.read(f"{root}/pids.max").strip()
    refused = fields_of(read_or(world, f"{root}/pids.events")).get("max", 0)
    return int(current), int(limit) if limit.isdigit() else None, refused


# Sockets: proc_pid_net(5)


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening TCP socket."""

    address: str
    port: int

    @property
    def everywhere(self) -> bool:
        """Whether it takes connections from other machines and containers."""
        return self.address in ("0.0.0.0", "::")  # noqa: S104 - read, not bound

    @property
    def loopback(self) -> bool:
        """Whether only this machine, or container, reaches it."""
        return self.address.startswith("127.") or self.address in ("::1", "::ffff:127.0.0.1")


def listeners(world: World) -> list[Listener]:
    """Of this network namespace; `WorldError` when it can't be read."""
    found = list(_listeners(world.read("/proc/net/tcp")))
    return found + list(_listeners(read_or(world, "/proc/net/tcp6")))


def _listeners(table: str) -> Iterator[Listener]:
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 3 and words[3] == _LISTEN:
            address, _, port = words[1].partition(":")
            yield Listener(_address(address), int(port, 16))


def _address(digits: str) -> str:
    # Words of 32 bits in the machine's order, which is little-endian wherever we run.
    raw = b"".join(bytes.fromhex(digits[n : n + 8])[::-1] for n in range(0, len(digits), 8))
    return str(IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw))


# Files


def may_write(found: FileStat, uid: int, groups: frozenset[int]) -> bool:
    """Whether the mode bits let a user make files there (capabilities and ACLs aside)."""
    if uid == 0:
        return True
    if found.uid == uid:
        wanted = 0o300
    elif found.gid in groups:
        wanted = 0o030
    else:
        wanted = 0o003
    if found.kind != "dir":
        wanted &= 0o222
    return found.mode & wanted == wanted


def mount_of(world: World, path: str) -> tuple[str, str, frozenset[str]]:
    """The mount that a path lies on: where, its type, its options (`ro`); ("", "", {}) unknown."""
    best = ("", "", frozenset[str]())
    for line in read_or(world, "/proc/self/mountinfo").splitlines():
        head, _, tail = line.partition(" - ")
        words, more = head.split(" "), tail.split(" ")
        if len(words) < 6 or len(more) < 3:
            continue
        point = words[4]
        for escape, plain in _ESCAPES:
            point = point.replace(escape, plain)
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        # Of two mounts at one place, the later one is seen.
        if inside and len(point) >= len(best[0]):
            best = (point, more[0], frozenset([*words[5].split(","), *more[2].split(",")]))
    return best


def can_write(world: World, path: str) -> bool:
    """Whether a file can be made there; not where nothing is."""
    try:
        return world.writable(path)
    except WorldError:
        return False


def stat_of(world: World, path: str) -> FileStat | None:
    """Of the path, or None when it isn't there."""
    try:
        return world.stat(path)
    except WorldError as exc:
        if exc.kind == "absent":
            return None
        raise


def status_id(status: str, name: str) -> int:
    """The effective number of `Uid` or `Gid` in the text of /proc/<pid>/status."""
    found = re.search(rf"^{name}:\s+\d+\s+(\d+)", status, re.MULTILINE)
    if not found:
        raise WorldError("unsupported", f"/proc/1/status names no {name}")
    return int(found[1])
