"""What a parser process can be kept from, by name."""

from __future__ import annotations

from typing import Final

__all__ = ["ALL", "FILES", "NETWORK", "PROCESSES"]

NETWORK: Final = "network"
FILES: Final = "files"
PROCESSES: Final = "processes"
ALL: Final = frozenset({NETWORK, FILES, PROCESSES})
