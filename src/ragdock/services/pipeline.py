"""From an upload to searchable passages, part by part: memory does not depend on the document.

One part (about a million characters) is worked on at a time, while the parser reads the next one
and then waits. What is staged shows in no search until the last part is committed.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Final

import numpy as np

from ragdock.core import media
from ragdock.core.chunking import PartChunker
from ragdock.core.fusion import FAMILIAR_FROM
from ragdock.core.lead import Lead
from ragdock.errors import ConflictError, DocumentError
from ragdock.ports import Embedder, Metrics, Parser, Store, Tracer
from ragdock.services.expanding import Expander
from ragdock.types import Bounds, Chunk, Job, JobStage, ParsedDocument, Vectors

__all__ = ["DEFAULT_BOUNDS", "Passages", "Pipeline", "embedded_text", "passages", "token_counter"]

SAMPLE_CHARACTERS: Final = 4_000
BATCH_CHUNKS: Final = 64
BATCH_CHARACTERS: Final = 64 * 1024
PROGRESS_SECONDS: Final = 1.0
DEFAULT_BOUNDS: Final = Bounds(max_files=1000, max_bytes=500 * 2**20)

log = logging.getLogger(__name__)


class Pipeline:
    """Works on one job at a time in each thread that calls `run`."""

    def __init__(
        self,
        store: Store,
        parser: Parser,
        embedder: Embedder,
        metrics: Metrics,
        *,
        tracer: Tracer,
        chunk_tokens: int,
        bounds: Bounds = DEFAULT_BOUNDS,
    ) -> None:
        """`bounds` are those of each archive."""
        self._expander = Expander(store, parser, bounds)
        self._store = store
        self._parser = parser
        self._embedder = embedder
        self._metrics = metrics
        self._tracer = tracer
        self._chunk_tokens = chunk_tokens

    def run(self, job: Job, *, cancelled: Callable[[], bool] = lambda: False) -> Job:
        """Read, cut, embed and commit a job's upload; the job as it is then.

        An archive is expanded instead: its files become jobs.

        `cancelled` is asked between batches. Raises `ConflictError` (`cancelled`) when it says so,
        `DocumentError` when the upload can't become text, `NotFoundError` when it is gone, and
        `UnavailableError` when something that is needed refuses for now. Whatever is raised, what
        was searchable before stays so.
        """
        report = _Report(self._store, job, cancelled)
        with closing(self._store.open_content(job.id)) as content:
            if job.media_type in media.ARCHIVES:
                with self._timed("expand"):
                    return self._expander.run(job, content, partial(report.check, JobStage.PARSE))
            parts = self._parser.parts(content, job.filename, job.media_type)
            with closing(parts):
                return self._run(job, parts, report)

    def _run(self, job: Job, parts: Iterator[ParsedDocument], report: _Report) -> Job:
        cutter = Passages(self._embedder, self._chunk_tokens)
        n_chunks = n_scanned = 0
        part = self._next(parts)
        while part is not None:
            report.check(JobStage.PARSE)
            n_scanned += part.n_scanned
            with self._timed("chunk"):
                chunks = cutter.of(part)
            n_chunks += len(chunks)
            with self._timed("embed"):
                vectors = self._embedded(chunks, report, part.done)
            following = self._next(parts)
            if following is None:
                break
            report.check(JobStage.COMMIT)
            with self._timed("stage"):
                self._store.stage(job, part, chunks, vectors)
            # The next part is worked on when nothing is left of this one.
            part = following
        if part is None or not n_chunks:
            raise DocumentError("The document holds no text to search.", code="no_text")
        report.check(JobStage.COMMIT)
        with self._timed("commit"):
            finished = self._store.commit_document(job, part, chunks, vectors)
        self._metrics.count("ingested_chunks", n_chunks)
        if n_scanned:
            log.warning(
                "pages that hold pictures and no text can't be found",
                extra={"job_id": job.id, "pages": n_scanned},
            )
        return finished

    def _next(self, parts: Iterator[ParsedDocument]) -> ParsedDocument | None:
        with self._timed("parse"):
            return next(parts, None)

    def _embedded(self, chunks: Sequence[Chunk], report: _Report, done: float) -> Vectors:
        vectors = np.empty((len(chunks), self._embedder.dim), dtype=np.float32)
        at = 0
        for batch in _batches(chunks):
            report.check(JobStage.EMBED, done, at / len(chunks))
            vectors[at : at + len(batch)] = self._embedder.embed(batch)
            at += len(batch)
        report.reached(done)
        return vectors

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        with self._tracer.step(f"ingest.{stage}"):
            yield
        self._metrics.observe("ingest_stage", time.perf_counter() - start, stage=stage)


class _Report:
    """Tells the ledger how far a job is, and the job when it is no longer wanted."""

    def __init__(self, store: Store, job: Job, cancelled: Callable[[], bool]) -> None:
        self._store = store
        self._job = job
        self._cancelled = cancelled
        self._reached = 0.0
        self._told = time.monotonic()

    def reached(self, done: float) -> None:
        """So much of the document is embedded, 0 to 1."""
        self._reached = done

    def check(self, stage: JobStage, done: float | None = None, share: float = 0.0) -> None:
        """Note the stage; of what is between the last part and `done`, `share` is embedded."""
        if self._cancelled():
            raise ConflictError("The document was withdrawn.", code="cancelled")
        now = time.monotonic()
        if now - self._told < PROGRESS_SECONDS:
            return
        self._told = now
        done = self._reached if done is None else done
        fraction = self._reached + (done - self._reached) * share
        self._store.progress(self._job, stage, min(99, int(fraction * 100)))


class Passages:
    """The passages of a document that comes in parts, with their contexts."""

    def __init__(self, embedder: Embedder, max_tokens: int) -> None:
        self._embedder = embedder
        self._max_tokens = max_tokens
        self._chunker: PartChunker | None = None
        self._lead = Lead()

    def of(self, part: ParsedDocument) -> tuple[Chunk, ...]:
        """Those of the next part, sized for the embedder."""
        if self._chunker is None:
            count_tokens = token_counter(self._embedder, part.text)
            self._chunker = PartChunker(max_tokens=self._max_tokens, count_tokens=count_tokens)
        return self._lead.added(part, self._chunker.chunks(part))


def passages(parsed: ParsedDocument, embedder: Embedder, max_tokens: int) -> tuple[Chunk, ...]:
    """A whole document's passages, with their contexts, sized for the embedder."""
    return Passages(embedder, max_tokens).of(parsed)


def token_counter(embedder: Embedder, text: str) -> Callable[[str], int]:
    """How a document's passages are measured.

    Where the model doesn't know the language, its tokens are single letters: passages would hold a
    few words each, and words are all that such a document is found by (XQuAD-ar, BM25 nDCG@10: .86
    in passages of 200 letters, .89 in passages of 800).
    """
    if embedder.familiarity(text[:SAMPLE_CHARACTERS]) >= FAMILIAR_FROM:
        return embedder.n_tokens
    return lambda piece: min(embedder.n_tokens(piece), math.ceil(len(piece) / 4))


def embedded_text(chunk: Chunk) -> str:
    """What is embedded for a chunk: its context, then its text."""
    return f"{chunk.context}\n{chunk.text}" if chunk.context else chunk.text


def _batches(chunks: Sequence[Chunk]) -> Iterator[list[str]]:
    """Texts to embed: at most so many, and so long, at once."""
    batch: list[str] = []
    n_characters = 0
    for chunk in chunks:
        text = embedded_text(chunk)
        if batch and (len(batch) == BATCH_CHUNKS or n_characters + len(text) > BATCH_CHARACTERS):
            yield batch
            batch, n_characters = [], 0
        batch.append(text)
        n_characters += len(text)
    if batch:
        yield batch
