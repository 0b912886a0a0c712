"""The host's disk, the containers' logs, the clocks, and an Engine too old for the image."""

from __future__ import annotations

import re
from typing import Any, Final

from ragdock.ops.doctor.history import last_lines
from ragdock.ops.doctor.mending import add_file, sudo
from ragdock.ops.doctor.model import Check, Finding, Scope, Status
from ragdock.ops.doctor.stack import (
    Container,
    containers,
    dig,
    folder,
    items,
    numbers,
    seconds_of,
)
from ragdock.ops.doctor.world import Space, World, WorldError

__all__ = ["CHECKS"]

GIB: Final = 1 << 30
LOW, FULL = 0.10, 0.05
PLENTY: Final = 20 * GIB
"""That much free space is no cause for alarm, whatever share of a big disk it is."""
LARGE_LOG: Final = GIB
SKEW_SECONDS: Final = 15.0
"""A token or certificate is off by seconds at worst; the question itself takes some of them."""
CLONE3: Final = (20, 10, 10)


_PRUNE: Final = (
    "docker builder prune --force",
    "docker image prune --force",
    "# More, if nothing else on this host needs it: docker system prune --all",
)
_LARGEST: Final = (
    "du -xak . | sort -n | tail -n 20",
    "# Delete or move what isn't needed, or give ./data a larger disk.",
)


def _disk(world: World) -> list[Finding]:
    """D09."""
    docker_root = str(dig(world.engine("/info"), "DockerRootDir") or "/var/lib/docker")
    places = [docker_root, folder(world)]
    spaces: dict[str, Space] = {}
    for place in places:
        try:
            spaces[place] = world.space(place)
        except WorldError:
            continue
    if not spaces:
        return [Finding(Status.SKIP, "the Engine's disk isn't this machine's")]
    found = [
        finding
        for place, space in spaces.items()
        if (finding := _fill(world, place, space, is_engines=place == docker_root))
    ]
    free = min(space.free_bytes for space in spaces.values()) / GIB
    return found[:1] or [Finding(Status.OK, f"{free:.0f} GiB of the disk are free")]


def _fill(world: World, place: str, space: Space, *, is_engines: bool) -> Finding | None:
    share = space.free_bytes / max(space.size_bytes, 1)
    inodes = space.free_inodes / space.inodes if space.inodes else 1.0
    if inodes >= LOW and (share >= LOW or space.free_bytes >= PLENTY):
        return None
    full = inodes < FULL or (share < FULL and space.free_bytes < PLENTY / 4)
    what = "files" if inodes < LOW else "space"
    evidence: dict[str, Any] = {
        "path": place,
        "free_bytes": space.free_bytes,
        "size_bytes": space.size_bytes,
        "free_inodes": space.free_inodes,
    }
    evidence |= _reclaimable(world) if is_engines else {}
    return Finding(
        Status.FAIL if full else Status.WARN,
        f"{min(share, inodes):.0%} of {what} left on the disk of {place}",
        place,
        evidence,
        "Images, build caches and logs pile up until nothing can be written."
        if is_engines
        else "This disk isn't the Engine's: what fills it are the documents, or other files.",
        _PRUNE if is_engines else _LARGEST,
    )


def _reclaimable(world: World) -> dict[str, int]:
    """Bytes that pruning would free."""
    try:
        usage = world.engine("/system/df")
    except WorldError:
        return {}
    unused = [image for image in items(dig(usage, "Images")) if image.get("Containers") == 0]
    cache = items(dig(usage, "BuildCache"))
    return {
        "reclaimable_images_bytes": int(sum(numbers(one.get("Size")) or 0 for one in unused)),
        "reclaimable_cache_bytes": int(
            sum(numbers(one.get("Size")) or 0 for one in cache if not one.get("InUse"))
        ),
    }


def _log_growth(world: World) -> list[Finding]:
    """D10."""
    ours = containers(world)
    if not ours:
        return [Finding(Status.SKIP, "no container of this project: see D00")]
    sizes = {one.name: _log_size(world, one) for one in ours if _grows(one)}
    if not sizes:
        return [Finding(Status.OK, f"{len(ours)} container{'s' * (len(ours) != 1)}, bounded logs")]
    services = sorted({one.service for one in ours if one.name in sizes and one.service})
    logging = "    logging: { driver: json-file, options: { max-size: 10m, max-file: '3' } }"
    lines = ["services:", *(line for name in services for line in (f"  {name}:", logging))]
    largest = max(sizes.values())
    return [
        Finding(
            Status.FAIL if largest > LARGE_LOG else Status.WARN,
            f"logs grow without bound; the largest has {largest / GIB:.1f} GiB"
            if largest > LARGE_LOG
            else "logs grow without bound",
            ", ".join(sizes),
            {"driver": "json-file", "max-size": None, "largest_log_bytes": largest},
            "The driver json-file keeps everything unless it is given max-size.",
            add_file(world, ours[0], "logging", lines)
            if services
            else ("# Start it with --log-opt max-size=10m --log-opt max-file=3",),
        )
    ]


def _grows(one: Container) -> bool:
    options = one.get("HostConfig", "LogConfig", "Config")
    bounded = isinstance(options, dict) and "max-size" in options
    return one.get("HostConfig", "LogConfig", "Type") == "json-file" and not bounded


def _log_size(world: World, one: Container) -> int:
    """Bytes; 0 when only root may know."""
    try:
        return world.stat(str(one.get("LogPath") or "")).size_bytes
    except WorldError:
        return 0


def _clock(world: World) -> list[Finding]:
    """D11."""
    there = seconds_of(dig(world.engine("/info"), "SystemTime"))
    if there is None:
        return [Finding(Status.SKIP, "the Engine doesn't tell its time")]
    skew = there - world.now()
    if abs(skew) <= SKEW_SECONDS:
        return [Finding(Status.OK, "the Engine's clock is this machine's")]
    side = "ahead" if skew > 0 else "behind"
    return [
        Finding(
            Status.FAIL,
            f"the Engine's clock is {abs(skew):.0f} s {side}",
            evidence={"engine": str(dig(world.engine("/info"), "SystemTime")), "skew_s": skew},
            cause="The Engine's machine (a virtual one, after a sleep) has lost the time.",
            fix=(
                f"{sudo(world)}timedatectl set-ntp true",
                "# Docker Desktop: restart it; its virtual machine takes over the time then.",
            ),
        )
    ]


def _threads(world: World) -> list[Finding]:
    """D04."""
    text = str(dig(world.engine("/version"), "Version"))
    version = tuple(int(part) for part in re.findall(r"\d+", text)[:3])
    if version >= CLONE3 or len(version) < 3:
        return [Finding(Status.OK, f"Engine {text} lets programs of today start threads")]
    try:
        ours = containers(world)
    except WorldError:
        ours = []
    said = {one.name: "\n".join(last_lines(world, one, 30)) for one in ours}
    broken = [name for name, log in said.items() if "can't start new thread" in log]
    return [
        Finding(
            Status.FAIL if broken else Status.WARN,
            f"Docker Engine {text} is too old for images with glibc 2.34 or later",
            evidence={"version": text, "wanted": "20.10.10", "containers": broken},
            cause="Its seccomp profile answers clone3 with EPERM, where glibc expects ENOSYS.",
            fix=(
                f"{sudo(world)}apt-get update && {sudo(world)}apt-get install --only-upgrade -y "
                "docker.io docker-ce libseccomp2",
            ),
        )
    ]


CHECKS: Final = (
    Check(
        "D04",
        "The Engine is new enough for the image",
        Scope.HOST,
        "RuntimeError: can't start new thread, at the very start",
        _threads,
    ),
    Check(
        "D09",
        "The disk has room",
        Scope.HOST,
        "OSError: [Errno 28] No space left on device",
        _disk,
    ),
    Check(
        "D10",
        "Logs are bounded",
        Scope.HOST,
        "the disk fills, and `docker system df` doesn't say by what",
        _log_growth,
    ),
    Check(
        "D11",
        "The clocks agree",
        Scope.HOST,
        "certificate is not yet valid; tokens expire at once; negative latencies",
        _clock,
    ),
)
