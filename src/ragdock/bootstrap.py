"""The composition root: settings in, services out; the only importer of adapters."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ragdock.adapters.audit.jsonl import JsonlAudit
from ragdock.adapters.audit.logger import LoggerAudit
from ragdock.adapters.audit.null import NullAudit
from ragdock.adapters.caches.memory import MemoryCache
from ragdock.adapters.caches.redis import RedisCache
from ragdock.adapters.caches.tiered import NEAR_TTL_SECONDS, TieredCache
from ragdock.adapters.embedders.minilm import MiniLmEmbedder
from ragdock.adapters.limits.memory import MemoryLimiter
from ragdock.adapters.limits.redis import RedisLimiter
from ragdock.adapters.metrics.prometheus import FleetMetrics, PrometheusMetrics
from ragdock.adapters.parsers.dispatch import ParserPool
from ragdock.adapters.stores.sqlite import SqliteKeeper, SqliteStore
from ragdock.adapters.stores.sqlite.answers import SqliteAnswers
from ragdock.adapters.stores.sqlite.keys import SqliteKeys
from ragdock.core.chunking import CHUNKER_ID
from ragdock.core.fingerprints import fingerprint_of
from ragdock.core.fusion import MIN_MAX, MINILM, RRF, FusionProfile
from ragdock.core.ids import PublicIds
from ragdock.core.lead import LEAD_ID
from ragdock.errors import ConfigurationError, ConflictError, InputError, NotFoundError
from ragdock.ports import (
    Answers,
    AuditLog,
    Build,
    Cache,
    Embedder,
    Fetcher,
    Generator,
    Keeper,
    Metrics,
    RateLimiter,
    Store,
    Transfer,
)
from ragdock.services.answer import Answerer
from ragdock.services.audit import Audit
from ragdock.services.caching import JsonCache
from ragdock.services.fetching import UrlReader
from ragdock.services.ingest import Ingester, Workers
from ragdock.services.intake import Intake
from ragdock.services.keys import Keys
from ragdock.services.limits import Limits, default_rates
from ragdock.services.readiness import Dependency, Readiness
from ragdock.services.reindex import Reindexer
from ragdock.services.retrieve import Retriever
from ragdock.services.tenancy import TenantStore
from ragdock.settings import Settings, cpu_quota, memory_limit_mb
from ragdock.types import Collection, JobState

__all__ = [
    "DEFAULT_COLLECTION",
    "Reindexing",
    "Services",
    "keeper_of",
    "open_fleet_metrics",
    "open_keys",
    "open_reindexing",
    "open_services",
]

DEFAULT_COLLECTION = "default"
LLM_FRESH_SECONDS = 15.0
PART_MB = 64
"""What a part of a document takes while it is worked on, its parser included (measured: 50)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a request needs; opened and closed together."""

    settings: Settings
    store: Store
    keys: Keys
    answers: Answers
    embedder: Embedder
    metrics: Metrics
    retriever: Retriever
    answerer: Answerer
    ingester: Ingester
    intake: Intake
    limits: Limits
    audit: Audit
    readiness: Readiness
    urls: UrlReader | None
    fingerprint: str
    ids: PublicIds


@contextmanager
def open_services(
    settings: Settings,
    *,
    work: bool = True,
    serve: bool = True,
    embedder: Embedder | None = None,
    fetcher: Fetcher | None = None,
) -> Iterator[Services]:
    """Build the services, open to close in reverse order.

    `work` starts the ingestion worker, and `serve` says that requests are answered as well;
    `embedder` and `fetcher` replace the configured ones (tests).
    Raises `ConfigurationError` when the settings, the data directory or the model won't do.
    """
    with ExitStack() as stack:
        n_threads = settings.threads or cpu_quota()
        metrics = PrometheusMetrics()
        # Routes and services see what the caller may see; see `services.tenancy`.
        sqlite = _store(settings)
        store: Store = TenantStore(sqlite)
        stack.callback(store.close)
        keys = stack.enter_context(open_keys(settings))
        answers = SqliteAnswers(settings.data_dir)
        stack.callback(answers.close)
        embedder = embedder or _embedder(settings, n_threads)
        stack.callback(embedder.close)
        cache = _cache(settings, metrics)
        stack.callback(cache.close)
        generator = _generator(settings)
        if generator is not None:
            stack.callback(generator.close)
        parser = ParserPool(
            settings.parse_timeout_seconds,
            settings.parse_memory_mb or _parse_memory_mb(),
            max_pages=settings.max_pages,
        )
        stack.callback(parser.close)

        fingerprint = _fingerprint(settings, embedder)
        _require_fingerprint(store, fingerprint, embedder.dim)
        sqlite.prefer(fingerprint)
        profile = _profile(settings)
        json_cache = JsonCache(cache, settings.cache_ttl_seconds, metrics)
        retriever = Retriever(
            store,
            embedder,
            json_cache,
            metrics,
            profile=profile,
            fingerprint=fingerprint,
            n_candidates=settings.candidates,
        )
        intake = Intake(store, metrics, settings.max_queue_mb)
        ingester = Ingester(
            store,
            parser,
            embedder,
            metrics,
            fingerprint=fingerprint,
            chunk_tokens=settings.chunk_tokens,
            max_queue=settings.max_queue,
            n_threads=_n_ingest_threads(n_threads),
            lease_seconds=settings.lease_seconds,
        )
        dependencies = [
            Dependency("store", store.ping, required=True),
            Dependency("embedder", embedder.ping, required=True),
        ]
        if work:
            dependencies.append(Dependency("worker", ingester.ping, required=True))
        elif serve:
            # Answers don't depend on it, so the server stays in service.
            workers = Workers(store)
            dependencies.append(Dependency("workers", workers.ping, required=False))
        if serve and settings.redis_host is not None:
            dependencies.append(Dependency("redis", cache.ping, required=False))
        if serve and generator is not None:
            dependencies.append(
                Dependency("llm", generator.ping, required=False, fresh_seconds=LLM_FRESH_SECONDS)
            )
        services = Services(
            settings=settings,
            store=store,
            keys=keys,
            answers=answers,
            embedder=embedder,
            metrics=metrics,
            retriever=retriever,
            answerer=Answerer(
                retriever,
                embedder,
                generator,
                json_cache,
                metrics,
                min_score=settings.min_score,
            ),
            ingester=ingester,
            intake=intake,
            limits=_limits(settings, metrics, stack),
            audit=_audit(settings, metrics, stack),
            readiness=Readiness(tuple(dependencies), metrics),
            urls=_url_reader(settings, store, metrics, fetcher),
            fingerprint=fingerprint,
            ids=PublicIds(store.secret("public-ids")),
        )
        if work:
            ingester.start()
            seconds = settings.ingest_shutdown_seconds if serve else settings.shutdown_seconds
            stack.callback(ingester.stop, seconds)
        yield services


def keeper_of(data_dir: Path) -> Keeper:
    """Who copies, restores and checks the store in a data directory."""
    return SqliteKeeper(data_dir)


@contextmanager
def open_keys(settings: Settings) -> Iterator[Keys]:
    """The API keys of the data directory."""
    admin_key = settings.admin_key
    keys = Keys(
        SqliteKeys(settings.data_dir),
        admin_key=admin_key.get_secret_value() if admin_key else None,
        required=settings.environment != "development",
    )
    try:
        yield keys
    finally:
        keys.close()


def open_fleet_metrics(directory: str) -> FleetMetrics:
    """The metrics of processes that were started with this PROMETHEUS_MULTIPROC_DIR."""
    return FleetMetrics(directory)


def _parse_memory_mb() -> int:
    limit_mb = memory_limit_mb()
    return 1024 if limit_mb is None else min(1024, max(128, limit_mb // 2))


def _n_ingest_threads(n_threads: int) -> int:
    """As many as embed, or fewer where a part of a document for each would not fit in memory."""
    limit_mb = memory_limit_mb()
    return n_threads if limit_mb is None else max(1, min(n_threads, limit_mb // PART_MB - 2))


@contextmanager
def open_reindexing(
    settings: Settings, *, embedder: Embedder | None = None
) -> Iterator[Reindexing]:
    """What it takes to build indexes anew, without a server."""
    with ExitStack() as stack:
        store = _store(settings)
        stack.callback(store.close)
        if embedder is None:
            embedder = _embedder(settings, settings.threads or cpu_quota())
            stack.callback(embedder.close)
        yield Reindexing(
            store,
            Reindexer(embedder, settings.chunk_tokens),
            _fingerprint(settings, embedder),
            embedder.dim,
        )


class Reindexing:
    """A store, and how its collections are to be indexed."""

    def __init__(
        self, store: SqliteStore, reindexer: Reindexer, fingerprint: str, dim: int
    ) -> None:
        self._store = store
        self.dim = dim
        self.reindexer = reindexer
        self.fingerprint = fingerprint

    def collections(self) -> tuple[Collection, ...]:
        """All collections."""
        return self._store.collections()

    @property
    def transfer(self) -> Transfer:
        """Whole documents out of the store and into it."""
        return self._store

    def collection(self, name: str, *, create: bool = False) -> Collection:
        """One collection; `create` makes a missing one."""
        if create:
            _ensure(self._store, name, self.fingerprint, self.dim)
        return self._store.collection(name)

    def build(self, collection: str, *, force: bool = False) -> Build | None:
        """The collection's next index; None when it is indexed so already."""
        return self._store.rebuild(collection, self.fingerprint, self.dim, force=force)

    def is_begun(self, collection: str) -> bool:
        """Whether an earlier run left something to go on with."""
        return self._store.collection(collection).reindex_percent is not None

    def discard(self, collection: str) -> bool:
        """Remove an unfinished build; False when there is none."""
        return self._store.discard_build(collection)


def _store(settings: Settings) -> SqliteStore:
    return SqliteStore(
        settings.data_dir,
        max_attempts=settings.max_attempts,
        keep_failed_hours=settings.keep_failed_hours,
    )


def _fingerprint(settings: Settings, embedder: Embedder) -> str:
    chunker = f"{CHUNKER_ID}+{LEAD_ID}"
    return fingerprint_of(embedder.id, embedder.dim, chunker, settings.chunk_tokens)


def _embedder(settings: Settings, n_threads: int) -> Embedder:
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
    )


def _generator(settings: Settings) -> Generator | None:
    if settings.llm_base_url is None:
        return None
    if settings.llm_model is None:
        raise ConfigurationError("RAG_LLM_MODEL is not set, but RAG_LLM_BASE_URL is; name a model.")
    from ragdock.adapters.generators.openai import OpenAiGenerator

    key = settings.llm_api_key
    return OpenAiGenerator(
        settings.llm_base_url,
        settings.llm_model,
        api_key=key.get_secret_value() if key else None,
        timeout_seconds=settings.llm_timeout_seconds,
        max_tokens=settings.llm_max_tokens,
        concurrency=settings.llm_concurrency,
    )


def _url_reader(
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


def _cache(settings: Settings, metrics: Metrics) -> Cache:
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
    )
    ttl_seconds = min(NEAR_TTL_SECONDS, settings.cache_ttl_seconds)
    return TieredCache(near, far, near_ttl_seconds=ttl_seconds)


def _limits(settings: Settings, metrics: Metrics, stack: ExitStack) -> Limits:
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
        )
    stack.callback(limiter.close)
    return Limits(limiter, metrics, key_rate=key_rate, address_rate=address_rate)


def _audit(settings: Settings, metrics: Metrics, stack: ExitStack) -> Audit:
    log: AuditLog = NullAudit()
    if settings.audit == "file":
        log = JsonlAudit(settings.data_dir / "audit")
    elif settings.audit == "log":
        log = LoggerAudit()
    stack.callback(log.close)
    return Audit(log, metrics)


def _profile(settings: Settings) -> FusionProfile:
    if settings.fusion == "rrf":
        return RRF
    return MINILM if settings.fusion == "auto" and settings.embedder == "minilm" else MIN_MAX


def _require_fingerprint(store: Store, fingerprint: str, dim: int) -> None:
    """Make the default collection; refuse to start on collections of another embedder."""
    for collection in store.collections():
        if collection.fingerprint == fingerprint:
            continue
        waiting = store.jobs(
            collection=collection.name, states=(JobState.PENDING, JobState.PROCESSING), limit=1
        )
        if collection.n_documents or waiting:
            raise ConfigurationError(
                f"Collection {collection.name!r} is indexed with {collection.fingerprint!r}, but "
                f"these settings mean {fingerprint!r}. Run `ragdock reindex {collection.name}` "
                "(or --all) with these settings, which may be while a server with the former ones "
                "runs; or restore the former RAG_EMBEDDER, RAG_EMBED_MODEL and RAG_CHUNK_TOKENS."
            )
        # An empty one holds nothing of the other embedder but its name.
        with suppress(NotFoundError):
            store.drop_collection(collection.name)
        _ensure(store, collection.name, fingerprint, dim)
    _ensure(store, DEFAULT_COLLECTION, fingerprint, dim)


def _ensure(store: Store, name: str, fingerprint: str, dim: int) -> None:
    try:
        store.collection(name)
    except NotFoundError:
        try:
            store.create_collection(name, fingerprint, dim)
        except ConflictError:
            log.debug("another process made collection %s", name)
