"""The lines that mend: for a shell in the stack's folder, of the kind that can be pasted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ragdock.ops.doctor.stack import Container, compose_command, folder, in_folder
from ragdock.ops.doctor.world import World, WorldError

__all__ = [
    "OVERRIDE",
    "add_file",
    "compose_files",
    "declared_in",
    "override",
    "set_variables",
    "sudo",
    "up",
]

OVERRIDE: Final = "docker-compose.override.yml"
MENDED: Final = "docker-compose.doctor-"


def sudo(world: World) -> str:
    """What a line begins with that only root may run."""
    return "" if world.identity()[0] == 0 else "sudo "


def up(world: World, container: Container | None = None, *options: str) -> str:
    """Start what has changed; with `--force-recreate` and a service, that whatever happened."""
    return " ".join([compose_command(world, container), "up", "-d", *options])


def _where(world: World, container: Container | None) -> str:
    return (container.label("project.working_dir") if container else "") or folder(world)


def set_variables(world: World, container: Container | None, **values: object) -> tuple[str, ...]:
    """Put variables into `.env` and start again; the last line of a name counts."""
    try:
        text = world.read(f"{_where(world, container)}/.env")
    except WorldError:
        text = ""
    first = bool(text) and not text.endswith("\n")
    lines = [f"echo {name}={value} >> .env" for name, value in values.items()]
    if first:
        lines[0] = lines[0].replace("echo ", "printf '\\n%s\\n' ", 1)
    return (*lines, up(world, container))


def compose_files(world: World, container: Container | None) -> list[str]:
    """The names of the files that the stack is made of, as far as they stand in its folder."""
    if container is not None and (label := container.label("project.config_files")):
        return [name.rpartition("/")[2] for name in label.split(",")]
    found = ["docker-compose.yml"]
    try:
        world.stat(in_folder(world, OVERRIDE))
    except WorldError:
        return found
    return [*found, OVERRIDE]


def declared_in(world: World, container: Container, text: str) -> str:
    """The compose file of the stack that holds this text, or ""."""
    for name in reversed(compose_files(world, container)):
        try:
            if text in world.read(f"{_where(world, container)}/{name}"):
                return name
        except WorldError:
            continue
    return ""


def override(world: World, container: Container, body: Sequence[str]) -> tuple[str, ...]:
    """Say something else about the container's service, in one more file of compose's."""
    service = container.service or "web"
    topic = f"{service}-{body[0].split(':')[0]}"
    lines = ["services:", f"  {service}:", *(f"    {line}" for line in body)]
    return add_file(world, container, topic, lines)


def add_file(
    world: World, container: Container, topic: str, lines: Sequence[str]
) -> tuple[str, ...]:
    """Write one more compose file and have compose read it too.

    Nobody's file is changed, and what several checks write lies side by side: COMPOSE_FILE in
    `.env` takes up all that are there when the line runs.
    """
    own = [name for name in compose_files(world, container) if not name.startswith(MENDED)]
    names = " ".join([*own, f"{MENDED}*.yml"])
    return (
        f"cat > {MENDED}{topic}.yml <<'END'",
        *lines,
        "END",
        f"echo COMPOSE_FILE=$(echo {names} | tr ' ' ':') >> .env",
        f"{compose_command(world, container, files=False)} up -d",
    )
