"""What a collection may be called."""

from __future__ import annotations

from typing import Final

__all__ = ["COLLECTION_NAME"]

COLLECTION_NAME: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"
