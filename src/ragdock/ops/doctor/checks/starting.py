"""Why a container's program can't even be started."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from ragdock.ops.doctor.history import last_lines
from ragdock.ops.doctor.mending import up
from ragdock.ops.doctor.model import Check, Evidence, Finding, Scope, Status
from ragdock.ops.doctor.stack import Container, compose_command, dig, each, texts
from ragdock.ops.doctor.tar import Member, first_member
from ragdock.ops.doctor.world import World, WorldError

__all__ = ["CHECKS"]

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MACHINES: Final = {
    3: "386", 21: "ppc64le", 22: "s390x", 40: "arm", 62: "amd64", 183: "arm64", 243: "riscv64",
}  # fmt: skip
"""`e_machine` of the ELF header (System V ABI), by Docker's names."""
_FORMAT: Final = re.compile(r"exec format error", re.IGNORECASE)
_NOT_FOUND: Final = re.compile(
    r"executable file not found|no such file or directory", re.IGNORECASE
)
_DENIED: Final = re.compile(r"permission denied", re.IGNORECASE)
MAX_LINKS: Final = 4


@dataclass(frozen=True, slots=True)
class _Program:
    path: str
    mode: int
    content: str

    @property
    def machine(self) -> str | None:
        """The processor that an ELF program is for; None for a script."""
        if not self.content.startswith("\x7fELF") or len(self.content) < 20:
            return None
        little = self.content[5] == "\x01"
        low, high = ord(self.content[18]), ord(self.content[19])
        number = low | high << 8 if little else high | low << 8
        return MACHINES.get(number, f"machine {number}")

    @property
    def first_line(self) -> str:
        """The first line, with a carriage return if it has one."""
        return self.content[:200].split("\n")[0]


def _said(world: World, one: Container) -> str:
    """What the Engine and the log say about the start."""
    return "\n".join([str(one.get("State", "Error") or ""), *last_lines(world, one, 5)])


def _failed(one: Container) -> bool:
    return not one.running and one.get("State", "ExitCode") not in (0, None)


def _program(world: World, one: Container) -> _Program | None:
    """The file that the container runs, out of its file system; links are followed."""
    for path in _candidates(one):
        place = path
        for _ in range(MAX_LINKS):
            member = _member(world, one, place)
            if member is None:
                break
            if member.kind == "0":
                return _Program(place, member.mode, member.content)
            target = member.target
            place = target if target.startswith("/") else f"{place.rpartition('/')[0]}/{target}"
    return None


def _member(world: World, one: Container, path: str) -> Member | None:
    try:
        archive = world.engine(f"/containers/{one.id}/archive?path={quote(path)}")
    except WorldError as exc:
        if exc.kind != "status":
            raise
        return None
    found = first_member(archive)
    return found if found is not None and found.kind in ("0", "2") else None


def _candidates(one: Container) -> Iterator[str]:
    path = str(one.get("Path") or "")
    if not path:
        return
    if "/" in path:
        work = str(one.get("Config", "WorkingDir") or "/")
        yield path if path.startswith("/") else f"{work.rstrip('/')}/{path.removeprefix('./')}"
        return
    for place in (one.environment().get("PATH") or PATH).split(":"):
        yield f"{place}/{path}"


def _rebuild(world: World, one: Container) -> tuple[str, ...]:
    command = compose_command(world, one)
    if one.is_ours and one.service:
        return (f"{command} build web", up(world, one, "--force-recreate", one.service))
    image = str(one.get("Config", "Image"))
    return (f"docker pull {image}", up(world, one, "--force-recreate", one.service).rstrip())


def _architecture(world: World, one: Container) -> Finding | None:
    """D14."""
    host = str(dig(world.engine("/version"), "Arch"))
    image = world.engine(f"/images/{quote(str(one.get('Image')), safe='')}/json")
    built_for = str(dig(image, "Architecture"))
    error = _said(world, one) if _failed(one) or one.get("State", "Restarting") else ""
    program = _program(world, one) if _FORMAT.search(error) else None
    machine = program.machine if program else None
    if program is not None and machine is None and built_for == host:
        return None  # A text file: D17.
    if built_for == host and (machine in (None, host)):
        return None
    runs = one.running
    evidence: Evidence = {
        "image_architecture": built_for,
        "program": program.path if program else str(one.get("Path")),
        "program_architecture": machine,
        "host_architecture": host,
        "exit_code": one.get("State", "ExitCode"),
    }
    foreign = machine if machine not in (None, host) else built_for
    return Finding(
        Status.WARN if runs else Status.FAIL,
        f"is for {foreign}, and this machine is {host}"
        + (": it runs by emulation, slowly" if runs else ""),
        one.name,
        evidence,
        "The image was built or pulled for another processor.",
        _rebuild(world, one),
    )


def _line_ends(world: World, one: Container) -> Finding | None:
    """D15."""
    program = _program(world, one) if _worth_a_look(one) else None
    if program is None or not program.first_line.startswith("#!"):
        return None
    if not program.first_line.endswith("\r"):
        return None
    name = program.path.rpartition("/")[2]
    shown = program.first_line[:80].replace("\r", "\\r")
    return Finding(
        Status.FAIL,
        f"{program.path} has line ends of Windows, so its interpreter isn't found",
        one.name,
        {"program": program.path, "first_line": shown, "exit_code": one.get("State", "ExitCode")},
        "The kernel looks for an interpreter whose name ends in a carriage return.",
        (
            f"find . -name {name} -not -path './.git/*' -exec sed -i 's/\\r$//' '{{}}' +",
            f"echo '{name} text eol=lf' >> .gitattributes",
            *_rebuild(world, one),
        ),
    )


def _worth_a_look(one: Container) -> bool:
    return _failed(one) or one.get("State", "Restarting") is True


def _startable(world: World, one: Container) -> Finding | None:
    """D16."""
    code, error = one.get("State", "ExitCode"), str(one.get("State", "Error") or "")
    if one.running or not (code in (126, 127) or _NOT_FOUND.search(error) or _DENIED.search(error)):
        return None
    if "bind" in error.lower() or "mount" in error.lower() or "network" in error.lower():
        return None
    program = _program(world, one)
    if program and program.first_line.startswith("#!") and program.first_line.endswith("\r"):
        return None  # D15 says why.
    command = " ".join([*texts(one.get("Config", "Entrypoint")), *texts(one.get("Config", "Cmd"))])
    evidence: Evidence = {
        "exit_code": code,
        "error": error[:300],
        "command": command[:200],
        "program": program.path if program else None,
        "mode": f"{program.mode & 0o7777:o}" if program else None,
        "log": last_lines(world, one, 3),
    }
    if program is not None and not program.mode & 0o111:
        name = program.path.rpartition("/")[2]
        find = f"find . -name {name} -not -path './.git/*' -exec chmod +x '{{}}' +"
        said, cause = f"{program.path} may not be executed", "The file lacks the x bit."
        return Finding(Status.FAIL, said, one.name, evidence, cause, (find, *_rebuild(world, one)))
    return Finding(
        Status.FAIL,
        f"its command can't be started: {str(one.get('Path'))!r}"
        if program is None
        else "a program that it calls can't be started",
        one.name,
        evidence,
        "The image has no such program (or none in its PATH).",
        (
            f"# Mend `command:` or `entrypoint:` of {one.service or one.name}, then:",
            up(world, one, "--force-recreate", one.service).rstrip(),
        ),
    )


def _interpreter(world: World, one: Container) -> Finding | None:
    """D17."""
    if not _worth_a_look(one) or not _FORMAT.search(_said(world, one)):
        return None
    program = _program(world, one)
    if program is None or program.content.startswith(("#!", "\x7fELF")):
        return None
    name = program.path.rpartition("/")[2]
    return Finding(
        Status.FAIL,
        f"{program.path} is a script without a first line that names its interpreter",
        one.name,
        {
            "program": program.path,
            "first_line": program.first_line[:80],
            "exit_code": one.get("State", "ExitCode"),
        },
        "The kernel starts programs and scripts that begin with `#!`; this is neither.",
        (
            f"find . -name {name} -not -path './.git/*' -exec sed -i '1i #!/bin/sh' '{{}}' +",
            *_rebuild(world, one),
        ),
    )


CHECKS: Final = (
    Check(
        "D14",
        "Images are for this processor",
        Scope.HOST,
        "exec format error; The requested image's platform does not match",
        each(_architecture, "all images are for this machine"),
    ),
    Check(
        "D15",
        "Scripts have the line ends of Unix",
        Scope.HOST,
        "exec /entrypoint.sh: no such file or directory, although it exists",
        each(_line_ends, "no script that failed has carriage returns"),
    ),
    Check(
        "D16",
        "The command can be started",
        Scope.HOST,
        "exit 126, permission denied; exit 127, executable file not found in $PATH",
        each(_startable, "every command was found and started"),
    ),
    Check(
        "D17",
        "Scripts name their interpreter",
        Scope.HOST,
        "exec format error, for a text file",
        each(_interpreter, "no script that failed lacks its `#!`"),
    ),
)
