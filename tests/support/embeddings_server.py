"""A small OpenAI-compatible embeddings server on loopback, backed by `HashEmbedder`."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.embedders import HashEmbedder

__all__ = ["Answer", "EmbeddingsServer", "serve_embeddings"]


@dataclass(frozen=True)
class Answer:
    """What the server says instead of embeddings, once.

    `body` may be bytes or what becomes JSON; `cut` closes the connection without an answer, and
    `trickle_seconds` spreads the body over that time.
    """

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    trickle_seconds: float = 0.0
    cut: bool = False


@dataclass
class EmbeddingsServer:
    """The running server: `requests` in order of arrival, and `script`, answered first in turn."""

    url: str
    key: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    script: list[Answer] = field(default_factory=list)
    shuffle: bool = False
    with_index: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: EmbeddingsServer
    embedder: HashEmbedder

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state = self.state
        with state.lock:
            state.requests.append(request)
            scripted = state.script.pop(0) if state.script else None
        try:
            self._send(scripted or self._embeddings(request))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _embeddings(self, request: dict[str, Any]) -> Answer:
        key = self.state.key
        if self.path != "/v1/embeddings":
            return Answer(404, {"error": {"message": "no such path"}})
        if key and self.headers.get("Authorization") != f"Bearer {key}":
            return Answer(401, {"error": {"message": f"Incorrect API key, not {key}"}})
        texts = request["input"]
        if not texts or "" in texts or len(texts) > 2048:
            return Answer(400, {"error": {"message": "'$.input' is invalid."}})
        # Not normalised, as some servers answer: the adapter has to.
        rows = [[3.0 * float(x) for x in row] for row in self.embedder.embed(texts)]
        data: list[dict[str, Any]] = [{"index": n, "embedding": row} for n, row in enumerate(rows)]
        if self.state.shuffle:
            data.reverse()
        if not self.state.with_index:
            data = [{"embedding": entry["embedding"]} for entry in data]
        return Answer(200, {"object": "list", "data": data, "model": "hash"})

    def _send(self, answer: Answer) -> None:
        time.sleep(answer.delay_seconds)
        if answer.cut:
            self.close_connection = True
            return
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        pieces = 20 if answer.trickle_seconds else 1
        step = -(-len(body) // pieces) or 1
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            time.sleep(answer.trickle_seconds / pieces)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name.
        """Keep test output quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serve_embeddings(dim: int = 32, key: str = "sk-test-0123") -> Iterator[EmbeddingsServer]:
    """Serve `<url>/embeddings` until the block ends."""

    class Handler(_Handler):
        embedder = HashEmbedder(dim)

    server = _Server(("127.0.0.1", 0), Handler)
    Handler.state = EmbeddingsServer(f"http://127.0.0.1:{server.server_port}/v1", key)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Handler.state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
