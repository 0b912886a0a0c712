"""Whether Redis answers, and keeps time with this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ragdock.ops.doctor.model import Check, Finding, Scope
from ragdock.ops.doctor.place import is_inside
from ragdock.ops.doctor.reading import fail, ok, read_or, settings, skip, warn
from ragdock.ops.doctor.world import World, WorldError

__all__ = ["CHECKS", "Redis", "asked"]

MAX_SKEW_SECONDS: Final = 2.0
CROWDED: Final = 0.9
OLDEST: Final = (6, 0)


@dataclass(frozen=True, slots=True)
class Redis:
    """A Redis that answers: `INFO` by field, and what `CONFIG GET` says (None: not allowed to)."""

    world: World
    info: dict[str, str]
    inside: bool

    def number(self, name: str) -> float:
        """A field of `INFO`; 0 when it isn't there."""
        try:
            return float(self.info.get(name, "0"))
        except ValueError:
            return 0.0

    def config(self, name: str) -> str | None:
        """A parameter; None where CONFIG is renamed, forbidden or doesn't know it."""
        try:
            found = self.world.redis("CONFIG", "GET", name)
        except WorldError:
            return None
        return str(found[1]) if isinstance(found, list) and len(found) > 1 else None

    def cli(self, *words: str) -> str:
        """A line that gives Redis a command."""
        line = " ".join(["redis-cli", *words])
        return f"docker-compose exec -T redis {line}" if self.inside else line

    @property
    def log(self) -> str:
        """A line that shows the end of its log."""
        if self.inside:
            return "docker-compose logs --tail 20 redis"
        return "journalctl -u redis-server -n 20 --no-pager"

    def give(self, directory: str) -> tuple[str, ...]:
        """Lines that make it the owner of its directory.

        `docker-compose run` would keep `cap_drop: [ALL]`, and chown needs a capability.
        """
        if not self.inside:
            return (f"sudo chown -R redis: {directory}",)
        image = "$(docker inspect -f '{{.Config.Image}}' \"$redis\")"
        return (
            "redis=$(docker-compose ps -q redis)",
            f'docker run --rm --user 0 --entrypoint chown --volumes-from "$redis" "{image}" '
            f"-R 999 {directory}",
        )


def asked(world: World) -> Redis | list[Finding]:
    """The Redis of the settings, or the `skip` that says why there is none to ask.

    Raises `WorldError` when it doesn't answer, which R7 and R8 tell.
    """
    if not settings(world).get("redis_host"):
        return skip("REDIS_HOST isn't set: ragdock caches in its own memory")
    # First, so that a Redis that hangs costs one time-out and not one a question.
    try:
        world.redis("PING")
    except WorldError as exc:
        # It answers PING so when it can't write its files, and the rest as ever.
        if exc.kind != "status" or not exc.detail.startswith("MISCONF"):
            raise
    text = str(world.redis("INFO"))
    info = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return Redis(world, info, is_inside(world))


def _refused(world: World) -> list[Finding]:
    """R7."""
    error, evidence = _ping(world)
    if isinstance(error, list):
        return error
    if error is None:
        return ok("Redis answers", **evidence)
    if error.kind in ("unresolved", "unresolvable") or "no address in" in error.detail:
        return skip("the name has no address: see D38i")
    address = evidence["address"]
    inside = is_inside(world)
    if inside and str(address).startswith(("localhost:", "127.", "::1:")):
        return skip("REDIS_HOST is this container itself: see D37i")
    if error.kind == "status":
        if not error.detail.startswith("DENIED"):
            return ok("Redis answers", **evidence)
        return [
            fail(
                "Redis runs in protected mode and refuses other machines",
                "It has no password and was told no address to listen on, so it serves its own "
                "loopback only.",
                (
                    "# start it with a password, the same as REDIS_PASSWORD in .env:",
                    'redis-server --requirepass "$REDIS_PASSWORD"',
                    "# or, on a network that nobody else reaches: redis-server --protected-mode no",
                ),
                "REDIS_HOST",
                **evidence,
            )
        ]
    what = "doesn't answer in time" if error.kind == "timeout" else "refuses connections"
    return [
        fail(
            f"Redis at {address} {what}",
            "It is paused, overloaded, or a firewall drops the packets."
            if error.kind == "timeout"
            else "It isn't running, or listens on its own loopback (`bind 127.0.0.1`) only.",
            (
                "docker-compose ps redis",
                "docker-compose logs --tail 20 redis",
                "docker-compose up -d redis",
            )
            if inside
            else ("sudo systemctl start redis-server || redis-server --daemonize yes",),
            "REDIS_HOST",
            **evidence,
        )
    ]


def _ping(world: World) -> tuple[WorldError | list[Finding] | None, dict[str, Any]]:
    """The error that PING ended in, or why there is nothing to ask."""
    known = settings(world)
    if not known.get("redis_host"):
        return skip("REDIS_HOST isn't set: ragdock caches in its own memory"), {}
    evidence = {"address": f"{known['redis_host']}:{known['redis_port']}"}
    try:
        world.redis("PING")
    except WorldError as exc:
        return exc, evidence | {"kind": exc.kind, "error": exc.detail}
    return None, evidence


def _password(world: World) -> list[Finding]:
    """R8."""
    error, evidence = _ping(world)
    if isinstance(error, list):
        return error
    known = settings(world)
    evidence |= {"REDIS_PASSWORD": "set" if known["redis_password"] else "not set"}
    if error is None:
        return ok("Redis takes the password" if known["redis_password"] else "Redis wants none")
    if error.kind != "status":
        return skip("Redis doesn't answer: see R7")
    if error.detail.startswith("DENIED"):
        return skip("Redis refuses this machine altogether: see R7")
    wants = error.detail.startswith("NOAUTH")
    wrong = error.detail.startswith("WRONGPASS") or "invalid password" in error.detail
    superfluous = "without any password configured" in error.detail
    superfluous = superfluous or "no password is set" in error.detail
    if not (wants or wrong or superfluous):
        return skip(f"Redis answers with another error: {error.detail[:80]}")
    inside = is_inside(world)
    again = "docker-compose up -d" if inside else "# then restart ragdock"
    if superfluous:
        fix = ("# remove REDIS_PASSWORD from .env, or start Redis with --requirepass", again)
        cause = "REDIS_PASSWORD is set, and Redis has no password."
    else:
        fix = ("# in .env: REDIS_PASSWORD=<the password that Redis has>", again)
        cause = (
            "Redis has a password, and REDIS_PASSWORD isn't set. `redis-cli ping` prints NOAUTH "
            "and exits with 0, so a health check may call it healthy."
            if wants
            else "REDIS_PASSWORD isn't the password that Redis has."
        )
    said = "wants a password" if wants else "refuses the password"
    return [fail(f"Redis {said}", cause, fix, "REDIS_PASSWORD", **evidence)]


def _clock(world: World) -> list[Finding]:
    """D11i."""
    redis = asked(world)
    if not isinstance(redis, Redis):
        return redis
    seconds, micros = world.redis("TIME")
    skew = int(seconds) + int(micros) / 1e6 - world.now()
    evidence = {"redis_minus_here_seconds": round(skew, 3)}
    if abs(skew) > MAX_SKEW_SECONDS:
        return [
            warn(
                f"Redis's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}",
                "Redis runs on a machine whose clock differs, or this one's is wrong: lifetimes "
                "and rate limits are off by that, and certificates may seem not yet valid.",
                ("timedatectl status", "sudo timedatectl set-ntp true      # on both machines"),
                "clock",
                **evidence,
            )
        ]
    return ok("Redis's clock and this one agree", **evidence)


def _crowded(world: World) -> list[Finding]:
    """R11."""
    redis = asked(world)
    if not isinstance(redis, Redis):
        return redis
    n_clients, limit = redis.number("connected_clients"), redis.number("maxclients")
    rejected = redis.number("rejected_connections")
    evidence = {
        "connected_clients": int(n_clients),
        "maxclients": int(limit),
        "rejected_connections": int(rejected),
    }
    if limit and n_clients >= CROWDED * limit:
        return [
            fail(
                f"Redis has {n_clients:.0f} of {limit:.0f} clients",
                'Above `maxclients` it closes new connections: "max number of clients reached".',
                (redis.cli("config set maxclients 10000"), redis.cli("client list")),
                "maxclients",
                **evidence,
            )
        ]
    return ok(f"{n_clients:.0f} clients of {limit:.0f}", **evidence)


def _replica(world: World) -> list[Finding]:
    """R12."""
    redis = asked(world)
    if not isinstance(redis, Redis):
        return redis
    role = redis.info.get("role", "")
    evidence = {
        "role": role,
        "slave_read_only": redis.info.get("slave_read_only"),
        "master": f"{redis.info.get('master_host')}:{redis.info.get('master_port')}",
    }
    if role == "slave" and redis.info.get("slave_read_only") != "0":
        return [
            fail(
                "Redis is a read-only replica, so nothing can be cached",
                "Every write is refused with READONLY; the settings name the wrong server, or it "
                "was demoted.",
                (f"# in .env: REDIS_HOST={redis.info.get('master_host')}", "docker-compose up -d"),
                "REDIS_HOST",
                **evidence,
            )
        ]
    return ok("Redis takes writes", role=role)


def _slow(world: World) -> list[Finding]:
    """R13."""
    redis = asked(world)
    if not isinstance(redis, Redis):
        return redis
    known = settings(world)
    limit = float(known["redis_timeout_seconds"])
    seconds = world.connect(str(known["redis_host"]), int(known["redis_port"]))
    evidence = {"connect_seconds": round(seconds, 4), "RAG_REDIS_TIMEOUT_SECONDS": limit}
    if seconds > limit:
        return [
            warn(
                f"connecting to Redis takes {seconds:.2f} s, longer than ragdock waits",
                "Calls end by their deadline of RAG_REDIS_TIMEOUT_SECONDS, so answers are cached "
                "in this process only.",
                (
                    redis.cli("--latency-history"),
                    "# Redis nearer by, or: RAG_REDIS_TIMEOUT_SECONDS=1",
                ),
                "latency",
                **evidence,
            )
        ]
    return ok(f"Redis is {seconds * 1000:.1f} ms away", **evidence)


def _version(world: World) -> list[Finding]:
    """R14."""
    redis = asked(world)
    if not isinstance(redis, Redis):
        return redis
    version = redis.info.get("redis_version", "")
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    evidence = {"redis_version": version, "redis_mode": redis.info.get("redis_mode")}
    if parts and parts < OLDEST:
        return [
            warn(
                f"Redis {version} is older than 6.0",
                "The client library speaks to 6.0 and later, and this one gets no more fixes.",
                ("# in docker-compose.yml: image: redis:8-alpine", "docker-compose up -d redis"),
                "redis_version",
                **evidence,
            )
        ]
    return ok(f"Redis {version}", **evidence)


def _host(world: World) -> list[Finding]:
    """D13."""
    redis = asked(world)
    if not isinstance(redis, Redis):
        return redis
    overcommit = read_or(world, "/proc/sys/vm/overcommit_memory").strip()
    huge = read_or(world, "/sys/kernel/mm/transparent_hugepage/enabled").strip()
    evidence = {
        "overcommit_memory": overcommit,
        "transparent_hugepage": huge,
        "rdb_last_bgsave_status": redis.info.get("rdb_last_bgsave_status"),
        "aof_last_bgrewrite_status": redis.info.get("aof_last_bgrewrite_status"),
        "used_memory": int(redis.number("used_memory")),
        "total_system_memory": int(redis.number("total_system_memory")),
    }
    failed = "err" in (evidence["rdb_last_bgsave_status"], evidence["aof_last_bgrewrite_status"])
    large = redis.number("used_memory") > 0.4 * max(1.0, redis.number("total_system_memory"))
    # A save fails for other reasons as well, a directory above all: R4 tells those.
    if (overcommit in ("0", "2") and large) or (overcommit == "2" and failed):
        return [
            warn(
                "the kernel may refuse Redis the memory for its background save",
                f"A save forks, and with vm.overcommit_memory={overcommit} the kernel wants as "
                "much free memory again as Redis uses. The setting is the host's, not the "
                "container's.",
                (
                    "# on the host:",
                    "sudo sysctl vm.overcommit_memory=1",
                    "echo vm.overcommit_memory=1 | sudo tee /etc/sysctl.d/60-redis.conf",
                ),
                "vm.overcommit_memory",
                **evidence,
            )
        ]
    return ok("the kernel's limits are in Redis's way nowhere", **evidence)


CHECKS: Final = (
    Check(
        "D11i",
        "Redis's clock agrees with this one",
        Scope.BOTH,
        "certificates that are not yet valid; lifetimes and rate limits that are off",
        _clock,
    ),
    Check(
        "D13",
        "The kernel lets Redis save",
        Scope.BOTH,
        "WARNING Memory overcommit must be enabled!",
        _host,
    ),
    Check(
        "R7",
        "Redis takes connections",
        Scope.BOTH,
        "Connection refused; DENIED Redis is running in protected mode",
        _refused,
    ),
    Check(
        "R8",
        "Redis takes the password",
        Scope.BOTH,
        "NOAUTH Authentication required.; WRONGPASS invalid username-password pair",
        _password,
    ),
    Check(
        "R11",
        "Redis has room for clients",
        Scope.BOTH,
        "ERR max number of clients reached",
        _crowded,
    ),
    Check(
        "R12",
        "Redis is no read-only replica",
        Scope.BOTH,
        "READONLY You can't write against a read only replica.",
        _replica,
    ),
    Check(
        "R13",
        "Redis is near enough",
        Scope.BOTH,
        '"redis fails" in the log, although it runs',
        _slow,
    ),
    Check(
        "R14",
        "Redis is recent enough",
        Scope.BOTH,
        "ERR unknown command",
        _version,
    ),
)
