"""Search: embed the query, ask both sides of the store, fuse, fetch."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np

from ragdock import __version__
from ragdock.core.filters import Filter
from ragdock.core.fingerprints import same_vectors
from ragdock.core.fusion import Fused, FusionProfile, fuse
from ragdock.core.keys import cache_key, normalised
from ragdock.core.patience import require_patience
from ragdock.errors import ConflictError
from ragdock.ports import Embedder, Metrics, Reader, Store
from ragdock.services.caching import CacheState, JsonCache, dump
from ragdock.types import Collection, DenseResult, Hit, ScoredChunk, SearchMode, Vector

__all__ = ["Query", "Retrieved", "Retriever", "Timings"]

FORMAT: Final = 2
"""Of what is cached: kept values are answered as they are, so those of another form are others."""
MAX_REMEMBERED_VECTORS: Final = 1024
NO_DENSE: Final = DenseResult((), 0.0)


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for, and where."""

    text: str
    collection: str = "default"
    top_k: int = 8
    mode: SearchMode = "hybrid"
    where: Filter = ()


@dataclass(slots=True)
class Timings:
    """Milliseconds by stage."""

    ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, metrics: Metrics) -> Iterator[None]:
        """Time a stage, for the answer and for the operator; none begins that nobody waits for."""
        require_patience()
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self.ms[name] = round(self.ms.get(name, 0.0) + seconds * 1000, 3)
            metrics.observe("stage", seconds, stage=name)


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What a search found; `top_cosine` is None when nothing was compared."""

    collection: Collection
    hits: tuple[Hit, ...]
    top_cosine: float | None
    familiarity: float
    vector: Vector | None


class Retriever:
    """Runs searches; cached ones are bound to the collection's generation."""

    def __init__(
        self,
        store: Store,
        embedder: Embedder,
        cache: JsonCache,
        metrics: Metrics,
        *,
        profile: FusionProfile,
        fingerprint: str,
        n_candidates: int,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._cache = cache
        self._metrics = metrics
        self._profile = profile
        self._fingerprint = fingerprint
        self._n_candidates = n_candidates
        # Whatever else decides what a search finds.
        self._method = (__version__, FORMAT, fingerprint, asdict(profile), n_candidates)
        self._vectors: OrderedDict[str, Vector] = OrderedDict()
        self._vectors_lock = threading.Lock()

    def search(self, query: Query, *, bypass: bool = False) -> tuple[bytes, CacheState]:
        """The hits as a JSON object with `hits`, from the cache where it is current."""
        key = self.key("search", query)

        def compute() -> tuple[bytes, bool]:
            timings = Timings()
            found = self.retrieve(query, timings)
            return dump({"hits": [as_json(hit) for hit in found.hits], "stages": timings.ms}), True

        return self._cache.get("search", key, compute, bypass=bypass)

    def key(self, kind: str, query: Query, *more: object) -> str:
        """A cache key that changes with every change of the collection or of the method.

        The generation is read before the content. What a write changes in between is kept under
        the older key, which nobody asks for who came after that write: too new is harmless.
        """
        return self._key(self._store.state_key(query.collection), kind, query, *more)

    def _key(self, state_key: str, kind: str, query: Query, *more: object) -> str:
        return cache_key(
            kind,
            self._method,
            state_key,
            normalised(query.text),
            query.top_k,
            query.mode,
            [[c.key, c.op, c.value, type(c.value).__name__] for c in query.where],
            *more,
        )

    def peek(self, query: Query) -> bytes | None:
        """What `search` would answer, if that is known without waiting; for the event loop."""
        key = self.peek_key("search", query)
        return None if key is None else self._cache.peek("search", key)

    def peek_key(self, kind: str, query: Query, *more: object) -> str | None:
        """The key if it is known without waiting."""
        state_key = self._store.peek_state_key(query.collection)
        return None if state_key is None else self._key(state_key, kind, query, *more)

    def retrieve(
        self, query: Query, timings: Timings, *, n_candidates: int | None = None
    ) -> Retrieved:
        """Search now. `n_candidates` from each side, at least top_k."""
        n_wanted = max(n_candidates or self._n_candidates, query.top_k)
        vector: Vector | None = None
        if query.mode != "lexical":
            with timings.stage("embed", self._metrics):
                vector = self.vector(query.text, self._store.collection(query.collection).id)
        familiarity = self._embedder.familiarity(query.text)
        with self._store.reader(query.collection) as reader:
            self._require_fingerprint(reader.collection)
            lexical, dense = self._both_sides(reader, query, vector, n_wanted, timings)
            with timings.stage("fuse", self._metrics):
                ranked = self._ranked(query, lexical, dense, familiarity, n_wanted)
                hits = _fetched(reader, ranked[: query.top_k])
            return Retrieved(
                collection=reader.collection,
                hits=hits,
                top_cosine=dense.hits[0].score if dense.hits else None,
                familiarity=familiarity,
                vector=vector,
            )

    def vector(self, text: str, collection_id: str) -> Vector:
        """The query's vector, remembered here and in the cache.

        By collection: a vector found at once would tell that somebody has asked the same, and who
        asks of another collection may be somebody else.
        """
        text = normalised(text)
        key = cache_key("embedding", self._embedder.id, collection_id, text)
        with self._vectors_lock:
            known = self._vectors.get(key)
            if known is not None:
                self._vectors.move_to_end(key)
                return known
        vector = _decoded(self._cache.load("embedding", key), self._embedder.dim)
        if vector is None:
            vector = self._embedder.embed([text], urgent=True)[0]
            self._cache.save(key, _encoded(vector))
        with self._vectors_lock:
            self._vectors[key] = vector
            while len(self._vectors) > MAX_REMEMBERED_VECTORS:
                self._vectors.popitem(last=False)
        return vector

    def _both_sides(
        self, reader: Reader, query: Query, vector: Vector | None, n_wanted: int, timings: Timings
    ) -> tuple[tuple[ScoredChunk, ...], DenseResult]:
        lexical: tuple[ScoredChunk, ...] = ()
        dense = NO_DENSE
        where = query.where or None
        if query.mode != "dense":
            with timings.stage("lexical", self._metrics):
                lexical = reader.lexical(query.text, n_wanted, where)
        if vector is not None:
            with timings.stage("dense", self._metrics):
                dense = reader.dense(vector, n_wanted, where)
        return lexical, dense

    def _ranked(
        self,
        query: Query,
        lexical: tuple[ScoredChunk, ...],
        dense: DenseResult,
        familiarity: float,
        n_wanted: int,
    ) -> list[Fused]:
        if query.mode == "lexical":
            return [Fused(hit.chunk_id, hit.score, None, hit.score) for hit in lexical]
        if query.mode == "dense":
            return [Fused(hit.chunk_id, None, hit.score, hit.score) for hit in dense.hits]
        return fuse(lexical, dense, self._profile, familiarity=familiarity, n_candidates=n_wanted)

    def _require_fingerprint(self, collection: Collection) -> None:
        # Passages of another size are searched as well; they come with the next restart.
        if not same_vectors(collection.fingerprint, self._fingerprint):
            raise ConflictError(
                f"Collection {collection.name!r} is indexed with {collection.fingerprint!r}, but "
                f"the server runs {self._fingerprint!r}; restart it with the index's settings, or "
                f"run `ragdock reindex {collection.name}` with the server's.",
                field="collection",
                code="fingerprint_mismatch",
            )


def as_json(hit: Hit) -> dict[str, Any]:
    """A hit as the API shows it."""
    return {
        "document_id": hit.document_id,
        "filename": hit.filename,
        "title": hit.title,
        "page": hit.page,
        "page_label": hit.page_label or None,
        "start": hit.start,
        "end": hit.end,
        "text": hit.text,
        "metadata": hit.metadata,
        "scores": {
            "lexical": _rounded(hit.lexical),
            "dense": _rounded(hit.dense),
            "fused": _rounded(hit.fused),
        },
    }


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 6)


def _fetched(reader: Reader, ranked: list[Fused]) -> tuple[Hit, ...]:
    found = reader.hits([item.chunk_id for item in ranked])
    return tuple(
        replace(found[item.chunk_id], lexical=item.lexical, dense=item.dense, fused=item.fused)
        for item in ranked
        if item.chunk_id in found
    )


def _encoded(vector: Vector) -> bytes:
    return dump({"f32": base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")})


def _decoded(value: bytes | None, dim: int) -> Vector | None:
    if value is None:
        return None
    try:
        vector = np.frombuffer(base64.b64decode(json.loads(value)["f32"]), "<f4")
    except (ValueError, KeyError, TypeError):
        return None
    return vector.astype(np.float32) if len(vector) == dim else None
