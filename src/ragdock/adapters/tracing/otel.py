"""Spans for an OpenTelemetry collector, by OTLP over HTTP.

Imported only when somebody collects: the SDK and its exporter take half a second and 17 MB.
Nothing is registered globally, so no library starts to trace by itself.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Literal
from urllib.parse import unquote

from opentelemetry import context as contexts
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace import sampling as samplers
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode

from ragdock import __version__
from ragdock.errors import (
    ConfigurationError,
    ConflictError,
    ForbiddenError,
    GeneratorError,
    GivenUpError,
    InputError,
    NotFoundError,
)
from ragdock.ports import Attributes, Metrics

__all__ = ["OtelTracer"]

SERVICE_NAME: Final = "rag-api"
LOG_EVERY_SECONDS: Final = 60.0
MAX_CAUSES: Final = 4096
DEFAULT_MAX_QUEUE: Final = 2048  # The SDK's own.
_KINDS: Final = {"internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT}
# What these say is an answer, not a failure.
_ANSWERS: Final = (ConflictError, ForbiddenError, GivenUpError, InputError, NotFoundError)
# They would tell of every failed batch; `_Outbox` tells of them once a minute.
_NOISY: Final = ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal",
                 "opentelemetry.context", "urllib3")  # fmt: skip

log = logging.getLogger(__name__)


class OtelTracer:
    """`Tracer` on the OpenTelemetry SDK; its variables beyond these keep their standard meaning.

    `url` is the whole URL of the traces' endpoint. `headers` and `resource_attributes` are lists
    as in the standard's variables. `trace_id` is set to the id of the trace in its blocks, for
    logs. Closing takes at most `close_seconds`. Raises `ConfigurationError`.
    """

    def __init__(
        self,
        url: str,
        *,
        metrics: Metrics,
        trace_id: ContextVar[str | None],
        headers: str = "",
        service_name: str | None = None,
        resource_attributes: str = "",
        sampler: str = "parentbased_always_on",
        sampler_arg: float = 1.0,
        close_seconds: float = 1.0,
    ) -> None:
        for name in _NOISY:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        attributes = {
            "service.name": SERVICE_NAME,
            "service.version": __version__,
            "service.instance.id": str(uuid.uuid4()),
            **_pairs("OTEL_RESOURCE_ATTRIBUTES", resource_attributes),
        }
        if service_name:
            attributes["service.name"] = service_name
        outbox = _Outbox(metrics)
        try:
            exporter = OTLPSpanExporter(
                url, headers=_pairs("OTEL_EXPORTER_OTLP_HEADERS", headers, hidden=True)
            )
            processor = _Bounded(_Reporting(exporter, outbox), outbox)
        except ValueError as exc:
            raise ConfigurationError(f"OpenTelemetry's settings can't be used: {exc}") from exc
        self._provider = TracerProvider(
            sampler=_sampler(sampler, sampler_arg),
            resource=Resource.create(attributes),
            # At exit the SDK would wait for 30 s, which is beyond the grace period.
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("ragdock", __version__)
        self._trace_id = trace_id
        self._close_seconds = close_seconds
        self._lock = threading.Lock()
        self._causes: OrderedDict[str, trace.SpanContext] = OrderedDict()

    @property
    def is_on(self) -> bool:
        """Always."""
        return True

    @contextmanager
    def request(self, name: str, headers: Mapping[str, str]) -> Iterator[_Span]:
        """A request; goes on with the trace of its `traceparent`."""
        caller = propagate.extract(headers, contexts.Context())
        with self._root(self._tracer.start_span(name, caller, SpanKind.SERVER)) as span:
            yield span

    @contextmanager
    def job(self, name: str, cause: str, attributes: Attributes) -> Iterator[_Span]:
        """A trace of its own, as the conventions for messages want it, with a link."""
        with self._lock:
            found = self._causes.get(cause)
        links = [trace.Link(found)] if found is not None else []
        started = self._tracer.start_span(
            name, contexts.Context(), SpanKind.CONSUMER, attributes=dict(attributes), links=links
        )
        with self._root(started) as span:
            yield span

    @contextmanager
    def _root(self, started: trace.Span) -> Iterator[_Span]:
        token = self._trace_id.set(trace.format_trace_id(started.get_span_context().trace_id))
        try:
            with _current(started) as span:
                yield span
        finally:
            self._trace_id.reset(token)

    @contextmanager
    def step(
        self,
        name: str,
        attributes: Attributes | None = None,
        *,
        kind: Literal["internal", "client"] = "internal",
    ) -> Iterator[_Span]:
        """A child of the span that is open here."""
        parent = trace.get_current_span()
        if not parent.get_span_context().is_valid:
            # The endless polling of workers would be a trace every half second.
            yield _Span(parent)
            return
        started = self._tracer.start_span(
            name, kind=_KINDS[kind], attributes=None if attributes is None else dict(attributes)
        )
        with _current(started) as span:
            yield span

    def note_cause(self, cause: str) -> None:
        """Remember the span that is open here, among the last 4,096."""
        here = trace.get_current_span().get_span_context()
        if not here.is_valid:
            return
        with self._lock:
            self._causes[cause] = here
            self._causes.move_to_end(cause)
            while len(self._causes) > MAX_CAUSES:
                self._causes.popitem(last=False)

    def headers(self) -> Mapping[str, str]:
        """`traceparent` and what else OTEL_PROPAGATORS asks for."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return carrier

    def close(self) -> None:
        """Send what is left; what an endpoint doesn't take in time is lost."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(self._close_seconds)
        if closing.is_alive():
            log.warning("the last traces couldn't be delivered in time")


class _Span:
    """`Span` on one of the SDK's."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def rename(self, name: str) -> None:
        """Another name."""
        self._span.update_name(name)

    def note(self, attributes: Attributes) -> None:
        """Add facts."""
        self._span.set_attributes(dict(attributes))

    def fail(self, kind: str) -> None:
        """An error of that kind."""
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))


@contextmanager
def _current(started: trace.Span) -> Iterator[_Span]:
    """The block of a span. What an exception says may quote content, so only its kind is noted."""
    span = _Span(started)
    token = contexts.attach(trace.set_span_in_context(started))
    try:
        yield span
    except _ANSWERS as exc:
        span.note({"error.type": type(exc).__name__})
        raise
    except GeneratorError as exc:
        span.fail(exc.reason)
        raise
    except GeneratorExit:  # The reader of a stream has left.
        raise
    except BaseException as exc:
        span.fail(type(exc).__name__)
        raise
    finally:
        contexts.detach(token)
        started.end()


class _Outbox:
    """Counts the spans that wait, so that they are bounded, and what became of the others."""

    def __init__(self, metrics: Metrics) -> None:
        self.max_waiting = _max_queue()
        self._metrics = metrics
        self._lock = threading.Lock()
        self._n_waiting = 0
        self._n_lost = 0
        self._told_at = -LOG_EVERY_SECONDS

    def put(self) -> bool:
        """Whether one more may wait."""
        with self._lock:
            if self._n_waiting < self.max_waiting:
                self._n_waiting += 1
                return True
        self._lost("dropped", 1)
        return False

    def taken(self, n_spans: int) -> None:
        """So many wait no more."""
        with self._lock:
            self._n_waiting -= n_spans

    def sent(self, n_spans: int) -> None:
        """They were delivered."""
        self._metrics.count("trace_spans", n_spans, result="exported")

    def failed(self, n_spans: int) -> None:
        """The endpoint didn't take them."""
        self._lost("failed", n_spans)

    def _lost(self, result: str, n_spans: int) -> None:
        self._metrics.count("trace_spans", n_spans, result=result)
        with self._lock:
            self._n_lost += n_spans
            now = time.monotonic()
            if now - self._told_at < LOG_EVERY_SECONDS:
                return
            self._told_at = now
            n_lost, self._n_lost = self._n_lost, 0
        log.warning(
            "traces can't be delivered to the OTLP endpoint; nothing else suffers",
            extra={"n_spans": n_lost, "result": result},
        )


class _Bounded(BatchSpanProcessor):
    """The SDK's processor, which exports in a thread; a full queue drops what is new, counted."""

    def __init__(self, exporter: SpanExporter, outbox: _Outbox) -> None:
        super().__init__(exporter, max_queue_size=outbox.max_waiting)
        self._outbox = outbox

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a finished span, if it is sampled and there is room."""
        if span.context is not None and span.context.trace_flags.sampled and self._outbox.put():
            super().on_end(span)


class _Reporting(SpanExporter):
    """An exporter whose failures are counted; its own retries end after 10 s (a standard)."""

    def __init__(self, exporter: SpanExporter, outbox: _Outbox) -> None:
        self._exporter = exporter
        self._outbox = outbox

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        self._outbox.taken(len(spans))
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if result is SpanExportResult.SUCCESS:
                self._outbox.sent(len(spans))
            else:
                self._outbox.failed(len(spans))
        return result

    def shutdown(self) -> None:
        """Ends retries."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing waits here."""
        return self._exporter.force_flush(timeout_millis)


def _max_queue() -> int:
    text = os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", "").strip() or str(DEFAULT_MAX_QUEUE)
    if not text.isdigit() or int(text) < 1:
        raise ConfigurationError(f"OTEL_BSP_MAX_QUEUE_SIZE={text!r} is not a number from 1 on.")
    return int(text)


def _sampler(name: str, ratio: float) -> samplers.Sampler:
    base = {
        "always_on": samplers.ALWAYS_ON,
        "always_off": samplers.ALWAYS_OFF,
        "traceidratio": samplers.TraceIdRatioBased(ratio),
    }[name.removeprefix("parentbased_")]
    return samplers.ParentBased(base) if name.startswith("parentbased_") else base


def _pairs(variable: str, text: str, *, hidden: bool = False) -> dict[str, str]:
    """`a=1,b=2`, percent-encoded, as the standard writes lists."""
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not name.strip():
            shown = "(hidden)" if hidden else repr(text)
            raise ConfigurationError(f"{variable}={shown}: give name=value,name=value.")
        found[unquote(name).strip()] = unquote(value).strip()
    return found
