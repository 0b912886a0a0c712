"""What happened to a container lately: the Engine's events and the end of its log."""

from __future__ import annotations

from itertools import groupby
from typing import Any, Final
from urllib.parse import quote

from ragdock.ops.doctor.stack import Container, dig, items, numbers
from ragdock.ops.doctor.world import World, WorldError

__all__ = ["events_of", "killed_for_memory", "last_lines"]

WINDOW_SECONDS: Final = 3600
MEMORY_SECONDS: Final = 5.0
"""An `oom` event comes this close to the death that it causes."""


def events_of(world: World, container: Container, *actions: str) -> list[dict[str, Any]]:
    """A container's events of the last hour, oldest first (the Engine keeps the last 256 of all).

    `health_status` means all of `health_status: healthy` and so on.
    """
    until = int(world.now())
    wanted = ["oom", "die", "kill", "start", "restart", "stop", "health_status"]
    listed = ",".join(f'"{name}"' for name in wanted)
    filters = quote(f'{{"type":["container"],"event":[{listed}]}}')
    path = f"/events?since={until - WINDOW_SECONDS}&until={until}&filters={filters}"
    try:
        found = items(world.engine(path))
    except WorldError:
        return []
    return [
        event
        for event in found
        if dig(event, "Actor", "ID") == container.id
        and str(event.get("Action")).split(":")[0] in actions
    ]


def killed_for_memory(world: World, container: Container, at: dict[str, Any]) -> bool:
    """Whether the kernel ran out of the container's memory just before this event."""
    when = numbers(at.get("timeNano")) or 0.0
    return any(
        abs(when - (numbers(event.get("timeNano")) or 0.0)) < MEMORY_SECONDS * 1e9
        for event in events_of(world, container, "oom")
    )


def last_lines(world: World, container: Container, n_lines: int = 5) -> list[str]:
    """The end of a container's log, or nothing when it can't be had."""
    try:
        text = world.engine(f"/containers/{container.id}/logs?stdout=1&stderr=1&tail=30")
    except WorldError:
        return []
    lines = [line.strip()[:300] for line in str(text).splitlines() if line.strip()]
    # Each start of a container that restarts says the same again.
    return [line for line, _ in groupby(lines)][-n_lines:]
