"""Checks of docker-compose.yml: checkpoints C."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from imagecheck.subject import Subject

HOST_THINGS = ("privileged", "pid", "ipc", "network_mode", "userns_mode", "devices", "cap_add")
SECRET = re.compile(r"(PASSWORD|SECRET|TOKEN|_KEY|AUTH)$")


def seconds(text: str) -> float:
    """`90s`, `1m30s`, `2h`."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    return sum(float(n) * units[u] for n, u in re.findall(r"([\d.]+)([hms])", str(text)))


def megabytes(text: str) -> float:
    """`256m`, `2g`, with the default of a variable filled in."""
    found = re.search(r"([\d.]+)\s*([kmg])b?$", default(text).lower())
    return float(found[1]) * {"k": 1 / 1024, "m": 1.0, "g": 1024.0}[found[2]] if found else 0.0


def default(value: Any) -> str:
    """The text with each variable replaced by its default."""
    return re.sub(r"(?<!\$)\$\{\w+:?-([^}]*)\}", r"\1", str(value))


def command(service: dict[str, Any]) -> str:
    found = service.get("command", "")
    return " ".join(found) if isinstance(found, list) else str(found)


def no_version(subject: Subject) -> list[str]:
    """No `version:` and no `name:`: the one is obsolete, 1.29 rejects the other."""
    return [f"{key}: at the top" for key in ("version", "name") if key in subject.compose]


def waits(subject: Subject) -> list[str]:
    """web waits for a Redis that says it is healthy; every service has a health check."""
    problems = [
        f"{n}: no healthcheck" for n, s in subject.services.items() if "healthcheck" not in s
    ]
    after = subject.services.get("web", {}).get("depends_on", {})
    condition = after.get("redis", {}).get("condition") if isinstance(after, dict) else None
    if condition != "service_healthy":
        problems.append("web doesn't wait for redis to be healthy")
    return problems


def ports(subject: Subject) -> list[str]:
    """web alone publishes a port, on 127.0.0.1 unless told otherwise."""
    problems = []
    for name, service in subject.services.items():
        for port in service.get("ports", ()):
            shown = default(port)
            if name != "web" and "profiles" not in service:
                problems.append(f"{name} publishes {shown}")
            elif not shown.startswith("127.0.0.1:"):
                problems.append(f"{name} publishes {shown} on every address")
    return problems


def own_network(subject: Subject) -> list[str]:
    """Every service is on networks of the file, none on the default one."""
    declared = set(subject.compose.get("networks") or ())
    return [
        f"{name}: networks {sorted(service.get('networks', ()))}"
        for name, service in subject.services.items()
        if not service.get("networks") or not set(service["networks"]) <= declared
    ]


def capabilities(subject: Subject) -> list[str]:
    """No capability, and no way to new rights, for any service."""
    problems = []
    for name, service in subject.services.items():
        if service.get("cap_drop") != ["ALL"]:
            problems.append(f"{name}: cap_drop isn't [ALL]")
        if "no-new-privileges:true" not in service.get("security_opt", ()):
            problems.append(f"{name}: no no-new-privileges:true")
        if not service.get("user"):
            problems.append(f"{name}: no user")
    return problems


def read_only(subject: Subject) -> list[str]:
    """A read-only root with a bounded /tmp, for any service."""
    problems = []
    for name, service in subject.services.items():
        if service.get("read_only") is not True:
            problems.append(f"{name}: not read_only")
        mounts = [str(each) for each in service.get("tmpfs", ())]
        if not any(each.startswith("/tmp:") and "size=" in each for each in mounts):
            problems.append(f"{name}: no bounded tmpfs on /tmp")
    return problems


def limits(subject: Subject) -> list[str]:
    """Memory, processors and processes are limited; Redis stays below 75 % of its memory."""
    problems = [
        f"{name}: no {key}"
        for name, service in subject.services.items()
        for key in ("mem_limit", "cpus", "pids_limit")
        if key not in service
    ]
    redis = subject.services.get("redis", {})
    found = re.search(r"--maxmemory (\d+)mb", command(redis))
    if not found or int(found[1]) > 0.75 * megabytes(redis.get("mem_limit", "")):
        problems.append("redis: maxmemory isn't at most 75 % of mem_limit")
    return problems


def restart(subject: Subject) -> list[str]:
    """Every service comes back, unless it was stopped."""
    good = ("unless-stopped", "always", "on-failure:5")
    return [f"{n}: no restart" for n, s in subject.services.items() if s.get("restart") not in good]


def log_rotation(subject: Subject) -> list[str]:
    """The logs of every service are bounded."""
    problems = []
    for name, service in subject.services.items():
        logging = service.get("logging") or {}
        bounded = {"max-size", "max-file"} <= set(logging.get("options") or ())
        if not bounded and logging.get("driver") != "local":
            problems.append(f"{name}: its log grows without bound")
    return problems


def grace(subject: Subject) -> list[str]:
    """Docker waits longer than the server takes to finish what runs."""
    found = re.search(r"RAG_SHUTDOWN_SECONDS=([\d.]+)", subject.text(".env.example"))
    takes = float(found[1]) if found else 0.0
    return [
        f"{name}: stop_grace_period isn't above {takes:g} s"
        for name in ("web", "worker")
        if (service := subject.services.get(name))
        and seconds(service.get("stop_grace_period", "10s")) <= takes
    ]


def first_process(subject: Subject) -> list[str]:
    """Process 1 gets the signals: no shell stays in front of a service without `init`."""
    problems = []
    for name, service in subject.services.items():
        said = command(service)
        if re.match(r"(/bin/)?(ba)?sh\b", said) and "exec " not in said and not service.get("init"):
            problems.append(f"{name}: a shell is process 1 and passes no signal on")
    return problems


def secrets(subject: Subject) -> list[str]:
    """No secret's value stands in the file, and each can come from a file."""
    problems = []
    text = subject.text("docker-compose.yml")
    for name, service in subject.services.items():
        for key, value in (service.get("environment") or {}).items():
            if SECRET.search(key) and default(value):
                problems.append(f"{name}: {key} has a value")
    return problems + [
        f"{name} can't come from a file"
        for name in ("REDIS_PASSWORD", "RAG_ADMIN_KEY", "RAG_METRICS_KEY", "RAG_LLM_API_KEY")
        if f"{name}_FILE: /run/secrets/" not in text
    ]


def tags(subject: Subject) -> list[str]:
    """Images of others come by version and digest; only our own is built, or named by WEB_IMAGE."""
    problems = []
    for name, service in subject.services.items():
        image = default(service.get("image", ""))
        ours = image.startswith("rag-api:") and "${WEB_IMAGE" in str(service.get("image"))
        if not ours and not re.search(r":[\w.-]*\d[\w.-]*@sha256:[0-9a-f]{64}$", image):
            problems.append(f"{name}: {image} has no version or no digest")
    return problems


def nothing_of_the_host(subject: Subject) -> list[str]:
    """No privileges, no name space, no directory of the host but ours; the socket as agreed."""
    problems = []
    for name, service in subject.services.items():
        problems += [f"{name}: {key}" for key in HOST_THINGS if service.get(key)]
        for volume in service.get("volumes", ()):
            is_long = isinstance(volume, dict)
            mount = f"{volume.get('source')}:{volume.get('target')}" if is_long else default(volume)
            if "docker.sock" in mount:
                if not _may_have_the_socket(name, service, mount):
                    problems.append(f"{name}: mounts {mount}")
            elif mount.startswith(("/", "~", "..")):
                problems.append(f"{name}: mounts {mount}")
    return problems


def _may_have_the_socket(name: str, service: dict[str, Any], mount: str) -> bool:
    """The exporter of the monitoring profile alone, where neither web nor Redis can reach it."""
    apart = service.get("networks") == ["monitoring"] and service.get("profiles") == ["monitoring"]
    return name == "exporter" and apart and mount.endswith(":ro") and "ports" not in service


def redis_volume(subject: Subject) -> list[str]:
    """A named volume, declared, at Redis's /data."""
    mounts = [str(each) for each in subject.services.get("redis", {}).get("volumes", ())]
    declared = subject.compose.get("volumes") or {}
    good = "redis-data:/data" in mounts and "redis-data" in declared
    return [] if good else ["redis-data isn't declared, or not at /data"]


def redis_options(subject: Subject) -> list[str]:
    """Redis is told its memory, its policy, its persistence and its password, if it has one."""
    said = command(subject.services.get("redis", {}))
    wanted = ("--maxmemory ", "--maxmemory-policy ", "--appendonly ", "--save ", "--requirepass ")
    return [f"redis: no {option.strip()}" for option in wanted if option not in said]


def variables(subject: Subject) -> list[str]:
    """Each variable has a default, or its absence stops compose with a message."""
    found = set(
        re.findall(r"(?<!\$)\$\{(\w+)\}|(?<!\$)\$([A-Z]\w*)", subject.text("docker-compose.yml"))
    )
    return [f"{a or b} has neither a default nor a message" for a, b in sorted(found)]


def profiles(subject: Subject) -> list[str]:
    """web and redis come up by themselves; everything else is in a profile."""
    return [
        f"{name}: {'a' if 'profiles' in service else 'no'} profile"
        for name, service in subject.services.items()
        if ("profiles" in service) == (name in ("web", "redis"))
    ]


def many(subject: Subject) -> list[str]:
    """No fixed name, and a host port that can be a range: for a second project and --scale."""
    problems = [
        f"{n}: container_name" for n, s in subject.services.items() if "container_name" in s
    ]
    # Address, host port, container port: two ports behind an address, or alone.
    return problems + [
        f"port {text} is fixed"
        for text in _published(subject)
        if re.search(r"(^|[:}])\d+:\d+$", text)
    ]


def _published(subject: Subject) -> Iterator[str]:
    for service in subject.services.values():
        yield from (str(port) for port in service.get("ports", ()))
