"""Any OpenAI-compatible `/embeddings` endpoint: OpenAI, Ollama, vLLM, TEI, llama.cpp, LiteLLM.

Protocol: https://platform.openai.com/docs/api-reference/embeddings/create
"""

from __future__ import annotations

import json
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import httpx2
import numpy as np

from ragdock.errors import ConfigurationError, EmbedderError
from ragdock.types import Vectors

__all__ = ["OpenAiEmbedder"]

BATCH_TEXTS: Final = 64
MAX_RESPONSE_BYTES: Final = 64 * 2**20
"""A batch of 64 vectors of 8,192 numbers takes some 13 MB of JSON."""

MAX_ATTEMPTS: Final = 5
FIRST_PAUSE_SECONDS: Final = 0.25
CONNECT_SECONDS: Final = 5.0
PING_SECONDS: Final = 5.0
PING_FRESH_SECONDS: Final = 30.0
"""A call that succeeded so lately stands for a ping: pings cost money and quota."""

_log = logging.getLogger(__name__)


class _RetryableError(Exception):
    """A failure that may pass; `error` is what the caller gets when it doesn't."""

    def __init__(self, error: EmbedderError, pause_seconds: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.pause_seconds = pause_seconds


class OpenAiEmbedder:
    """Embeds through HTTP, 64 texts a request; safe to share between threads.

    `base_url` ends before `/embeddings` (`http://ollama:11434/v1`). `dim` is what the endpoint
    answers with; when None, it is asked for once, on first use of `dim`, `id` or `embed`.
    `timeout_seconds` is the deadline of one request with all its retries (429, 5xx, connection).
    The `dimensions` parameter isn't sent, as many servers refuse it. `more_headers` is asked for
    what else a request carries. Raises `ConfigurationError`
    for a URL or key that can't be used.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        dim: int | None = None,
        timeout_seconds: float = 30.0,
        *,
        max_tokens: int = 512,
        more_headers: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        headers = {"User-Agent": "ragdock"}
        if api_key:
            if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
                raise ConfigurationError(
                    "RAG_EMBED_API_KEY=(hidden): holds spaces, line ends or characters that are "
                    "not ASCII, which no HTTP header can carry."
                )
            headers["Authorization"] = f"Bearer {api_key}"
        self._url = _endpoint(base_url)
        self._more_headers = more_headers
        self._client = httpx2.Client(headers=headers, follow_redirects=False)
        self._secret = api_key or ""
        self._model = model
        self._dim = dim
        self._timeout_seconds = timeout_seconds
        self._max_tokens = max_tokens
        self._probing = threading.Lock()
        self._closed = threading.Event()
        self._last_success = -math.inf

    @property
    def id(self) -> str:
        """`openai:<model>:<dim>`."""
        return f"openai:{self._model}:{self.dim}"

    @property
    def dim(self) -> int:
        """Length of a vector; may ask the endpoint, so it may raise `EmbedderError`."""
        with self._probing:
            if self._dim is None:
                deadline = time.monotonic() + self._timeout_seconds
                self._dim = self._request(["dimension"], deadline).shape[1]
            return self._dim

    @property
    def max_tokens(self) -> int:
        """What most embedding models take; the endpoint decides what it does with more."""
        return self._max_tokens

    def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Vectors:  # noqa: ARG002
        """(len(texts), dim) float32, unit rows; the protocol has no word for `urgent`.

        Raises `EmbedderError` for whatever the endpoint or the network does wrong.
        """
        dim = self.dim
        rows = np.zeros((len(texts), dim), dtype=np.float32)
        for start in range(0, len(texts), BATCH_TEXTS):
            batch = texts[start : start + BATCH_TEXTS]
            deadline = time.monotonic() + self._timeout_seconds
            vectors = self._request(batch, deadline)
            if vectors.shape[1] != dim:
                raise EmbedderError(
                    f"The embeddings endpoint answers with vectors of {vectors.shape[1]} numbers, "
                    f"and {dim} were expected: check RAG_EMBED_DIM and RAG_EMBED_MODEL.",
                    code="embedder_dimension",
                )
            rows[start : start + len(batch)] = vectors
        return rows

    def n_tokens(self, text: str) -> int:
        """An estimate: a token for 4 bytes of UTF-8, and for each word at least one.

        Source: https://help.openai.com/en/articles/4936856 (4 characters of English a token);
        byte-level tokenizers spend more on a letter of other scripts, as UTF-8 does.
        """
        return max(len(text.split()), math.ceil(len(text.encode("utf-8", "replace")) / 4))

    def familiarity(self, text: str) -> float:  # noqa: ARG002
        """Always 1.0: what a remote model knows can't be told from here."""
        return 1.0

    def ping(self) -> None:
        """Return when a request succeeded in the last 30 seconds, else try one for at most 5."""
        if time.monotonic() - self._last_success < PING_FRESH_SECONDS and not self._closed.is_set():
            return
        seconds = min(self._timeout_seconds, PING_SECONDS)
        self._request(["ping"], time.monotonic() + seconds)

    def close(self) -> None:
        """Close the connections; later calls raise `EmbedderError`."""
        self._closed.set()
        self._client.close()

    def _request(self, texts: Sequence[str], deadline: float) -> Vectors:
        """One batch, retried until the deadline (`time.monotonic`)."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            if self._closed.is_set():
                raise EmbedderError("The embedder is closed.", code="embedder_closed")
            try:
                body = self._post(texts, deadline)
            except _RetryableError as failure:
                # Jitter keeps the clients of an overloaded endpoint from returning together.
                pause = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311
                pause = max(pause, failure.pause_seconds or 0.0)
                if attempt == MAX_ATTEMPTS or time.monotonic() + pause >= deadline:
                    raise failure.error from failure.__cause__
                self._closed.wait(pause)
            else:
                vectors = _vectors(body, len(texts))
                self._last_success = time.monotonic()
                return vectors
        raise AssertionError("the last attempt returns or raises")

    def _post(self, texts: Sequence[str], deadline: float) -> bytes:
        left = max(deadline - time.monotonic(), 0.001)
        timeout = httpx2.Timeout(left, connect=min(left, CONNECT_SECONDS))
        content = {"model": self._model, "input": [_sendable(text) for text in texts]}
        try:
            with self._client.stream(
                "POST", self._url, json=content, timeout=timeout, headers=dict(self._more_headers())
            ) as response:
                body = _read(response, deadline)
        except httpx2.TimeoutException as exc:
            raise _RetryableError(
                EmbedderError("The embeddings endpoint did not answer in time.")
            ) from exc
        except (httpx2.TransportError, httpx2.StreamError) as exc:
            raise _RetryableError(
                EmbedderError("The embeddings endpoint can't be reached.")
            ) from exc
        except (httpx2.HTTPError, RuntimeError, ValueError) as exc:
            # RuntimeError and ValueError: the client was closed meanwhile.
            raise EmbedderError("The request for embeddings failed.") from exc
        if response.status_code != httpx2.codes.OK:
            self._refused(response, body)
        return body

    def _refused(self, response: httpx2.Response, body: bytes) -> None:
        status = response.status_code
        if status in {401, 403}:
            # The body isn't logged: providers quote parts of the key in it.
            raise EmbedderError(
                f"The embeddings endpoint refuses the key (HTTP {status}): check "
                "RAG_EMBED_API_KEY.",
                code="embedder_unauthorised",
            )
        _log.warning("embeddings endpoint: HTTP %d: %s", status, self._excerpt(body))
        if status == httpx2.codes.TOO_MANY_REQUESTS or status >= 500:
            pause = _retry_after_seconds(response)
            error = EmbedderError(
                f"The embeddings endpoint is overloaded or broken (HTTP {status}).",
                retry_after_seconds=max(1.0, pause or 0.0),
            )
            raise _RetryableError(error, pause)
        raise EmbedderError(
            f"The embeddings endpoint refuses the request (HTTP {status}): check "
            "RAG_EMBED_BASE_URL and RAG_EMBED_MODEL.",
            code="embedder_refused",
        )

    def _excerpt(self, body: bytes) -> str:
        text = body[:2000].decode("utf-8", "replace")
        if self._secret:
            text = text.replace(self._secret, "(hidden)")
        return " ".join(text.split())[:300]


def _endpoint(base_url: str) -> httpx2.URL:
    try:
        url = httpx2.URL(f"{base_url.rstrip('/')}/embeddings")
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if url.scheme not in {"http", "https"} or not url.host:
        raise ConfigurationError(
            f"RAG_EMBED_BASE_URL={base_url!r}: is not the URL of an endpoint; use for example "
            "http://ollama:11434/v1."
        )
    return url


def _sendable(text: str) -> str:
    # UTF-8 has no lone surrogates, and OpenAI refuses empty strings.
    return text.encode("utf-8", "replace").decode("utf-8") or " "


def _read(response: httpx2.Response, deadline: float) -> bytes:
    """The body; bounded in size and, as httpx's timeouts hold for each read only, in time."""
    parts: list[bytes] = []
    size_bytes = 0
    for part in response.iter_bytes():
        size_bytes += len(part)
        if size_bytes > MAX_RESPONSE_BYTES:
            raise EmbedderError("The embeddings endpoint's answer is too large.")
        if time.monotonic() > deadline:
            raise EmbedderError("The embeddings endpoint did not answer in time.")
        parts.append(part)
    return b"".join(parts)


def _retry_after_seconds(response: httpx2.Response) -> float | None:
    """`Retry-After` in its form of seconds (RFC 9110, 10.2.3); dates are left out."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 6 else None


def _vectors(body: bytes, n_texts: int) -> Vectors:
    """Unit rows in the order of the texts."""
    try:
        data = _ordered(json.loads(body)["data"], n_texts)
        rows = np.array(data, dtype=np.float64)
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError) as exc:
        raise _protocol("is not a list of embeddings of one length") from exc
    except RecursionError as exc:
        raise _protocol("is nested too deeply") from exc
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise _protocol("is not a list of embeddings of one length")
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        raise _protocol("holds vectors that are zero or not finite")
    unit: Vectors = (rows / norms).astype(np.float32)
    return unit


def _ordered(data: list[dict[str, Any]], n_texts: int) -> list[Any]:
    if len(data) != n_texts:
        raise _protocol(f"holds {len(data)} embeddings for {n_texts} texts")
    # Some servers leave `index` out; they keep the order.
    indexes = [entry.get("index", place) for place, entry in enumerate(data)]
    if sorted(indexes) != list(range(n_texts)):
        raise _protocol("numbers its embeddings wrongly")
    vectors: list[Any] = [None] * n_texts
    for index, entry in zip(indexes, data, strict=True):
        vectors[index] = entry["embedding"]
    return vectors


def _protocol(what: str) -> EmbedderError:
    return EmbedderError(f"The embeddings endpoint's answer {what}.", code="embedder_protocol")
