"""Users, directories and memory files as this process sees them."""

from __future__ import annotations

import re
from typing import Final

from ragdock.ops.doctor.model import Check, Finding, Scope, Status
from ragdock.ops.doctor.place import Place, elsewhere, our_servers, place
from ragdock.ops.doctor.reading import (
    fail,
    may_write,
    mib,
    mount_of,
    ok,
    read_or,
    settings,
    skip,
    warn,
)
from ragdock.ops.doctor.world import FileStat, World, WorldError

__all__ = ["CHECKS"]

FULL: Final = 0.9
SMALL_BYTES: Final = 64 * 2**20
_FOLDERS: Final = frozenset({"audit", "collections", "contents", "owners", "readers"})
_ZONES: Final = "/usr/share/zoneinfo"
_POSIX_ZONE: Final = re.compile(r"<?[A-Za-z0-9+-]{3,}>?(?:[-+]?\d{1,2}.*)?")
_TEMPORARY: Final = ("/tmp", "/var/tmp", "/usr/tmp")  # noqa: S108 - where tempfile looks


def _identity(world: World) -> list[Finding]:
    """D28i."""
    status = world.read("/proc/1/status")
    uid, gid = _status_id(status, "Uid"), _status_id(status, "Gid")
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


def _status_id(status: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+\d+\s+(\d+)", status, re.MULTILINE)
    if not found:
        raise WorldError("unsupported", f"/proc/1/status names no {name}")
    return int(found[1])


def _nameless(world: World) -> list[Finding]:
    """D28b."""
    uid, _, _ = world.identity()
    home = world.environ().get("HOME", "")
    names = [
        line.split(":")[0] for line in world.read("/etc/passwd").splitlines() if _is(line, uid)
    ]
    evidence = {"uid": uid, "passwd": names[0] if names else None, "HOME": home or None}
    if home and home != "/" and _can_write(world, home):
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


def _can_write(world: World, path: str) -> bool:
    try:
        return world.writable(path)
    except WorldError:
        return False


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
    if found := elsewhere(world):
        return found
    path = str(settings(world)["data_dir"])
    uid, groups = _server_user(world)
    own_uid, _, _ = world.identity()
    stat = _stat(world, path)
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
        cause = f"The server runs as uid {uid}, and {path} belongs to {stat.uid}:{stat.gid}."
        if may_write(stat, uid, groups):
            cause = f"The file system of {path} takes no files: it is read-only or full."
        return [_unwritable(path, uid, stat, cause, evidence)]
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
    if _can_write(world, parent):
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


def _unwritable(
    path: str,
    uid: int,
    stat: FileStat,
    cause: str,
    evidence: dict[str, str | int | list[str]],
) -> Finding:
    return Finding(
        Status.FAIL,
        f"the data directory {path} can't be written by uid {uid}",
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
    if place(world) is Place.CONTAINER:
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
            stat = _stat(world, f"{folder}/{name}") if ours else None
            if stat is not None and not may_write(stat, uid, groups):
                found.append(f"{folder}/{name}".removeprefix(f"{path}/"))
    return found


def _server_user(world: World) -> tuple[int, frozenset[int]]:
    """Whom the server runs as: the running one, else who asks."""
    inside = place(world) is Place.CONTAINER
    for server in our_servers(world):
        if inside or not server.inside:
            status = read_or(world, f"/proc/{server.pid}/status")
            try:
                uid, gid = _status_id(status, "Uid"), _status_id(status, "Gid")
            except WorldError:
                continue
            others = re.search(r"^Groups:(.*)$", status, re.MULTILINE)
            groups = others[1].split() if others else []
            return uid, frozenset({gid, *(int(group) for group in groups)})
    uid, _, groups_of_ours = world.identity()
    return uid, groups_of_ours


def _stat(world: World, path: str) -> FileStat | None:
    try:
        return world.stat(path)
    except WorldError as exc:
        if exc.kind == "absent":
            return None
        raise


def _temporary(world: World) -> list[Finding]:
    """D31i."""
    environment = world.environ()
    named = [environment[name] for name in ("TMPDIR", "TEMP", "TMP") if environment.get(name)]
    places = list(dict.fromkeys([*named, *_TEMPORARY]))
    usable = next((path for path in places if _can_write(world, path)), None)
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


def _zone(world: World) -> list[Finding]:
    """D33."""
    zone = world.environ().get("TZ", "").removeprefix(":")
    if not zone:
        return ok("TZ is not set: times are the machine's, UTC in a container")
    evidence = {"TZ": zone}
    path = zone if zone.startswith("/") else f"{_ZONES}/{zone}"
    if _stat(world, path) is not None:
        return ok(f"times are those of {zone}", **evidence)
    if zone in ("UTC", "GMT") or ("/" not in zone and _is_posix(zone)):
        return ok(f"times are those of {zone}", **evidence)
    installed = _stat(world, _ZONES) is not None
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
    Check(
        "D33",
        "The time zone is known",
        Scope.BOTH,
        "times in logs are UTC although TZ says otherwise",
        _zone,
    ),
)
