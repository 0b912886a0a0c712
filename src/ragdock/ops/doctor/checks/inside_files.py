"""Directories and memory files as this process sees them."""

from __future__ import annotations

import re
from typing import Final

from ragdock.ops.doctor.model import Check, Finding, Scope, Status
from ragdock.ops.doctor.place import is_inside, servers_over
from ragdock.ops.doctor.reading import (
    can_write,
    fail,
    may_write,
    mib,
    mount_of,
    ok,
    read_or,
    settings,
    stat_of,
    status_id,
    warn,
)
from ragdock.ops.doctor.world import FileStat, World, WorldError

__all__ = ["CHECKS"]

FULL: Final = 0.9
SMALL_BYTES: Final = 64 * 2**20
_FOLDERS: Final = frozenset({"audit", "collections", "contents", "owners", "readers"})
_TEMPORARY: Final = ("/tmp", "/var/tmp", "/usr/tmp")  # noqa: S108 - where tempfile looks


def _shared_memory(world: World) -> list[Finding]:
    """D29i."""
    space = world.space("/dev/shm")  # noqa: S108 - looked at
    used = space.size_bytes - space.free_bytes
    evidence = {"size_bytes": space.size_bytes, "free_bytes": space.free_bytes}
    if space.size_bytes and used > FULL * space.size_bytes:
        return [
            fail(
                f"shared memory is full: {mib(used)} of {mib(space.size_bytes)}",
                "Shared memory is counted here, and Docker gives 64 MiB unless told otherwise; "
                'writing beyond it ends a process with "Bus error" (exit 135).',
                (
                    "# in docker-compose.yml, service web: shm_size: 256m",
                    "docker-compose up -d web      # or: docker run --shm-size 256m ...",
                ),
                "/dev/shm",  # noqa: S108
                **evidence,
            )
        ]
    return ok(f"shared memory has {mib(space.free_bytes)} free", **evidence)


def _data(world: World) -> list[Finding]:
    """D30i."""
    path = str(settings(world)["data_dir"])
    uid, groups = _server_user(world, path)
    own_uid, _, _ = world.identity()
    stat = stat_of(world, path)
    if stat is None:
        return _missing(world, path, uid)
    evidence: dict[str, str | int | list[str]] = {
        "RAG_DATA_DIR": path,
        "owner": f"{stat.uid}:{stat.gid}",
        "mode": f"{stat.mode:o}",
        "server_uid": uid,
        "mount_options": sorted(mount_of(world, path)[2] & {"ro", "rw"}),
    }
    if stat.kind != "dir":
        cause = f"{path} is a {stat.kind}."
        return [_unwritable(path, uid, stat, cause, evidence)]
    # What root may do says nothing of the user that the server runs as.
    able = may_write(stat, uid, groups) if own_uid != uid else world.writable(path)
    if not able:
        return [_refused(world, path, uid, stat, may_write(stat, uid, groups), evidence)]
    strangers = _strangers(world, path, uid, groups)
    if strangers:
        return [
            fail(
                f"{len(strangers)} files in {path} can't be written by uid {uid}",
                "They were made by another user, as by `docker exec -u root` or `sudo ragdock`.",
                _chown(world, path, uid),
                path,
                **evidence | {"files": strangers[:5]},
            )
        ]
    return ok(f"uid {uid} can write {path}", **evidence)


def _missing(world: World, path: str, uid: int) -> list[Finding]:
    parent = path.rstrip("/").rpartition("/")[0] or "/"
    evidence = {"RAG_DATA_DIR": path, "server_uid": uid}
    if can_write(world, parent):
        return ok(f"{path} isn't there yet and will be made", **evidence)
    return [
        fail(
            f"{path} isn't there and can't be made",
            f"Uid {uid} may not write {parent}.",
            (f"sudo install -d -o {uid} {path}",),
            path,
            **evidence,
        )
    ]


def _refused(
    world: World,
    path: str,
    uid: int,
    stat: FileStat,
    permitted: bool,
    evidence: dict[str, str | int | list[str]],
) -> Finding:
    """Files can't be made there: by its mode, or (`permitted`) for another reason."""
    point, kind, options = mount_of(world, path)
    cause = f"The server runs as uid {uid}, and {path} belongs to {stat.uid}:{stat.gid}."
    if "ro" in options:
        cause = f"The file system mounted at {point} is read-only."
        if point == "/" and is_inside(world):
            cause = f"No volume is mounted at {path}, and the container's own files are read-only."
        fix: tuple[str, ...] = (
            '# in docker-compose.yml, service web: volumes: ["./data:/data"]',
            'docker-compose up -d web      # or: docker run -v "$PWD/data:/data" ...',
        )
        return fail(_SAID.format(path, uid), cause, fix, path, **evidence, file_system=kind)
    if permitted and uid == 0:
        cause = (
            f"{path} belongs to {stat.uid}:{stat.gid}, and root without capabilities "
            "(`cap_drop: [ALL]`) has no more rights than anybody."
        )
    elif permitted:
        cause = f"The file system of {path} takes no files: it is full, or its quota is."
    return _unwritable(path, uid, stat, cause, evidence)


_SAID: Final = "the data directory {} can't be written by uid {}"


def _unwritable(
    path: str,
    uid: int,
    stat: FileStat,
    cause: str,
    evidence: dict[str, str | int | list[str]],
) -> Finding:
    return Finding(
        Status.FAIL,
        _SAID.format(path, uid),
        path,
        evidence,
        cause,
        (
            "# on the host, beside docker-compose.yml, either give the directory to the container:",
            f"sudo chown -R {uid}:{uid} data",
            "# or run the container as the directory's owner:",
            f"printf 'USER_ID={stat.uid}\\nGROUP_ID={stat.gid}\\n' >> .env",
            "docker-compose up -d",
        )
        if path == "/data"
        else (f"sudo chown -R {uid} {path}",),
    )


def _chown(world: World, path: str, uid: int) -> tuple[str, ...]:
    if is_inside(world):
        return (
            "# on the host, beside docker-compose.yml:",
            f"sudo chown -R {uid}:{uid} data && docker-compose up -d",
        )
    return (f"sudo chown -R {uid} {path}",)


def _strangers(world: World, path: str, uid: int, groups: frozenset[int]) -> list[str]:
    """Files of the store that the server can't write."""
    found = []
    for folder in (path, f"{path}/collections", f"{path}/contents", f"{path}/owners"):
        try:
            names = world.entries(folder)
        except WorldError:
            continue
        for name in names[:500]:
            # What else lies beside the store (`lost+found`, copies) is no business of ours.
            ours = folder != path or name in _FOLDERS or name.startswith("catalogue.db")
            stat = stat_of(world, f"{folder}/{name}") if ours else None
            if stat is not None and not may_write(stat, uid, groups):
                found.append(f"{folder}/{name}".removeprefix(f"{path}/"))
    return found


def _server_user(world: World, path: str) -> tuple[int, frozenset[int]]:
    """Whom the server runs as: the running one, else who asks."""
    for server in servers_over(world, path):
        status = read_or(world, f"/proc/{server.pid}/status")
        try:
            uid, gid = status_id(status, "Uid"), status_id(status, "Gid")
        except WorldError:
            continue
        others = re.search(r"^Groups:(.*)$", status, re.MULTILINE)
        groups = others[1].split() if others else []
        return uid, frozenset({gid, *(int(group) for group in groups)})
    uid, _, groups_of_ours = world.identity()
    return uid, groups_of_ours


def _temporary(world: World) -> list[Finding]:
    """D31i."""
    environment = world.environ()
    named = [environment[name] for name in ("TMPDIR", "TEMP", "TMP") if environment.get(name)]
    places = list(dict.fromkeys([*named, *_TEMPORARY]))
    usable = next((path for path in places if can_write(world, path)), None)
    read_only = "ro" in mount_of(world, "/")[2]
    evidence: dict[str, str | int | bool | list[str] | None] = {
        "tried": places,
        "usable": usable,
        "root_read_only": read_only,
    }
    if usable is None:
        return [
            fail(
                "no directory takes temporary files",
                "The root file system is read-only and nothing writable is mounted on /tmp."
                if read_only
                else "None of them may be written by this user.",
                (
                    '# in docker-compose.yml, service web: tmpfs: ["/tmp:size=16m,mode=1777"]',
                    "docker-compose up -d web      # or: docker run --tmpfs /tmp ...",
                ),
                "/tmp",  # noqa: S108
                **evidence,
            )
        ]
    space = world.space(usable)
    evidence |= {"size_bytes": space.size_bytes, "free_bytes": space.free_bytes}
    small = space.free_bytes < (1 - FULL) * space.size_bytes
    if small and space.free_bytes < SMALL_BYTES:
        return [
            warn(
                f"{usable} has {mib(space.free_bytes)} of {mib(space.size_bytes)} left",
                'Programs that write there fail with "No space left on device".',
                (
                    f"ls -la {usable}",
                    '# or larger, in docker-compose.yml: tmpfs: ["/tmp:size=64m,mode=1777"]',
                ),
                usable,
                **evidence,
            )
        ]
    return ok(f"temporary files go to {usable}", **evidence)


CHECKS: Final = (
    Check(
        "D29i",
        "Shared memory isn't full",
        Scope.INSIDE,
        "[Errno 28] No space left on device, or Bus error (exit 135)",
        _shared_memory,
    ),
    Check(
        "D30i",
        "The data directory can be written",
        Scope.BOTH,
        "PermissionError: [Errno 13] Permission denied: '/data/...'",
        _data,
    ),
    Check(
        "D31i",
        "There is a place for temporary files",
        Scope.INSIDE,
        "FileNotFoundError: No usable temporary directory found; [Errno 30] Read-only file system",
        _temporary,
    ),
)
