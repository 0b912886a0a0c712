"""Time for leases and pauses: a clock that nobody can step.

The wall clock of a server may jump by days (NTP after a dead battery, a restored snapshot, a wrong
hand). `CLOCK_BOOTTIME` counts from the machine's start, suspended time included, and is the same
for all its processes and containers; the boot id (and the time namespace, which may shift the clock
in a container) says whether two readings may be compared. See clock_gettime(2), time_namespaces(7).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final, Protocol

__all__ = ["Clock", "SystemClock"]

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE: Final = Path("/proc/self/ns/time")


class Clock(Protocol):
    """What the ledger knows of time; tests step it."""

    @property
    def id(self) -> str:
        """Readings of `steady` compare with those that were taken under the same id only."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch, as the machine believes: for people."""
        ...

    def steady(self) -> float:
        """Seconds that pass at the same rate whatever the wall clock does: for decisions."""
        ...


class SystemClock:
    """The machine's clocks."""

    def __init__(self) -> None:
        self._id = _clock_id()

    @property
    def id(self) -> str:
        """Names this start of this machine; of this process where the machine can't tell."""
        return self._id

    def wall(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def steady(self) -> float:
        """Seconds since the machine's start."""
        return _steady()


if hasattr(time, "CLOCK_BOOTTIME"):

    def _steady() -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:  # pragma: no cover (no such clock outside Linux)

    def _steady() -> float:
        return time.monotonic()


def _clock_id() -> str:
    try:
        return f"{_BOOT_ID.read_text('ascii').strip()}/{_NAMESPACE.readlink()}"
    except OSError:
        # Nobody else's readings compare, so others judge this process by what they see of it.
        return f"process-{os.getpid()}-{os.urandom(8).hex()}"
