"""Who has a port of this host: another container, or a process with its id and command."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ragdock.ops.doctor.stack import dig, items
from ragdock.ops.doctor.world import World, WorldError

__all__ = ["Owner", "free_port_after", "listeners", "owner_of", "ports_of"]

_LISTEN: Final = "0A"


@dataclass(frozen=True, slots=True)
class Owner:
    """A container (`name`) or a process (`pid`, `command`)."""

    name: str = ""
    pid: int = 0
    command: str = ""

    def __str__(self) -> str:
        if self.name:
            return f"container {self.name}"
        return f"process {self.pid} ({self.command})" if self.pid else "another process"

    @property
    def stop(self) -> str:
        """The line that ends it."""
        if self.name:
            return f"docker stop {self.name}"
        return f"kill {self.pid}" if self.pid else "# end that process"


def owner_of(world: World, port: int) -> Owner:
    """Who listens on the TCP port; an empty owner when nobody may be named."""
    for one in items(world.engine("/containers/json")):
        for published in items(one.get("Ports")):
            if published.get("PublicPort") == port and published.get("Type") == "tcp":
                names = one.get("Names")
                return Owner(name=str(dig(names, 0) or one.get("Id")).lstrip("/"))
    sockets = {f"socket:[{inode}]" for _, inode in listeners(world, "/proc", port)}
    if not sockets:
        return Owner()
    for pid in (name for name in world.entries("/proc") if name.isdigit()):
        if _has_one_of(world, pid, sockets):
            return Owner(pid=int(pid), command=_command(world, pid))
    return Owner()


def listeners(world: World, proc: str, port: int) -> list[tuple[str, str]]:
    """Address (as the kernel writes it) and inode of each socket that listens on the port.

    `proc` is `/proc` for this network, `/proc/<pid>` for the one of a process.
    """
    return [(address, inode) for address, found, inode in _listening(world, proc) if found == port]


def ports_of(world: World, pid: int) -> list[int]:
    """The TCP ports that a process of this network listens on; empty when it may not be seen."""
    return sorted(
        {
            port
            for _, port, inode in _listening(world, "/proc")
            if _has_one_of(world, str(pid), {f"socket:[{inode}]"})
        }
    )


def _listening(world: World, proc: str) -> list[tuple[str, int, str]]:
    """Address, port and inode of each socket that listens."""
    found = []
    for name in ("tcp", "tcp6"):
        try:
            lines = world.read(f"{proc}/net/{name}").splitlines()[1:]
        except WorldError:
            continue
        for fields in (line.split() for line in lines):
            if len(fields) > 9 and fields[3] == _LISTEN:
                address, _, number = fields[1].rpartition(":")
                found.append((address, int(number, 16), fields[9]))
    return found


def _has_one_of(world: World, pid: str, sockets: set[str]) -> bool:
    try:
        for number in world.entries(f"/proc/{pid}/fd"):
            try:
                if world.link(f"/proc/{pid}/fd/{number}") in sockets:
                    return True
            except WorldError:
                continue
    except WorldError:
        pass
    return False


def _command(world: World, pid: str) -> str:
    try:
        words = world.read(f"/proc/{pid}/cmdline").replace("\0", " ")
    except WorldError:
        return "?"
    return re.sub(r"\s+", " ", words).strip()[:120]


def free_port_after(world: World, address: str, port: int) -> int:
    """The next port that nobody has, by trying."""
    for candidate in range(port + 1, min(port + 50, 65536)):
        try:
            if not world.listens(address, candidate):
                return candidate
        except WorldError:
            continue
    return port + 1
