"""What the services need from the world, as Protocols; `tests/contracts` says what they mean.

Everything here is synchronous and safe to call from several threads: the HTTP layer runs it in a
bounded thread pool, never on the event loop. No word of SQLite, ONNX or Redis belongs here.
"""

from __future__ import annotations

from ragdock.ports.keeping import (
    Build,
    Finding,
    Keeper,
    Member,
    StoreCopy,
    Transfer,
    Verdict,
)
from ragdock.ports.models import Embedder, Fetcher, Generator, Parser
from ragdock.ports.operation import (
    Answers,
    Attributes,
    AuditLog,
    Cache,
    KeyStore,
    Measurement,
    Metrics,
    RateLimiter,
    Span,
    Tracer,
)
from ragdock.ports.store import Reader, Spool, Store

__all__ = [
    "Answers",
    "Attributes",
    "AuditLog",
    "Build",
    "Cache",
    "Embedder",
    "Fetcher",
    "Finding",
    "Generator",
    "Keeper",
    "KeyStore",
    "Measurement",
    "Member",
    "Metrics",
    "Parser",
    "RateLimiter",
    "Reader",
    "Span",
    "Spool",
    "Store",
    "StoreCopy",
    "Tracer",
    "Transfer",
    "Verdict",
]
