"""Redis's INFO as measurements: https://redis.io/docs/latest/commands/info/."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ragdock.ports import Measurement

__all__ = ["of_info"]

_FIELDS: Final = (
    ("redis_memory", "used_memory"),
    ("redis_clients", "connected_clients"),
    ("redis_uptime", "uptime_in_seconds"),
    ("redis_evicted", "evicted_keys"),
    ("redis_expired", "expired_keys"),
    ("redis_hits", "keyspace_hits"),
    ("redis_misses", "keyspace_misses"),
    ("redis_commands", "total_commands_processed"),
    ("redis_rejected", "rejected_connections"),
)
_PERSISTENCE: Final = (
    ("snapshot", "rdb_last_bgsave_status"),
    ("append", "aof_last_write_status"),
    ("rewrite", "aof_last_bgrewrite_status"),
)


def of_info(info: Mapping[str, Any], db: int) -> Iterator[Measurement]:
    """What INFO tells, without the fields that this Redis lacks."""
    for name, field in _FIELDS:
        if isinstance(value := info.get(field), int | float):
            yield Measurement(name, float(value))
    if limit := info.get("maxmemory"):
        yield Measurement("redis_memory_limit", float(limit))
    for kind, field in _PERSISTENCE:
        if (status := info.get(field)) is not None:
            yield Measurement("redis_persistence", float(status == "ok"), {"kind": kind})
    keyspace = info.get(f"db{db}")
    n_keys = keyspace.get("keys", 0) if isinstance(keyspace, Mapping) else 0
    yield Measurement("redis_keys", float(n_keys))
