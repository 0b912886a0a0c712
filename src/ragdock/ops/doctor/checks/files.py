"""What containers mount: whether they may write it, and whether it is what it should be."""

from __future__ import annotations

import re
import shlex
from typing import Any, Final

from ragdock.ops.doctor.history import last_lines
from ragdock.ops.doctor.mending import compose_files, override, set_variables, sudo, up
from ragdock.ops.doctor.model import Check, Finding, Scope, Status
from ragdock.ops.doctor.stack import Container, compose_command, dig, each, items, texts
from ragdock.ops.doctor.world import FileStat, World, WorldError

__all__ = ["CHECKS"]

_LOOKS_LIKE_A_FILE: Final = re.compile(
    r"^/run/secrets/[^/]+$|/[^/]+\.(?:ya?ml|json|conf|cfg|ini|toml|txt|pem|crt|key|env|py|sh|csv)$"
)
_FILE_ERROR: Final = re.compile(r"mount a directory onto a file|not a directory", re.IGNORECASE)


def _mounts(one: Container) -> list[dict[str, Any]]:
    return items(one.get("Mounts"))


def _user(one: Container) -> tuple[int, int] | None:
    """The numbers that it runs as; None when only the image knows what the name means."""
    user, _, group = str(one.get("Config", "User") or "0").partition(":")
    if user == "root":
        user = "0"
    if not user.isdigit() or (group and not group.isdigit()):
        return None
    return int(user), int(group or 0)


def _may_write(one: Container, found: FileStat, uid: int, gid: int) -> bool:
    """By the mode bits; root without CAP_DAC_OVERRIDE is a user like any other."""
    dropped = {name.removeprefix("CAP_") for name in texts(one.get("HostConfig", "CapDrop"))}
    if uid == 0 and not dropped & {"ALL", "DAC_OVERRIDE"}:
        return True
    groups = {
        gid,
        *(int(name) for name in texts(one.get("HostConfig", "GroupAdd")) if name.isdigit()),
    }
    if uid == found.uid:
        bits = found.mode >> 6
    elif found.gid in groups:
        bits = found.mode >> 3
    else:
        bits = found.mode
    return bits & 0o3 == 0o3


def _writable(world: World, one: Container) -> Finding | None:
    """D30."""
    who = _user(one)
    if who is None:
        return None
    for mount in _mounts(one):
        source = str(mount.get("Source") or "")
        if mount.get("RW") is not True or mount.get("Type") not in ("bind", "volume"):
            continue
        if source == "/var/run/docker.sock":
            continue
        try:
            found = world.stat(source)
        except WorldError as exc:
            if _denied_in_log(world, one, str(mount.get("Destination"))):
                return _not_writable(world, one, mount, None, *who)
            if exc.kind == "absent" and mount.get("Type") == "bind" and one.running:
                continue  # The Engine is another machine's.
            continue
        if found.kind == "dir" and not _may_write(one, found, *who) and not _shifted(world):
            return _not_writable(world, one, mount, found, *who)
    return None


def _shifted(world: World) -> bool:
    """Whether numbers of users in containers aren't those of the host."""
    options = " ".join(texts(dig(world.engine("/info"), "SecurityOptions")))
    return "name=userns" in options or "name=rootless" in options


def _denied_in_log(world: World, one: Container, destination: str) -> bool:
    text = "\n".join(last_lines(world, one, 30))
    return bool(re.search(r"Permission denied|can't write|not writable", text)) and (
        destination in text
    )


def _not_writable(
    world: World, one: Container, mount: dict[str, Any], found: FileStat | None, uid: int, gid: int
) -> Finding:
    target = str(mount.get("Destination"))
    evidence: dict[str, Any] = {
        "mount": target,
        "source": str(mount.get("Source")),
        "user": f"{uid}:{gid}",
    }
    owner = "somebody else"
    if found is not None:
        owner = f"{found.uid}:{found.gid}"
        evidence |= {"owner": owner, "mode": f"{found.mode:o}"}
    return Finding(
        Status.FAIL,
        f"{target} belongs to {owner} and can't be written by {uid}:{gid}",
        one.name,
        evidence,
        "The directory on the host was made by somebody else than the container runs as"
        + (" (Docker makes a missing one as root)." if found and found.uid == 0 else "."),
        _give(world, one, mount, found, uid, gid),
    )


def _give(
    world: World, one: Container, mount: dict[str, Any], found: FileStat | None, uid: int, gid: int
) -> tuple[str, ...]:
    again = f"{compose_command(world, one)} up -d --force-recreate {one.service}".rstrip()
    source = shlex.quote(str(mount.get("Source")))
    if mount.get("Type") == "volume":
        image = one.get("Config", "Image")
        volume = shlex.quote(str(mount.get("Name")))
        return (
            f"docker run --rm --user 0 --entrypoint chown -v {volume}:/mended {image} "
            f"-R {uid}:{gid} /mended",
            again,
        )
    chown = f"{sudo(world)}chown -R {uid}:{gid} {source}"
    if one.is_ours and found is not None and found.uid != 0 and found.mode & 0o300 == 0o300:
        mine = set_variables(world, one, USER_ID=found.uid, GROUP_ID=found.gid)
        return (*mine, f"# or give it to the container: {chown} && {again}")
    if found is not None and found.uid == uid:
        return (f"{sudo(world)}chmod u+rwx {source}", again)
    return (chown, again)


def _scratch(world: World, one: Container) -> Finding | None:
    """D31."""
    if one.get("HostConfig", "ReadonlyRootfs") is not True or not one.is_ours:
        return None
    tmpfs = one.get("HostConfig", "Tmpfs")
    places = [*(tmpfs if isinstance(tmpfs, dict) else {})]
    places += [str(mount.get("Destination")) for mount in _mounts(one) if mount.get("RW") is True]
    variables = one.environment()
    wanted = {"/tmp", variables.get("TMPDIR") or "/tmp", variables.get("HOME") or "/tmp"}  # noqa: S108 - looked for, not used
    missing = sorted(
        place
        for place in wanted
        if not any(place == has or place.startswith(f"{has}/") for has in places)
    )
    if not missing:
        return None
    return Finding(
        Status.FAIL,
        f"the root file system is read-only, and {', '.join(missing)} can't be written",
        one.name,
        {"read_only": True, "writable": sorted(places), "log": last_lines(world, one, 3)},
        "Python and SQLite want a place for temporary files.",
        override(world, one, [f'tmpfs: ["{place}:size=16m,mode=1777"]' for place in missing[:1]]),
    )


def _missing_file(world: World, one: Container) -> Finding | None:
    """D32."""
    error = str(one.get("State", "Error") or "")
    for mount in _mounts(one):
        source, target = str(mount.get("Source") or ""), str(mount.get("Destination") or "")
        if mount.get("Type") != "bind":
            continue
        named = bool(_FILE_ERROR.search(error)) and target in error
        if not named and not _LOOKS_LIKE_A_FILE.search(target):
            continue
        try:
            kind = world.stat(source).kind
        except WorldError:
            continue
        if kind == "dir":
            return _directory_instead(world, one, source, target, error)
    return None


def _directory_instead(
    world: World, one: Container, source: str, target: str, error: str
) -> Finding:
    make = f"touch {shlex.quote(source)}"
    try:
        world.stat(f"{source}.example")
        make = f"cp {shlex.quote(source + '.example')} {shlex.quote(source)}"
    except WorldError:
        pass
    command = compose_command(world, one)
    return Finding(
        Status.FAIL,
        f"{target} is a directory, because {source} was missing on the host",
        one.name,
        {
            "source": source,
            "destination": target,
            "error": error,
            "files": compose_files(world, one),
        },
        "Docker makes a missing source of a bind mount, as a directory of root's.",
        (
            f"{command} rm -sf {one.service}",
            f"{sudo(world)}rmdir {shlex.quote(source)} && {make}",
            "# Put the right content into it, then:",
            up(world, one),
        ),
    )


CHECKS: Final = (
    Check(
        "D30",
        "Mounted directories can be written",
        Scope.HOST,
        "PermissionError: [Errno 13] Permission denied: '/data/...'",
        each(_writable, "whoever runs in {n} container{s} may write what is mounted"),
    ),
    Check(
        "D31",
        "A read-only container has its /tmp",
        Scope.HOST,
        "[Errno 30] Read-only file system; No usable temporary directory found",
        each(_scratch, "temporary files have a place"),
    ),
    Check(
        "D32",
        "Mounted files are files",
        Scope.HOST,
        "Are you trying to mount a directory onto a file; IsADirectoryError",
        each(_missing_file, "no file is mounted as a directory"),
    ),
)
