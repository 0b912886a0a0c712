"""Measures retrieval and answers on a test set, through the services that the API uses.

The set is ingested into a throw-away store, by the same worker, chunker and embedder. A document is
`title + " " + text`; its score is its best passage's. The cache, Redis and the LLM stay off: what
is measured is the work itself, and the extractive answer.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias, get_args

from ragdock.bootstrap import DEFAULT_COLLECTION, Services, open_services
from ragdock.core.evaluation import (
    Difference,
    holds_answer,
    mean,
    ndcg,
    paired_bootstrap,
    percentile,
    recall,
    reciprocal_rank,
)
from ragdock.core.keys import sha256_hex
from ragdock.core.media import detect_media_type
from ragdock.errors import NotFoundError, RagdockError
from ragdock.ops.evalset import (
    EvalQuery,
    EvalSet,
    load_eval_set,
    load_queries,
    sample_negatives,
    sample_set,
)
from ragdock.ports import Embedder
from ragdock.services.retrieve import Query, Timings
from ragdock.settings import Settings
from ragdock.types import JobState, SearchMode, Upload

__all__ = ["AnswerReport", "Latency", "ModeReport", "RefusalReport", "Report", "evaluate"]

Progress: TypeAlias = Callable[[str, int, int], None]

MODES: Final[tuple[SearchMode, ...]] = get_args(SearchMode)
N_PASSAGES: Final = 100
N_DOCUMENTS: Final = 100
ACCEPT_BATCH: Final = 200
HEAD_BYTES: Final = 4096
INGEST_TIMEOUT_SECONDS: Final = 4 * 3600.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds, one query at a time."""

    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class ModeReport:
    """How well and how fast one mode ranks; means over the queries."""

    mode: SearchMode
    ndcg_10: float
    recall_10: float
    recall_100: float
    mrr_10: float
    latency: Latency


@dataclass(frozen=True, slots=True)
class AnswerReport:
    """Extractive answers: the share that is given, and that holds a gold answer.

    Only the `n_gold` questions count whose gold answer stands in a relevant document; some sets
    have answers in free words, which no extract can hold. `held` is None when none is left.
    """

    n_questions: int
    answered: float
    n_gold: int
    held: float | None
    latency: Latency


@dataclass(frozen=True, slots=True)
class RefusalReport:
    """Another set's questions: the share that is refused, as it should be."""

    name: str
    n_questions: int
    refused: float


@dataclass(frozen=True, slots=True)
class Report:
    """Everything measured; `gain` is hybrid minus lexical nDCG@10 with its 95 % interval."""

    name: str
    fingerprint: str
    n_documents: int
    n_unreadable: int
    n_chunks: int
    n_queries: int
    ingest_seconds: float
    modes: tuple[ModeReport, ...]
    gain: Difference
    answers: AnswerReport
    refusals: RefusalReport | None


@dataclass(frozen=True, slots=True)
class _Ranked:
    """One query in one mode: the documents, best first, as the pipeline has them and wider."""

    documents: list[str]
    wide: list[str]
    elapsed_ms: float


@dataclass(frozen=True, slots=True)
class _Answered:
    """One question: the answer's text, whether one was given, and how long it took."""

    text: str
    given: bool
    elapsed_ms: float


def evaluate(
    directory: Path | None,
    settings: Settings,
    *,
    limit_queries: int | None = None,
    negatives: Path | None = None,
    embedder: Embedder | None = None,
    progress: Progress = lambda _stage, _done, _total: None,
) -> Report:
    """Run a set; without a directory, the sample corpus with its off-topic questions.

    `negatives` is a directory whose queries.jsonl this corpus can't answer. `settings` decide on
    embedder, chunks, fusion and threshold; where data lies and what caches is overridden.
    `progress` gets stage, done and total. Raises `InputError` when a file is wrong.
    """
    loaded = load_eval_set(directory) if directory else sample_set()
    queries = loaded.queries[:limit_queries]
    foreign_name, foreign = _foreign(directory, negatives)
    with (
        tempfile.TemporaryDirectory(prefix="ragdock-eval-") as scratch,
        open_services(_isolated(settings, Path(scratch)), embedder=embedder) as services,
    ):
        started = time.monotonic()
        n_unreadable = _ingest(services, loaded, progress)
        ingest_seconds = time.monotonic() - started
        rankings = _rank(services, loaded, queries, progress)
        answered = _answer(services, queries, "answers", progress)
        refused = _answer(services, foreign[:limit_queries], "refusals", progress)
        return Report(
            name=loaded.name,
            fingerprint=services.fingerprint,
            n_documents=len(loaded.documents),
            n_unreadable=n_unreadable,
            n_chunks=services.store.collection(DEFAULT_COLLECTION).n_chunks,
            n_queries=len(queries),
            ingest_seconds=round(ingest_seconds, 2),
            modes=tuple(_mode_report(mode, queries, rankings[mode]) for mode in MODES),
            gain=paired_bootstrap(
                _ndcgs(queries, rankings["hybrid"]), _ndcgs(queries, rankings["lexical"])
            ),
            answers=_answer_report(_gold(services, loaded, queries), queries, answered),
            refusals=_refusal_report(foreign_name, refused) if refused else None,
        )


def _foreign(directory: Path | None, negatives: Path | None) -> tuple[str, tuple[EvalQuery, ...]]:
    if negatives is not None:
        return negatives.resolve().name, load_queries(negatives)
    return ("samples", sample_negatives()) if directory is None else ("", ())


def _isolated(settings: Settings, scratch: Path) -> Settings:
    return settings.model_copy(
        update={
            "data_dir": scratch,
            "samples": False,
            "redis_host": None,
            "cache_ttl_seconds": 0,
            "llm_base_url": None,
            "max_queue": 10_000_000,
        }
    )


def _ingest(services: Services, loaded: EvalSet, progress: Progress) -> int:
    """Accept everything, wait for the worker; answers how many documents hold no text."""
    uploads = []
    for number, document in enumerate(loaded.documents):
        media_type = detect_media_type(document.filename, None, document.content[:HEAD_BYTES])
        # Ids of the set may hold anything; a number finds its way back.
        uploads.append(
            Upload(
                document_id=str(number),
                filename=document.filename,
                media_type=media_type or "text/plain",
                content=document.content,
                sha256=sha256_hex(document.content),
            )
        )
    for start in range(0, len(uploads), ACCEPT_BATCH):
        services.ingester.submit(DEFAULT_COLLECTION, uploads[start : start + ACCEPT_BATCH])
    deadline = time.monotonic() + INGEST_TIMEOUT_SECONDS
    while not services.ingester.drain(1.0):
        depth = services.store.queue_depth()
        unfinished = depth[JobState.PENDING] + depth[JobState.PROCESSING]
        progress("ingest", len(uploads) - unfinished, len(uploads))
        if time.monotonic() > deadline:
            raise RagdockError(f"{unfinished} documents were not indexed in time.", code="timeout")
    progress("ingest", len(uploads), len(uploads))
    return services.store.queue_depth().get(JobState.FAILED, 0)


def _rank(
    services: Services, loaded: EvalSet, queries: Sequence[EvalQuery], progress: Progress
) -> dict[SearchMode, list[_Ranked]]:
    ids = [document.id for document in loaded.documents]
    n_chunks = services.store.collection(DEFAULT_COLLECTION).n_chunks
    rankings: dict[SearchMode, list[_Ranked]] = {mode: [] for mode in MODES}
    for done, query in enumerate(queries, start=1):
        embed_ms = 0.0
        for mode in MODES:
            timings = Timings()
            started = time.perf_counter()
            services.retriever.retrieve(
                Query(query.text, top_k=services.settings.top_k, mode=mode), timings
            )
            elapsed_ms = (time.perf_counter() - started) * 1000
            # The vector is remembered after its first use; each mode that needs it pays for it.
            if mode != "lexical":
                embed_ms = max(embed_ms, timings.ms.get("embed", 0.0))
                elapsed_ms += embed_ms - timings.ms.get("embed", 0.0)
            documents = _documents(services, query, mode, N_PASSAGES, ids)
            wide, n_passages = documents, N_PASSAGES
            while len(wide) < N_DOCUMENTS and n_passages < n_chunks:
                n_passages *= 2
                wider = _documents(services, query, mode, n_passages, ids)
                if len(wider) == len(wide) and mode == "lexical":
                    break  # No more passages hold a word of the query.
                wide = wider
            rankings[mode].append(_Ranked(documents, wide, elapsed_ms))
        progress("queries", done, len(queries))
    return rankings


def _documents(
    services: Services, query: EvalQuery, mode: SearchMode, n_passages: int, ids: Sequence[str]
) -> list[str]:
    """The documents of the best passages, each at its best passage's place."""
    found = services.retriever.retrieve(Query(query.text, top_k=n_passages, mode=mode), Timings())
    return list(dict.fromkeys(ids[int(hit.document_id)] for hit in found.hits))


def _answer(
    services: Services, queries: Sequence[EvalQuery], stage: str, progress: Progress
) -> list[_Answered]:
    answers = []
    for done, query in enumerate(queries, start=1):
        started = time.perf_counter()
        answer = services.answerer.answer(
            Query(query.text, top_k=services.settings.top_k), Timings()
        )
        elapsed_ms = (time.perf_counter() - started) * 1000
        answers.append(_Answered(answer.text, answer.grounded, elapsed_ms))
        progress(stage, done, len(queries))
    return answers


def _mode_report(
    mode: SearchMode, queries: Sequence[EvalQuery], ranked: Sequence[_Ranked]
) -> ModeReport:
    pairs = list(zip(queries, ranked, strict=True))
    return ModeReport(
        mode=mode,
        ndcg_10=mean(_ndcgs(queries, ranked)),
        recall_10=mean([recall(item.documents, query.gains, 10) for query, item in pairs]),
        recall_100=mean([recall(item.wide, query.gains, 100) for query, item in pairs]),
        mrr_10=mean([reciprocal_rank(item.documents, query.gains) for query, item in pairs]),
        latency=_latency([item.elapsed_ms for item in ranked]),
    )


def _ndcgs(queries: Sequence[EvalQuery], ranked: Sequence[_Ranked]) -> list[float]:
    return [ndcg(item.documents, query.gains) for query, item in zip(queries, ranked, strict=True)]


def _gold(services: Services, loaded: EvalSet, queries: Sequence[EvalQuery]) -> frozenset[str]:
    """The ids of queries with a gold answer that stands in the text of a relevant document."""
    numbers = {document.id: number for number, document in enumerate(loaded.documents)}

    @cache
    def text(document_id: str) -> str:
        try:
            number = numbers[document_id]
            return "".join(services.store.document_text(DEFAULT_COLLECTION, str(number)))
        except (KeyError, NotFoundError):  # Judged but not in the corpus, or unreadable.
            return ""

    return frozenset(
        query.id
        for query in queries
        if any(holds_answer(text(document_id), query.answers) for document_id in query.gains)
    )


def _answer_report(
    gold_ids: frozenset[str], queries: Sequence[EvalQuery], answered: Sequence[_Answered]
) -> AnswerReport:
    gold = [
        float(item.given and holds_answer(item.text, query.answers))
        for query, item in zip(queries, answered, strict=True)
        if query.id in gold_ids
    ]
    return AnswerReport(
        n_questions=len(answered),
        answered=mean([float(item.given) for item in answered]),
        n_gold=len(gold),
        held=mean(gold) if gold else None,
        latency=_latency([item.elapsed_ms for item in answered]),
    )


def _refusal_report(name: str, answered: Sequence[_Answered]) -> RefusalReport:
    refused = mean([float(not item.given) for item in answered])
    return RefusalReport(name, len(answered), refused)


def _latency(elapsed_ms: Sequence[float]) -> Latency:
    return Latency(round(percentile(elapsed_ms, 0.5), 2), round(percentile(elapsed_ms, 0.95), 2))
