"""What breaks during a load test, what the design says then, and what was seen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from loadtest.records import Record, quantile, summarise
from loadtest.target import Target

__all__ = ["FAULTS", "Fault", "breaking", "judged", "possible", "recovery", "schedule"]


@dataclass(frozen=True, slots=True)
class Fault:
    """`allowed` are the errors that the design lets a client see, refusals with a code aside."""

    name: str
    title: str
    design: str
    allowed: frozenset[str]
    needs: Callable[[Target], bool]
    begin: Callable[[Target], object]
    end: Callable[[Target], object]


def _nothing(_: Target) -> None:
    return None


FAULTS: Final = {
    fault.name: fault
    for fault in (
        Fault(
            "Redis paused",
            "Redis stopped (SIGSTOP), connections open",
            "no error: answers come without it, each look-up waits RAG_REDIS_TIMEOUT_SECONDS at "
            "most",
            frozenset(),
            lambda target: target.redis,
            Target.pause_redis,
            Target.resume_redis,
        ),
        Fault(
            "worker killed",
            "one server process killed (SIGKILL)",
            "what that process was working on is cut off (reset), nothing is answered with 5xx; "
            "a client may send it again. Its supervisor starts another",
            frozenset({"reset"}),
            lambda target: target.workers > 1,
            Target.kill_worker,
            _nothing,
        ),
        Fault(
            "LLM slow",
            "the LLM takes 10 s for each answer",
            "no error: after RAG_LLM_TIMEOUT_SECONDS (here 2) the answer is sentences of the "
            "documents, marked as such",
            frozenset(),
            lambda target: target.llm is not None,
            lambda target: target.control_llm(latency="fixed:10000"),
            lambda target: target.control_llm(latency=target.llm),
        ),
        Fault(
            "LLM failing",
            "the LLM answers 500 to every call",
            "no error: the answer is sentences of the documents, marked as such",
            frozenset(),
            lambda target: target.llm is not None,
            lambda target: target.control_llm(failure_rate=1.0),
            lambda target: target.control_llm(failure_rate=0.0),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Slot:
    """When a fault begins and is mended, and until when recovery is watched; seconds from start."""

    name: str
    begin: float
    end: float
    until: float


def possible(target: Target) -> list[str]:
    """The faults that this set-up can have."""
    return [name for name, fault in FAULTS.items() if fault.needs(target)]


def schedule(
    names: Sequence[str], baseline_seconds: float, fault_seconds: float, recovery_seconds: float
) -> list[Slot]:
    """One fault after the other, each with time to recover."""
    slots, at = [], baseline_seconds
    for name in names:
        slots.append(Slot(name, at, at + fault_seconds, at + fault_seconds + recovery_seconds))
        at = slots[-1].until
    return slots


@contextmanager
def breaking(target: Target, slots: Sequence[Slot], began: float) -> Iterator[list[Slot]]:
    """Break and mend by the clock while the block runs; what really happened, in CLOCK_MONOTONIC.

    Whatever is broken when the block ends is mended.
    """
    happened: list[Slot] = []
    stop = threading.Event()

    def run() -> None:
        for slot in slots:
            fault = FAULTS[slot.name]
            if stop.wait(max(0.0, began + slot.begin - time.monotonic())):
                return
            begin = time.monotonic()
            fault.begin(target)
            try:
                stop.wait(max(0.0, began + slot.end - time.monotonic()))
            finally:
                fault.end(target)
            happened.append(Slot(slot.name, begin, time.monotonic(), began + slot.until))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield happened
    finally:
        stop.set()
        thread.join(30)


def judged(
    records: Sequence[Record], slots: Sequence[Slot], start: float, baseline_end: float
) -> list[dict[str, Any]]:
    """What each fault did: requests and errors while it lasted and after, recovery, the verdict."""
    usual_ms = quantile(
        [r.latency_ms for r in records if r.ok and start <= r.due < baseline_end], 0.95
    )
    found = []
    for slot in slots:
        fault = FAULTS[slot.name]
        seen = [record for record in records if _cause(record, slots) is slot]
        surprises = [
            record for record in seen if record.unexpected and record.error not in fault.allowed
        ]
        during = summarise(seen, slot.begin, slot.end)
        for record in seen:
            if record.due < slot.begin and not record.ok:
                during.errors[record.error] = during.errors.get(record.error, 0) + 1
        found.append(
            {
                "name": fault.name,
                "title": fault.title,
                "design": fault.design,
                "begin": slot.begin - start,
                "end": slot.end - start,
                "until": slot.until - start,
                "during": during.as_json(),
                "after": summarise(seen, slot.end, slot.until).as_json(),
                "fallbacks": sum(record.generator == "fallback" for record in seen),
                "refused": sum(record.refused for record in seen),
                "surprises": len(surprises),
                "as_designed": not surprises,
                "recovery_seconds": recovery(seen, slot, usual_ms),
            }
        )
    return found


def _cause(record: Record, slots: Sequence[Slot]) -> Slot | None:
    """The fault that a request met: the last that began before it was done.

    What was in flight when something broke belongs to that, and not to the fault before, in whose
    time of recovery it was sent.
    """
    met = [slot for slot in slots if slot.begin <= record.done and record.due < slot.until]
    return met[-1] if met else None


def recovery(records: Sequence[Record], slot: Slot, usual_ms: float) -> float | None:
    """Seconds from the mending to the last bad half-second; None when it was still bad at the end.

    Bad is an error, or a p90 above twice the p95 from before. A killed process mends itself, so
    there the time counts from the kill.
    """
    since = slot.begin if slot.name == "worker killed" else slot.end
    width = 0.5
    last_bad = since
    at = since
    while at < slot.until:
        due = [record for record in records if at <= record.due < at + width]
        late = quantile([record.latency_ms for record in due if record.ok], 0.9)
        if any(record.unexpected for record in due) or late > 2 * usual_ms:
            last_bad = min(at + width, slot.until)
        at += width
    if last_bad >= slot.until and slot.until > since:
        return None
    return last_bad - since
