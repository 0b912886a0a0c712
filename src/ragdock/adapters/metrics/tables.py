"""The metrics: names, kinds, labels, and what they tell."""

from __future__ import annotations

from typing import Final

__all__ = ["MEASURED", "METRICS"]

_FAST: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SLOW: Final = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

# short name -> (kind, exposed name, help, labels, buckets)
METRICS: Final[dict[str, tuple[str, str, str, tuple[str, ...], tuple[float, ...]]]] = {
    "requests": (
        "histogram",
        "rag_request_seconds",
        "Time to answer a request, by route, method and status.",
        ("route", "method", "status"),
        _FAST,
    ),
    "in_flight": ("gauge", "rag_requests_in_flight", "Requests being worked on.", (), ()),
    "refused": (
        "counter",
        "rag_refused_total",
        "Requests refused because a limit was reached, by reason.",
        ("reason",),
        (),
    ),
    "rate_limit_fallback": (
        "counter",
        "rag_rate_limit_fallback_total",
        "Rate limits that a process decided alone, because Redis was away.",
        (),
        (),
    ),
    "audit_failures": (
        "counter",
        "rag_audit_failures_total",
        "Audit records that could not be written.",
        (),
        (),
    ),
    "connections_closed": (
        "counter",
        "rag_connections_closed_total",
        "Connections closed by the server, by reason (full, header, slow_reader).",
        ("reason",),
        (),
    ),
    "cache": (
        "counter",
        "rag_cache_lookups_total",
        "Cache look-ups by kind (answer, search, embedding) and result (hit, miss).",
        ("kind", "result"),
        (),
    ),
    "cache_errors": ("counter", "rag_cache_errors_total", "Failed calls of the cache.", (), ()),
    "ingested": (
        "counter",
        "rag_ingest_documents_total",
        "Documents finished, by outcome (indexed, unchanged, superseded, failed, retried).",
        ("outcome",),
        (),
    ),
    "ingested_chunks": ("counter", "rag_ingest_chunks_total", "Chunks indexed.", (), ()),
    "ingest_stage": (
        "histogram",
        "rag_ingest_stage_seconds",
        "Time of a document in a stage (parse, chunk, embed, commit).",
        ("stage",),
        _SLOW,
    ),
    "fetches": (
        "counter",
        "rag_url_fetches_total",
        "URLs fetched for POST /v1/urls, by outcome (fetched, or the error's code).",
        ("outcome",),
        (),
    ),
    "stage": (
        "histogram",
        "rag_query_stage_seconds",
        "Time of a query in a stage (embed, lexical, dense, fuse, generate).",
        ("stage",),
        _FAST,
    ),
    "answers": (
        "counter",
        "rag_answers_total",
        "Answers by generator (extractive, llm) and result (grounded, unknown, fallback).",
        ("generator", "result"),
        (),
    ),
    "trace_spans": (
        "counter",
        "rag_trace_spans_total",
        "Spans by what became of them (exported, failed, dropped); only while tracing.",
        ("result",),
        (),
    ),
    "dependency": (
        "gauge",
        "rag_dependency_up",
        "1 when the dependency answered its last check, else 0.",
        ("dependency",),
        (),
    ),
    "build": (
        "gauge",
        "rag_build_info",
        "Constant 1, labelled with the version.",
        ("version",),
        (),
    ),
}

# short name -> (kind, exposed name, help, labels)
MEASURED: Final[dict[str, tuple[str, str, str, tuple[str, ...]]]] = {
    "health": (
        "gauge",
        "rag_health_status",
        "1 for what /health says (ok, degraded, unavailable), else 0.",
        ("status",),
    ),
    "queue": (
        "gauge",
        "rag_queue_documents",
        "Documents in the ledger by state (pending, processing, failed).",
        ("state",),
    ),
    "queue_bytes": ("gauge", "rag_queue_bytes", "Uploads of unfinished documents.", ()),
    "queue_oldest": (
        "gauge",
        "rag_queue_oldest_seconds",
        "Age of the oldest document by state (pending, processing); 0 without one.",
        ("state",),
    ),
    "documents": ("gauge", "rag_documents", "Searchable documents.", ()),
    "chunks": ("gauge", "rag_chunks", "Searchable passages.", ()),
    "data_bytes": (
        "gauge",
        "rag_data_bytes",
        "Size of the data by part (catalogue, collections, contents, audit), every 30 s.",
        ("part",),
    ),
    "data_free": (
        "gauge",
        "rag_data_free_bytes",
        "Room left on the data directory's file system.",
        (),
    ),
    "data_size": (
        "gauge",
        "rag_data_size_bytes",
        "Size of the data directory's file system.",
        (),
    ),
    "backup": (
        "gauge",
        "rag_backup_time_seconds",
        "When `ragdock backup` was last done, in seconds since 1970; absent until it was.",
        (),
    ),
    "redis_memory": ("gauge", "rag_redis_memory_bytes", "Memory that Redis uses.", ()),
    "redis_memory_limit": (
        "gauge",
        "rag_redis_memory_limit_bytes",
        "Redis's maxmemory; absent without one.",
        (),
    ),
    "redis_keys": ("gauge", "rag_redis_keys", "Keys in our database of Redis.", ()),
    "redis_clients": ("gauge", "rag_redis_clients", "Connections to Redis.", ()),
    "redis_uptime": ("gauge", "rag_redis_uptime_seconds", "Time since Redis started.", ()),
    "redis_persistence": (
        "gauge",
        "rag_redis_persistence_ok",
        "1 when Redis's last write by kind (snapshot, append, rewrite) went well, else 0.",
        ("kind",),
    ),
    "redis_evicted": (
        "counter",
        "rag_redis_evicted_keys_total",
        "Keys that Redis dropped for want of memory.",
        (),
    ),
    "redis_expired": ("counter", "rag_redis_expired_keys_total", "Keys that expired.", ()),
    "redis_hits": ("counter", "rag_redis_hits_total", "Keys that Redis was asked for and had.", ()),
    "redis_misses": (
        "counter",
        "rag_redis_misses_total",
        "Keys that Redis was asked for and lacked.",
        (),
    ),
    "redis_commands": ("counter", "rag_redis_commands_total", "Commands that Redis ran.", ()),
    "redis_rejected": (
        "counter",
        "rag_redis_rejected_connections_total",
        "Connections that Redis refused.",
        (),
    ),
}
"""Values that whoever is asked measures anew, so that several processes tell each of them once."""
