"""`worker`: processes documents outside the server, over the same data directory.

One process works by itself; several are children that this one watches and starts again. Either way
it answers GET /health (200 or 503, for the same probe as the server's) and /metrics on a port.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol

import typer

from ragdock.cli.privileges import RunAs, become
from ragdock.errors import ConfigurationError

if TYPE_CHECKING:
    from ragdock.bootstrap import Services
    from ragdock.ports import Embedder
    from ragdock.settings import Settings

__all__ = ["Answers", "answering", "register", "run_worker", "stop_on_signals"]

RESTART_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 0.2
# What ends by one of these would end so again: a wrong setting.
HOPELESS_EXIT: Final = 2
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

log = logging.getLogger(__name__)


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(worker)


def worker(
    processes: Annotated[
        int | None, typer.Option("--processes", "-w", min=1, max=64, help="[RAG_WORKERS].")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", "-p", min=0, max=65535, help="Answer /health and /metrics here."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address of that port [RAG_HOST].")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the store lives [RAG_DATA_DIR].")
    ] = None,
    run_as: RunAs = None,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
) -> None:
    """Process documents, beside servers with RAG_INGEST=false or instead of them."""
    from ragdock.settings import Settings

    options = {"workers": processes, "host": host, "data_dir": data_dir}
    settings = Settings.load(**{key: value for key, value in options.items() if value is not None})
    if run_as is not None:
        become(run_as, settings.data_dir)
    if settings.workers > 1:
        _supervise(settings, port)
    else:
        run_worker(settings, port=port, supervised=supervised)


def run_worker(
    settings: Settings,
    *,
    port: int | None = None,
    supervised: bool = False,
    embedder: Embedder | None = None,
) -> None:
    """Work until SIGTERM or SIGINT, then give back what isn't nearly done.

    A supervised one also stops when its stdin ends, that is, when its parent died. `embedder`
    replaces the configured one (tests). Raises `ConfigurationError`.
    """
    from ragdock.bootstrap import open_services
    from ragdock.logs import configure_logging

    configure_logging(settings.log_level, settings.log_format)
    stop = stop_on_signals()
    if supervised:
        threading.Thread(target=_wait_for_orphanage, args=(stop,), daemon=True).start()
    with (
        open_services(settings, work=True, serve=False, embedder=embedder) as services,
        answering(settings.host, port, _Status(services)),
    ):
        log.info("the worker is ready", extra={"embedder": services.embedder.id})
        stop.wait()
    log.info("the worker has stopped")


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _wait_for_orphanage(stop: threading.Event) -> None:
    # Not by `sys.stdin`: Python aborts when it ends while a thread holds that one's lock.
    with suppress(OSError):
        while os.read(0, 1):
            pass
    stop.set()


class Answers(Protocol):
    """What a process that isn't the server says of itself on its port."""

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether it is well, and the body of the answer."""
        ...

    def metrics(self) -> bytes:
        """The exposition text."""
        ...


class _Status:
    """What a worker says of itself: what its dependencies say."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether it can work, and the reasons why not."""
        report = self._services.readiness.report()
        checks = [
            {"name": check.name, "status": check.status, "detail": check.detail}
            for check in report.checks
        ]
        return report.status != "unavailable", {"status": report.status, "dependencies": checks}

    def metrics(self) -> bytes:
        """Its counters."""
        return self._services.metrics.render()


class _Fleet:
    """The children of a supervisor."""

    def __init__(self, settings: Settings, metrics_directory: str) -> None:
        from ragdock.bootstrap import open_fleet_metrics

        self._metrics = open_fleet_metrics(metrics_directory)
        self._n_processes = settings.workers
        self._patience_seconds = settings.shutdown_seconds
        self._environment = {
            **os.environ,
            **settings.as_environment(),
            "RAG_WORKERS": "1",
            "PROMETHEUS_MULTIPROC_DIR": metrics_directory,
        }
        self._children: list[subprocess.Popen[bytes]] = []

    def keep_up(self) -> None:
        """Start what is missing; raises `ConfigurationError` when they can't run at all."""
        for child in [child for child in self._children if child.poll() is not None]:
            self._children.remove(child)
            self._metrics.forget(child.pid)
            if child.returncode == HOPELESS_EXIT:
                raise ConfigurationError("A worker process can't run; its message says why.")
            log.warning("a worker process ended", extra={"exit_code": child.returncode})
            time.sleep(RESTART_SECONDS)
        while len(self._children) < self._n_processes:
            command = [sys.executable, "-m", "ragdock", "worker", "--supervised"]
            self._children.append(
                subprocess.Popen(  # noqa: S603 (this program itself)
                    command, env=self._environment, stdin=subprocess.PIPE
                )
            )

    def stop(self) -> None:
        """SIGTERM to all; SIGKILL to those that need longer than they may."""
        for child in self._children:
            child.terminate()
        deadline = time.monotonic() + self._patience_seconds
        for child in self._children:
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether any of them lives."""
        n_alive = sum(child.poll() is None for child in self._children)
        status = "ok" if n_alive == self._n_processes else "degraded" if n_alive else "unavailable"
        return n_alive > 0, {"status": status, "processes": n_alive}

    def metrics(self) -> bytes:
        """The counters of all of them together."""
        return self._metrics.render()


def _supervise(settings: Settings, port: int | None) -> None:
    from ragdock.logs import configure_logging

    configure_logging(settings.log_level, settings.log_format)
    stop = stop_on_signals()
    with tempfile.TemporaryDirectory(prefix="ragdock-metrics-") as directory:
        fleet = _Fleet(settings, directory)
        try:
            with answering(settings.host, port, fleet):
                while not stop.is_set():
                    fleet.keep_up()
                    stop.wait(LOOK_SECONDS)
        finally:
            fleet.stop()


@contextmanager
def answering(host: str, port: int | None, status: Answers) -> Iterator[None]:
    """Answer GET /health, /readyz, /livez and /metrics; nothing when there is no port."""
    if port is None:
        yield
        return

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path in ("/health", "/readyz"):
                well, body = status.health()
                self._send(200 if well else 503, "application/json", json.dumps(body).encode())
            elif self.path == "/livez":
                self._send(200, "application/json", b'{"status": "ok"}')
            elif self.path == "/metrics":
                self._send(200, METRICS_TYPE, status.metrics())
            else:
                self._send(404, "text/plain", b"not found\n")

        def _send(self, code: int, media_type: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Probes come every few seconds; they aren't worth a line."""

    with _Server.bound(host, port, Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="status", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    @classmethod
    def bound(cls, host: str, port: int, handler: Callable[..., BaseHTTPRequestHandler]) -> _Server:
        """Listen; raises `ConfigurationError` when the address can't be had."""
        try:
            return cls((host, port), handler)
        except OSError as exc:
            raise ConfigurationError(
                f"--port {port}: {exc.strerror}; a server may be listening there."
            ) from exc
