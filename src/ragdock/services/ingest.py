"""Ingestion: accept now, process soon; the ledger in the store is the only queue."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from ragdock.errors import (
    ConflictError,
    DocumentError,
    NotFoundError,
    RagdockError,
    UnavailableError,
)
from ragdock.ports import Attributes, Embedder, Metrics, Parser, Span, Store, Tracer
from ragdock.services.pipeline import DEFAULT_BOUNDS, Pipeline
from ragdock.services.threads import DaemonPool
from ragdock.types import Bounds, Job, JobStage, JobState, Upload

__all__ = ["Ingester", "Workers"]

HEARTBEAT_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 0.5
PURGE_CHUNKS: Final = 1_024
CHANGES_AT_ONCE: Final = 500
UNSERVED_SECONDS: Final = 5.0
LARGE_BYTES: Final = 4 * 2**20
"""Larger uploads are worked on one after the other, beside the small ones: one can take an hour."""

MAX_LARGE: Final = 64
"""Large uploads that may be claimed at once, all but one of which wait."""
FINISHED: Final = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)

log = logging.getLogger(__name__)


class Ingester:
    """Accepts documents, and works off the ledger in threads of this process."""

    def __init__(
        self,
        store: Store,
        parser: Parser,
        embedder: Embedder,
        metrics: Metrics,
        *,
        tracer: Tracer,
        fingerprint: str,
        chunk_tokens: int,
        max_queue: int,
        n_threads: int,
        lease_seconds: float = 60.0,
        archive_bounds: Bounds = DEFAULT_BOUNDS,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._tracer = tracer
        self._fingerprint = fingerprint
        self._pipeline = Pipeline(
            store,
            parser,
            embedder,
            metrics,
            tracer=tracer,
            chunk_tokens=chunk_tokens,
            bounds=archive_bounds,
        )
        self._max_queue = max_queue
        # One more than embeds, so that one parses or commits while the others keep the cores busy.
        self._n_slots = n_threads + 1
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._finished = threading.Condition()
        self._lock = threading.Lock()
        self._lease_seconds = lease_seconds
        # By token, because a job that was taken away and given back may run here twice for a while.
        self._running: dict[int, Job] = {}
        self._withdrawn: set[int] = set()
        self._untold: dict[int, tuple[Job, _Failure]] = {}
        self._pool: DaemonPool | None = None
        self._large_pool: DaemonPool | None = None
        self._thread: threading.Thread | None = None

    # Accepting

    def submit(self, collection: str, uploads: Sequence[Upload]) -> tuple[Job, ...]:
        """Make the uploads durable; they are processed soon. Refuses when the ledger is full."""
        depth = self._store.queue_depth()
        waiting = depth[JobState.PENDING] + depth[JobState.PROCESSING]
        if waiting + len(uploads) > self._max_queue:
            self._metrics.count("refused", reason="queue_full")
            raise UnavailableError(
                "Too many documents are waiting to be processed (RAG_MAX_QUEUE); retry later.",
                retry_after_seconds=10.0,
                code="queue_full",
            )
        found = self._store.collection(collection)
        if found.fingerprint != self._fingerprint:
            raise ConflictError(
                f"Collection {collection!r} is indexed with {found.fingerprint!r}, but the server "
                f"runs {self._fingerprint!r}; restart the server with the index's settings, or run "
                f"`ragdock reindex {collection}` with the server's.",
                field="collection",
                code="fingerprint_mismatch",
            )
        jobs = self._store.accept(collection, uploads)
        for job in jobs:
            if job.outcome == "unchanged":
                self._metrics.count("ingested", outcome="unchanged")
            elif self._tracer.is_on:
                self._tracer.note_cause(_cause(job))
        self._wake.set()
        return jobs

    def wake(self) -> None:
        """Look for work now: there is some that didn't come by `submit`."""
        self._wake.set()

    def current(self, jobs: Sequence[Job]) -> tuple[Job, ...]:
        """The jobs as they are now; one whose row is gone (with its collection) is cancelled."""
        return tuple(job if job.state in FINISHED else self._now(job) for job in jobs)

    def _now(self, job: Job) -> Job:
        try:
            return self._store.job(job.id)
        except NotFoundError:
            return replace(job, state=JobState.CANCELLED)

    # Working

    def start(self) -> None:
        """Start the worker."""
        self._pool = DaemonPool(self._n_slots, "ingest")
        self._large_pool = DaemonPool(1, "ingest-large")
        self._thread = threading.Thread(
            target=self._work, args=(self._pool, self._large_pool), name="ingest", daemon=True
        )
        self._thread.start()
        threading.Thread(target=self._beat, name="ingest-heartbeat", daemon=True).start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Finish what is nearly done, give the rest back to the ledger."""
        if self._thread is None or self._pool is None or self._large_pool is None:
            return
        deadline = time.monotonic() + timeout_seconds
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout_seconds)
        for pool in (self._pool, self._large_pool):
            if not pool.close(max(0.0, deadline - time.monotonic())):
                log.warning("documents still in work are given back")
        with self._tolerating("releasing claims"):
            self._store.release(self._owner)
        self._thread = self._pool = self._large_pool = None

    def drain(self, timeout_seconds: float) -> bool:
        """Wait until the ledger holds nothing unfinished; False when the time is over."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            depth = self._store.queue_depth()
            if not depth[JobState.PENDING] and not depth[JobState.PROCESSING]:
                return True
            with self._finished:
                self._finished.wait(0.05)
        return False

    def ping(self) -> None:
        """Return when the worker runs."""
        if self._thread is None or not self._thread.is_alive():
            raise UnavailableError("The ingestion worker has ended; restart the server.")

    def _work(self, pool: DaemonPool, large_pool: DaemonPool) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            claimed = 0
            with self._tolerating("claiming"):
                claimed = self._claim(pool, large_pool)
            if not claimed:
                with self._tolerating("purging"):
                    self._store.purge(PURGE_CHUNKS)
                self._wake.wait(IDLE_SECONDS)

    def _claim(self, pool: DaemonPool, large_pool: DaemonPool) -> int:
        # A few more than run, so that a slot never waits for the next claim's transaction.
        with self._lock:
            n_large = sum(job.size_bytes > LARGE_BYTES for job in self._running.values())
            n_small = len(self._running) - n_large
            n_free = 2 * self._n_slots - n_small - max(0, n_large - MAX_LARGE)
        if n_free <= self._n_slots // 2:
            return 0
        jobs = self._store.claim(self._owner, n_free, self._lease_seconds)
        for job in jobs:
            with self._lock:
                self._running[job.token] = job
            lane = large_pool if job.size_bytes > LARGE_BYTES else pool
            lane.submit(partial(self._process, job))
        return len(jobs)

    # The heartbeat: a thread of its own, so that neither a slow claim nor a long document delays it

    def _beat(self) -> None:
        pause = min(HEARTBEAT_SECONDS, self._lease_seconds / 3)
        renewed = time.monotonic()
        seen: int | None = None
        while not self._stopping.wait(pause):
            with self._tolerating("the heartbeat"):
                if seen is None:
                    seen = self._store.last_change()
                seen = self._watch(seen)
                self._tell()
                if time.monotonic() - renewed >= self._lease_seconds / 3:
                    renewed = time.monotonic()
                    self._renew()

    def _watch(self, seen: int) -> int:
        """Find out which of the jobs in work were cancelled or given to others."""
        while changes := self._store.job_changes(seen, limit=CHANGES_AT_ONCE):
            seen = changes[-1].change
            now = {job.id: job for job in changes}
            with self._lock:
                for token, job in self._running.items():
                    after = now.get(job.id, job)
                    if after.state is not JobState.PROCESSING or after.token != token:
                        self._withdrawn.add(token)
        return seen

    def _tell(self) -> None:
        """Record the failures that couldn't be recorded when they happened (a full disk)."""
        for token, (job, failure) in list(self._untold.items()):
            self._record(job, failure)
            self._untold.pop(token, None)

    def _renew(self) -> None:
        with self._lock:
            running = [job.id for job in self._running.values()]
        if running:
            self._store.renew(self._owner, running, self._lease_seconds)

    def _process(self, job: Job) -> None:
        facts: Attributes = {
            "ragdock.job_id": job.id,
            "ragdock.collection": job.collection,
            "ragdock.media_type": job.media_type,
            "ragdock.size_bytes": job.size_bytes,
            "ragdock.attempt": job.attempt,
        }
        with self._tracer.job("ingest", _cause(job), facts) as span:
            self._attempt(job, span)

    def _attempt(self, job: Job, span: Span) -> None:
        try:
            if not self._is_withdrawn(job):
                self._store.progress(job, JobStage.PARSE, 0)
                finished = self._index(job)
                outcome = finished.outcome or finished.state.value
                span.note({"ragdock.outcome": outcome})
                self._metrics.count("ingested", outcome=outcome)
                log.info("document %s", outcome, extra=_facts(finished))
        except (NotFoundError, ConflictError):
            log.info("document withdrawn while it was processed", extra=_facts(job))
        except DocumentError as exc:
            span.fail(exc.code)
            self._failed(job, _Failure(exc, retry_after_seconds=None))
        except UnavailableError as exc:
            span.fail(exc.code)
            # An outage isn't the document's fault, and may last for hours.
            self._failed(job, _Failure(exc, exc.retry_after_seconds, counts=False))
        except Exception as exc:
            span.fail(type(exc).__name__)
            log.exception("document failed unexpectedly", extra=_facts(job))
            unexpected = RagdockError(
                f"Processing failed unexpectedly ({type(exc).__name__}); the log has the details."
            )
            self._failed(job, _Failure(unexpected, retry_after_seconds=1.0))
        finally:
            with self._lock:
                self._running.pop(job.token, None)
                self._withdrawn.discard(job.token)
            with self._finished:
                self._finished.notify_all()
            self._wake.set()

    def _is_withdrawn(self, job: Job) -> bool:
        """Whether to stop working on it: cancelled, given to another, or the server stops."""
        return self._stopping.is_set() or job.token in self._withdrawn

    def _index(self, job: Job) -> Job:
        return self._pipeline.run(job, cancelled=lambda: self._is_withdrawn(job))

    def _failed(self, job: Job, failure: _Failure) -> None:
        if self._is_withdrawn(job):
            # What fails now may fail because the parser or the embedder is being closed. The
            # claim is given back uncounted, so a document that is to blame fails again later.
            return
        try:
            self._record(job, failure)
        except UnavailableError:
            log.warning("a failure can't be recorded yet", extra=_facts(job))
            self._untold[job.token] = (job, failure)

    def _record(self, job: Job, failure: _Failure) -> None:
        error = failure.error
        with suppress(NotFoundError):
            after = self._store.fail(
                job,
                error.code,
                str(error),
                retry_after_seconds=failure.retry_after_seconds,
                counts=failure.counts,
            )
            outcome = "failed" if after.state is JobState.FAILED else "retried"
            self._metrics.count("ingested", outcome=outcome)
            log.warning("document %s", outcome, extra=_facts(after) | {"code": error.code})

    @contextmanager
    def _tolerating(self, what: str) -> Iterator[None]:
        """Log what goes wrong and go on: the ledger keeps the work, the next round retries."""
        try:
            yield
        except Exception:
            log.exception("%s failed", what)
            self._stopping.wait(IDLE_SECONDS)


class Workers:
    """The workers in other processes, as a server sees them that leaves the work to them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._unserved_since: float | None = None

    def ping(self) -> None:
        """Return unless documents have been waiting for a while and no worker lives."""
        depth = self._store.queue_depth()
        n_waiting = depth[JobState.PENDING] + depth[JobState.PROCESSING]
        if not n_waiting or self._store.workers():
            self._unserved_since = None
            return
        now = time.monotonic()
        if self._unserved_since is None:
            self._unserved_since = now
        if now - self._unserved_since >= UNSERVED_SECONDS:
            raise UnavailableError(
                f"{n_waiting} documents wait and no worker runs: start `ragdock worker` on the "
                "same data directory, or set RAG_INGEST=true."
            )


@dataclass(frozen=True, slots=True)
class _Failure:
    """What `Store.fail` is told."""

    error: RagdockError
    retry_after_seconds: float | None
    counts: bool = True


def _cause(job: Job) -> str:
    return f"job {job.id}"


def _facts(job: Job) -> dict[str, object]:
    return {
        "job_id": job.id,
        "collection": job.collection,
        "document_id": job.document_id,
        "outcome": job.outcome,
        "attempt": job.attempt,
    }
