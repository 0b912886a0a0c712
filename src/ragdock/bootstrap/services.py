"""Everything a server or a worker is made of."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from ragdock.adapters.metrics.disk import DataDirectory
from ragdock.adapters.metrics.null import NullMetrics
from ragdock.adapters.metrics.prometheus import FleetMetrics, PrometheusMetrics
from ragdock.adapters.parsers.dispatch import ParserPool
from ragdock.adapters.stores.sqlite.answers import SqliteAnswers
from ragdock.adapters.stores.sqlite.keys import SqliteKeys
from ragdock.adapters.tracing.null import NullTracer
from ragdock.bootstrap.parts import (
    audit_of,
    cache_of,
    embedder_of,
    ensure_collection,
    generator_of,
    index_of,
    limits_of,
    n_ingest_threads,
    parse_memory_mb,
    profile_of,
    store_of,
    tracer_of,
    url_reader_of,
)
from ragdock.core.ids import PublicIds
from ragdock.errors import ConfigurationError, NotFoundError
from ragdock.ports import (
    Answers,
    Embedder,
    Fetcher,
    Metrics,
    Store,
    Tracer,
)
from ragdock.services.answer import Answerer
from ragdock.services.audit import Audit
from ragdock.services.caching import JsonCache
from ragdock.services.fetching import UrlReader
from ragdock.services.ingest import Ingester, Workers
from ragdock.services.intake import Intake
from ragdock.services.keys import Keys
from ragdock.services.limits import Limits
from ragdock.services.readiness import Dependency, Readiness
from ragdock.services.retrieve import Retriever
from ragdock.services.tenancy import TenantStore
from ragdock.services.vitals import Vitals
from ragdock.settings import Settings, cpu_quota
from ragdock.types import Bounds, JobState

__all__ = [
    "DEFAULT_COLLECTION",
    "Services",
    "open_audit",
    "open_fleet_metrics",
    "open_keys",
    "open_services",
]

DEFAULT_COLLECTION = "default"
LLM_FRESH_SECONDS = 15.0

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
    tracer: Tracer
    retriever: Retriever
    answerer: Answerer
    ingester: Ingester
    intake: Intake
    limits: Limits
    audit: Audit
    readiness: Readiness
    vitals: Vitals
    urls: UrlReader | None
    fingerprint: str
    ids: PublicIds


@contextmanager
def open_services(
    settings: Settings,
    *,
    work: bool = True,
    serve: bool = True,
    trace: bool = True,
    embedder: Embedder | None = None,
    fetcher: Fetcher | None = None,
) -> Iterator[Services]:
    """Build the services, open to close in reverse order.

    `work` starts the ingestion worker, and `serve` says that requests are answered as well;
    without `trace` nothing is traced, whatever the settings say;
    `embedder` and `fetcher` replace the configured ones (tests).
    Raises `ConfigurationError` when the settings, the data directory or the model won't do.
    """
    with ExitStack() as stack:
        n_threads = settings.threads or cpu_quota()
        metrics = PrometheusMetrics()
        # Opened first, so that it is closed when nothing is left to trace.
        tracer = tracer_of(settings, metrics) if trace else NullTracer()
        stack.callback(tracer.close)
        sqlite = store_of(settings)
        # Routes and services see what the caller may see; see `services.tenancy`.
        store: Store = TenantStore(_traced_store(sqlite, tracer))
        stack.callback(store.close)
        keys = stack.enter_context(open_keys(settings))
        answers = SqliteAnswers(settings.data_dir)
        stack.callback(answers.close)
        embedder = _traced_embedder(embedder or embedder_of(settings, n_threads, tracer), tracer)
        stack.callback(embedder.close)
        cache = cache_of(settings, metrics, tracer)
        stack.callback(cache.close)
        generator = generator_of(settings, tracer)
        if generator is not None:
            stack.callback(generator.close)
        parser = ParserPool(
            settings.parse_timeout_seconds,
            settings.parse_memory_mb or parse_memory_mb(),
            max_pages=settings.max_pages,
            ocr=settings.ocr,
        )
        stack.callback(parser.close)

        fingerprint = index_of(settings, embedder)
        _require_fingerprint(store, fingerprint, embedder.dim)
        sqlite.prefer(fingerprint)
        profile = profile_of(settings)
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
            tracer=tracer,
            fingerprint=fingerprint,
            chunk_tokens=settings.chunk_tokens,
            max_queue=settings.max_queue,
            n_threads=n_ingest_threads(n_threads),
            lease_seconds=settings.lease_seconds,
            archive_bounds=Bounds(settings.max_archive_files, settings.max_archive_mb * 2**20),
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
            tracer=tracer,
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
            limits=limits_of(settings, metrics, tracer, stack),
            audit=audit_of(settings, metrics, stack),
            readiness=Readiness(tuple(dependencies), metrics),
            vitals=Vitals(store, cache.measure, DataDirectory(settings.data_dir).measure),
            urls=url_reader_of(settings, store, metrics, fetcher),
            fingerprint=fingerprint,
            ids=PublicIds(store.secret("public-ids")),
        )
        if work:
            ingester.start()
            seconds = settings.ingest_shutdown_seconds if serve else settings.shutdown_seconds
            stack.callback(ingester.stop, seconds)
        yield services


@contextmanager
def open_keys(settings: Settings) -> Iterator[Keys]:
    """The API keys of the data directory."""
    admin_key, metrics_key = settings.admin_key, settings.metrics_key
    keys = Keys(
        SqliteKeys(settings.data_dir),
        admin_key=admin_key.get_secret_value() if admin_key else None,
        metrics_key=metrics_key.get_secret_value() if metrics_key else None,
        required=settings.environment != "development",
    )
    try:
        yield keys
    finally:
        keys.close()


@contextmanager
def open_audit(settings: Settings) -> Iterator[Audit]:
    """The audit log, for what is done beside a server."""
    with ExitStack() as stack:
        yield audit_of(settings, NullMetrics(), stack)


def open_fleet_metrics(directory: str) -> FleetMetrics:
    """The metrics of processes that were started with this PROMETHEUS_MULTIPROC_DIR."""
    return FleetMetrics(directory)


def _traced_store(store: Store, tracer: Tracer) -> Store:
    if not tracer.is_on:
        return store
    from ragdock.adapters.tracing.wrapping import traced_store

    return traced_store(store, tracer, "sqlite")


def _traced_embedder(embedder: Embedder, tracer: Tracer) -> Embedder:
    if not tracer.is_on:
        return embedder
    from ragdock.adapters.tracing.wrapping import traced_embedder

    return traced_embedder(embedder, tracer)


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
        ensure_collection(store, collection.name, fingerprint, dim)
    ensure_collection(store, DEFAULT_COLLECTION, fingerprint, dim)
