"""Store, embedder and LLM, each call of which is a step of a trace; used only while tracing.

Attributes are those of OpenTelemetry's conventions for databases and generative AI, without any
content: no question, no text, no document's id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Generator as Steps
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final, cast

from ragdock.ports import Attributes, Embedder, Generator, Reader, Store, Tracer
from ragdock.types import Hit, Vectors

__all__ = ["traced_embedder", "traced_generator", "traced_store"]

# Of the others, some run on the event loop or say nothing, and some answer an iterator, whose
# work a call doesn't show.
STORE_STEPS: Final = frozenset(
    {
        "accept", "cancel", "collection", "collections", "commit_document", "create_collection",
        "delete_document", "document", "documents", "drop_collection", "expand", "fail", "job",
        "jobs", "progress", "queue_bytes", "queue_depth", "retry", "stage", "state_key",
        "unsettled",
    }
)  # fmt: skip
READER_STEPS: Final = frozenset({"lexical", "dense", "hits"})


def traced_store(store: Store, tracer: Tracer, system: str) -> Store:
    """The store; `system` is its name in OpenTelemetry's conventions (`sqlite`)."""
    return cast(
        "Store", _TracedStore(store, STORE_STEPS, "store", {"db.system.name": system}, tracer)
    )


def traced_embedder(embedder: Embedder, tracer: Tracer) -> Embedder:
    """The embedder."""
    return cast("Embedder", _TracedEmbedder(embedder, frozenset(), "", {}, tracer))


def traced_generator(generator: Generator, tracer: Tracer, model: str) -> Generator:
    """The LLM."""
    return _TracedGenerator(generator, tracer, model)


class _Traced:
    """What it wraps, with some of its methods as steps."""

    def __init__(
        self,
        wrapped: Any,
        steps: frozenset[str],
        prefix: str,
        attributes: Attributes,
        tracer: Tracer,
    ) -> None:
        self._wrapped = wrapped
        self._steps = steps
        self._prefix = prefix
        self._attributes = attributes
        self._tracer = tracer

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._wrapped, name)
        if name in self._steps:
            found = self._step(name, found)
        if callable(found):
            # Finding it once is enough; properties may change.
            self.__dict__[name] = found
        return found

    def _step(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        tracer, title = self._tracer, f"{self._prefix}.{name}"
        attributes = {**self._attributes, "db.operation.name": name}

        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            with tracer.step(title, attributes):
                return method(*args, **kwargs)

        return call


class _TracedStore(_Traced):
    @contextmanager
    def reader(self, collection: str) -> Iterator[Reader]:
        with self._wrapped.reader(collection) as reader:
            traced = _Traced(reader, READER_STEPS, "store", self._attributes, self._tracer)
            yield cast("Reader", traced)


class _TracedEmbedder(_Traced):
    def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Vectors:
        attributes: Attributes = {
            "ragdock.embedder": self._wrapped.id,
            "ragdock.n_texts": len(texts),
            "ragdock.urgent": urgent,
        }
        with self._tracer.step("embed", attributes):
            return cast("Vectors", self._wrapped.embed(texts, urgent=urgent))


class _TracedGenerator:
    """`Generator`, each answer of which is a step."""

    def __init__(self, generator: Generator, tracer: Tracer, model: str) -> None:
        self._generator = generator
        self._tracer = tracer
        self._title = f"chat {model}"
        self._attributes: Attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": model,
        }

    @property
    def id(self) -> str:
        """Names the model."""
        return self._generator.id

    def generate(self, question: str, passages: Sequence[Hit]) -> str:
        """The whole answer."""
        with self._tracer.step(self._title, self._attributes, kind="client") as span:
            span.note({"ragdock.n_passages": len(passages)})
            return self._generator.generate(question, passages)

    def stream(self, question: str, passages: Sequence[Hit]) -> Steps[str, None, None]:
        """The answer in pieces; the step ends with the last one, or when the reader leaves."""
        with self._tracer.step(self._title, self._attributes, kind="client") as span:
            span.note({"ragdock.n_passages": len(passages), "gen_ai.request.stream": True})
            yield from self._generator.stream(question, passages)

    def ping(self) -> None:
        """Return when reachable."""
        self._generator.ping()

    def close(self) -> None:
        """Release connections."""
        self._generator.close()
