"""Which containers are ours, and the parts of their descriptions that checks read.

Names of containers differ between versions of compose (`web_1`, `web-1`), so they are found by
labels. Everything here copes with answers of any shape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from ragdock.ops.doctor.model import Finding, Status
from ragdock.ops.doctor.world import World, WorldError

__all__ = [
    "Container",
    "compose_command",
    "containers",
    "default_project",
    "dig",
    "each",
    "folder",
    "has_compose_file",
    "in_folder",
    "items",
    "numbers",
    "project_containers",
    "seconds_of",
    "texts",
    "variable",
]

SERVICES: Final = frozenset({"web", "worker", "redis"})
TITLE: Final = "rag-api"
_LABEL: Final = "com.docker.compose."


@dataclass(frozen=True, slots=True)
class Container:
    """A container: the answer of `/containers/{id}/json`."""

    raw: dict[str, Any]

    @property
    def id(self) -> str:
        """The whole id."""
        return str(dig(self.raw, "Id"))

    @property
    def name(self) -> str:
        """Its name without the slash."""
        return str(dig(self.raw, "Name") or self.id[:12]).lstrip("/")

    @property
    def service(self) -> str:
        """The compose service, or "" when compose didn't make it."""
        return self.label("service")

    @property
    def project(self) -> str:
        """The compose project, or ""."""
        return self.label("project")

    @property
    def is_ours(self) -> bool:
        """Whether it runs ragdock itself."""
        labels = dig(self.raw, "Config", "Labels")
        title = dig(labels, "org.opencontainers.image.title")
        return title == TITLE or self.service in ("web", "worker")

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return dig(self.raw, "State", "Running") is True and not self.get("State", "Restarting")

    def is_up(self) -> bool:
        """`running`, for those who want a function."""
        return self.running

    def label(self, name: str) -> str:
        """A label of compose's."""
        return str(dig(self.raw, "Config", "Labels", _LABEL + name) or "")

    def get(self, *path: str) -> Any:
        """A value of the description, or None."""
        return dig(self.raw, *path)

    def environment(self) -> dict[str, str]:
        """Its variables; those of secrets are masked."""
        pairs = (line.partition("=") for line in texts(self.get("Config", "Env")))
        return {name: value for name, _, value in pairs}


def dig(value: Any, *path: str | int) -> Any:
    """The value below these keys, or None where the shape isn't so."""
    for key in path:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int) and -len(value) <= key < len(value):
            value = value[key]
        else:
            return None
    return value


def items(value: Any) -> list[dict[str, Any]]:
    """The mappings of a list."""
    found = value if isinstance(value, list) else []
    return [item for item in found if isinstance(item, dict)]


def texts(value: Any) -> list[str]:
    """The strings of a list."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def numbers(value: Any) -> float | None:
    """The value if it is a number."""
    return float(value) if isinstance(value, int | float) else None


def seconds_of(stamp: object) -> float | None:
    """Seconds since the epoch of a time as the Engine writes it; None for "never"."""
    found = re.fullmatch(
        r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", str(stamp or "")
    )
    if not found or found[1].startswith("0001"):
        return None
    try:
        whole = datetime.fromisoformat(found[1] + found[3].replace("Z", "+00:00"))
    except ValueError:
        return None
    return whole.timestamp() + float(found[2] or 0)


def project_containers(world: World, project: str) -> list[Container]:
    """All containers of a compose project, those of `compose run` left out."""
    return _inspect(world, {"label": [f"{_LABEL}project={project}"]})


def containers(world: World) -> list[Container]:
    """Ours: of the project that is named, of this folder, else whatever runs the image.

    Raises `WorldError` when the Engine doesn't answer.
    """
    if project := _named_project(world):
        return project_containers(world, project)
    label = f"{_LABEL}project.working_dir={folder(world)}"
    if found := [one for one in _inspect(world, {"label": [label]}) if one.service in SERVICES]:
        projects = {one.project for one in found}
        return [one for name in sorted(projects) for one in project_containers(world, name)]
    if has_compose_file(world):
        return project_containers(world, default_project(folder(world)))
    found = _inspect(world, {"label": [f"org.opencontainers.image.title={TITLE}"]})
    projects = {one.project for one in found if one.project}
    alone = [one for one in found if not one.project]
    return alone + [one for name in sorted(projects) for one in project_containers(world, name)]


def _named_project(world: World) -> str:
    return world.environ().get("COMPOSE_PROJECT_NAME") or variable(world, "COMPOSE_PROJECT_NAME")


def _inspect(world: World, filters: dict[str, list[str]]) -> list[Container]:
    query = quote(json.dumps(filters, separators=(",", ":")))
    found = []
    for item in items(world.engine(f"/containers/json?all=1&filters={query}")):
        if dig(item, "Labels", f"{_LABEL}oneoff") == "True":
            continue
        try:
            raw = world.engine(f"/containers/{item.get('Id')}/json")
        except WorldError:
            continue  # It went away since.
        if isinstance(raw, dict):
            found.append(Container(raw))
    return sorted(found, key=lambda one: one.name)


def folder(world: World) -> str:
    """The folder that the doctor was run in."""
    return world.environ().get("PWD", "/")


def in_folder(world: World, name: str) -> str:
    """The path of a file beside `docker-compose.yml`."""
    return f"{folder(world).rstrip('/')}/{name}"


def has_compose_file(world: World) -> bool:
    """Whether the doctor was run in a stack's folder."""
    try:
        world.stat(in_folder(world, "docker-compose.yml"))
    except WorldError:
        return False
    return True


def default_project(directory: str) -> str:
    """The name that compose gives to the project of a directory."""
    name = directory.rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"^[^a-z0-9]+|[^a-z0-9_-]", "", name)


def compose_command(world: World, container: Container | None = None, *, files: bool = True) -> str:
    """What begins a line for compose, pasted in the stack's folder.

    `files=False` leaves out the `-f` that the stack was started with: COMPOSE_FILE names them.
    """
    try:
        world.output("docker-compose", "version", "--short")
        program = "docker-compose"
    except WorldError as exc:
        program = "docker compose" if exc.kind == "absent" else "docker-compose"
    place = (container.label("project.working_dir") if container else "") or folder(world)
    project = (container.project if container else "") or world.environ().get(
        "COMPOSE_PROJECT_NAME", ""
    )
    options = _file_options(world, container, place) if container and files else []
    if project and project not in (default_project(place), variable(world, "COMPOSE_PROJECT_NAME")):
        options.append(f"-p {project}")
    return " ".join([program, *options])


def _file_options(world: World, container: Container, place: str) -> list[str]:
    """The `-f` without which compose would read other files."""
    labels = container.label("project.config_files").split(",")
    names = [name.rpartition("/")[2] for name in labels if name]
    usual = variable(world, "COMPOSE_FILE", place).split(":")
    if names == usual or set(names) <= {"docker-compose.yml", "docker-compose.override.yml"}:
        return []
    return [f"-f {name}" for name in names]


def variable(world: World, name: str, place: str = "") -> str:
    """What `.env` in the stack's folder says last about a variable, or ""."""
    try:
        text = world.read(f"{place}/.env" if place else in_folder(world, ".env"))
    except WorldError:
        return ""
    found = re.findall(rf"^{name}=['\"]?([^\s'\"#]*)", text, re.MULTILINE)
    return str(found[-1]) if found else ""


def each(
    look: Callable[[World, Container], Finding | None],
    ok: str,
    of: Callable[[Container], bool] = lambda _: True,
) -> Callable[[World], list[Finding]]:
    """A check of each container: what it finds, else `ok`, which may have `{n}` for how many."""

    def look_at_all(world: World) -> list[Finding]:
        ours = [one for one in containers(world) if of(one)]
        if not ours:
            return [Finding(Status.SKIP, "no such container of this project: see D00")]
        found = list(_found(world, look, ours))
        plural = "s" if len(ours) != 1 else ""
        return found or [Finding(Status.OK, ok.format(n=len(ours), s=plural))]

    return look_at_all


def _found(
    world: World, look: Callable[[World, Container], Finding | None], ours: list[Container]
) -> Iterator[Finding]:
    for container in ours:
        try:
            finding = look(world, container)
        except WorldError as exc:
            finding = Finding(Status.SKIP, f"can't look: {exc.detail}", container.name)
        if finding is not None:
            yield finding
