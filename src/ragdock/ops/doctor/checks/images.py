"""Images: how they are built, whether they are the newest, and what must not be in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

from ragdock.ops.doctor.mending import up
from ragdock.ops.doctor.model import Check, Evidence, Finding, Scope, Status
from ragdock.ops.doctor.redact import is_secret, masked_length
from ragdock.ops.doctor.stack import (
    Container,
    compose_command,
    dig,
    each,
    folder,
    in_folder,
    items,
    seconds_of,
    texts,
)
from ragdock.ops.doctor.tar import file_in
from ragdock.ops.doctor.world import World, WorldError

__all__ = ["CHECKS"]

PLUGIN_PLACES: Final = (
    "/usr/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
)
INSTALL_BUILDX: Final = (
    "sudo apt-get install -y docker-buildx-plugin || sudo apt-get install -y docker-buildx"
)
NEEDS_BUILDX: Final = (23, 0)
_BUILDKIT_ONLY: Final = re.compile(
    r"^\s*RUN\s+--(?:mount|network|security)=|^\s*(?:COPY|ADD)\s+.*--(?:link|chmod|checksum)"
    r"|<<-?[A-Z]+\s*$",
    re.MULTILINE,
)
REGISTRY: Final = "registry-1.docker.io"
MAX_COMPARED: Final = 8
MAX_FILES: Final = 3000
# What the Dockerfile copies into the image, by where it comes to lie.
SOURCES: Final = {"m3_1_dockerize.py": "/app/m3_1_dockerize.py", "src": "/app/src"}
_ASSIGNED: Final = re.compile(
    r"\b([A-Za-z_][A-Za-z0-9_]*)=(<redacted \d+[a-z ]*>|[^\s\"'|;&$<][^\s\"']*)"
)


def _dockerfile(world: World) -> str:
    return world.read(in_folder(world, "Dockerfile"))


def _builder(world: World) -> list[Finding]:
    """D05."""
    text = _dockerfile(world)
    said = world.output("docker", "--version")
    version = tuple(int(part) for part in re.findall(r"\d+", said)[:2])
    modern = _BUILDKIT_ONLY.search(text)
    wanted = world.environ().get("DOCKER_BUILDKIT") == "1"
    if version < NEEDS_BUILDX or not (modern or wanted) or _has_buildx(world):
        return [Finding(Status.OK, "the builder that the docker client needs is there")]
    evidence: Evidence = {
        "client": said.strip(),
        "buildx": False,
        "Dockerfile": modern[0].strip() if modern else "",
        "DOCKER_BUILDKIT": world.environ().get("DOCKER_BUILDKIT"),
    }
    why = "the Dockerfile needs BuildKit" if modern else "DOCKER_BUILDKIT=1 asks for BuildKit"
    return [
        Finding(
            Status.FAIL,
            f"{why}, and this docker client has no buildx",
            evidence=evidence,
            cause="Since version 23 the client builds with BuildKit only through that plugin.",
            fix=(INSTALL_BUILDX,) if modern else ("unset DOCKER_BUILDKIT",),
        )
    ]


def _has_buildx(world: World) -> bool:
    home = world.environ().get("DOCKER_CONFIG") or f"{world.environ().get('HOME', '')}/.docker"
    for place in (f"{home}/cli-plugins", *PLUGIN_PLACES):
        try:
            if "docker-buildx" in world.entries(place):
                return True
        except WorldError:
            continue
    return False


def _frontend(world: World) -> list[Finding]:
    """D06."""
    lines = _dockerfile(world).lstrip("\ufeff").splitlines()
    found = re.match(r"#\s*syntax\s*=\s*(\S+)", lines[0] if lines else "")
    if not found:
        return [Finding(Status.OK, "the Dockerfile asks for no frontend from a registry")]
    host = found[1].split("/")[0]
    registry = host if "." in host or ":" in host else REGISTRY
    try:
        world.resolve(registry.split(":")[0])
    except WorldError as exc:
        return [
            Finding(
                Status.FAIL,
                f"the Dockerfile fetches {found[1]} from a registry that can't be reached",
                evidence={"line": lines[0], "registry": registry, "error": exc.detail},
                cause="`# syntax=` makes each build ask a registry for the Dockerfile's frontend.",
                fix=("sed -i '1{/^# *syntax *=/d}' Dockerfile",),
            )
        ]
    return [Finding(Status.OK, f"the registry of {found[1]} can be found")]


# ---- D24 -----------------------------------------------------------------------------------------


def _fresh(world: World, one: Container) -> Finding | None:
    """D24."""
    if not one.is_ours:
        return None
    tag = str(one.get("Config", "Image"))
    try:
        image = world.engine(f"/images/{quote(tag, safe='')}/json")
    except WorldError as exc:
        if exc.kind != "status":
            raise
        image = {}
    current = dig(image, "Id")
    if current and current != one.get("Image"):
        return _older_than_tag(world, one, tag, str(current), image)
    if one.service != "worker" and (changed := _changed_since(world, one, image)):
        return _older_than_source(world, one, image, changed)
    return _older_than_config(world, one)


def _older_than_tag(
    world: World, one: Container, tag: str, current: str, image: dict[str, Any]
) -> Finding:
    return Finding(
        Status.FAIL,
        f"runs an image that {tag} no longer names",
        one.name,
        {
            "runs": str(one.get("Image"))[:19],
            "tag_names": current[:19],
            "created": str(image.get("Created")),
            "container_created": str(one.get("Created")),
        },
        "The image was built or pulled anew after this container was made.",
        (up(world, one, "--force-recreate", one.service).rstrip(),),
    )


def _older_than_source(
    world: World, one: Container, image: dict[str, Any], changed: list[str]
) -> Finding:
    return Finding(
        Status.FAIL,
        f"the image lacks {len(changed)} change{'s' * (len(changed) != 1)} of the source",
        one.name,
        {"image_created": str(image.get("Created")), "newer": changed},
        "The source was edited after the image was built; the image holds a copy.",
        (up(world, one, "--build"),),
    )


def _changed_since(world: World, one: Container, image: dict[str, Any]) -> list[str]:
    """Files that are newer than the image and differ from its copy of them."""
    created = seconds_of(dig(image, "Created"))
    place = one.label("project.working_dir") or folder(world)
    if created is None:
        return []
    newer = sorted(_newer(world, place, created), reverse=True)[:MAX_COMPARED]
    return [name for _, name, inner in newer if _differs(world, one, f"{place}/{name}", inner)]


def _newer(world: World, place: str, since: float) -> Iterator[tuple[float, str, str]]:
    """Time, name and place in the image of each source that was written later."""
    left = [(name, inner) for name, inner in SOURCES.items()]
    for n_seen, (name, inner) in enumerate(left):
        if n_seen > MAX_FILES:
            return
        try:
            found = world.stat(f"{place}/{name}")
            if found.kind == "dir":
                left += [
                    (f"{name}/{entry}", f"{inner}/{entry}")
                    for entry in world.entries(f"{place}/{name}")
                    if entry != "__pycache__" and not entry.startswith(".")
                ]
            elif found.modified_at > since and not name.endswith((".pyc", ".ipynb")):
                yield found.modified_at, name, inner
        except WorldError:
            continue


def _differs(world: World, one: Container, path: str, inner: str) -> bool:
    here = world.read(path)
    try:
        archive = world.engine(f"/containers/{one.id}/archive?path={quote(inner)}")
    except WorldError as exc:
        return exc.kind == "status" and exc.detail.startswith("404")
    there = file_in(archive)
    if there is None or len(here) > 200_000:
        return False
    return there.encode("latin-1", "replace").decode(errors="replace") != here


def _older_than_config(world: World, one: Container) -> Finding | None:
    """By the hash that compose itself keeps; another version of compose hashes otherwise."""
    label, service = one.label("config-hash"), one.service
    if not label or not service:
        return None
    command = compose_command(world, one).split()
    try:
        version = world.output(*command[:-1] or command, "version", "--short")
    except WorldError:
        return None
    return None if version.strip() != one.label("version") else _hash(world, one, label)


def _hash(world: World, one: Container, label: str) -> Finding | None:
    place = one.label("project.working_dir")
    files = [name for name in one.label("project.config_files").split(",") if name]
    paths = [name if name.startswith("/") else f"{place}/{name}" for name in files]
    try:
        said = world.output(
            "docker-compose",
            *(word for path in paths for word in ("-f", path)),
            "-p", one.project, "--project-directory", place, "config", "--hash", one.service,
        )  # fmt: skip
    except WorldError:
        return None
    now = said.split()[-1] if said.split() else ""
    if not re.fullmatch(r"[0-9a-f]{64}", now) or now == label:
        return None
    return Finding(
        Status.WARN,
        "the compose file or .env has changed since it was made",
        one.name,
        {"config_hash": label[:12], "now": now[:12], "compose": one.label("version")},
        "A running container keeps the settings that it was made with.",
        (up(world, one),),
    )


# ---- D25 -----------------------------------------------------------------------------------------


def _no_secrets(world: World, one: Container) -> Finding | None:
    """D25."""
    image = str(one.get("Image"))
    env = texts(dig(world.engine(f"/images/{quote(image, safe='')}/json"), "Config", "Env"))
    history = items(world.engine(f"/images/{quote(image, safe='')}/history"))
    found: dict[str, str] = {}
    for name, _, value in (line.partition("=") for line in env):
        if value and is_secret(name):
            found[name] = f"ENV, {masked_length(value)} characters"
    for step in history:
        for name, value in _ASSIGNED.findall(str(step.get("CreatedBy") or "")):
            if is_secret(name) and name not in found and masked_length(value) > 0:
                found[name] = f"a layer's command, {masked_length(value)} characters"
    if not found:
        return None
    names = ", ".join(found)
    tag = str(one.get("Config", "Image"))
    return Finding(
        Status.FAIL,
        f"its image holds {names}",
        one.name,
        {"image": tag, "secrets": [f"{name}: {where}" for name, where in found.items()]},
        "Whoever may pull the image reads it with `docker history --no-trunc`.",
        (
            f"# Revoke {names} where it was issued: what was in an image is known.",
            "# Take it out of the Dockerfile (ARG and ENV stay in layers), then:",
            f"{compose_command(world, one)} build --no-cache {one.service}",
            up(world, one),
        ),
    )


CHECKS: Final = (
    Check(
        "D05",
        "The docker client has its builder",
        Scope.HOST,
        "BuildKit is enabled but the buildx component is missing or broken",
        _builder,
    ),
    Check(
        "D06",
        "The Dockerfile builds without a registry's frontend",
        Scope.HOST,
        'failed to do request: Head "https://.../docker/dockerfile/manifests/1"',
        _frontend,
    ),
    Check(
        "D24",
        "Containers run the newest image",
        Scope.HOST,
        "my change has no effect",
        each(_fresh, "image, settings and source are of one age"),
    ),
    Check(
        "D25",
        "No secret is baked into an image",
        Scope.HOST,
        "(nothing, until somebody pulls the image)",
        each(_no_secrets, "no image holds a secret"),
    ),
)
