"""A real HTTP server on loopback that answers as a test scripts it, and records the requests."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["Reply", "Request", "ScriptedServer", "problem", "scripted_server"]


@dataclass(frozen=True)
class Request:
    """What the server was asked; `path` is decoded and has no query."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """What it answers: `body` is sent as it is when bytes, else as JSON."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"
    close: bool = False


def problem(status: int, detail: str, **members: Any) -> Reply:
    """An RFC 9457 answer."""
    body = {"type": "about:blank", "status": status, "detail": detail, **members}
    return Reply(body, status, media_type="application/problem+json")


Script = Callable[[Request], Reply]


class ScriptedServer:
    """`server.on("GET", "/health", Reply(...))`; a later script for the same route wins."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[Request] = []
        self._scripts: dict[tuple[str, str], Script] = {}

    def on(self, method: str, path: str, answer: Reply | Script | Any) -> None:
        if isinstance(answer, Reply):
            self._scripts[method, path] = lambda _: answer
        elif callable(answer):
            self._scripts[method, path] = answer
        else:
            self._scripts[method, path] = lambda _: Reply(answer)

    def answer(self, request: Request) -> Reply:
        self.requests.append(request)
        script = self._scripts.get((request.method, request.path))
        if script is None:
            # The longest prefix that ends in a slash answers for everything below it.
            prefixes = [
                path
                for method, path in self._scripts
                if method == request.method and path.endswith("/") and request.path.startswith(path)
            ]
            if not prefixes:
                return problem(404, f"Nothing is scripted for {request.path}.", code="not_found")
            script = self._scripts[request.method, max(prefixes, key=len)]
        return script(request)


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    """A running server; ended with its threads when the block ends."""
    httpd = _Server(("127.0.0.1", 0), _Handler)
    server = ScriptedServer(f"http://127.0.0.1:{httpd.server_address[1]}")
    httpd.script = server  # type: ignore[attr-defined]
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *args: object) -> None:
        """Say nothing when a client has gone: what it makes of that is what tests look at."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*args)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_any(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.headers.get("transfer-encoding") == "chunked":
            body = self._chunked()
        request = Request(
            self.command,
            unquote(parts.path),
            {key: values[0] for key, values in parse_qs(parts.query).items()},
            {key.lower(): value for key, value in self.headers.items()},
            body,
        )
        reply: Reply = self.server.script.answer(request)  # type: ignore[attr-defined]
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        content = b"" if reply.status == 204 else content
        self.send_response(reply.status)
        self.send_header("content-type", reply.media_type)
        if reply.close:
            # Neither a length nor chunks: the end of the connection is the end of the body.
            self.send_header("connection", "close")
        elif reply.status != 204:
            self.send_header("content-length", str(len(content)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = do_any  # noqa: N815

    def _chunked(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *args: object) -> None:
        """Stay silent."""
