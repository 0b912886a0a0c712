"""Traces: what a collector receives of requests and jobs, and what it costs when there is none."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ragdock.adapters.tracing.otel import OtelTracer
from ragdock.bootstrap.parts import traces_url_of
from ragdock.errors import ConfigurationError
from support.embeddings_server import serve_embeddings
from support.llm_server import LlmServer
from support.otlp_server import OtlpServer, Received
from support.ports import free_port
from support.redis_server import RedisServer
from support.serving import ServerProcess, make_settings, serving, until
from support.web import add, ask

pytestmark = pytest.mark.timing

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SERVER, CLIENT, CONSUMER = 2, 3, 5
CANARIES = {
    "question": "zanzibarquestion",
    "text": "quokkatext",
    "id": "ocelotid",
    "file": "tamarinfile",
    "key": "rdk-canary-key-0123456789-0123456789",
    "llm": "sk-llmcanary",
    "redis": "rediscanary",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans leave after a tenth of a second instead of five."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")


@pytest.fixture
def collector() -> Iterator[OtlpServer]:
    """A collector that takes everything."""
    with OtlpServer() as server:
        yield server


def spans_of(collector: OtlpServer, root: Received) -> dict[str, Received]:
    """A trace's spans by name."""
    return {span.name: span for span in collector.spans if span.trace_id == root.trace_id}


def test_a_request_is_one_trace(collector: OtlpServer, tmp_path: Path) -> None:
    """Route, status and request id; store, embedder, Redis and LLM below it, parents right."""
    with (
        RedisServer(tmp_path) as redis,
        LlmServer() as llm,
        serving(
            tmp_path / "data",
            otlp_endpoint=collector.url,
            redis_host="127.0.0.1",
            redis_port=redis.port,
            llm_base_url=llm.base_url,
            llm_model="ok",
        ) as client,
    ):
        add(client, "The ferry leaves at nine.")
        response = client.post(
            "/v1/ask",
            json={"question": "When does the ferry leave?"},
            headers={"traceparent": CALLER},
        )
        assert response.json()["generator"] == "openai:ok"
        root = collector.wait_for("POST /v1/ask")
        found = spans_of(collector, root)
    assert (root.trace_id, root.parent_id) == (CALLER.split("-")[1], CALLER.split("-")[2])
    assert root.kind == SERVER
    assert root.attributes["http.route"] == "/v1/ask"
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["ragdock.request_id"] == response.headers["x-request-id"]
    assert root.resource["service.name"] == "rag-api"
    for name in ("store.lexical", "store.dense", "store.hits", "embed", "chat ok", "redis GET",
                 "redis SET"):  # fmt: skip
        assert found[name].parent_id == root.span_id, name
    assert found["redis GET"].kind == found["chat ok"].kind == CLIENT
    assert found["chat ok"].attributes["gen_ai.request.model"] == "ok"
    assert found["store.lexical"].attributes["db.system.name"] == "sqlite"
    # The LLM's server can go on with the trace, below our call of it.
    (sent,) = {r.headers.get("traceparent") for r in llm.requests if "chat" in r.path}
    assert sent is not None
    assert sent.split("-")[1:3] == [root.trace_id, found["chat ok"].span_id]


def test_a_streamed_answer_is_traced_to_its_end(collector: OtlpServer, tmp_path: Path) -> None:
    """The LLM's span of a stream is closed, below the request, with the whole of the time."""
    with (
        LlmServer() as llm,
        serving(
            tmp_path / "data",
            otlp_endpoint=collector.url,
            llm_base_url=llm.base_url,
            llm_model="slow",
        ) as client,
    ):
        add(client, "The ferry leaves at nine.")
        client.post("/v1/ask", json={"question": "When does the ferry leave?", "stream": True})
        root = collector.wait_for("POST /v1/ask")
        found = spans_of(collector, root)
    assert found["chat slow"].parent_id == root.span_id
    assert found["chat slow"].attributes["gen_ai.request.stream"] is True
    assert not found["chat slow"].is_error


def test_a_job_is_a_trace_linked_to_its_request(collector: OtlpServer, tmp_path: Path) -> None:
    """Ingestion has a trace of its own, with a span for each stage, and names who caused it."""
    with serving(tmp_path / "data", otlp_endpoint=collector.url) as client:
        add(client, "The ferry leaves at nine.")
        job = collector.wait_for("ingest")
        request = collector.wait_for("POST /v1/documents")
        found = spans_of(collector, job)
    assert job.kind == CONSUMER
    assert job.trace_id != request.trace_id
    assert job.links == ((request.trace_id, request.span_id),)
    assert job.attributes["ragdock.outcome"] == "indexed"
    for stage in ("parse", "chunk", "embed", "commit"):
        assert found[f"ingest.{stage}"].parent_id == job.span_id
    assert found["store.commit_document"].parent_id == found["ingest.commit"].span_id


def test_a_failed_job_says_why(collector: OtlpServer, tmp_path: Path) -> None:
    """The span of a job that fails is an error of the job's code."""
    with serving(tmp_path / "data", otlp_endpoint=collector.url) as client:
        client.post("/v1/documents?wait=true", files={"file": ("a.pdf", b"%PDF-1.4 broken")})
        job = collector.wait_for("ingest")
    assert job.is_error
    assert job.attributes["error.type"]


def test_errors_and_probes(collector: OtlpServer, tmp_path: Path) -> None:
    """A 404 is no error of the server's, an unknown path has no name, probes are not traced."""
    with serving(tmp_path / "data", otlp_endpoint=collector.url) as client:
        for path in ("/health", "/livez", "/readyz", "/metrics", "/nowhere"):
            client.get(path)
        client.get("/v1/documents/none")
        found = collector.wait_for("GET /v1/documents/{document_id}")
        nowhere = collector.wait_for("GET")
        routes = {span.name for span in collector.spans if span.kind == SERVER}
    assert not found.is_error
    assert found.attributes["http.response.status_code"] == 404
    assert "http.route" not in nowhere.attributes
    assert routes == {"GET", "GET /v1/documents/{document_id}"}


def test_no_content_leaves_by_a_trace(collector: OtlpServer, tmp_path: Path) -> None:
    """Questions, texts, ids, file names and secrets are in no span and no attribute."""
    with (
        LlmServer() as llm,
        serving(
            tmp_path / "data",
            otlp_endpoint=collector.url,
            llm_base_url=llm.base_url,
            llm_model="http500",
            llm_api_key=CANARIES["llm"],
            admin_key=CANARIES["key"],
            redis_host="127.0.0.1",
            redis_port=free_port(),
            redis_password=CANARIES["redis"],
            raises=False,
        ) as client,
    ):
        client.headers["Authorization"] = f"Bearer {CANARIES['key']}"
        client.post(
            "/v1/documents?wait=true",
            files={"file": (f"{CANARIES['file']}.md", f"About {CANARIES['text']}.".encode())},
            data={"id": CANARIES["id"]},
        )
        ask(client, f"What about {CANARIES['question']} and {CANARIES['text']}?")
        client.get(f"/v1/documents/{CANARIES['id']}?x={CANARIES['question']}")
        client.get(f"/v1/documents/{CANARIES['question']}")
        client.delete(f"/v1/documents/{CANARIES['id']}")
        collector.wait_for("DELETE /v1/documents/{document_id}")
        collector.wait_for("ingest")
    sent = b"".join(collector.bodies)
    assert collector.named("chat http500")[0].is_error
    assert [name for name, canary in CANARIES.items() if canary.encode() in sent] == []


def test_logs_name_the_trace(collector: OtlpServer, tmp_path: Path) -> None:
    """A request's log line has its trace_id, and so has a job's."""
    server = ServerProcess(
        tmp_path / "data", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY=100
    )
    with server, server.client() as client:
        add(client, "The ferry leaves at nine.")
        ask(client, "When does the ferry leave?")
        root = collector.wait_for("POST /v1/ask")
        job = collector.wait_for("ingest")
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line[0] == "{"]
    asked = next(line for line in lines if line["message"].startswith("POST /v1/ask"))
    assert asked["trace_id"] == root.trace_id
    indexed = next(line for line in lines if line["message"] == "document indexed")
    assert indexed["trace_id"] == job.trace_id


@pytest.mark.parametrize("workers", [1, 2])
def test_the_last_spans_are_sent_when_the_server_stops(tmp_path: Path, workers: int) -> None:
    """SIGTERM delivers what waits, from every worker process, and ends as soon as without."""
    with OtlpServer() as collector, serve_embeddings() as embeddings:
        server = ServerProcess(
            tmp_path / "data",
            hashed=False,
            RAG_EMBEDDER="openai",
            RAG_EMBED_BASE_URL=embeddings.url,
            RAG_EMBED_API_KEY=embeddings.key,
            RAG_EMBED_MODEL="hash",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_EXPORTER_OTLP_HEADERS="x-token=a%20b",
            OTEL_BSP_SCHEDULE_DELAY=60_000,
            OTEL_SERVICE_NAME="ferry",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=eu,service.name=other",
            RAG_WORKERS=workers,
        )
        with server:
            for number in range(40):
                with server.client() as client:
                    assert client.get(f"/v1/jobs?limit={number + 1}").status_code == 200
            assert collector.spans == []
            began = time.monotonic()
            server.stop()
            assert time.monotonic() - began < 6
        found = collector.named("GET /v1/jobs")
    assert len(found) == 40
    assert len({span.resource["service.instance.id"] for span in found}) == workers
    assert {span.resource["service.name"] for span in found} == {"ferry"}
    assert {span.resource["deployment.environment.name"] for span in found} == {"eu"}
    assert collector.headers[0]["x-token"] == "a b"
    assert set(collector.paths) == {"/v1/traces"}


def test_an_endpoint_that_is_down_costs_requests_nothing(tmp_path: Path) -> None:
    """Answers come as fast, the loss is counted, one line a minute says so, stopping is quick."""
    server = ServerProcess(
        tmp_path / "data",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}",
        OTEL_EXPORTER_OTLP_TIMEOUT=1,
        OTEL_BSP_SCHEDULE_DELAY=50,
    )
    with server, server.client() as client:
        began = time.monotonic()
        for _ in range(200):
            client.get("/v1/collections")
        seconds = time.monotonic() - began
        until(lambda: 'rag_trace_spans_total{result="failed"}' in client.get("/metrics").text)
        client.get("/v1/collections")
        time.sleep(1.5)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 4
    assert seconds < 4
    log = server.log.read_text()
    assert log.count("traces can't be delivered") == 1
    assert "Transient" not in log
    assert "Traceback" not in log


def test_a_full_queue_drops_spans_and_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the endpoint hangs no more than the queue is kept; nobody waits."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "5")
    with (
        OtlpServer(hold=threading.Event()) as collector,
        serving(tmp_path / "data", otlp_endpoint=collector.url, shutdown_seconds=2.0) as client,
    ):
        for _ in range(60):
            client.get("/v1/collections")
        lines = client.get("/metrics").text.splitlines()
    dropped = next(line for line in lines if line.startswith('rag_trace_spans_total{result="dr'))
    # Each request is two spans; at most ten wait and five are under way.
    assert 120 - 15 <= float(dropped.split()[-1]) <= 120 - 10


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "http://"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "always_on"),
        ("OTEL_TRACES_SAMPLER_ARG", "2", "less than or equal to 1"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "otlp"),
    ],
)
def test_wrong_values_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    """What can't be followed is an error that names the variable and what is allowed."""
    from ragdock.settings import Settings

    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name) as caught:
        Settings.load()
    assert says in str(caught.value)


def test_wrong_headers_are_refused_without_being_shown() -> None:
    """A list of headers that can't be read isn't quoted: it holds a key."""
    from ragdock.adapters.metrics.null import NullMetrics

    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_HEADERS") as caught:
        OtelTracer(
            "http://127.0.0.1:1/v1/traces",
            metrics=NullMetrics(),
            trace_id=ContextVar("trace_id", default=None),
            headers="secretwithoutname",
        )
    assert "secretwithoutname" not in str(caught.value)


def test_where_traces_go(tmp_path: Path) -> None:
    """The base URL gets the standard's path, the traces' own URL none; `none` means nowhere."""
    base = {"otlp_endpoint": "http://c:4318/"}
    own = {"otlp_traces_endpoint": "http://d:1/x"}
    off = {"otel_traces_exporter": "none"}
    assert traces_url_of(make_settings(tmp_path)) is None
    assert traces_url_of(make_settings(tmp_path, **base)) == "http://c:4318/v1/traces"
    assert traces_url_of(make_settings(tmp_path, **base, **own)) == "http://d:1/x"
    assert traces_url_of(make_settings(tmp_path, **base, **off)) is None


@pytest.mark.parametrize(
    ("sampler", "arg", "caller", "is_traced"),
    [
        ("always_off", 1.0, CALLER, False),
        ("traceidratio", 0.0, CALLER, False),
        ("parentbased_traceidratio", 0.0, CALLER, True),
        ("parentbased_always_on", 1.0, CALLER[:-1] + "0", False),
        ("always_on", 1.0, CALLER[:-1] + "0", True),
    ],
)
def test_samplers(
    collector: OtlpServer, tmp_path: Path, sampler: str, arg: float, caller: str, is_traced: bool
) -> None:
    """The standard's samplers decide, with or without the caller's word."""
    with serving(
        tmp_path / "data",
        otlp_endpoint=collector.url,
        otel_traces_sampler=sampler,
        otel_traces_sampler_arg=arg,
    ) as client:
        client.get("/v1/collections", headers={"traceparent": caller})
    assert bool(collector.named("GET /v1/collections")) is is_traced


@pytest.mark.parametrize(
    "fields", [{}, {"otlp_endpoint": "http://127.0.0.1:9", "otel_traces_exporter": "none"}]
)
def test_nothing_is_loaded_when_nobody_collects(tmp_path: Path, fields: dict[str, str]) -> None:
    """Without an endpoint a server that answers has loaded no tracer, exporter or protobuf."""
    code = """
import sys
from pathlib import Path
from support.serving import serving
from support.web import add, ask
with serving(Path(sys.argv[1]), **eval(sys.argv[2])) as client:
    add(client, "The ferry leaves at nine.")
    ask(client, "When does the ferry leave?")
    assert client.get("/v1/collections", headers={"traceparent": "x"}).status_code == 200
# redis-py loads `opentelemetry.sdk.metrics` wherever that is installed; the image leaves it out.
heavy = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "opentelemetry.proto",
         "google.protobuf", "requests", "urllib3", "ragdock.adapters.tracing.otel")
print([name for name in heavy if name in sys.modules])
"""
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data"), repr(fields)],
        env={"PYTHONPATH": f"{root / 'src'}:{root / 'tests'}", "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip().splitlines()[-1] == "[]"


def test_polling_makes_no_traces(collector: OtlpServer, tmp_path: Path) -> None:
    """A server that does nothing sends nothing."""
    with serving(tmp_path / "data", otlp_endpoint=collector.url) as client:
        assert isinstance(client, TestClient)
        time.sleep(1.2)
    assert collector.spans == []
