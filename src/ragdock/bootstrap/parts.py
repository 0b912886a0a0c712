"""Single parts, made as the settings say."""

from __future__ import annotations

import logging
from contextlib import ExitStack

from ragdock.adapters.audit.jsonl import JsonlAudit
from ragdock.adapters.audit.logger import LoggerAudit
from ragdock.adapters.audit.null import NullAudit
from ragdock.adapters.caches.memory import MemoryCache
from ragdock.adapters.caches.redis import RedisCache
from ragdock.adapters.caches.tiered import NEAR_TTL_SECONDS, TieredCache
from ragdock.adapters.embedders.minilm import MiniLmEmbedder
from ragdock.adapters.limits.memory import MemoryLimiter
from ragdock.adapters.limits.redis import RedisLimiter
from ragdock.adapters.stores.sqlite import SqliteStore
from ragdock.adapters.tracing.null import NullTracer
from ragdock.core.chunking import CHUNKER_ID
from ragdock.core.fingerprints import fingerprint_of
from ragdock.core.fusion import MIN_MAX, MINILM, RRF, FusionProfile
from ragdock.core.lead import LEAD_ID
from ragdock.errors import ConfigurationError, ConflictError, InputError, NotFoundError
from ragdock.logs import trace_id
from ragdock.ports import (
    AuditLog,
    Cache,
    Embedder,
    Fetcher,
    Generator,
    Metrics,
    RateLimiter,
    Store,
    Tracer,
)
from ragdock.services.audit import Audit
from ragdock.services.fetching import UrlReader
from ragdock.services.limits import Limits, default_rates
from ragdock.settings import Settings, memory_limit_mb

__all__ = [
    "audit_of",
    "cache_of",
    "embedder_of",
    "ensure_collection",
    "generator_of",
    "index_of",
    "limits_of",
    "n_ingest_threads",
    "parse_memory_mb",
    "profile_of",
    "store_of",
    "tracer_of",
    "traces_url_of",
    "url_reader_of",
]

PART_MB = 64
"""What a part of a document takes while it is worked on, its parser included (measured: 50)."""

log = logging.getLogger(__name__)


def parse_memory_mb() -> int:
    limit_mb = memory_limit_mb()
    return 1024 if limit_mb is None else min(1024, max(128, limit_mb // 2))


def n_ingest_threads(n_threads: int) -> int:
    """As many as embed, or fewer where a part of a document for each would not fit in memory."""
    limit_mb = memory_limit_mb()
    return n_threads if limit_mb is None else max(1, min(n_threads, limit_mb // PART_MB - 2))


def store_of(settings: Settings) -> SqliteStore:
    return SqliteStore(
        settings.data_dir,
        max_attempts=settings.max_attempts,
        keep_failed_hours=settings.keep_failed_hours,
    )


def index_of(settings: Settings, embedder: Embedder) -> str:
    chunker = f"{CHUNKER_ID}+{LEAD_ID}"
    return fingerprint_of(embedder.id, embedder.dim, chunker, settings.chunk_tokens)


def traces_url_of(settings: Settings) -> str | None:
    """Where traces are sent to; None when nothing is traced."""
    if settings.otel_traces_exporter == "none":
        return None
    base = settings.otlp_endpoint
    return settings.otlp_traces_endpoint or (f"{base}/v1/traces" if base else None)


def tracer_of(settings: Settings, metrics: Metrics) -> Tracer:
    url = traces_url_of(settings)
    if url is None:
        return NullTracer()
    log.info(
        "requests are traced",
        extra={"protocol": settings.otlp_protocol, "sampler": settings.otel_traces_sampler},
    )
    # Imported when wanted: the SDK and its exporter take half a second and 17 MB of memory.
    from ragdock.adapters.tracing.otel import OtelTracer

    headers = settings.otlp_headers
    return OtelTracer(
        url,
        metrics=metrics,
        trace_id=trace_id,
        headers=headers.get_secret_value() if headers else "",
        service_name=settings.otel_service_name,
        resource_attributes=settings.otel_resource_attributes,
        sampler=settings.otel_traces_sampler,
        sampler_arg=settings.otel_traces_sampler_arg,
        close_seconds=settings.trace_shutdown_seconds,
    )


def embedder_of(settings: Settings, n_threads: int, tracer: Tracer | None = None) -> Embedder:
    if settings.embedder == "minilm":
        return MiniLmEmbedder(settings.model_dir, n_threads)
    if settings.embed_base_url is None or settings.embed_model is None:
        missing = "RAG_EMBED_BASE_URL" if settings.embed_base_url is None else "RAG_EMBED_MODEL"
        raise ConfigurationError(f"{missing} is not set, but RAG_EMBEDDER=openai needs it.")
    # Imported when named: a server without remote models needs no HTTP client in memory.
    from ragdock.adapters.embedders.openai import OpenAiEmbedder

    key = settings.embed_api_key
    return OpenAiEmbedder(
        settings.embed_base_url,
        settings.embed_model,
        api_key=key.get_secret_value() if key else None,
        dim=settings.embed_dim,
        timeout_seconds=settings.embed_timeout_seconds,
        more_headers=(tracer or NullTracer()).headers,
    )


def generator_of(settings: Settings, tracer: Tracer) -> Generator | None:
    if settings.llm_base_url is None:
        return None
    if settings.llm_model is None:
        raise ConfigurationError("RAG_LLM_MODEL is not set, but RAG_LLM_BASE_URL is; name a model.")
    from ragdock.adapters.generators.openai import OpenAiGenerator

    key = settings.llm_api_key
    generator: Generator = OpenAiGenerator(
        settings.llm_base_url,
        settings.llm_model,
        api_key=key.get_secret_value() if key else None,
        timeout_seconds=settings.llm_timeout_seconds,
        max_tokens=settings.llm_max_tokens,
        concurrency=settings.llm_concurrency,
        more_headers=tracer.headers,
    )
    if tracer.is_on:
        from ragdock.adapters.tracing.wrapping import traced_generator

        generator = traced_generator(generator, tracer, settings.llm_model)
    return generator


def url_reader_of(
    settings: Settings, store: Store, metrics: Metrics, fetcher: Fetcher | None
) -> UrlReader | None:
    if not settings.fetch_urls:
        return None
    if fetcher is None:
        # Imported when wanted: a server that fetches nothing needs no HTTP client in memory.
        from ragdock.adapters.fetchers.http import HttpFetcher

        try:
            fetcher = HttpFetcher(
                max_bytes=settings.max_upload_mb * 2**20, hosts=settings.fetch_hosts
            )
        except InputError:
            raise ConfigurationError(
                f"RAG_FETCH_HOSTS={settings.fetch_hosts!r} isn't a list of host names such as "
                "docs.example.org,*.example.com."
            ) from None
    return UrlReader(fetcher, store, metrics)


def cache_of(settings: Settings, metrics: Metrics, tracer: Tracer) -> Cache:
    near = MemoryCache(settings.cache_memory_mb * 1024 * 1024)
    if settings.redis_host is None or settings.cache_ttl_seconds == 0:
        return near
    password = settings.redis_password
    far = RedisCache(
        settings.redis_host,
        settings.redis_port,
        password=password.get_secret_value() if password else None,
        db=settings.redis_db,
        timeout_seconds=settings.redis_timeout_seconds,
        metrics=metrics,
        tracer=tracer,
    )
    ttl_seconds = min(NEAR_TTL_SECONDS, settings.cache_ttl_seconds)
    return TieredCache(near, far, near_ttl_seconds=ttl_seconds)


def limits_of(settings: Settings, metrics: Metrics, tracer: Tracer, stack: ExitStack) -> Limits:
    key_rate, address_rate = default_rates(
        settings.environment, settings.rate_per_minute, settings.address_rate_per_minute
    )
    limiter: RateLimiter = MemoryLimiter()
    if settings.redis_host is not None:
        password = settings.redis_password
        limiter = RedisLimiter(
            settings.redis_host,
            settings.redis_port,
            password=password.get_secret_value() if password else None,
            db=settings.redis_db,
            timeout_seconds=settings.redis_timeout_seconds,
            metrics=metrics,
            tracer=tracer,
        )
    stack.callback(limiter.close)
    return Limits(limiter, metrics, key_rate=key_rate, address_rate=address_rate)


def audit_of(settings: Settings, metrics: Metrics, stack: ExitStack) -> Audit:
    log: AuditLog = NullAudit()
    if settings.audit == "file":
        log = JsonlAudit(settings.data_dir / "audit")
    elif settings.audit == "log":
        log = LoggerAudit()
    stack.callback(log.close)
    return Audit(log, metrics)


def profile_of(settings: Settings) -> FusionProfile:
    if settings.fusion == "rrf":
        return RRF
    return MINILM if settings.fusion == "auto" and settings.embedder == "minilm" else MIN_MAX


def ensure_collection(store: Store, name: str, fingerprint: str, dim: int) -> None:
    try:
        store.collection(name)
    except NotFoundError:
        try:
            store.create_collection(name, fingerprint, dim)
        except ConflictError:
            log.debug("another process made collection %s", name)
