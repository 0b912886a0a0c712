"""Who the process is, on which processor, in which time zone."""

from __future__ import annotations

import re
from typing import Final

from ragdock.ops.doctor.model import Check, Finding, Scope
from ragdock.ops.doctor.reading import can_write, fail, ok, skip, stat_of, status_id, warn
from ragdock.ops.doctor.world import World

__all__ = ["CHECKS"]

_ZONES: Final = "/usr/share/zoneinfo"
_POSIX_ZONE: Final = re.compile(r"<?[A-Za-z0-9+-]{3,}>?(?:[-+]?\d{1,2}.*)?")


def _identity(world: World) -> list[Finding]:
    """D28i."""
    status = world.read("/proc/1/status")
    uid, gid = status_id(status, "Uid"), status_id(status, "Gid")
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    capabilities = int(found[1], 16) if found else 0
    evidence = {"uid": uid, "gid": gid, "CapEff": f"{capabilities:016x}"}
    fix = (
        '# in docker-compose.yml, service web: user: "${USER_ID:-1000}:${GROUP_ID:-1000}"',
        "docker-compose up -d web      # or: docker run --user 1000:1000 --cap-drop ALL ...",
    )
    if uid == 0 or capabilities:
        who = "root" if uid == 0 else f"uid {uid} with capabilities"
        return [
            warn(
                f"the main process runs as {who}",
                "Whoever breaks into it has root's rights in the container, and its files belong "
                "to root on the host.",
                fix,
                "process 1",
                **evidence,
            )
        ]
    if gid == 0:
        return [
            warn(
                f"the main process runs as uid {uid} in group 0",
                "A user without a group (`--user 1000`) is put in root's group.",
                fix,
                "process 1",
                **evidence,
            )
        ]
    return ok(f"runs as {uid}:{gid} without capabilities", **evidence)


def _nameless(world: World) -> list[Finding]:
    """D28b."""
    uid, _, _ = world.identity()
    home = world.environ().get("HOME", "")
    names = [
        line.split(":")[0] for line in world.read("/etc/passwd").splitlines() if _is(line, uid)
    ]
    evidence = {"uid": uid, "passwd": names[0] if names else None, "HOME": home or None}
    if home and home != "/" and can_write(world, home):
        return ok(f"uid {uid} has a home that it can write: {home}", **evidence)
    if names and not home:
        return ok(f"uid {uid} is {names[0]}", **evidence)
    if names:
        # It has a name; whether it needs a home is its programs' business.
        return ok(f"uid {uid} is {names[0]}; nothing of ragdock's needs a home", **evidence)
    return [
        warn(
            f"uid {uid} has no entry in /etc/passwd and no home that it can write",
            "Libraries that ask for the user's name or cache below HOME fail with \"uid not "
            'found" or "Permission denied: \'/.cache\'".',
            (
                "# in docker-compose.yml, service web, environment: HOME: /tmp",
                "docker-compose up -d",
            ),
            f"uid {uid}",
            **evidence,
        )
    ]


def _is(line: str, uid: int) -> bool:
    return line.split(":")[2:3] == [str(uid)]


def _zone(world: World) -> list[Finding]:
    """D33."""
    zone = world.environ().get("TZ", "").removeprefix(":")
    if not zone:
        return ok("TZ is not set: times are the machine's, UTC in a container")
    evidence = {"TZ": zone}
    path = zone if zone.startswith("/") else f"{_ZONES}/{zone}"
    if stat_of(world, path) is not None:
        return ok(f"times are those of {zone}", **evidence)
    if zone in ("UTC", "GMT") or ("/" not in zone and _is_posix(zone)):
        return ok(f"times are those of {zone}", **evidence)
    installed = stat_of(world, _ZONES) is not None
    return [
        warn(
            f"TZ={zone} is unknown here, so times are UTC under a wrong name",
            f"There is no {path}: the name is misspelt."
            if installed
            else f"There is no {_ZONES}: the image has no tzdata.",
            (
                "# in .env or docker-compose.yml: leave TZ out; what shows times may convert them",
                "docker-compose up -d web",
            ),
            "TZ",
            **evidence,
        )
    ]


def _is_posix(zone: str) -> bool:
    """`CET-1CEST`, `<+03>-3`: rules in themselves, see tzset(3)."""
    return bool(_POSIX_ZONE.fullmatch(zone)) and any(letter.isdigit() for letter in zone)


def _processor(world: World) -> list[Finding]:
    """D18i."""
    text = world.read("/proc/cpuinfo")
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    if not found:
        return skip("not a processor of the x86 family")
    flags = set(found[1].split())
    evidence = {"missing": sorted(_BASELINE - flags), "avx2": "avx2" in flags}
    if evidence["missing"]:
        return [
            fail(
                "this processor lacks instructions that NumPy's wheels need",
                'They are built for x86-64-v2; without it the process ends with "Illegal '
                'instruction" (exit 132) and writes no log. A virtual machine may hide what the '
                "host's processor can.",
                ("# give the virtual machine the host's processor model, e.g. qemu: -cpu host",),
                "cpu",
                **evidence,
            )
        ]
    if "avx2" not in flags:
        return [
            warn(
                "this processor has no AVX2",
                "Embedding and exact search fall back to narrower instructions and are slower.",
                ("# on a virtual machine: -cpu host; else another kind of machine",),
                "cpu",
                **evidence,
            )
        ]
    return ok("the processor has what the libraries need", **evidence)


_BASELINE: Final = {"cx16", "popcnt", "sse4_1", "sse4_2", "ssse3"}
"""x86-64-v2 beyond x86-64, as NumPy 2.4 is built (gitlab.com/x86-psABIs/x86-64-ABI)."""


CHECKS: Final = (
    Check(
        "D18i",
        "The processor has the instructions that the libraries use",
        Scope.BOTH,
        "exit 132 (Illegal instruction) without a log",
        _processor,
    ),
    Check(
        "D28i",
        "The main process isn't root",
        Scope.INSIDE,
        "an audit finding; files that belong to root on the host",
        _identity,
    ),
    Check(
        "D28b",
        "The user has a name or a home",
        Scope.INSIDE,
        "KeyError: 'getpwuid(): uid not found: 4242'",
        _nameless,
    ),
    Check(
        "D33",
        "The time zone is known",
        Scope.BOTH,
        "times in logs are UTC although TZ says otherwise",
        _zone,
    ),
)
