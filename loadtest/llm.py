"""An OpenAI-compatible LLM that isn't one: it answers with settable latency and failures.

    python -m loadtest.llm --port 8081 --latency lognormal:400:1500

It cites the first source that it was given, so that an answer passes the citation check. While it
runs, `POST /control` changes its behaviour: {"latency": "fixed:5000", "failure_rate": 1.0,
"failure": "http500"}. `GET /control` tells it, with the number of calls. It needs the standard
library only, and a call costs it no more than a timer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import random
import re
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

__all__ = ["Behaviour", "Latency", "MockLlm"]

FAILURES = ("http500", "http429", "disconnect", "hang")
Z95 = 1.6448536269514722


@dataclass(frozen=True, slots=True)
class Latency:
    """`fixed:MS`, `exponential:MEAN_MS` or `lognormal:MEDIAN_MS:P95_MS`."""

    kind: str
    a_ms: float
    b_ms: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Latency:
        """Read the notation; `ValueError` says what is wrong."""
        kind, *numbers = text.split(":")
        wanted = {"fixed": 1, "exponential": 1, "lognormal": 2}.get(kind)
        try:
            values = [float(number) for number in numbers]
        except ValueError:
            values = []
        if len(values) != wanted or min(values, default=-1.0) < 0:
            raise ValueError(
                f"latency={text!r}: use fixed:MS, exponential:MEAN_MS or lognormal:MEDIAN_MS:P95_MS"
            )
        if kind == "lognormal" and not 0 < values[0] <= values[1]:
            raise ValueError(f"latency={text!r}: the p95 must not be below the median, nor it 0")
        return cls(kind, *values)

    def draw_seconds(self, source: random.Random) -> float:
        """One latency."""
        if self.kind == "exponential":
            return source.expovariate(1000 / self.a_ms) if self.a_ms else 0.0
        if self.kind == "lognormal":
            sigma = math.log(self.b_ms / self.a_ms) / Z95
            return source.lognormvariate(math.log(self.a_ms / 1000), sigma)
        return self.a_ms / 1000

    @property
    def text(self) -> str:
        """The notation."""
        values = [self.a_ms, self.b_ms] if self.kind == "lognormal" else [self.a_ms]
        return ":".join([self.kind, *(f"{value:g}" for value in values)])


@dataclass(frozen=True, slots=True)
class Behaviour:
    """`latency` of a whole answer; a share `failure_rate` of the calls fails in the way `failure`.

    A stream sends its first word after `first_word_share` of the latency, the rest evenly.
    """

    latency: Latency = field(default_factory=lambda: Latency("lognormal", 400.0, 1500.0))
    failure_rate: float = 0.0
    failure: str = "http500"
    first_word_share: float = 0.3

    def changed(self, wanted: dict[str, Any]) -> Behaviour:
        """With the named members replaced; `ValueError` says which one is wrong."""
        values = dict(wanted)
        if unknown := values.keys() - {"latency", "failure_rate", "failure", "first_word_share"}:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        if "latency" in values:
            values["latency"] = Latency.parse(str(values["latency"]))
        new = replace(self, **values)
        if not 0 <= new.failure_rate <= 1:
            raise ValueError(f"failure_rate={new.failure_rate!r} is a share, 0 to 1")
        if new.failure not in FAILURES:
            raise ValueError(f"failure={new.failure!r}: one of {', '.join(FAILURES)}")
        if not 0 <= new.first_word_share <= 1:
            raise ValueError(f"first_word_share={new.first_word_share!r} is a share, 0 to 1")
        return new


class MockLlm:
    """The server; `async with MockLlm(behaviour) as llm: llm.base_url`."""

    def __init__(self, behaviour: Behaviour | None = None, *, port: int = 0, seed: int = 1) -> None:
        self.behaviour = behaviour or Behaviour()
        self.n_calls = 0
        self.n_failed = 0
        self.n_running = 0
        self.max_running = 0
        self._port = port
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def base_url(self) -> str:
        """What goes into RAG_LLM_BASE_URL."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def __aenter__(self) -> MockLlm:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def serve_forever(self) -> None:
        """Serve until cancelled."""
        assert self._server is not None
        await self._server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while head := await reader.readuntil(b"\r\n\r\n"):
                    method, path, length = _head(head)
                    body = await reader.readexactly(length)
                    if not await self._answered(method, path, body, writer):
                        break
        finally:
            writer.close()

    async def _answered(
        self, method: str, path: str, body: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; whether the connection stays."""
        if path == "/control":
            self._control(method, body, writer)
        elif path == "/v1/models":
            data = [{"id": "mock", "object": "model"}]
            writer.write(_json(200, {"object": "list", "data": data}))
        elif path == "/v1/chat/completions" and method == "POST":
            self.n_calls += 1
            self.n_running += 1
            self.max_running = max(self.max_running, self.n_running)
            try:
                return await self._complete(json.loads(body), writer)
            finally:
                self.n_running -= 1
        else:
            writer.write(_json(404, {"error": {"message": "no such route"}}))
        await writer.drain()
        return True

    def _control(self, method: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        if method == "POST":
            try:
                self.behaviour = self.behaviour.changed(json.loads(body))
            except (ValueError, TypeError) as exc:
                writer.write(_json(422, {"error": {"message": str(exc)}}))
                return
        state = asdict(self.behaviour) | {"latency": self.behaviour.latency.text}
        counts = {"n_calls": self.n_calls, "n_failed": self.n_failed}
        writer.write(_json(200, state | counts | {"max_running": self.max_running}))

    async def _complete(self, asked: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        behaviour = self.behaviour
        seconds = behaviour.latency.draw_seconds(self._random)
        if self._random.random() < behaviour.failure_rate:
            self.n_failed += 1
            return await _fail(behaviour.failure, writer)
        words = re.findall(r"\s*\S+", _text(asked))
        if not asked.get("stream"):
            await asyncio.sleep(seconds)
            writer.write(_json(200, _whole("".join(words))))
            await writer.drain()
            return True
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        await writer.drain()
        first = seconds * behaviour.first_word_share
        pause = (seconds - first) / max(1, len(words) - 1)
        started = time.monotonic()
        for number, word in enumerate(words):
            # Against the clock, so that the pauses' own lateness doesn't add up.
            due = started + first + number * pause
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            writer.write(_event(_delta(content=word)))
            await writer.drain()
        writer.write(_event(_delta(finish="stop")) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()
        return True


async def _fail(failure: str, writer: asyncio.StreamWriter) -> bool:
    if failure == "http500":
        writer.write(_json(500, {"error": {"message": "the mock fails as it was told"}}))
    elif failure == "http429":
        writer.write(_json(429, {"error": {"message": "rate limited"}}, "retry-after: 1\r\n"))
    elif failure == "hang":
        await asyncio.sleep(3600)
    if failure == "disconnect":
        return False
    await writer.drain()
    return True


def _text(asked: dict[str, Any]) -> str:
    """The first source's first sentence, cited."""
    for line in str(asked["messages"][-1]["content"]).split("\n"):
        if line.startswith('{"source": '):
            text = " ".join(str(json.loads(line)["text"]).split())
            return f"{text.partition('. ')[0].rstrip('.')}. [1]"
    return "I don't know."


def _head(head: bytes) -> tuple[str, str, int]:
    method, path, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return method, path, int(found[1]) if found else 0


def _json(status: int, body: object, more: str = "") -> bytes:
    raw = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{more}"
    return f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw


def _whole(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"object": "chat.completion", "choices": [choice]}


def _delta(content: str | None = None, finish: str | None = None) -> dict[str, Any]:
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "choices": [choice]}


def _event(event: dict[str, Any]) -> bytes:
    return _chunk(f"data: {json.dumps(event)}\n\n".encode())


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=8081)
    parser.add_argument("--latency", default="lognormal:400:1500")
    parser.add_argument("--failure-rate", type=float, default=0.0)
    parser.add_argument("--failure", choices=FAILURES, default="http500")
    options = parser.parse_args()
    behaviour = Behaviour().changed(
        {
            "latency": options.latency,
            "failure_rate": options.failure_rate,
            "failure": options.failure,
        }
    )

    async def serve() -> None:
        async with MockLlm(behaviour, port=options.port) as llm:
            print(llm.base_url, flush=True)
            await llm.serve_forever()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


if __name__ == "__main__":
    main()
