"""A collection's index built anew while the old one serves: new vectors, new passages.

Documents are read from the store, cut and embedded as at ingestion, a part of a document at a time.
Rounds follow what is written meanwhile; when what is left takes less than a second, writers wait
for that second, and the switch happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np

from ragdock.errors import NotFoundError, UnavailableError
from ragdock.ports import Build, Embedder
from ragdock.services.pipeline import Passages, embedded_text
from ragdock.types import Chunk, Content, Document, ParsedDocument, Vectors

__all__ = ["Estimate", "Outcome", "Reindexer"]

LOCKED_SECONDS: Final = 1.0
MAX_LOCKED_SECONDS: Final = 5.0
FIRST_RATE: Final = 20_000.0  # Characters a second, until there is something to measure.
NOTE_SECONDS: Final = 1.0
MAX_ROUNDS: Final = 200
BATCH_CHUNKS: Final = 64
SAMPLE_DOCUMENTS: Final = 20
SAMPLE_SECONDS: Final = 5.0

Progress = Callable[["Status"], None]


@dataclass(frozen=True, slots=True)
class Status:
    """How far it is. `n_written` documents were (re)built in this run."""

    n_documents: int
    n_written: int
    percent: int
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did; `locked_seconds` is how long writers had to wait at the end."""

    n_documents: int
    n_written: int
    n_removed: int
    n_rounds: int
    seconds: float
    locked_seconds: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would do; `seconds` is None when there is nothing to measure."""

    n_documents: int
    n_characters: int
    n_characters_left: int
    seconds: float | None


class Reindexer:
    """Fills builds."""

    def __init__(self, embedder: Embedder, chunk_tokens: int) -> None:
        self._embedder = embedder
        self._chunk_tokens = chunk_tokens

    def estimate(self, build: Build) -> Estimate:
        """Measure the work on some documents, which are built and kept."""
        n_documents, n_characters, left = build.counts()
        start = time.perf_counter()
        done = 0
        for document in build.lacking(limit=SAMPLE_DOCUMENTS):
            done += self.write(build, document)
            if time.perf_counter() - start > SAMPLE_SECONDS:
                break
        seconds = time.perf_counter() - start
        rest = max(0, left - done)
        return Estimate(n_documents, n_characters, rest, rest * seconds / done if done else None)

    def run(self, build: Build, progress: Progress) -> Outcome:
        """Fill the build and make it the collection's index."""
        return _Run(self, build, progress).run()

    def write(self, build: Build, document: Document) -> int:
        """Build one document; its characters, 0 when it is gone meanwhile."""
        with suppress(NotFoundError):
            contents = self.remade(build.parts(document))
            content = next(contents)
            for following in contents:
                build.stage(document, *content)
                content = following
            build.commit(document, *content)
            return document.n_characters
        return 0

    def remade(self, parts: Iterable[ParsedDocument]) -> Iterator[Content]:
        """A document's parts with new passages and vectors."""
        cutter = Passages(self._embedder, self._chunk_tokens)
        for part in parts:
            chunks = cutter.of(part)
            yield part, chunks, self._embedded(chunks)

    def _embedded(self, chunks: Sequence[Chunk]) -> Vectors:
        vectors = np.empty((len(chunks), self._embedder.dim), np.float32)
        for start in range(0, len(chunks), BATCH_CHUNKS):
            batch = [embedded_text(chunk) for chunk in chunks[start : start + BATCH_CHUNKS]]
            vectors[start : start + len(batch)] = self._embedder.embed(batch)
        return vectors


class _Run:
    def __init__(self, reindexer: Reindexer, build: Build, progress: Progress) -> None:
        self._reindexer, self._build, self._progress = reindexer, build, progress
        self._began = time.perf_counter()
        self._n_written = self._n_removed = 0
        self._n_characters = 0
        self._busy_seconds = 0.0
        self._told = 0.0
        self._n_documents, self._n_total, self._n_left = build.counts()

    def run(self) -> Outcome:
        for n_rounds in range(1, MAX_ROUNDS + 1):
            self._round()
            # Where writers are faster than each round, they are held up longer and longer.
            patience = min(MAX_LOCKED_SECONDS, LOCKED_SECONDS * (1 + n_rounds / 10))
            locked_seconds = self._finish(patience)
            if locked_seconds is not None:
                return Outcome(
                    self._n_documents,
                    self._n_written,
                    self._n_removed,
                    n_rounds,
                    time.perf_counter() - self._began,
                    locked_seconds,
                )
        raise UnavailableError(
            "Documents are written faster than they are indexed anew; run it again when there is "
            "less to do. What is done is kept.",
            code="too_busy",
        )

    def _round(self) -> None:
        after: str | None = None
        while documents := self._build.lacking(after):
            for document in documents:
                self._tell()
                self._write(document)
            after = documents[-1].id
        self._n_removed += self._build.remove_gone()
        self._build.settle()

    def _write(self, document: Document) -> None:
        start = time.perf_counter()
        n_characters = self._reindexer.write(self._build, document)
        self._busy_seconds += time.perf_counter() - start
        self._n_characters += n_characters
        self._n_left = max(0, self._n_left - n_characters)
        self._n_written += n_characters > 0

    def _finish(self, patience_seconds: float) -> float | None:
        """Do the rest with writers held up, if that is short; how long it took."""
        if self._rest_seconds() > patience_seconds:
            return None
        with self._build.locked() as switch:
            start = time.perf_counter()
            if self._rest_seconds() > patience_seconds:
                return None
            while documents := self._build.lacking():
                for document in documents:
                    self._write(document)
            self._n_removed += self._build.remove_gone()
            switch()
        return time.perf_counter() - start

    def _rest_seconds(self) -> float:
        self._n_documents, self._n_total, self._n_left = self._build.counts()
        return self._n_left / self._rate()

    def _rate(self) -> float:
        """Characters a second."""
        if not self._n_characters:
            return FIRST_RATE
        return self._n_characters / max(self._busy_seconds, 1e-9)

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told < NOTE_SECONDS:
            return
        self._told = now
        percent = min(99, int(100 * (1 - self._n_left / max(1, self._n_total))))
        self._build.note(percent)
        seconds = self._n_left / self._rate() if self._n_characters else None
        self._progress(Status(self._n_documents, self._n_written, percent, seconds))
