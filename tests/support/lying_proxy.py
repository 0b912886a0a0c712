"""A proxy before a real server that changes what a test wants changed, and nothing else."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Exchange", "Lie", "LyingProxy"]

_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


@dataclass
class Exchange:
    """A request and its answer, which a lie may change; `n_seen` counts such requests so far.

    `forward` asks the real server (once), and fills `status`, `headers` and `content`.
    """

    method: str
    route: str
    body: bytes
    n_seen: int
    forward: Callable[[], None]
    status: int = 200
    content: bytes = b""

    def __post_init__(self) -> None:
        self.headers: dict[str, str] = {"Content-Type": "application/json"}

    @property
    def path(self) -> str:
        """The route without its query."""
        return self.route.partition("?")[0]

    @property
    def json(self) -> Any:
        """The answer."""
        return json.loads(self.content)

    @json.setter
    def json(self, value: Any) -> None:
        self.content = json.dumps(value).encode()


Lie = Callable[[Exchange], bool | None]
"""Changes the exchange; True means that the real server must not be asked (again)."""


class LyingProxy:
    """Listens inside the block. `before` may answer by itself; `after` may change the answer."""

    def __init__(self, target: str, *, before: Lie | None = None, after: Lie | None = None) -> None:
        self.seen: list[tuple[str, str]] = []
        handler = type(
            "Handler",
            (_Handler,),
            {"target": urlsplit(target), "lies": (before, after), "log": self.seen},
        )
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))

    def __enter__(self) -> LyingProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    target: Any
    lies: tuple[Lie | None, Lie | None]
    log: list[tuple[str, str]]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing on stderr."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key = (self.command, self.path)
        exchange = Exchange(self.command, self.path, body, self.log.count(key), lambda: None)
        exchange.forward = lambda: self._forward(exchange)
        self.log.append(key)
        before, after = self.lies
        # Whoever asked may be gone: that is what some tests are about.
        with suppress(OSError):
            if before is None or not before(exchange):
                self._forward(exchange)
                if after is not None:
                    after(exchange)
            self.send_response(exchange.status)
            for name, value in exchange.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            if exchange.status != 204:
                self.send_header("Content-Length", str(len(exchange.content)))
            self.end_headers()
            self.wfile.write(exchange.content if exchange.status != 204 else b"")

    def _forward(self, exchange: Exchange) -> None:
        connection = HTTPConnection(self.target.hostname, self.target.port, timeout=30)
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP}
            connection.request(exchange.method, exchange.route, exchange.body or None, headers)
            answer = connection.getresponse()
            exchange.status = answer.status
            exchange.headers = dict(answer.getheaders())
            exchange.content = answer.read()
        finally:
            connection.close()

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815
