"""What /metrics counts of the things that the smoke test does."""

from __future__ import annotations

import math
import re
from typing import Final, TypeAlias

from ragdock.ops.smoke.wire import Server

__all__ = ["Counts", "counted", "read", "wanted"]

Counts: TypeAlias = dict[str, float]

_ASKED: Final = "requests of /v1/ask"
_ANSWERED: Final = "rag_answers_total"
_INGESTED: Final = "rag_ingest_documents_total"
_PATTERNS: Final = {
    _ASKED: re.compile(r'rag_request_seconds_count\{[^}]*route="/v1/ask"'),
    _ANSWERED: re.compile(r"rag_answers_total\b"),
    _INGESTED: re.compile(r'rag_ingest_documents_total\{outcome="indexed"'),
}


def wanted(*, ingests: bool, answered: bool) -> tuple[str, ...]:
    """What must have risen; documents are counted by whoever processes them."""
    return (_ASKED, *([_ANSWERED] if answered else []), *([_INGESTED] if ingests else []))


def read(server: Server) -> Counts | str:
    """The counts now, or the reason why they can't be known."""
    answer = server.ask("GET", "/metrics")
    if answer.status in (401, 403):
        return "reading /metrics wants a key with the right `metrics`"
    if answer.status == 404:
        return "/metrics is not published here"
    if answer.status != 200:
        return f"GET /metrics: {server.refusal(answer, 'metrics')}"
    if not isinstance(answer.body, str) or "rag_build_info" not in answer.body:
        return "what answers GET /metrics has no metric of ragdock"
    return counted(answer.body)


def counted(text: str) -> Counts:
    """The sums of the counters of interest in an exposition text; 0 for one that isn't there."""
    found = dict.fromkeys(_PATTERNS, 0.0)
    for line in text.splitlines():
        for name, pattern in _PATTERNS.items():
            if pattern.match(line):
                value = float(line.rsplit(" ", 1)[-1])
                found[name] += value if math.isfinite(value) else 0.0
    return found
