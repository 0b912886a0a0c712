"""How much memory a process has taken, in the measure in which it is limited."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

__all__ = ["FULL", "peak_memory_mb"]

FULL: Final = 0.75
"""A process that failed with this share of its limit taken most likely failed for want of more."""

_PEAK: Final = re.compile(r"^VmPeak:\s+(\d+) kB", re.MULTILINE)


def peak_memory_mb(pid: int | str) -> int:
    """The most address space that the process has had, in MiB; 0 where /proc doesn't say.

    Not `ru_maxrss`: after fork and exec that begins with the memory of the parent.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    match = _PEAK.search(status)
    return int(match[1]) // 1024 if match else 0
