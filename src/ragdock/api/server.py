"""Run the application under uvicorn."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from typing import Any

import uvicorn
from fastapi import FastAPI

from ragdock.api.app import create_app
from ragdock.api.protocol import GuardedProtocol
from ragdock.bootstrap import open_keys, open_services
from ragdock.logs import configure_logging
from ragdock.ports import Embedder
from ragdock.settings import Settings

__all__ = ["app_from_environment", "run"]

KEEP_ALIVE_SECONDS = 65  # Above the 60 s after which most proxies close their end.


def app_from_environment() -> FastAPI:
    """The application of a worker process, which finds its settings in the environment."""
    settings = Settings.load()
    configure_logging(settings.log_level, settings.log_format)
    return create_app(settings)


def run(settings: Settings, *, embedder: Embedder | None = None) -> None:
    """Serve until SIGTERM or SIGINT; running requests get most of `shutdown_seconds` to end.

    `embedder` replaces the configured one (tests); with several workers it can't. Raises
    `ConfigurationError` when the settings, the data directory or the model won't do.
    """
    configure_logging(settings.log_level, settings.log_format)
    if threading.current_thread() is threading.main_thread():
        # Uvicorn raises the signal again when it has stopped; a clean stop is exit code 0.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with open_keys(settings) as keys:
        keys.require_some()
    if embedder is None:
        # A wrong setting, data directory or model ends the process here, with one sentence, for
        # 0.15 s. Under uvicorn it would be a trace, and with several workers a trace without end.
        with open_services(settings, work=False, trace=False):
            pass
    options: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": settings.request_shutdown_seconds,
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "loop": "uvloop",
        "http": GuardedProtocol,
        # Uvicorn believes X-Forwarded-For from 127.0.0.1; we believe RAG_TRUSTED_PROXIES alone.
        "proxy_headers": False,
    }
    if settings.workers == 1:
        uvicorn.run(create_app(settings, embedder=embedder), **options)
        return
    with tempfile.TemporaryDirectory(prefix="ragdock-metrics-") as directory:
        # Worker processes read the environment anew, so what was given otherwise goes there.
        os.environ.update(settings.as_environment(), PROMETHEUS_MULTIPROC_DIR=directory)
        uvicorn.run(
            "ragdock.api.server:app_from_environment",
            factory=True,
            workers=settings.workers,
            # Uvicorn's 5 s end a process that still imports: on a busy machine, for ever.
            timeout_worker_healthcheck=30,
            **options,
        )
