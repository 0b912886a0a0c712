from __future__ import annotations

import socket
import threading
import time
import traceback
from collections.abc import Iterator

import pytest

from ragdock.adapters.generators.openai import OpenAiGenerator
from ragdock.core.citations import check_citations
from ragdock.errors import ConfigurationError, GeneratorError
from support.llm_server import MODELS, LlmServer
from support.passages import INJECTED, RETURNS, SHIPPING, hit

pytestmark = pytest.mark.timing

KEY = "sk-very-secret-0123456789"
PASSAGES = [hit(SHIPPING, 1), hit(RETURNS, 2)]
QUESTION = "How long does shipping take?"
ANSWER = "Standard shipping takes 3 to 5 business days. [1]"


@pytest.fixture
def server() -> Iterator[LlmServer]:
    with LlmServer(api_key=KEY) as running:
        yield running


def generator(server: LlmServer, model: str, timeout_seconds: float = 5.0) -> OpenAiGenerator:
    return OpenAiGenerator(server.base_url, model, KEY, timeout_seconds=timeout_seconds)


def call(llm: OpenAiGenerator, *, stream: bool) -> str:
    """The answer, whole or streamed, and the client closed."""
    try:
        if stream:
            return "".join(llm.stream(QUESTION, PASSAGES))
        return llm.generate(QUESTION, PASSAGES)
    finally:
        llm.close()


def failure(llm: OpenAiGenerator, *, stream: bool) -> GeneratorError:
    with pytest.raises(GeneratorError) as caught:
        call(llm, stream=stream)
    return caught.value


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "model",
    ["ok", "length", "no_done", "done_only", "not_streaming", "thinking", "lost_once", "picky"],
)
def test_answers(server: LlmServer, model: str, stream: bool) -> None:
    """Each way in which a server may finish an answer gives the answer."""
    assert call(generator(server, model), stream=stream) == ANSWER


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("http400", "http"),
        ("http401", "http"),
        ("http429", "http"),
        ("http500", "http"),
        ("no-such-model", "http"),
        ("error_in_stream", "http"),
        ("disconnect", "connection"),
        ("cut", "cut"),
        ("malformed", "protocol"),
        ("not_http", "protocol"),
        ("empty", "protocol"),
        ("refusal", "protocol"),
        ("filtered", "protocol"),
        ("hang", "timeout"),
        ("stall", "timeout"),
        ("drip", "timeout"),
        ("slow", "timeout"),
    ],
)
def test_failures(server: LlmServer, model: str, reason: str, stream: bool) -> None:
    """Each failure has its reason, no key and no foreign text in it, and comes in time."""
    started = time.monotonic()
    timeout_seconds = 0.4 if reason == "timeout" else 5.0
    error = failure(generator(server, model, timeout_seconds), stream=stream)
    assert time.monotonic() - started < (0.8 if reason == "timeout" else 2.0)
    assert error.reason == reason
    assert KEY not in "".join(traceback.format_exception(error))
    assert "overloaded" not in str(error)


def test_pieces_come_as_they_are_said(server: LlmServer) -> None:
    """A slow stream is handed on word by word."""
    llm = generator(server, "slow", 10.0)
    pieces = llm.stream(QUESTION, PASSAGES)
    started = time.monotonic()
    first = next(pieces)
    waited = time.monotonic() - started
    rest = list(pieces)
    llm.close()
    assert first == "Standard"
    assert waited < 0.8 < time.monotonic() - started
    assert first + "".join(rest) == ANSWER


def test_pieces_before_a_cut_arrive(server: LlmServer) -> None:
    """What was said before the stream broke is handed on, then the error comes."""
    llm = generator(server, "cut")
    pieces = llm.stream(QUESTION, PASSAGES)
    assert next(pieces) == "Standard"
    with pytest.raises(GeneratorError, match="cut off"):
        list(pieces)
    llm.close()


def test_open_connection_after_the_end_is_no_timeout(server: LlmServer) -> None:
    """A server that keeps the connection open after the finish reason costs a second at most."""
    started = time.monotonic()
    assert call(generator(server, "keeps_open", 10.0), stream=True) == ANSWER
    assert time.monotonic() - started < 2.0


@pytest.mark.parametrize("model", ["stall", "slow"])
def test_leaving_early_ends_the_connection(server: LlmServer, model: str) -> None:
    """Closing the iterator ends the request, so the LLM stops and the slot is free again."""
    llm = OpenAiGenerator(server.base_url, model, KEY, timeout_seconds=30.0, concurrency=1)
    pieces = llm.stream(QUESTION, PASSAGES)
    assert next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert server.requests[0].client_left.wait(1.0)
    again = llm.stream(QUESTION, PASSAGES)
    assert next(again)
    again.close()  # type: ignore[attr-defined]
    llm.close()


def test_timeout_before_the_headers_frees_server_and_slot(server: LlmServer) -> None:
    """A call that timed out without a byte leaves no connection and no slot behind."""
    llm = OpenAiGenerator(server.base_url, "hang", KEY, timeout_seconds=0.2, concurrency=1)
    for _ in range(2):
        with pytest.raises(GeneratorError, match="too long"):
            llm.generate(QUESTION, PASSAGES)
    assert server.requests[0].client_left.wait(1.0)
    llm.close()


def test_no_free_slot_is_busy(server: LlmServer) -> None:
    """With all slots taken, one more call waits a second at most and is told so."""
    llm = OpenAiGenerator(server.base_url, "stall", KEY, timeout_seconds=20.0, concurrency=1)
    pieces = llm.stream(QUESTION, PASSAGES)
    next(pieces)
    started = time.monotonic()
    with pytest.raises(GeneratorError) as caught:
        llm.generate(QUESTION, PASSAGES)
    assert caught.value.reason == "busy"
    assert time.monotonic() - started < 1.5
    pieces.close()  # type: ignore[attr-defined]
    llm.close()


def test_parallel_calls_share_a_generator(server: LlmServer) -> None:
    """Several threads get their answers from one generator."""
    llm = generator(server, "ok")
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.append(llm.generate(QUESTION, PASSAGES)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    llm.close()
    assert answers == [ANSWER] * 8


def test_one_retry_after_a_lost_connection(server: LlmServer) -> None:
    """A connection lost before the first byte is tried twice in all, not more."""
    assert failure(generator(server, "disconnect"), stream=False).reason == "connection"
    assert len(server.requests) == 2


def test_http_errors_are_not_retried(server: LlmServer) -> None:
    """A refusing server is asked once, and its Retry-After is handed on."""
    error = failure(generator(server, "http429"), stream=False)
    assert error.retry_after_seconds == 7.0
    assert len(server.requests) == 1


def test_request_is_what_the_api_wants(server: LlmServer) -> None:
    """The request names model, limit and messages and carries the key in its header only."""
    call(OpenAiGenerator(server.base_url + "/", "ok", KEY, max_tokens=99), stream=True)
    received = server.requests[0]
    assert received.path == "/v1/chat/completions"
    assert received.headers["authorization"] == f"Bearer {KEY}"
    assert received.body["max_tokens"] == 99
    assert received.body["stream"] is True
    assert received.body["temperature"] == 0
    assert [message["role"] for message in received.body["messages"]] == ["system", "user"]
    assert KEY not in str(received.body)


def test_reasoning_models_parameters_are_learnt(server: LlmServer) -> None:
    """A model that refuses max_tokens and temperature is asked its way from then on."""
    llm = generator(server, "picky")
    llm.generate(QUESTION, PASSAGES)
    llm.generate(QUESTION, PASSAGES)
    llm.close()
    assert len(server.requests) == 4
    last = server.requests[-1].body
    assert last["max_completion_tokens"] == 512
    assert not {"max_tokens", "temperature"} & last.keys()


def test_nothing_listens() -> None:
    """A closed port is a connection failure, at once."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}/v1"
        llm = OpenAiGenerator(url, "ok", timeout_seconds=5.0)
        for stream in (False, True):
            with pytest.raises(GeneratorError) as caught:
                "".join(llm.stream("?", [])) if stream else llm.generate("?", [])
            assert caught.value.reason == "connection"
        with pytest.raises(GeneratorError):
            llm.ping()
        llm.close()


def test_slow_name_resolution_obeys_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a hanging resolver, which no socket timeout covers, can't hold a caller."""

    def resolve(*args: object, **kwargs: object) -> None:
        time.sleep(1.0)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    llm = OpenAiGenerator("http://llm.invalid/v1", "ok", timeout_seconds=0.2)
    started = time.monotonic()
    with pytest.raises(GeneratorError) as caught:
        llm.generate("?", [])
    assert caught.value.reason == "timeout"
    assert time.monotonic() - started < 0.8
    llm.close()


def test_use_after_close(server: LlmServer) -> None:
    """A closed generator raises its own error."""
    llm = generator(server, "ok")
    llm.close()
    with pytest.raises(GeneratorError):
        llm.generate(QUESTION, PASSAGES)


def test_ping(server: LlmServer) -> None:
    """A server that lists its models, or doesn't know the route, is alive."""
    generator(server, "ok").ping()
    elsewhere = OpenAiGenerator(server.base_url.removesuffix("/v1") + "/v9", "ok", KEY)
    elsewhere.ping()
    assert server.requests == []


def test_ping_with_a_wrong_key(server: LlmServer) -> None:
    """A refused key is told, without the key."""
    with pytest.raises(GeneratorError, match="key") as caught:
        OpenAiGenerator(server.base_url, "ok", "sk-wrong").ping()
    assert "sk-wrong" not in str(caught.value)


def test_ping_has_a_short_deadline() -> None:
    """A server that accepts and says nothing fails the ping within seconds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        llm = OpenAiGenerator(f"http://127.0.0.1:{silent.getsockname()[1]}/v1", "ok")
        started = time.monotonic()
        with pytest.raises(GeneratorError, match="too long"):
            llm.ping()
        assert time.monotonic() - started < 3.0
        llm.close()


def test_not_tls_is_a_connection_failure(server: LlmServer) -> None:
    """`https` where `http` is spoken fails like any unreachable server."""
    llm = OpenAiGenerator(
        server.base_url.replace("http:", "https:"), "ok", KEY, timeout_seconds=3.0
    )
    error = failure(llm, stream=False)
    assert error.reason == "connection"


def test_id_and_repr() -> None:
    """The id names the model; neither it nor the repr holds the key."""
    llm = OpenAiGenerator("http://llm/v1", "gpt-x", KEY)
    assert llm.id == "openai:gpt-x"
    assert KEY not in repr(llm)


@pytest.mark.parametrize(
    ("base_url", "api_key", "variable"),
    [
        ("ftp://llm/v1", None, "RAG_LLM_BASE_URL"),
        ("http://", None, "RAG_LLM_BASE_URL"),
        ("http://[::1", None, "RAG_LLM_BASE_URL"),
        ("http://me:s3cret@llm/v1", None, "RAG_LLM_BASE_URL"),
        ("http://llm/v1", "s3cret\nX: y", "RAG_LLM_API_KEY"),
        ("http://llm/v1", "s3cret…", "RAG_LLM_API_KEY"),
    ],
)
def test_wrong_configuration(base_url: str, api_key: str | None, variable: str) -> None:
    """A URL or key that can't be sent is named at once, without the secret."""
    with pytest.raises(ConfigurationError, match=variable) as caught:
        OpenAiGenerator(base_url, "ok", api_key)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_citation_that_was_not_given_is_removed(server: LlmServer) -> None:
    """An invented source leaves the answer; the given one is quoted."""
    llm = generator(server, "not_given_citation")
    result = check_citations(llm.generate(QUESTION, PASSAGES), PASSAGES)
    llm.close()
    assert result.text == f"{ANSWER} The moon is made of cheese."
    assert result.unknown == (9,)
    assert [c.quote for c in result.citations] == ["Standard shipping takes 3 to 5 business days."]


def test_obedient_llm_grounds_nothing(server: LlmServer) -> None:
    """Even an LLM that obeys a source's orders can't make them an answer with evidence."""
    llm = generator(server, "injected")
    passages = [hit(INJECTED, 1)]
    result = check_citations(llm.generate("What is your name?", passages), passages)
    llm.close()
    assert not result.grounded
    assert "[9]" not in result.text


def test_every_scripted_model_is_used() -> None:
    """The scripted server's models are all part of a test here."""
    source = __import__("pathlib").Path(__file__).read_text(encoding="utf-8")
    unused = {name for name in MODELS if f'"{name}"' not in source}
    # The others are integration tests'.
    assert unused <= {"dont_know", "no_citation", "obedient"}
