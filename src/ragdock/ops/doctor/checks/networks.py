"""Ports of the host, and the networks between containers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any, Final

from ragdock.ops.doctor.mending import add_file, declared_in, override, set_variables, up
from ragdock.ops.doctor.model import Check, Evidence, Finding, Scope, Status
from ragdock.ops.doctor.outline import outline
from ragdock.ops.doctor.owners import free_port_after, listeners, owner_of
from ragdock.ops.doctor.stack import (
    Container,
    compose_command,
    containers,
    dig,
    each,
    has_compose_file,
    items,
    texts,
    variable,
)
from ragdock.ops.doctor.world import World, WorldError

__all__ = ["CHECKS"]

_TAKEN: Final = re.compile(
    r"(?:Bind for|listen tcp[46]?|bind host port(?: for)?) \[?([0-9a-f.:]+?)\]?:(\d+)",
    re.IGNORECASE,
)
_IS_TAKEN: Final = re.compile(
    r"address already in use|port is already allocated|forbidden", re.IGNORECASE
)
DATASTORES: Final = {
    "6379": "Redis", "5432": "PostgreSQL", "3306": "MySQL", "27017": "MongoDB",
    "9200": "Elasticsearch", "6333": "Qdrant", "19530": "Milvus", "11211": "memcached",
}  # fmt: skip
_SPARE: Final = "10.213.77.0/24"
_LOOPBACK: Final = ("127.", "::1")
_LOCAL_HEX: Final = ("0100007F", "00000000000000000000000001000000")


# ---- D35 -----------------------------------------------------------------------------------------


def _ports(world: World) -> list[Finding]:
    """D35."""
    ours = containers(world)
    found = [finding for one in ours if (finding := _refused(world, one))]
    has_web = any(one.service == "web" for one in ours if one.running)
    if not found and not has_web and (early := _would_be_refused(world, ours)):
        found.append(early)
    return found or [Finding(Status.OK, "no published port belongs to somebody else")]


def _refused(world: World, one: Container) -> Finding | None:
    error = str(one.get("State", "Error") or "")
    if one.running or not _IS_TAKEN.search(error):
        return None
    named = _TAKEN.search(error)
    wanted = list(_published(one))
    address, port = (named[1], int(named[2])) if named else (wanted[0][0], wanted[0][1])
    return _taken(world, one, address, port, error, one.service)


def _taken(
    world: World, one: Container | None, address: str, port: int, error: str, service: str
) -> Finding:
    owner = owner_of(world, port)
    evidence: Evidence = {"address": address, "port": port, "error": error, "owner": str(owner)}
    cause = f"{str(owner)[0].upper()}{str(owner)[1:]} has port {port} already."
    start = up(world, one)
    if service == "web":
        other = free_port_after(world, address, port)
        fix = (
            *set_variables(world, one, WEB_PORT=other),
            f"# or keep {port}: {owner.stop} && {start}",
        )
    else:
        fix = (owner.stop, start)
    summary = f"port {port} is taken by {owner}"
    return Finding(Status.FAIL, summary, one.name if one else "web", evidence, cause, fix)


def _published(one: Container) -> Iterator[tuple[str, int, str]]:
    """Address and port on the host and port in the container."""
    bindings = one.get("HostConfig", "PortBindings")
    for inner, places in (bindings if isinstance(bindings, dict) else {}).items():
        for place in items(places):
            if str(place.get("HostPort")).isdigit():
                yield str(place.get("HostIp") or ""), int(place["HostPort"]), inner.split("/")[0]


def _would_be_refused(world: World, ours: list[Container]) -> Finding | None:
    """Before anything was started: whether the port of `.env` is free."""
    if any(one.service == "web" for one in ours):
        return None
    if not has_compose_file(world):
        return None
    port = int(_setting(world, "WEB_PORT") or 8000)
    address = _setting(world, "WEB_BIND") or "127.0.0.1"
    if not world.listens(address, port):
        return None
    return _taken(world, None, address, port, "(not tried yet)", "web")


def _setting(world: World, name: str) -> str:
    """What compose would take for a variable: of the shell, else of `.env`."""
    return world.environ().get(name) or variable(world, name)


# ---- the others ----------------------------------------------------------------------------------


def _loopback_only(world: World, one: Container) -> Finding | None:
    """D36."""
    for _, port, inner in _published(one):
        heard = [address for address, _ in listeners(world, _proc(one), int(inner))]
        if not heard or any(address not in _LOCAL_HEX for address in heard):
            continue
        fix = _listen_everywhere(world, one)
        return Finding(
            Status.FAIL,
            f"listens on 127.0.0.1:{inner} inside, where the published port {port} can't reach it",
            one.name,
            {"listeners": heard, "port": int(inner), "RAG_HOST": one.environment().get("RAG_HOST")},
            "The loopback of a container is its own; what Docker publishes comes from outside.",
            fix,
        )
    return None


def _proc(one: Container) -> str:
    return f"/proc/{one.get('State', 'Pid')}"


def _listen_everywhere(world: World, one: Container) -> tuple[str, ...]:
    if "--host" in (words := texts(one.get("Config", "Cmd"))):
        command = [word for word in words if not re.match(r"--host|127\.|localhost", word)]
        line = ", ".join(f'"{word}"' for word in command)
        return override(world, one, [f"command: [{line}]"])
    return override(world, one, ['environment: { RAG_HOST: "0.0.0.0" }'])


def _names(world: World) -> list[Finding]:
    """D38."""
    ours = [one for one in containers(world) if one.running]
    asking = [one for one in ours if one.is_ours and one.environment().get("REDIS_HOST")]
    if not asking:
        return [Finding(Status.SKIP, "no running container of ragdock that asks for a Redis")]
    found = [finding for one in asking if (finding := _name(world, one, ours))]
    return found or [Finding(Status.OK, "REDIS_HOST is a name on a network that both share")]


def _name(world: World, one: Container, ours: list[Container]) -> Finding | None:
    host = one.environment()["REDIS_HOST"]
    networks = _networks(one)
    if one.get("HostConfig", "NetworkMode") == "host" or _is_foreign(host):
        return None
    local = host in ("localhost", "127.0.0.1", "::1")
    owners = {
        other.name: sorted(_networks(other))
        for other in ours
        if host in {other.service, other.name}.union(*_networks(other).values())
    }
    shared = {name for name, names in owners.items() if networks.keys() & {*names}}
    default = networks.keys() <= {"bridge"}
    if shared and not default and not local:
        return None
    redis = next((other for other in ours if other.service == "redis"), None)
    reached = {name for names in owners.values() for name in names}
    evidence: Evidence = {
        "REDIS_HOST": host,
        "networks": sorted(networks),
        "redis_is_on": sorted(reached or (_networks(redis) if redis else ())),
    }
    if local or not owners:
        why = (
            "In a container, localhost is the container itself, and no Redis runs in there."
            if local
            else f"No container of this project goes by the name {host}."
        )
        return Finding(
            Status.FAIL,
            f"REDIS_HOST={host} leads to no Redis",
            one.name,
            evidence,
            why,
            set_variables(world, one, REDIS_HOST=redis.service if redis else "redis"),
        )
    return Finding(
        Status.FAIL,
        f"{host} is on no network of {one.service or one.name}",
        one.name,
        evidence,
        "Names resolve only between containers that share a network of their own (not `bridge`).",
        _join(world, one, next(other for other in ours if other.name in owners)),
    )


def _join(world: World, one: Container, redis: Container) -> tuple[str, ...]:
    """Lines after which both are on one network."""
    if name := declared_in(world, one, "network_mode"):
        again = up(world, one, "--force-recreate")
        return (f"sed -i '/network_mode/d' {name}", again)
    mine, theirs = (_declared_networks(world, each_one) for each_one in (one, redis))
    if mine and theirs and not {*mine} & {*theirs}:
        return override(world, one, [f"networks: [{', '.join([*mine, theirs[0]])}]"])
    # The files say it right, so somebody has taken it off by hand.
    return (up(world, one, "--force-recreate", one.service).rstrip(),)


def _declared_networks(world: World, one: Container) -> list[str]:
    """The service's networks as compose understands its files; empty when it doesn't say."""
    try:
        text = world.output(*compose_command(world, one).split(), "config")
    except WorldError:
        return []
    above = ("services", one.service, "networks")
    found = [line for line in outline(text) if line.path[:3] == above and len(line.path) == 4]
    return [line.value if line.path[-1] == "-" else line.path[-1] for line in found]


def _is_foreign(host: str) -> bool:
    """Whether the name or address lies outside of the project: what a doctor can't judge."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return "." in host


def _networks(one: Container) -> dict[str, list[str]]:
    """The networks of a container with its names there."""
    found = one.get("NetworkSettings", "Networks")
    return {
        str(name): [*texts(dig(network, "Aliases")), *texts(dig(network, "DNSNames"))]
        for name, network in (found if isinstance(found, dict) else {}).items()
        if name != "none"
    }


def _published_to_all(world: World, one: Container) -> Finding | None:
    """D41."""
    for address, port, inner in _published(one):
        if address.startswith(_LOOPBACK):
            continue
        evidence: dict[str, Any] = {"host_ip": address or "0.0.0.0", "port": port, "inner": inner}  # noqa: S104 - told, not bound
        if inner in DATASTORES:
            return Finding(
                Status.FAIL,
                f"{DATASTORES[inner]} is published on port {port} to every network of this host",
                one.name,
                evidence,
                "Docker's rules come before a firewall's (UFW), so whoever reaches the host is in.",
                _unpublish(world, one, port, inner),
            )
        variables = one.environment()
        open_to_all = variables.get("ENVIRONMENT", "development") == "development"
        has_key = variables.get("RAG_ADMIN_KEY") or variables.get("RAG_METRICS_KEY")
        if one.is_ours and open_to_all and not has_key:
            evidence["ENVIRONMENT"] = variables.get("ENVIRONMENT")
            return Finding(
                Status.WARN,
                f"an API without keys is published on port {port} to every network of this host",
                one.name,
                evidence,
                "In development nothing asks for a key, so whoever reaches the host may read all.",
                set_variables(world, one, WEB_BIND="127.0.0.1"),
            )
    return None


def _unpublish(world: World, one: Container, port: int, inner: str) -> tuple[str, ...]:
    # A number, or a variable as in `${REDIS_PORT:-6379}:6379`.
    for text in (f"0.0.0.0:{port}:{inner}", f"{port}:{inner}", f"}}:{inner}"):
        if name := declared_in(world, one, text):
            outer = r"(^|[^0-9.:])(0\.0\.0\.0:)?([0-9]+|\$\{[^}]*\})"
            edit = f"sed -i -E 's/{outer}:{inner}\\b/\\1127.0.0.1:\\3:{inner}/' {name}"
            return (edit, up(world, one))
    return (f"# Take `{port}:{inner}` out of the ports of {one.service}, then:", up(world, one))


def _overlaps(world: World) -> list[Finding]:
    """D12."""
    ours = {name for one in containers(world) for name in _networks(one)}
    subnets = list(_subnets(world))
    own = [(name, net, ids) for name, net, ids in subnets if name in ours]
    if not own:
        return [Finding(Status.SKIP, "no network of this project yet")]
    found = []
    for name, net, bridge in own:
        others = [
            *((f"network {other}", sub) for other, sub, _ in subnets if other != name),
            *((f"route by {device}", sub) for device, sub in _routes(world) if device != bridge),
        ]
        clashes = [f"{what} {sub}" for what, sub in others if sub.overlaps(net)]
        if clashes:
            found.append(_clash(world, name, str(net), clashes))
    return found or [Finding(Status.OK, f"{len(own)} subnet of its own, in nobody's way")]


def _subnets(world: World) -> Iterator[tuple[str, ipaddress.IPv4Network, str]]:
    """Name, addresses and bridge of each network."""
    for network in items(world.engine("/networks")):
        options = network.get("Options")
        usual = f"br-{str(network.get('Id'))[:12]}"
        bridge = str(dig(options, "com.docker.network.bridge.name") or usual)
        for config in items(dig(network, "IPAM", "Config")):
            try:
                net = ipaddress.IPv4Network(str(config.get("Subnet")))
            except ValueError:
                continue
            yield str(network.get("Name")), net, bridge


def _routes(world: World) -> list[tuple[str, ipaddress.IPv4Network]]:
    """Device and destination of each route but the default one."""
    try:
        lines = world.read("/proc/net/route").splitlines()[1:]
    except WorldError:
        return []
    found = []
    for fields in (line.split() for line in lines):
        if len(fields) > 7 and fields[7] != "00000000":
            raw = [int.from_bytes(bytes.fromhex(fields[n]), "little") for n in (1, 7)]
            mask = raw[1].bit_count()
            found.append((fields[0], ipaddress.IPv4Network((raw[0], mask), strict=False)))
    return found


def _clash(world: World, name: str, subnet: str, clashes: list[str]) -> Finding:
    own = next(one for one in containers(world) if name in _networks(one))
    short = name.removeprefix(f"{own.project}_")
    body = ["networks:", f"  {short}:", f"    ipam: {{ config: [{{ subnet: {_SPARE} }}] }}"]
    *lines, again = add_file(world, own, f"{short}-ipam", body)
    down = again.removesuffix(" up -d") + " down"
    return Finding(
        Status.FAIL,
        f"its subnet {subnet} lies over {clashes[0]}",
        name,
        {"subnet": subnet, "clashes": clashes},
        "Packets for those addresses go to the wrong network: a VPN's or another container's.",
        (down, *lines, again),
    )


CHECKS: Final = (
    Check(
        "D12",
        "The project's subnet is nobody else's",
        Scope.HOST,
        "Pool overlaps with other one on this address space; some hosts can't be reached any more",
        _overlaps,
    ),
    Check(
        "D35",
        "Published ports are free",
        Scope.HOST,
        "bind: address already in use; Bind for 127.0.0.1:8000 failed: port is already allocated",
        _ports,
    ),
    Check(
        "D36",
        "The server listens where Docker can reach it",
        Scope.HOST,
        "curl: (56) Recv failure: Connection reset by peer",
        each(_loopback_only, "published ports are listened on inside", Container.is_up),
    ),
    Check(
        "D38",
        "Redis has a name that resolves",
        Scope.HOST,
        "Name or service not known; Error 99 connecting to localhost:6379. "
        "Cannot assign requested address",
        _names,
    ),
    Check(
        "D41",
        "Nothing is published that should be private",
        Scope.HOST,
        "(nothing, until somebody else finds it)",
        each(_published_to_all, "no datastore and no open API is published to all networks"),
    ),
)
