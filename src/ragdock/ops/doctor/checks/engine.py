"""The Docker Engine and the way to it."""

from __future__ import annotations

from typing import Final

from ragdock.ops.doctor.engine_api import DEFAULT_HOST
from ragdock.ops.doctor.model import Check, Finding, Scope, Status
from ragdock.ops.doctor.place import our_servers
from ragdock.ops.doctor.world import World, WorldError

__all__ = ["CHECKS"]


def _reachable(world: World) -> list[Finding]:
    """D01."""
    host = world.environ().get("DOCKER_HOST") or DEFAULT_HOST
    try:
        version = world.engine("/version")
    except WorldError as exc:
        return [_unreachable(world, host, exc)]
    said = f"Docker Engine {version.get('Version')} answers at {host}"
    return [Finding(Status.OK, said, evidence={"host": host, "version": version.get("Version")})]


def _unreachable(world: World, host: str, exc: WorldError) -> Finding:
    source = world.environ().get("DOCKER_HOST_SOURCE", "")
    evidence = {"host": host, "source": source, "error": exc.detail, "kind": exc.kind}
    if exc.kind == "denied":
        return Finding(Status.SKIP, "the socket is there, but not for this user: see D02")
    if exc.kind == "unsupported":
        raise exc
    if exc.kind == "absent" and not source and not _installed(world):
        return Finding(Status.SKIP, "Docker isn't installed here, so there is nothing to look at")
    if not source and any(not server.inside for server in our_servers(world)):
        return Finding(Status.SKIP, "no Docker Engine answers, and ragdock runs here without it")
    summary = f"no Docker Engine answers at {host}"
    if source == "DOCKER_HOST" and host != DEFAULT_HOST:
        cause = "DOCKER_HOST names a place where no daemon listens (any more)."
        return Finding(Status.FAIL, summary, "", evidence, cause, ("unset DOCKER_HOST",))
    if source.startswith("context"):
        cause = f"The docker {source} names a place where no daemon listens (any more)."
        return Finding(Status.FAIL, summary, "", evidence, cause, ("docker context use default",))
    down = exc.kind in ("absent", "refused")
    cause = "The daemon isn't running." if down else "The daemon is there but doesn't answer."
    start = "sudo systemctl start docker || sudo service docker start"
    return Finding(Status.FAIL, summary, "", evidence, cause, (start,))


def _installed(world: World) -> bool:
    try:
        world.output("docker", "--version")
    except WorldError as exc:
        return exc.kind == "status"
    return True


def _permitted(world: World) -> list[Finding]:
    """D02."""
    try:
        world.engine("/version")
    except WorldError as exc:
        if exc.kind != "denied":
            raise
    else:
        return [Finding(Status.OK, "this user may talk to the Docker Engine")]
    host = world.environ().get("DOCKER_HOST") or DEFAULT_HOST
    path = host.removeprefix("unix://")
    user, _, groups = world.identity()
    evidence: dict[str, str | int | list[str]] = {
        "socket": path,
        "uid": user,
        "groups": [str(group) for group in sorted(groups)],
    }
    cause = "This user may not open the socket."
    try:
        found = world.stat(path)
    except WorldError:
        pass
    else:
        evidence |= {"socket_gid": found.gid, "socket_mode": f"{found.mode:o}"}
        if found.gid not in groups:
            cause = f"This user isn't in group {found.gid}, whose members may open the socket."
    return [
        Finding(
            Status.FAIL,
            "no permission to talk to the Docker Engine",
            subject=path,
            evidence=evidence,
            cause=cause,
            fix=(
                'sudo usermod -aG docker "$USER"',
                "# Then log in again (or: newgrp docker). Whoever is in that group is root here.",
            ),
        )
    ]


def _api_version(world: World) -> list[Finding]:
    """D03."""
    version = world.engine("/version")
    newest, oldest = str(version.get("ApiVersion")), str(version.get("MinAPIVersion"))
    wanted = world.environ().get("DOCKER_API_VERSION")
    evidence = {"DOCKER_API_VERSION": wanted, "ApiVersion": newest, "MinAPIVersion": oldest}
    if not wanted or _number(oldest) <= _number(wanted) <= _number(newest):
        return [Finding(Status.OK, f"the Engine speaks {oldest} to {newest}", evidence=evidence)]
    side = "new" if _number(wanted) > _number(newest) else "old"
    return [
        Finding(
            Status.FAIL,
            f"DOCKER_API_VERSION={wanted} is too {side} for this Engine ({oldest} to {newest})",
            evidence=evidence,
            cause="The variable pins what the docker client speaks, so it can't adapt itself.",
            fix=("unset DOCKER_API_VERSION", "docker version"),
        )
    ]


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


CHECKS: Final = (
    Check(
        "D01",
        "The Docker Engine answers",
        Scope.HOST,
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. "
        "Is the docker daemon running?",
        _reachable,
    ),
    Check(
        "D02",
        "This user may use Docker",
        Scope.HOST,
        "permission denied while trying to connect to the Docker daemon socket",
        _permitted,
    ),
    Check(
        "D03",
        "Client and Engine speak the same API",
        Scope.HOST,
        "client version 1.50 is too new. Maximum supported API version is 1.41",
        _api_version,
    ),
)
