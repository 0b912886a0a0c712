"""Counts the Engine's events: what happened between two scrapes is in no inspection.

An OOM kill of a child process leaves `State.OOMKilled` false; the event `oom` is its only trace
outside of the container. A restart by hand isn't in `RestartCount`.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from typing import Any, Final
from urllib.parse import quote

from ragdock.errors import UnavailableError
from ragdock.ops.exporter.engine import Engine

__all__ = ["EVENTS", "EventCounter"]

EVENTS: Final = ("start", "die", "oom", "unhealthy")
SILENCE_SECONDS: Final = 60.0
LONGEST_PAUSE_SECONDS: Final = 30.0
MAX_CONTAINERS: Final = 4096
_FILTERS: Final = {"type": ["container"], "event": ["start", "die", "oom", "health_status"]}

log = logging.getLogger(__name__)


class EventCounter:
    """A thread that reads the stream of events, and resumes it where it broke off."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._since_nano = time.time_ns()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to count."""
        threading.Thread(target=self._run, name="engine-events", daemon=True).start()

    def stop(self) -> None:
        """Count no more; returns at once."""
        self._stopped.set()

    def of(self, container_id: str) -> dict[str, int]:
        """How often each event happened to a container since the start."""
        with self._lock:
            return {event: self._counts[container_id, event] for event in EVENTS}

    def keep(self, container_ids: set[str]) -> None:
        """Forget containers that were removed, once there are many."""
        with self._lock:
            if len(self._counts) > MAX_CONTAINERS:
                gone = [key for key in self._counts if key[0] not in container_ids]
                for key in gone:
                    del self._counts[key]

    def _run(self) -> None:
        pause_seconds = 1.0
        while not self._stopped.is_set():
            try:
                self._follow()
            except UnavailableError as exc:
                if pause_seconds == 1.0:
                    log.warning("the events of the Engine can't be read", extra={"why": str(exc)})
                self._stopped.wait(pause_seconds)
                pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
            else:
                pause_seconds = 1.0

    def _follow(self) -> None:
        # The Engine's answer includes this very instant, hence the nanosecond.
        seconds, nano = divmod(self._since_nano + 1, 1_000_000_000)
        filters = quote(json.dumps(_FILTERS))
        path = f"/events?since={seconds}.{nano:09d}&filters={filters}"
        for event in self._engine.follow(path, silence_seconds=SILENCE_SECONDS):
            self._count(event)
            if self._stopped.is_set():
                return

    def _count(self, event: dict[str, Any]) -> None:
        at = event.get("timeNano")
        if isinstance(at, int):
            if at <= self._since_nano:
                return
            self._since_nano = at
        action = str(event.get("Action", ""))
        name = "unhealthy" if action == "health_status: unhealthy" else action
        actor = event.get("Actor")
        container_id = actor.get("ID") if isinstance(actor, dict) else None
        if name in EVENTS and isinstance(container_id, str):
            with self._lock:
                self._counts[container_id, name] += 1
