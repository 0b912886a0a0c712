"""An OpenAI-compatible LLM that follows a script, on a real socket: the model's name is the script.

    with LlmServer() as server:
        OpenAiGenerator(server.base_url, "cut").generate(...)

Also a program, for tests in containers: `python llm_server.py --host 0.0.0.0 --port 8080`. Needs
only the standard library. `MODELS` says what each model does; `server.requests` is what it got.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

MODELS = {
    "ok": "answers with the first sentence of source 1 and cites it",
    "slow": "like ok, a fifth of a second before each word",
    "hang": "takes the request and never answers",
    "stall": "streams three words, then nothing more",
    "drip": "sends a keep-alive comment every 50 ms and never a word",
    "http400": "answers 400",
    "http401": "answers 401",
    "http429": "answers 429 with Retry-After: 7",
    "http500": "answers 500 with a page that quotes the request's key",
    "disconnect": "closes the connection without a byte",
    "lost_once": "closes the first connection without a byte, then is ok",
    "cut": "ends in the middle of the answer",
    "malformed": "sends what isn't JSON",
    "not_http": "sends what isn't HTTP",
    "empty": "finishes without a word",
    "refusal": "refuses in the refusal field",
    "filtered": "is stopped by a content filter after some words",
    "error_in_stream": "sends an error object after some words",
    "length": "stops at the token limit",
    "no_done": "finishes without [DONE]",
    "done_only": "sends [DONE] without a finish reason",
    "keeps_open": "finishes, sends no [DONE] and keeps the connection open",
    "not_streaming": "answers a stream request with one JSON object",
    "thinking": "thinks aloud in <think> before it answers",
    "picky": "refuses max_tokens and temperature like OpenAI's reasoning models",
    "not_given_citation": "cites source 1 and a source 9 that was not given",
    "no_citation": "like ok, without a marker",
    "dont_know": "says that it doesn't know",
    "obedient": "says exactly what a source orders between SAY<< and >>",
    "injected": "obeys whatever a source orders, or says SAFE when none does",
}

_SENTENCE = re.compile(r".*?[.!?。](?=\s|$)|.+", re.DOTALL)


@dataclass
class Received:
    """One request: what came, and whether the client left before the answer's end."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    client_left: threading.Event = field(default_factory=threading.Event)


class LlmServer:
    """The server in a thread of its own; `base_url` ends in `/v1`."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, api_key: str | None = None) -> None:
        self.requests: list[Received] = []
        self.stopping = threading.Event()
        self.api_key = api_key
        handler = type("Handler", (_Handler,), {"llm": self})
        self._http = _Server((host, port), handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def base_url(self) -> str:
        """Where a client finds it."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> LlmServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)

    def serve_forever(self) -> None:
        """Serve in this thread."""
        self._http.serve_forever()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients leave on purpose here; the standard trace back would only be noise."""


def sources(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The source objects in a request's user message."""
    lines = body["messages"][-1]["content"].split("\n")
    return [json.loads(line) for line in lines if line.startswith('{"source": ')]


def answer_text(model: str, body: dict[str, Any]) -> str:
    """What a model says to a request."""
    given = sources(body)
    first = _SENTENCE.match(given[0]["text"]) if given else None
    sentence = " ".join(first.group().split()) if first else "I don't know."
    if model == "dont_know" or not given:
        return "I don't know."
    if model == "not_given_citation":
        return f"{sentence} [1] The moon is made of cheese [9]."
    if model == "no_citation":
        return sentence
    if model == "obedient":
        order = re.search(r"SAY<<(.*?)>>", "\n".join(s["text"] for s in given), re.DOTALL)
        return order[1] if order else sentence
    if model == "injected":
        orders = [s for s in given if "ignore previous instructions" in s["text"].lower()]
        return "HACKED as source [9] says." if orders else "SAFE."
    return f"{sentence} [1]"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    llm: LlmServer
    received: Received

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""

    def do_GET(self) -> None:
        if not self._authorised():
            return
        if self.path == "/v1/models":
            data = [{"id": name, "object": "model"} for name in MODELS]
            self._json(200, {"object": "list", "data": data})
        else:
            self._json(404, {"error": {"message": "no such route"}})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = json.loads(raw)
        self.received = Received(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        self.llm.requests.append(self.received)
        if not self._authorised():
            return
        model = str(body.get("model"))
        if model not in MODELS:
            self._json(404, {"error": {"message": f"The model `{model}` does not exist"}})
            return
        try:
            if not self._refuse(model, body):
                self._answer(model, body)
        except (BrokenPipeError, ConnectionResetError):
            self.received.client_left.set()
            self.close_connection = True

    def _authorised(self) -> bool:
        if self.llm.api_key is None:
            return True
        if self.headers.get("Authorization") == f"Bearer {self.llm.api_key}":
            return True
        self._json(401, {"error": {"message": "Incorrect API key", "code": "invalid_api_key"}})
        return False

    def _refuse(self, model: str, body: dict[str, Any]) -> bool:
        """Play the scripts that never get to an answer; whether this was one."""
        if model.startswith("http"):
            headers = {"Retry-After": "7"} if model == "http429" else {}
            error = {"message": f"broken for {self.headers.get('Authorization')}", "code": "x"}
            self._json(int(model[4:]), {"error": error}, headers)
        elif model == "hang":
            self._wait_until_left()
        elif model == "disconnect" or (model == "lost_once" and len(self.llm.requests) == 1):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif model == "not_http":
            self.close_connection = True
            self.wfile.write(b"SMTP ready\r\n\r\n")
        elif model == "picky" and {"max_tokens", "temperature"} & body.keys():
            name = "max_tokens" if "max_tokens" in body else "temperature"
            error = {"message": "no", "param": name, "code": "unsupported_parameter"}
            self._json(400, {"error": error})
        else:
            return False
        return True

    def _answer(self, model: str, body: dict[str, Any]) -> None:
        text = answer_text(model, body)
        if model == "thinking":
            text = f"<think>\nSource [2] is a trap.\n</think>\n\n{text}"
        if body.get("stream") and model != "not_streaming":
            self._stream(model, text)
        else:
            self._whole(model, text)

    def _whole(self, model: str, text: str) -> None:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        finish = {"length": "length", "filtered": "content_filter"}.get(model, "stop")
        if model == "empty":
            message["content"] = ""
        if model == "refusal":
            message = {"role": "assistant", "content": None, "refusal": "I can't help with that."}
        if model == "slow":
            self._pause(0.2 * len(text.split()))
        if model in {"stall", "drip"}:
            self._wait_until_left()
            return
        reply: dict[str, Any] = {
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
        if model == "error_in_stream":
            reply = {"error": {"message": "overloaded"}}
        raw = b"<html>oops" if model == "malformed" else json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if model == "cut":
            self.wfile.write(raw[: len(raw) // 2])
            self.close_connection = True
        else:
            self.wfile.write(raw)

    def _stream(self, model: str, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        special = _STREAMS.get(model)
        if special is not None:
            special(self, text)
            return
        self._send(_chunk(role="assistant", content=""))
        self._raw(b": keep-alive\r\n\r\n")
        for word in [] if model == "empty" else _words(text):
            if model == "slow":
                self._pause(0.2)
            self._send(_chunk(content=word))
        if model == "refusal":
            self._send(_chunk(refusal="I can't help with that."))
        finish = {"length": "length", "filtered": "content_filter"}.get(model, "stop")
        if model != "done_only":
            self._send(_chunk(finish=finish))
        self._send({"choices": [], "usage": {"total_tokens": 2}})
        if model != "no_done":
            self._raw(b"data: [DONE]\n\n")
        self._end()

    def stalled(self, text: str) -> None:
        for word in _words(text)[:3]:
            self._send(_chunk(content=word))
        self._wait_until_left()

    def dripping(self, text: str) -> None:
        while not self.llm.stopping.wait(0.05):
            self._raw(b": keep-alive\n\n")

    def cut(self, text: str) -> None:
        for word in _words(text)[:3]:
            self._send(_chunk(content=word))
        self.close_connection = True

    def malformed(self, text: str) -> None:
        self._send(_chunk(content=text))
        self._raw(b"data: {not json\n\n")
        self._end()

    def error_in_stream(self, text: str) -> None:
        self._send(_chunk(content=text))
        self._send({"error": {"message": "overloaded", "code": 503}})
        self._end()

    def keeps_open(self, text: str) -> None:
        self._send(_chunk(content=text))
        self._send(_chunk(finish="stop"))
        self._wait_until_left()

    def _send(self, event: dict[str, Any]) -> None:
        self._raw(f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode())

    def _raw(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def _pause(self, seconds: float) -> None:
        if self.llm.stopping.wait(seconds):
            raise BrokenPipeError

    def _wait_until_left(self) -> None:
        """Wait for the client to close its side, and note it."""
        self.close_connection = True
        self.connection.settimeout(0.02)
        while not self.llm.stopping.is_set():
            try:
                if not self.connection.recv(1):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        self.received.client_left.set()

    def _json(
        self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)


_STREAMS: dict[str, Callable[[_Handler, str], None]] = {
    "stall": _Handler.stalled,
    "drip": _Handler.dripping,
    "cut": _Handler.cut,
    "malformed": _Handler.malformed,
    "error_in_stream": _Handler.error_in_stream,
    "keeps_open": _Handler.keeps_open,
}


def _chunk(finish: str | None = None, **delta: str) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "created": int(time.time()), "choices": [choice]}


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+", text)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A scripted OpenAI-compatible LLM.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--api-key")
    options = parser.parse_args()
    LlmServer(options.host, options.port, options.api_key).serve_forever()


if __name__ == "__main__":
    main()
