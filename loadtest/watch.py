"""What the server, and everybody else on the machine, does while something is measured."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from loadtest.target import TICKS, Facts, Target, processes_below

__all__ = ["DISTURBED", "REPEATS", "Sampler", "Seconds", "busy_elsewhere", "quietest"]

Found = TypeVar("Found", bound=dict[str, Any])

DISTURBED: Final = 0.25
"""Processors: when others used more than this, a number is theirs as much as the server's."""
REPEATS: Final = 2


@dataclass(frozen=True, slots=True)
class Seconds:
    """Processor time until now: of the whole machine, and of this process and all below it."""

    at: float
    machine: float
    ours: float

    @classmethod
    def now(cls) -> Seconds:
        """Read /proc."""
        return cls(time.monotonic(), _machine_seconds(), _our_seconds())

    def elsewhere_since(self, before: Seconds) -> float:
        """Processors that others used since then."""
        used = self.machine - before.machine - (self.ours - before.ours)
        return max(0.0, used / max(self.at - before.at, 1e-9))


@dataclass(slots=True)
class Sampler:
    """Reads the server's facts every so often in a thread of its own, while the block runs."""

    target: Target
    every_seconds: float = 0.5
    facts: list[Facts] = field(default_factory=list)
    seconds: list[Seconds] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Sampler:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(10)

    def cpus(self, start: float, end: float) -> float | None:
        """Processors that the server used on average; None when too little was seen."""
        seen = [facts for facts in self.facts if start <= facts.at <= end]
        if len(seen) < 2 or seen[-1].at - seen[0].at < 0.5:
            return None
        used = seen[-1].cpu_seconds - seen[0].cpu_seconds
        # Negative when a process died meanwhile and took its seconds with it.
        return max(0.0, used / (seen[-1].at - seen[0].at))

    def elsewhere(self, start: float, end: float) -> float:
        """Processors that others used on average, the hypervisor's other guests among them."""
        seen = [seconds for seconds in self.seconds if start <= seconds.at <= end]
        return seen[-1].elsewhere_since(seen[0]) if len(seen) > 1 else 0.0

    def _run(self) -> None:
        while not self._stop.wait(self.every_seconds):
            self.facts.append(self.target.facts())
            self.seconds.append(Seconds.now())


@contextmanager
def busy_elsewhere() -> Iterator[Callable[[], float]]:
    """A function that tells how many processors others used since the block began."""
    before = Seconds.now()
    yield lambda: Seconds.now().elsewhere_since(before)


def quietest(
    measure: Callable[[int], Found], say: Callable[[str], None], repeats: int = REPEATS
) -> Found:
    """`measure(attempt)`'s result, again while others disturbed it; of all, the least disturbed."""
    found: list[Found] = []
    for attempt in range(1 + repeats):
        found.append(measure(attempt))
        busy = found[-1]["busy_elsewhere_cpus"]
        if busy <= DISTURBED:
            break
        if attempt < repeats:
            say(f"others used {busy:.2f} processors meanwhile: again")
    return min(found, key=_disturbance)


def _disturbance(found: dict[str, Any]) -> float:
    return float(found["busy_elsewhere_cpus"])


def _our_seconds() -> float:
    """Of this process and all below it, those that have ended and were waited for included."""
    ticks = 0
    for pid in processes_below(os.getpid()):
        with suppress(OSError, ValueError, IndexError):
            ticks += sum(map(int, _times(pid)))
    return ticks / TICKS


def _times(pid: int) -> Sequence[str]:
    """The fields utime, stime, cutime and cstime of proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]


def _machine_seconds() -> float:
    """Busy seconds of all processors, proc_stat(5): all but idle and iowait; steal is in it."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    values = [int(field) for field in fields]
    return (sum(values) - values[3] - values[4]) / TICKS
