"""Names, addresses and listeners as this process sees them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from ragdock.ops.doctor.model import Check, Finding, Scope
from ragdock.ops.doctor.place import is_inside
from ragdock.ops.doctor.reading import (
    fail,
    listeners,
    ok,
    read_or,
    settings,
    skip,
    warn,
)
from ragdock.ops.doctor.world import World, WorldError

__all__ = ["CHECKS", "endpoints"]

MANY_DOTS: Final = 5
MANY_DOMAINS: Final = 3
SLOW_SECONDS: Final = 0.5
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def endpoints(found: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """Host and port of everything that the settings name, by the setting's variable."""
    named: dict[str, tuple[str, int]] = {}
    if found.get("redis_host"):
        named["REDIS_HOST"] = (str(found["redis_host"]), int(found["redis_port"]))
    urls = [("RAG_LLM_BASE_URL", found.get("llm_base_url"))]
    if found.get("embedder") == "openai":
        urls.append(("RAG_EMBED_BASE_URL", found.get("embed_base_url")))
    for variable, url in urls:
        if not url:
            continue
        parts = urlsplit(str(url))
        if parts.hostname:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            named[variable] = (parts.hostname, port)
    return named


def _bound(world: World) -> list[Finding]:
    """D36i."""
    port = int(settings(world)["port"])
    found = [one for one in listeners(world) if one.port == port]
    evidence = {"port": port, "listening_on": [one.address for one in found]}
    if not found:
        return skip(f"nothing listens on port {port}: see G12")
    if all(one.loopback for one in found):
        return [
            fail(
                f"the server listens on {found[0].address}:{port} only",
                "Inside of a container that is the container's own loopback: a published port "
                "reaches the container by its other address, where nobody listens.",
                (
                    "# in docker-compose.yml, service web, environment: RAG_HOST: 0.0.0.0",
                    "docker-compose up -d web      # or: docker run -e RAG_HOST=0.0.0.0 ...",
                ),
                f"port {port}",
                **evidence,
            )
        ]
    return ok(f"port {port} is open to other containers and the host", **evidence)


def _redis_at_localhost(world: World) -> list[Finding]:
    """D37i."""
    found = settings(world)
    host, port = found.get("redis_host"), int(found["redis_port"])
    if not host:
        return ok("no Redis is set")
    evidence = {"REDIS_HOST": host, "REDIS_PORT": port}
    if host not in _LOOPBACK:
        return ok(f"REDIS_HOST is {host}, another machine's or container's name", **evidence)
    if any(one.port == port and (one.loopback or one.everywhere) for one in listeners(world)):
        return ok(f"a Redis listens on port {port} in this container", **evidence)
    return [
        fail(
            f"REDIS_HOST={host} means this container, and no Redis runs in it",
            "Inside of a container `localhost` is that container; Redis is another one, whose "
            "name is its service's.",
            (
                "sed -i 's/^REDIS_HOST=.*/REDIS_HOST=redis/' .env && docker-compose up -d web",
                "# without Compose: docker run --network NAME -e REDIS_HOST=<its container> ...",
            ),
            "REDIS_HOST",
            **evidence,
        )
    ]


def _names(world: World) -> list[Finding]:
    """D38i."""
    inside = is_inside(world)
    hosts = {
        variable: host
        for variable, (host, _) in endpoints(settings(world)).items()
        if not _is_address(host)
    }
    problems = []
    for variable, host in hosts.items():
        try:
            world.resolve(host)
        except WorldError as exc:
            if exc.kind not in ("unresolved", "unresolvable", "timeout"):
                raise
            problems.append(_unresolved(variable, host, exc, inside=inside))
    if problems or hosts:
        names = ", ".join(sorted(hosts.values()))
        return problems or ok(f"every name has an address: {names}", hosts=sorted(hosts.values()))
    return ok("the settings name no other host")


def _unresolved(variable: str, host: str, exc: WorldError, *, inside: bool) -> Finding:
    evidence = {variable: host, "kind": exc.kind, "error": exc.detail}
    service = (
        "echo REDIS_HOST=redis >> .env && docker-compose up -d      # if its service is `redis`"
    )
    if exc.kind in ("unresolvable", "timeout"):
        cause = "No name server answers: the container is on no network, or the machine is offline."
    elif inside:
        cause = (
            "No container of that name is on a network of this one: it is misspelt, isn't running, "
            "is on another network, or both are on Docker's default bridge, which knows no names."
        )
    else:
        cause = "The name is misspelt, or is known inside of a Docker network only."
    return fail(
        f"{variable}={host}: the name has no address",
        cause,
        (
            *((service,) if variable == "REDIS_HOST" and host != "redis" else ()),
            "docker-compose ps                    # does the service run?",
            "docker-compose up -d                 # puts all services on one network",
            "# without Compose: docker network connect NETWORK CONTAINER, for both of them",
        )
        if inside
        else (f"getent hosts {host}", f"# correct {variable} in .env"),
        variable,
        **evidence,
    )


def _two_localhosts(world: World) -> list[Finding]:
    """D39."""
    named = endpoints(settings(world))
    names = {variable: place for variable, place in named.items() if place[0] == "localhost"}
    problems = []
    for variable, (host, port) in names.items():
        addresses, _ = world.resolve(host)
        first = addresses[0] if addresses else ""
        answers = [address for address in addresses if _answers(world, address, port)]
        if answers and first not in answers:
            problems.append(
                warn(
                    f"{variable}: localhost is {first} first, and only {answers[0]} answers",
                    "A program that tries one address only, as many health checks do, is refused.",
                    (f"# in .env: name {answers[0]} instead of localhost in {variable}",),
                    variable,
                    addresses=addresses,
                    answering=answers,
                    port=port,
                )
            )
    return problems or ok("no setting hangs on which address localhost is", names=sorted(names))


def _answers(world: World, address: str, port: int) -> bool:
    try:
        world.connect(address, port)
    except WorldError:
        return False
    return True


def _slow_names(world: World) -> list[Finding]:
    """D40."""
    n_dots, domains = _resolver(read_or(world, "/etc/resolv.conf"))
    problems = []
    hosts = {
        variable: host
        for variable, (host, _) in endpoints(settings(world)).items()
        if not _is_address(host)
    }
    evidence: dict[str, str | int | float | list[str]] = {"ndots": n_dots, "search": domains}
    for variable, host in hosts.items():
        try:
            _, seconds = world.resolve(host)
        except WorldError:
            continue  # D38i says that.
        measured = evidence | {"seconds": round(seconds, 3), variable: host}
        searched = n_dots >= MANY_DOTS and len(domains) >= MANY_DOMAINS
        if searched and 0 < host.rstrip(".").count(".") < n_dots and not host.endswith("."):
            if _is_in(host, domains):
                continue
            problems.append(
                warn(
                    f"{variable}: {host} is looked up below {len(domains)} other domains first",
                    f"`ndots:{n_dots}` sends every name with fewer dots through the search list, "
                    "twice for IPv4 and IPv6, before it is asked for as it is.",
                    (
                        f"# write it with a dot at its end in {variable}: {host}.",
                        '# or in the pod: dnsConfig: { options: [{ name: ndots, value: "2" }] }',
                    ),
                    variable,
                    **measured,
                )
            )
        elif seconds > SLOW_SECONDS:
            problems.append(
                warn(
                    f"{variable}: finding the address of {host} took {seconds:.1f} s",
                    "A name server is slow or doesn't answer, and the next one is asked.",
                    ("cat /etc/resolv.conf", f"time getent hosts {host}"),
                    variable,
                    **measured,
                )
            )
    return problems or ok("names are found without detours", **evidence)


def _is_in(host: str, domains: list[str]) -> bool:
    """Whether it is a short name of a service that the search list is there for (`redis.rag`)."""
    return any(domain.startswith(f"{host.split('.', 1)[1]}.") for domain in domains)


def _resolver(text: str) -> tuple[int, list[str]]:
    n_dots, domains = 1, []
    for line in text.splitlines():
        words = line.split()
        if words[:1] in (["search"], ["domain"]):
            domains = words[1:]
        elif words[:1] == ["options"]:
            for word in words[1:]:
                name, _, value = word.partition(":")
                if name == "ndots" and value.isdigit():
                    n_dots = int(value)
    return n_dots, domains


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _reachable(world: World) -> list[Finding]:
    """G14."""
    inside = is_inside(world)
    named = endpoints(settings(world))
    named.pop("REDIS_HOST", None)
    problems = []
    for variable, (host, port) in named.items():
        try:
            world.connect(host, port)
        except WorldError as exc:
            what = "the LLM" if variable == "RAG_LLM_BASE_URL" else "the embeddings endpoint"
            local = inside and host in _LOOPBACK
            problems.append(
                fail(
                    f"{what} can't be reached at {host}:{port}",
                    "Inside of a container `localhost` is that container, not the machine."
                    if local
                    else f"No connection ({exc.kind}): it isn't running, or listens elsewhere.",
                    (
                        f"# in .env: {variable}=http://host.docker.internal:{port}/v1",
                        '# on Linux also: extra_hosts: ["host.docker.internal:host-gateway"]',
                        "docker-compose up -d web",
                    )
                    if local
                    else (
                        f"curl -sv --max-time 3 http://{host}:{port}/v1/models",
                        f"# then correct {variable} in .env, and: docker-compose up -d web",
                    ),
                    variable,
                    **{variable: f"{host}:{port}", "kind": exc.kind, "error": exc.detail},
                )
            )
    if not named:
        return ok("the model is local and no LLM is set")
    return problems or ok("every endpoint takes connections", endpoints=sorted(named))


CHECKS: Final = (
    Check(
        "D36i",
        "The server listens on more than its own loopback",
        Scope.INSIDE,
        "curl: (56) Recv failure: Connection reset by peer",
        _bound,
    ),
    Check(
        "D37i",
        "REDIS_HOST isn't the container itself",
        Scope.INSIDE,
        "Error 99 connecting to localhost:6379. Cannot assign requested address",
        _redis_at_localhost,
    ),
    Check(
        "D38i",
        "The names in the settings have addresses",
        Scope.BOTH,
        "[Errno -2] Name or service not known; [Errno -3] Temporary failure in name resolution",
        _names,
    ),
    Check(
        "D39",
        "localhost means the address that answers",
        Scope.BOTH,
        "a health check is refused at localhost, while 127.0.0.1 answers",
        _two_localhosts,
    ),
    Check(
        "D40",
        "Names are found at once",
        Scope.BOTH,
        "single requests take seconds; EAI_AGAIN now and then",
        _slow_names,
    ),
    Check(
        "G14",
        "The LLM and the embeddings endpoint can be reached",
        Scope.BOTH,
        "extractive answers although an LLM is set; uploads that stay pending",
        _reachable,
    ),
)
