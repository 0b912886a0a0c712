"""Answers from any OpenAI-compatible chat endpoint: OpenAI, Ollama, vLLM, llama.cpp, LM Studio ...

https://platform.openai.com/docs/api-reference/chat. Every failure is a `GeneratorError` whose
`reason` tells what happened, so that the caller can fall back to the extractive answer:

    busy         all slots are taken
    connection   nothing answers there
    timeout      no whole answer before the deadline, which counts from the call
    http         a status that isn't 200, or an error object in the stream
    cut          the answer ended without its end mark
    protocol     not what the API promises: no JSON, no text, a refusal
"""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Generator as Steps
from typing import Any, Final

import httpx2

from ragdock.adapters.generators.exchange import ConnectionLostError, Exchange
from ragdock.core.patience import cut_short_by, require_patience
from ragdock.core.prompting import MAX_PROMPT_CHARACTERS, build_messages
from ragdock.core.sse import SseDecoder
from ragdock.core.thinking import ThinkFilter
from ragdock.errors import ConfigurationError, GeneratorError
from ragdock.types import Hit

__all__ = ["OpenAiGenerator"]

_PING_SECONDS: Final = 2.0
_WAIT_FOR_SLOT_SECONDS: Final = 1.0
_AFTER_FINISH_SECONDS: Final = 1.0
"""Wait for `[DONE]` after the finish reason: some servers keep the connection open instead."""
_MAX_ERROR_BYTES: Final = 65536
_LONGEST_RETRY_SECONDS: Final = 60.0


class OpenAiGenerator:
    """`Generator` over HTTP; safe to call from several threads.

    `timeout_seconds` bounds a whole answer, from the call to its last piece; `concurrency` bounds
    the calls at once, and one more waits at most a second before `busy`. `more_headers` is asked
    for what else a request carries. Opens no connection before the first call. Raises
    `ConfigurationError` for a URL or key that can't be sent.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        timeout_seconds: float = 30.0,
        max_tokens: int = 512,
        concurrency: int = 8,
        *,
        max_prompt_characters: int = MAX_PROMPT_CHARACTERS,
        more_headers: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._base_url = _checked_url(base_url)
        self._model = model
        self._timeout_seconds = timeout_seconds
        self._max_prompt_characters = max_prompt_characters
        self._more_headers = more_headers
        self._slots = threading.BoundedSemaphore(concurrency)
        # Identity: a compressed stream would come in blocks instead of words. Close: beside an
        # answer's seconds a handshake is nothing, and an exchange that is left early can end its
        # connection without asking who else uses it.
        headers = {"Accept-Encoding": "identity", "Connection": "close", "User-Agent": "ragdock"}
        if api_key:
            headers["Authorization"] = f"Bearer {_checked_key(api_key)}"
        # Loading the certificate authorities takes a tenth of a second and some megabytes; a plain
        # connection needs none, and this empty context would refuse every certificate.
        plain = self._base_url.startswith("http:")
        self._client = httpx2.Client(
            headers=headers,
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if plain else True,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        )
        # OpenAI's reasoning models take other parameters; learnt from their first refusal.
        self._parameters: dict[str, object] = {"max_tokens": max_tokens, "temperature": 0}

    @property
    def id(self) -> str:
        """`openai:<model>`; the prompt is named by `ragdock.core.prompting.PROMPT_ID`."""
        return f"openai:{self._model}"

    def __repr__(self) -> str:
        return f"OpenAiGenerator({self._base_url!r}, {self._model!r})"

    def generate(self, question: str, passages: Sequence[Hit]) -> str:
        """The whole answer text with [n] markers; raises `GeneratorError`."""
        with self._call(question, passages, stream=False) as exchange:
            return _whole(b"".join(exchange.chunks()))

    def stream(self, question: str, passages: Sequence[Hit]) -> Steps[str, None, None]:
        """The answer in pieces; closing the iterator ends the connection. `GeneratorError`."""
        with self._call(question, passages, stream=True) as exchange:
            if "json" in exchange.headers.get("content-type", ""):
                # A server that doesn't stream sends the whole answer.
                yield _whole(b"".join(exchange.chunks()))
            else:
                yield from _pieces(exchange)

    def ping(self) -> None:
        """`GET /models` within two seconds: any answer but 401, 403 and 5xx is a live endpoint."""
        request = self._client.build_request("GET", f"{self._base_url}/models")
        deadline = time.monotonic() + _PING_SECONDS
        with contextlib.closing(Exchange(self._client, request, deadline, lambda: None)) as got:
            got.open()
            if got.status in {401, 403}:
                raise GeneratorError("The LLM refuses the API key.", reason="http")
            if got.status >= 500:
                raise GeneratorError(f"The LLM answers HTTP {got.status}.", reason="http")

    def close(self) -> None:
        """Release connections."""
        self._client.close()

    @contextlib.contextmanager
    def _call(self, question: str, passages: Sequence[Hit], *, stream: bool) -> Iterator[Exchange]:
        deadline = time.monotonic() + self._timeout_seconds
        messages = build_messages(question, passages, max_characters=self._max_prompt_characters)
        exchange = self._opened(messages, deadline, stream=stream)
        try:
            with cut_short_by(exchange.close):
                yield exchange
        finally:
            exchange.close()

    def _opened(self, messages: object, deadline: float, *, stream: bool) -> Exchange:
        """An exchange with status 200; tries again after a lost connection, once."""
        may_retry = True
        while True:
            require_patience()
            body = {"model": self._model, "messages": messages, "stream": stream}
            body |= self._parameters
            exchange = self._start(body, deadline)
            try:
                with cut_short_by(exchange.close):
                    exchange.open()
                if exchange.status == 200:
                    return exchange
                failure = b"".join(_limited(exchange.chunks()))
            except ConnectionLostError:
                if not may_retry:
                    raise
                may_retry = False
                continue
            except BaseException:
                exchange.close()
                raise
            exchange.close()
            if exchange.status != 400 or not self._adapt(failure, body):
                raise _http_error(exchange)

    def _start(self, body: dict[str, object], deadline: float) -> Exchange:
        accept = "text/event-stream" if body["stream"] else "application/json"
        url = f"{self._base_url}/chat/completions"
        headers = {"Accept": accept, **self._more_headers()}
        request = self._client.build_request("POST", url, json=body, headers=headers)
        wait_seconds = min(_WAIT_FOR_SLOT_SECONDS, max(0.0, deadline - time.monotonic()))
        if not self._slots.acquire(timeout=wait_seconds):
            raise GeneratorError("The LLM has no free slot.", reason="busy")
        return Exchange(self._client, request, deadline, self._slots.release)

    def _adapt(self, failure: bytes, sent: dict[str, object]) -> bool:
        """Whether a 400 names a parameter as unsupported that was sent and won't be again."""
        try:
            error = json.loads(failure)["error"]
            refused, code = error["param"], str(error["code"])
        except (ValueError, KeyError, TypeError):
            return False
        if refused not in {"max_tokens", "temperature"} & sent.keys():
            return False
        if not code.startswith("unsupported"):
            return False
        adapted = {name: value for name, value in self._parameters.items() if name != refused}
        if refused == "max_tokens":
            adapted["max_completion_tokens"] = sent["max_tokens"]
        self._parameters = adapted
        return True


def _pieces(exchange: Exchange) -> Iterator[str]:
    """The text of a streamed answer; raises `GeneratorError` unless it ends as it should."""
    reader = _StreamReader()
    for chunk in exchange.chunks(lambda: _AFTER_FINISH_SECONDS if reader.finished else None):
        text = reader.feed(chunk)
        if text:
            yield text
        if reader.done:
            break
    text = reader.close()
    if text:
        yield text


class _StreamReader:
    """The bytes of a stream to the answer's text."""

    def __init__(self) -> None:
        self._events = SseDecoder()
        self._thoughts = ThinkFilter()
        self._said = False
        self.finished = False
        self.done = False

    def feed(self, chunk: bytes) -> str:
        try:
            return self._texts(self._events.feed(chunk))
        except UnicodeDecodeError as exc:
            raise _protocol("The LLM's stream isn't UTF-8.") from exc

    def close(self) -> str:
        try:
            text = "" if self.done else self._texts(self._events.close())
        except UnicodeDecodeError as exc:
            raise GeneratorError("The LLM's answer was cut off.", reason="cut") from exc
        if not (self.finished or self.done):
            raise GeneratorError("The LLM's answer was cut off.", reason="cut")
        text += self._thoughts.close()
        if not (self._said or text.strip()):
            raise _protocol("The LLM's answer is empty.")
        return text

    def _texts(self, events: Sequence[str]) -> str:
        text = ""
        for event in events:
            if event.strip() == "[DONE]":
                self.done = True
                break
            text += self._thoughts.feed(self._delta(event))
        self._said = self._said or bool(text.strip())
        return text

    def _delta(self, event: str) -> str:
        chunk = _object(event)
        choice = _choice(chunk)
        if choice is None:  # A usage chunk.
            return ""
        self.finished = _check_finish(choice.get("finish_reason")) or self.finished
        return _text(choice.get("delta"))


def _whole(body: bytes) -> str:
    choice = _choice(_object(body))
    if choice is None:
        raise _protocol("The LLM's response holds no answer.")
    _check_finish(choice.get("finish_reason"))
    thoughts = ThinkFilter()
    content = _text(choice.get("message"))
    text = thoughts.feed(content) + thoughts.close()
    if not text.strip():
        raise _protocol("The LLM's answer is empty.")
    return text


def _object(raw: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise _protocol("The LLM's response isn't JSON.") from exc
    if not isinstance(value, dict):
        raise _protocol("The LLM's response isn't an object.")
    if value.get("error"):
        raise GeneratorError("The LLM reports an error.", reason="http")
    return value


def _choice(chunk: dict[str, Any]) -> dict[str, Any] | None:
    choices = chunk.get("choices")
    if choices is None or choices == []:
        return None
    if not isinstance(choices, list) or not isinstance(choices[0], dict):
        raise _protocol("The LLM's response holds no choices.")
    return choices[0]


def _check_finish(reason: object) -> bool:
    """Whether the answer is over; a filter's or a tool's end is no answer."""
    if reason in {"content_filter", "tool_calls", "function_call"}:
        raise _protocol("The LLM gives no answer to this.")
    return reason is not None and reason != ""


def _text(message: object) -> str:
    """The text of a message or delta; parts of other kinds and null are nothing."""
    if not isinstance(message, dict):
        return ""
    if message.get("refusal"):
        raise _protocol("The LLM refuses to answer.")
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _limited(chunks: Iterator[bytes]) -> Iterator[bytes]:
    n_bytes = 0
    for chunk in chunks:
        yield chunk
        n_bytes += len(chunk)
        if n_bytes > _MAX_ERROR_BYTES:
            return


def _http_error(exchange: Exchange) -> GeneratorError:
    try:
        seconds = float(exchange.headers.get("retry-after", "1"))
    except ValueError:
        seconds = 1.0
    # Not `min` alone: a NaN passes it.
    seconds = seconds if 0.0 <= seconds <= _LONGEST_RETRY_SECONDS else _LONGEST_RETRY_SECONDS
    return GeneratorError(
        f"The LLM answers HTTP {exchange.status}.", reason="http", retry_after_seconds=seconds
    )


def _protocol(message: str) -> GeneratorError:
    return GeneratorError(message, reason="protocol")


def _checked_url(base_url: str) -> str:
    try:
        url = httpx2.URL(base_url)
    except (httpx2.InvalidURL, TypeError):
        url = httpx2.URL()
    if url.scheme not in {"http", "https"} or not url.host or url.userinfo:
        shown = "(hidden)" if "@" in base_url else repr(base_url)
        raise ConfigurationError(
            f"RAG_LLM_BASE_URL={shown} is not a URL with http:// or https:// and a host, and "
            "without a user; give one like http://ollama:11434/v1."
        )
    return base_url.rstrip("/")


def _checked_key(api_key: str) -> str:
    key = api_key.strip()
    if not key.isascii() or not key.isprintable():
        # An HTTP client would quote the key in its own error, so it never gets to see it.
        raise ConfigurationError(
            "RAG_LLM_API_KEY holds characters that no HTTP header takes; copy the key again."
        )
    return key
