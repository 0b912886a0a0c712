"""The composition root: settings in, services out; the only importer of adapters."""

from __future__ import annotations

from ragdock.bootstrap.keeping import Reindexing, keeper_of, open_reindexing
from ragdock.bootstrap.services import (
    DEFAULT_COLLECTION,
    Services,
    open_fleet_metrics,
    open_keys,
    open_services,
)
from ragdock.bootstrap.survey import Survey

__all__ = [
    "DEFAULT_COLLECTION",
    "Reindexing",
    "Services",
    "Survey",
    "keeper_of",
    "open_fleet_metrics",
    "open_keys",
    "open_reindexing",
    "open_services",
]
