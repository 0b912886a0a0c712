"""What Redis keeps in memory and on its disk."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from ragdock.ops.doctor.checks.redis_reach import Redis, asked
from ragdock.ops.doctor.model import Check, Finding, Scope
from ragdock.ops.doctor.place import is_inside
from ragdock.ops.doctor.reading import fail, may_write, mib, ok, skip, warn
from ragdock.ops.doctor.world import World, WorldError

__all__ = ["CHECKS"]

FULL: Final = 0.95


def _of_redis(look: Callable[[Redis], list[Finding]]) -> Callable[[World], list[Finding]]:
    def looked(world: World) -> list[Finding]:
        redis = asked(world)
        return look(redis) if isinstance(redis, Redis) else redis

    return looked


def _bounded(redis: Redis) -> list[Finding]:
    """R1."""
    limit, total = redis.number("maxmemory"), redis.number("total_system_memory")
    evidence = {
        "maxmemory": int(limit),
        "used_memory": int(redis.number("used_memory")),
        "total_system_memory": int(total),
    }
    if not limit:
        return [
            warn(
                "Redis has no maxmemory",
                "It grows until the machine or its container is out of memory, and is killed then "
                "instead of evicting what is old.",
                (
                    redis.cli("config set maxmemory 192mb"),
                    redis.cli("config set maxmemory-policy allkeys-lru"),
                    "# for good: the same options on redis-server's command line, at about three "
                    "quarters of its mem_limit",
                ),
                "maxmemory",
                **evidence,
            )
        ]
    if total and limit > total:
        return [
            warn(
                f"maxmemory is {mib(limit)}, and the machine has {mib(total)}",
                "The limit is never reached: memory ends first.",
                (redis.cli(f"config set maxmemory {int(total * 0.5 / 2**20)}mb"),),
                "maxmemory",
                **evidence,
            )
        ]
    return ok(f"maxmemory is {mib(limit)}", **evidence)


def _refusing(redis: Redis) -> list[Finding]:
    """R2."""
    limit, used = redis.number("maxmemory"), redis.number("used_memory")
    policy = redis.info.get("maxmemory_policy", "")
    n_refused = _count(redis.info.get("errorstat_OOM", ""))
    evidence = {
        "maxmemory": int(limit),
        "used_memory": int(used),
        "maxmemory_policy": policy,
        "errorstat_OOM": n_refused,
    }
    full = bool(limit) and used >= FULL * limit
    if policy == "noeviction" and limit and (full or n_refused):
        return [
            (fail if full else warn)(
                f"Redis is full ({mib(used)} of {mib(limit)}) and refuses writes"
                if full
                else f"Redis refused {n_refused} writes, because it was full",
                "Its policy is `noeviction`, so it may forget nothing to make room. ragdock only "
                "caches there; all of it may be evicted.",
                (
                    redis.cli("config set maxmemory-policy allkeys-lru"),
                    "# for good: --maxmemory-policy allkeys-lru on redis-server's command line",
                ),
                "maxmemory-policy",
                **evidence,
            )
        ]
    return ok(f"Redis takes writes ({policy})", **evidence)


def _count(stat: str) -> int:
    found = re.search(r"count=(\d+)", stat)
    return int(found[1]) if found else 0


def _others(redis: Redis) -> tuple[int, list[str]]:
    """How many keys live for ever, which none of ragdock's does, and where."""
    n_keys, where = 0, []
    for name, text in redis.info.items():
        found = re.match(r"keys=(\d+),expires=(\d+)", text)
        if re.fullmatch(r"db\d+", name) and found and int(found[1]) > int(found[2]):
            n_keys += int(found[1]) - int(found[2])
            where.append(name)
    return n_keys, where


def _evicting(redis: Redis) -> list[Finding]:
    """R3."""
    policy = redis.info.get("maxmemory_policy", "")
    n_evicted = int(redis.number("evicted_keys"))
    n_keys, where = _others(redis)
    evidence = {
        "evicted_keys": n_evicted,
        "maxmemory_policy": policy,
        "keys_without_expiry": n_keys,
        "databases": where,
    }
    if n_evicted and n_keys and policy.startswith("allkeys"):
        return [
            warn(
                f"Redis evicts, and holds {n_keys} keys that nobody let expire",
                "Something else keeps data in this Redis. All of ragdock's keys expire; with an "
                "allkeys policy, the others' are evicted as well.",
                (
                    redis.cli("config set maxmemory-policy volatile-lru"),
                    "# better: a Redis of its own for each (REDIS_HOST)",
                ),
                "maxmemory-policy",
                **evidence,
            )
        ]
    return ok("nothing is evicted that should stay", **evidence)


def _snapshots(redis: Redis) -> list[Finding]:
    """R4."""
    status = redis.info.get("rdb_last_bgsave_status", "")
    stops = redis.config("stop-writes-on-bgsave-error")
    evidence = {
        "rdb_last_bgsave_status": status,
        "stop-writes-on-bgsave-error": stops,
        "save": redis.config("save"),
        "dir": redis.config("dir"),
        "errorstat_MISCONF": _count(redis.info.get("errorstat_MISCONF", "")),
    }
    if status == "err":
        directory = str(evidence["dir"] or "/data")
        return [
            (warn if stops == "no" else fail)(
                "Redis can't write its snapshot"
                + ("" if stops == "no" else ", and refuses all writes because of that"),
                f"It may not write {directory}, or the disk is full. Its log says which.",
                (
                    redis.log,
                    *redis.give(directory),
                    redis.cli("bgsave"),
                ),
                "rdb",
                **evidence,
            )
        ]
    return ok("the last snapshot was written, or none was due", **evidence)


def _append_only(redis: Redis) -> list[Finding]:
    """R5."""
    evidence = {
        name: redis.info.get(name)
        for name in ("aof_enabled", "aof_last_write_status", "aof_last_bgrewrite_status")
    }
    bad = [name for name, value in evidence.items() if value == "err"]
    if bad:
        writes = "aof_last_write_status" in bad
        return [
            (fail if writes else warn)(
                "Redis can't write its append-only file"
                if writes
                else "Redis can't rewrite its append-only file, which grows therefore",
                "Its directory can't be written by it, its disk is full, or memory was too short "
                "for the fork. Its log says which.",
                (
                    "docker-compose logs --tail 20 redis",
                    redis.cli("config get dir"),
                    redis.cli("bgrewriteaof"),
                ),
                "aof",
                **evidence,
            )
        ]
    return ok("the append-only file is written, or off", **evidence)


def _loading(world: World) -> list[Finding]:
    """R6."""
    try:
        redis = asked(world)
    except WorldError as exc:
        if exc.kind != "status" or not exc.detail.startswith("LOADING"):
            raise
        return [_loads({"error": exc.detail})]
    if not isinstance(redis, Redis):
        return redis
    if redis.info.get("loading") == "1":
        names = ("loading", "loading_loaded_perc", "loading_eta_seconds")
        return [_loads({name: redis.info.get(name) for name in names})]
    return ok("Redis has read its files", loading=redis.info.get("loading"))


def _loads(evidence: dict[str, str | None]) -> Finding:
    return warn(
        "Redis is still reading its files and answers nothing else",
        "It was started a moment ago, its file is large, or it is damaged.",
        (
            "docker-compose logs --tail 20 redis",
            "# a cache may be emptied: docker-compose rm -sf redis && docker volume rm "
            "<project>_redis-data && docker-compose up -d",
        ),
        "loading",
        **evidence,
    )


def _kept(redis: Redis) -> list[Finding]:
    """R9."""
    n_keys, where = _others(redis)
    save = redis.config("save")
    off = redis.info.get("aof_enabled") == "0" and save == ""
    evidence = {
        "aof_enabled": redis.info.get("aof_enabled"),
        "save": save,
        "keys_without_expiry": n_keys,
        "databases": where,
    }
    if off and n_keys:
        return [
            warn(
                f"Redis keeps nothing over a restart, and holds {n_keys} keys that never expire",
                "Neither snapshots nor the append-only file are on. ragdock's cache doesn't need "
                "them; what somebody else keeps there may.",
                (
                    redis.cli("config set appendonly yes"),
                    "# for good: --appendonly yes, and a volume on Redis's /data",
                ),
                "appendonly",
                **evidence,
            )
        ]
    said = "Redis keeps nothing over a restart, which is fine for a cache" if off else ""
    return ok(said or "what Redis holds survives a restart", **evidence)


def _owner(redis: Redis) -> list[Finding]:
    """R10."""
    if is_inside(redis.world):
        return skip("Redis's files are in another container: `ragdock doctor` on the host")
    pid, directory = int(redis.number("process_id")), redis.config("dir")
    status = _status(redis.world, pid)
    uid = re.search(r"^Uid:\s+\d+\s+(\d+)", status, re.MULTILINE)
    name = re.search(r"^Name:\s+(\S+)", status, re.MULTILINE)
    gids = re.search(r"^(?:Gid:\s+\d+\s+(\d+).*?)^Groups:(.*?)$", status, re.MULTILINE | re.DOTALL)
    if not (uid and name and gids and directory) or not name[1].startswith(("redis", "valkey")):
        return skip("Redis runs on another machine, or its directory can't be told")
    groups = frozenset(int(word) for word in [gids[1], *gids[2].split()])
    found = redis.world.stat(directory)
    evidence = {
        "dir": directory,
        "owner": f"{found.uid}:{found.gid}",
        "mode": f"{found.mode:o}",
        "redis_uid": int(uid[1]),
    }
    if not may_write(found, int(uid[1]), groups):
        return [
            warn(
                f"Redis runs as uid {uid[1]} and can't write its directory {directory}",
                f"It belongs to {found.uid}:{found.gid}; another package or image of Redis had "
                "another user.",
                (f"sudo chown -R {uid[1]} {directory}",),
                directory,
                **evidence,
            )
        ]
    return ok(f"Redis can write {directory}", **evidence)


def _status(world: World, pid: int) -> str:
    return world.read(f"/proc/{pid}/status")


CHECKS: Final = (
    Check(
        "R1",
        "Redis's memory is bounded",
        Scope.BOTH,
        "Redis or its neighbours are killed (exit 137) some day",
        _of_redis(_bounded),
    ),
    Check(
        "R2",
        "Redis takes writes",
        Scope.BOTH,
        "OOM command not allowed when used memory > 'maxmemory'.",
        _of_redis(_refusing),
    ),
    Check(
        "R3",
        "Redis evicts nobody's data",
        Scope.BOTH,
        "data of other programs in the same Redis vanishes",
        _of_redis(_evicting),
    ),
    Check(
        "R4",
        "Redis can write its snapshot",
        Scope.BOTH,
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist "
        "to disk",
        _of_redis(_snapshots),
    ),
    Check(
        "R5",
        "Redis can write its append-only file",
        Scope.BOTH,
        "MISCONF Errors writing to the AOF file",
        _of_redis(_append_only),
    ),
    Check(
        "R6",
        "Redis has read its files",
        Scope.BOTH,
        "LOADING Redis is loading the dataset in memory",
        _loading,
    ),
    Check(
        "R9",
        "Redis keeps what is meant to stay",
        Scope.BOTH,
        "data gone after a restart of Redis",
        _of_redis(_kept),
    ),
    Check(
        "R10",
        "Redis's directory is its user's",
        Scope.BOTH,
        "Failed opening the temp RDB file ... Permission denied, after another Redis was installed",
        _of_redis(_owner),
    ),
)
