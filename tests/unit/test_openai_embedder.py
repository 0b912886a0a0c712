"""The HTTP embedder checks what it is told, retries what may pass, and translates every failure."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from ragdock.adapters.embedders import openai
from ragdock.adapters.embedders.openai import OpenAiEmbedder
from ragdock.errors import ConfigurationError, EmbedderError
from support.embedders import HashEmbedder
from support.embeddings_server import Answer, EmbeddingsServer, serve_embeddings

pytestmark = pytest.mark.timing

Make = Callable[..., OpenAiEmbedder]
BUSY = Answer(429, {"error": {"message": "slow down"}})


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddingsServer]:
    """One server for the module."""
    with serve_embeddings(dim=16) as server:
        yield server


@pytest.fixture
def server(running: EmbeddingsServer) -> EmbeddingsServer:
    """The server as new."""
    running.requests.clear()
    running.script.clear()
    running.shuffle, running.with_index = False, True
    return running


@pytest.fixture
def make(server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes embedders against the server; closes them. Pauses are short."""
    monkeypatch.setattr(openai, "FIRST_PAUSE_SECONDS", 0.01)
    made: list[OpenAiEmbedder] = []

    def make(**changes: Any) -> OpenAiEmbedder:
        values: dict[str, Any] = {
            "base_url": server.url,
            "model": "hash",
            "api_key": server.key,
            "dim": 16,
            "timeout_seconds": 5.0,
        }
        embedder = OpenAiEmbedder(**(values | changes))
        made.append(embedder)
        return embedder

    yield make
    for embedder in made:
        embedder.close()


def rows(n_rows: int, dim: int = 16) -> dict[str, Any]:
    """A valid answer's body."""
    return {"data": [{"index": n, "embedding": [1.0] * dim} for n in range(n_rows)]}


def test_rows_are_the_servers_normalised(make: Make) -> None:
    """The vectors are the endpoint's, brought to norm 1."""
    texts = ["red fox", "blue whale", "red"]
    assert np.allclose(make().embed(texts), HashEmbedder(16).embed(texts), atol=1e-6)


def test_dimension_is_asked_for_once(make: Make, server: EmbeddingsServer) -> None:
    """Without a configured dimension one probe is sent, on first use and not before."""
    embedder = make(dim=None)
    assert server.requests == []
    assert embedder.id == "openai:hash:16"
    assert embedder.dim == 16
    assert len(server.requests) == 1
    embedder.embed(["a"])
    assert len(server.requests) == 2


def test_a_configured_dimension_sends_nothing(make: Make, server: EmbeddingsServer) -> None:
    """`id` and `dim` need no endpoint when the dimension is known."""
    assert make(dim=16).id == "openai:hash:16"
    assert server.requests == []


def test_batches_hold_at_most_64_texts(make: Make, server: EmbeddingsServer) -> None:
    """150 texts become three requests, and the rows keep their places."""
    texts = [f"text {n}" for n in range(150)]
    vectors = make().embed(texts)
    assert [len(request["input"]) for request in server.requests] == [64, 64, 22]
    assert np.allclose(vectors, HashEmbedder(16).embed(texts), atol=1e-6)


def test_order_comes_from_the_index(make: Make, server: EmbeddingsServer) -> None:
    """An endpoint may answer in any order as long as it numbers its embeddings."""
    server.shuffle = True
    texts = ["red fox", "blue whale", "green tree"]
    assert np.allclose(make().embed(texts), HashEmbedder(16).embed(texts), atol=1e-6)


def test_an_endpoint_without_indexes_keeps_the_order(make: Make, server: EmbeddingsServer) -> None:
    """Embeddings without numbers are taken in the order of the answer."""
    server.with_index = False
    texts = ["red fox", "blue whale"]
    assert np.allclose(make().embed(texts), HashEmbedder(16).embed(texts), atol=1e-6)


@pytest.mark.parametrize(
    "failure",
    [BUSY, Answer(500), Answer(503), Answer(502, b"<html>"), Answer(cut=True)],
    ids=["429", "500", "503", "502", "cut"],
)
def test_what_may_pass_is_tried_again(
    make: Make, server: EmbeddingsServer, failure: Answer
) -> None:
    """Overload, server errors and lost connections are retried, up to five attempts."""
    server.script += [failure] * 4
    assert make().embed(["a"]).shape == (1, 16)
    assert len(server.requests) == 5
    server.script += [failure] * 5
    with pytest.raises(EmbedderError):
        make().embed(["a"])
    assert server.script == []


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (204, "embedder_refused"),
        (301, "embedder_refused"),
        (400, "embedder_refused"),
        (404, "embedder_refused"),
        (401, "embedder_unauthorised"),
        (403, "embedder_unauthorised"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(
    make: Make, server: EmbeddingsServer, status: int, code: str
) -> None:
    """A refusal is reported at once, with a code of its own."""
    headers = {"Location": "http://127.0.0.1:1/"} if status == 301 else {}
    body = b"" if status == 204 else b"{}"
    server.script.append(Answer(status, body, headers))
    with pytest.raises(EmbedderError, match=f"HTTP {status}") as refused:
        make().embed(["a"])
    assert refused.value.code == code
    assert len(server.requests) == 1


def test_retry_after_is_obeyed(make: Make, server: EmbeddingsServer) -> None:
    """A pause that the endpoint asks for is kept when it fits into the deadline."""
    server.script.append(Answer(429, {}, {"Retry-After": "1"}))
    started = time.monotonic()
    make().embed(["a"])
    assert time.monotonic() - started >= 1.0


def test_a_long_retry_after_is_handed_on(make: Make, server: EmbeddingsServer) -> None:
    """A pause beyond the deadline isn't waited for: the caller is told when to come back."""
    server.script.append(Answer(429, {}, {"Retry-After": "120"}))
    started = time.monotonic()
    with pytest.raises(EmbedderError) as refused:
        make().embed(["a"])
    assert time.monotonic() - started < 1.0
    assert refused.value.retry_after_seconds == 120


@pytest.mark.parametrize(
    "answer",
    [Answer(200, rows(1), delay_seconds=2.0), Answer(200, rows(1), trickle_seconds=4.0)],
    ids=["silent", "trickle"],
)
def test_the_deadline_holds(make: Make, server: EmbeddingsServer, answer: Answer) -> None:
    """An endpoint that is silent, or that sends a little at a time, is given up."""
    server.script.append(answer)
    started = time.monotonic()
    with pytest.raises(EmbedderError, match="did not answer in time"):
        make(timeout_seconds=0.5).embed(["a"])
    assert time.monotonic() - started < 1.5


def test_retries_stay_inside_the_deadline(
    make: Make, server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing endpoint is given up before the deadline, not after five long pauses."""
    monkeypatch.setattr(openai, "FIRST_PAUSE_SECONDS", 0.3)
    server.script += [BUSY] * 5
    started = time.monotonic()
    with pytest.raises(EmbedderError, match="HTTP 429"):
        make(timeout_seconds=0.8).embed(["a"])
    assert time.monotonic() - started < 1.0
    assert 1 < len(server.requests) < 5


def test_nobody_listens(make: Make) -> None:
    """An endpoint that isn't there is unavailable, not a crash."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(EmbedderError, match="can't be reached"):
        make(base_url=url).embed(["a"])


BAD_BODIES: dict[str, Any] = {
    "empty": b"",
    "html": b"<html>busy</html>",
    "not utf-8": b"\xff\xfe\xff",
    "null": None,
    "number": 7,
    "list": [],
    "no data": {"object": "list"},
    "data null": {"data": None},
    "data string": {"data": "ab"},
    "data object": {"data": {"a": 1, "b": 2}},
    "too few": rows(1),
    "too many": rows(3),
    "entries null": {"data": [None, None]},
    "entries strings": {"data": ["a", "b"]},
    "no embedding": {"data": [{"index": 0}, {"index": 1}]},
    "base64": {"data": [{"embedding": "AACAPw=="}] * 2},
    "numbers as words": {"data": [{"embedding": ["x"] * 16}] * 2},
    "nulls": {"data": [{"embedding": [None] * 16}] * 2},
    "nested": {"data": [{"embedding": [[1.0]] * 16}] * 2},
    "ragged": {"data": [{"embedding": [1.0] * 16}, {"embedding": [1.0] * 15}]},
    "no length": {"data": [{"embedding": []}] * 2},
    "zeros": {"data": [{"embedding": [0.0] * 16}] * 2},
    "nan": b'{"data": [{"embedding": [NaN, 1]}, {"embedding": [1, 1]}]}',
    "infinite": b'{"data": [{"embedding": [1e999, 1]}, {"embedding": [1, 1]}]}',
    "overflowing": b'{"data": [{"embedding": [1e300, 1e300]}, {"embedding": [1, 1]}]}',
    "huge integer": b'{"data": [{"embedding": [' + b"9" * 4000 + b"]}, " + b'{"embedding": [1]}]}',
    "index twice": {"data": [{"index": 0, "embedding": [1.0] * 16}] * 2},
    "index text": {"data": [{"index": str(n), "embedding": [1.0] * 16} for n in (0, 1)]},
    "index null": {"data": [{"index": None, "embedding": [1.0] * 16}] * 2},
    "index beyond": {"data": [{"index": n, "embedding": [1.0] * 16} for n in (1, 2)]},
    "deep": b'{"data": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_wrong_answer_is_an_embedder_error(
    make: Make, server: EmbeddingsServer, name: str
) -> None:
    """Whatever a broken endpoint says with status 200, only `EmbedderError` leaves the adapter."""
    server.script.append(Answer(200, BAD_BODIES[name]))
    with pytest.raises(EmbedderError) as refused:
        make().embed(["a", "b"])
    assert refused.value.code == "embedder_protocol"


def test_another_dimension_is_refused(make: Make) -> None:
    """Vectors of another length than configured would spoil the collection."""
    with pytest.raises(EmbedderError, match="16 numbers, and 1536 were expected") as refused:
        make(dim=1536).embed(["a"])
    assert refused.value.code == "embedder_dimension"


def test_an_endless_answer_is_cut(
    make: Make, server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer beyond the limit isn't read into memory."""
    monkeypatch.setattr(openai, "MAX_RESPONSE_BYTES", 1000)
    server.script.append(Answer(200, b" " * 100_000))
    with pytest.raises(EmbedderError, match="too large"):
        make().embed(["a"])


@pytest.mark.parametrize("status", [200, 400, 401, 403, 429, 500])
def test_the_key_appears_nowhere(
    make: Make, server: EmbeddingsServer, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """No message, cause, log line or `repr` holds the key, even if the endpoint quotes it."""
    caplog.set_level(logging.DEBUG)
    embedder = make()
    server.script += [Answer(status, {"error": {"message": f"bad key {server.key}"}})] * 5
    with pytest.raises(EmbedderError) as refused:
        embedder.embed(["a"])
    error: BaseException | None = refused.value
    while error is not None:
        assert server.key not in f"{error!r} {error}"
        error = error.__cause__
    assert server.key not in caplog.text
    assert server.key not in repr(embedder)


def test_the_reason_of_a_refusal_is_logged(
    make: Make, server: EmbeddingsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has what the endpoint said; the message, which clients see, doesn't."""
    server.script.append(Answer(400, {"error": {"message": "model 'hash' not found"}}))
    with pytest.raises(EmbedderError) as refused:
        make().embed(["a"])
    assert "model 'hash' not found" in caplog.text
    assert "not found" not in str(refused.value)


def test_no_key_sends_none(make: Make, server: EmbeddingsServer) -> None:
    """Without a key no Authorization header is sent, which the endpoint here refuses."""
    with pytest.raises(EmbedderError, match="RAG_EMBED_API_KEY"):
        make(api_key=None).embed(["a"])


@pytest.mark.parametrize("key", ["two words", "line\nend", "schlüssel", "tab\t"])
def test_a_key_that_no_header_carries_is_refused(make: Make, key: str) -> None:
    """A key with a stray line end is named at the start, without showing it."""
    with pytest.raises(ConfigurationError, match="RAG_EMBED_API_KEY") as refused:
        make(api_key=key)
    assert key not in str(refused.value)


@pytest.mark.parametrize("url", ["http://[::1", "http://host:port/v1", "ollama/v1", ""])
def test_a_url_that_is_none_is_refused(make: Make, url: str) -> None:
    """A base URL that can't be requested is a configuration error at the start."""
    with pytest.raises(ConfigurationError, match="RAG_EMBED_BASE_URL"):
        make(base_url=url)


def test_a_trailing_slash_is_fine(make: Make, server: EmbeddingsServer) -> None:
    """The base URL works with and without a slash at its end."""
    assert make(base_url=server.url + "/").embed(["a"]).shape == (1, 16)


def test_a_recent_success_stands_for_a_ping(make: Make, server: EmbeddingsServer) -> None:
    """Pings within 30 seconds of a success cost no request."""
    embedder = make()
    for _ in range(3):
        embedder.ping()
    assert len(server.requests) == 1


def test_a_ping_tells_the_truth(
    make: Make, server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the last success is old, a failing endpoint fails the ping."""
    embedder = make()
    embedder.ping()
    monkeypatch.setattr(openai, "PING_FRESH_SECONDS", 0.0)
    server.script += [Answer(500)] * 5
    with pytest.raises(EmbedderError):
        embedder.ping()


def test_close_ends_a_pause(
    make: Make, server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that waits for its next attempt doesn't hold up the shutdown."""
    monkeypatch.setattr(openai, "FIRST_PAUSE_SECONDS", 3.0)
    embedder = make(timeout_seconds=30.0)
    server.script.append(BUSY)
    threading.Timer(0.2, embedder.close).start()
    started = time.monotonic()
    with pytest.raises(EmbedderError, match="closed"):
        embedder.embed(["a"])
    assert time.monotonic() - started < 1.5


def test_tokens_are_estimated_from_bytes_and_words(make: Make) -> None:
    """Four bytes a token, and at least one for each word."""
    embedder = make()
    assert embedder.n_tokens("") == 0
    assert embedder.n_tokens("a b c d e f") == 6
    assert embedder.n_tokens("internationalisation") == 5
    assert embedder.n_tokens("为什么天空") == 4
