"""One scrape: ask the Engine for every container side by side, within a deadline."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import quote

from ragdock.errors import UnavailableError
from ragdock.ops.exporter.containers import (
    ONE_OFF_LABEL,
    PROJECT_LABEL,
    identity,
    of_inspection,
    of_stats,
)
from ragdock.ops.exporter.engine import Engine
from ragdock.ops.exporter.events import EventCounter
from ragdock.ops.exporter.exposition import Sample, exposition

__all__ = ["Exporter"]

FRESH_SECONDS: Final = 1.0
N_THREADS: Final = 8

log = logging.getLogger(__name__)


class Exporter:
    """Tells what the Engine knows of a Compose project's containers.

    Without a `project` it is the one that this process's own container belongs to; outside of
    one, and with `everything`, all containers are told. Open it with `with`.
    """

    def __init__(
        self, engine: Engine, *, project: str | None = None, everything: bool = False
    ) -> None:
        self._engine = engine
        self._project = project
        self._project_known = project is not None or everything
        self._events = EventCounter(engine)
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(N_THREADS, thread_name_prefix="engine")
        self._last = (-FRESH_SECONDS, b"")
        self._was_up = True

    def __enter__(self) -> Exporter:
        self._events.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._events.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def health(self) -> tuple[bool, dict[str, Any]]:
        """It serves; whether the Engine answers is a metric, and not this process's health."""
        return True, {"status": "ok"}

    def metrics(self) -> bytes:
        """The exposition text; an answer younger than a second is told again."""
        with self._lock:
            now = time.monotonic()
            if now - self._last[0] >= FRESH_SECONDS:
                text = exposition(self._samples(now))
                self._last = (time.monotonic(), text)
            return self._last[1]

    def _samples(self, start: float) -> list[Sample]:
        try:
            samples = list(self._containers())
        except UnavailableError as exc:
            if self._was_up:
                log.warning("no containers can be told", extra={"why": str(exc)})
            self._was_up = False
            return [Sample("up", 0.0)]
        if not self._was_up:
            log.info("the Engine answers again")
        self._was_up = True
        return [Sample("up", 1.0), Sample("seconds", time.monotonic() - start), *samples]

    def _containers(self) -> Iterator[Sample]:
        if not self._project_known:
            self._project = self._own_project()
            self._project_known = True
        path = "/containers/json?all=1"
        if self._project is not None:
            filters = {"label": [f"{PROJECT_LABEL}={self._project}"]}
            path += f"&filters={quote(json.dumps(filters))}"
        # What `docker-compose run` leaves behind has ended as it should.
        ids = [
            str(each["Id"])
            for each in self._engine.get(path)
            if (each.get("Labels") or {}).get(ONE_OFF_LABEL) != "True"
        ]
        self._events.keep(set(ids))
        for samples in self._pool.map(self._container, ids):
            yield from samples

    def _own_project(self) -> str | None:
        """The project of the container whose short id Docker gave as the host name."""
        # An Engine that is away says nothing about who we are, and raises here.
        self._engine.get("/version")
        try:
            own = self._engine.get(f"/containers/{quote(socket.gethostname(), safe='')}/json")
        except UnavailableError:
            return None
        return identity(own)[2] or None

    def _container(self, container_id: str) -> list[Sample]:
        try:
            inspection = self._engine.get(f"/containers/{container_id}/json")
        except UnavailableError:
            # It was removed since it was listed.
            return []
        who = identity(inspection)
        samples = list(of_inspection(inspection))
        counts = self._events.of(container_id)
        samples += [Sample("events", float(n), (*who, event)) for event, n in counts.items()]
        if inspection.get("State", {}).get("Running"):
            try:
                # Without one-shot (API 1.41) the Engine waits a second for a second reading.
                stats = self._engine.get(
                    f"/containers/{container_id}/stats?stream=false&one-shot=true"
                )
            except UnavailableError:
                return samples
            samples += of_stats(stats, who)
        return samples
