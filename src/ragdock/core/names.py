"""What a collection may be called, and names that several layers must agree on."""

from __future__ import annotations

from typing import Final

__all__ = ["BACKUP_STAMP", "COLLECTION_NAME"]

COLLECTION_NAME: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"

BACKUP_STAMP: Final = "last-backup"
"""An empty file in the data directory, whose time is that of the last backup that was done."""
