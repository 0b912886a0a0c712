"""Who works on what: claims, heartbeats, and taking back what the dead and the silent hold.

A dead owner is known at once by its lock (`owners`). A silent one is known by its lease, in seconds
of a clock that can't be stepped; where the lease was given under another clock (another machine, or
this one before it was restarted), by this process having watched it unchanged for long enough.

An attempt is held against the document only if its worker had begun it and died or fell silent.
A document that is under suspicion is worked on while no other suspect is, so that the one that
kills its workers doesn't take the others along.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Sequence
from typing import Any, Final

import apsw

from ragdock.adapters.stores.sqlite.clock import Clock
from ragdock.adapters.stores.sqlite.connections import Database, fetch
from ragdock.adapters.stores.sqlite.ledger_rows import next_change, read_one
from ragdock.adapters.stores.sqlite.owners import Owners
from ragdock.types import Job

__all__ = ["Leases", "pause_seconds"]

SUSPECT_FAULTS: Final = 2
LONGEST_PAUSE_SECONDS: Final = 300.0
_POISON: Final = "The worker died or hung on this document in every attempt."
# A later write of a document waits for the earlier one, unless that waits itself.
_CLAIMABLE: Final = f"""
    SELECT l.id FROM ledger l
    WHERE l.state = 'pending' AND l.kind = 'index'
      AND (:fingerprint IS NULL OR :fingerprint =
          (SELECT c.fingerprint FROM collections c WHERE c.id = l.collection_id))
      AND (l.not_before <= :now OR l.clock IS NOT :clock)
      AND (l.faults < {SUSPECT_FAULTS} OR l.id = (
          SELECT s.id FROM ledger s WHERE s.state = 'pending' AND s.faults >= {SUSPECT_FAULTS}
            AND (s.not_before <= :now OR s.clock IS NOT :clock)
            AND NOT EXISTS (SELECT 1 FROM ledger p
                            WHERE p.state = 'processing' AND p.faults >= {SUSPECT_FAULTS})
          ORDER BY s.id LIMIT 1))
      AND NOT EXISTS (
          SELECT 1 FROM ledger o
          WHERE o.collection_id = l.collection_id AND o.document_id = l.document_id
            AND o.id < l.id AND (o.state = 'processing' OR o.state = 'pending'
                AND (o.not_before <= :now OR o.clock IS NOT :clock)))
    ORDER BY l.id LIMIT :limit
"""


def pause_seconds(n: int, least_seconds: float = 0.0) -> float:
    """How long to wait after the n-th failure: 2, 4, 8 ... seconds up to five minutes, jittered.

    Between half and the whole of it ("equal jitter"), so that what failed together doesn't come
    back together: https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/
    """
    longest = min(LONGEST_PAUSE_SECONDS, 2.0 ** min(n, 20))
    return max(least_seconds, longest * (0.5 + 0.5 * random.random()))  # noqa: S311


class Leases:
    """The part of the ledger that workers use to get work and keep it."""

    def __init__(
        self, catalogue: Database, owners: Owners, clock: Clock, *, max_attempts: int
    ) -> None:
        self._catalogue = catalogue
        self._owners = owners
        self._clock = clock
        self._max_attempts = max_attempts
        # Work on collections of another fingerprint is left to who can do it; None takes all.
        self.fingerprint: str | None = None
        self._lock = threading.Lock()
        self._watched: dict[int, tuple[tuple[int, float], float]] = {}

    def claim(self, owner: str, limit: int, lease_seconds: float) -> tuple[Job, ...]:
        """Pending jobs, oldest first, at most one a document; poison ones are parked as failed."""
        self._owners.hold(owner)
        dead, silent = self._lost(lease_seconds)
        if not dead and not silent and not self._has_pending():
            return ()
        with self._catalogue.write() as connection:
            self._take_back(connection, dead, silent)
            bindings = {
                "now": self._clock.steady(),
                "clock": self._clock.id,
                "limit": limit,
                "fingerprint": self.fingerprint,
            }
            rows = fetch(connection, _CLAIMABLE, bindings)
            for (job_id,) in rows:
                self._give(connection, job_id, owner, lease_seconds)
            jobs = tuple(read_one(connection, job_id) for (job_id,) in rows)
        for name in dead:
            self._owners.bury(name)
        return jobs

    def _has_pending(self) -> bool:
        return bool(
            self._catalogue.query(
                "SELECT 1 FROM ledger WHERE state = 'pending' AND kind = 'index' "
                "AND (not_before <= ? OR clock IS NOT ?) LIMIT 1",
                (self._clock.steady(), self._clock.id),
            )
        )

    def _give(
        self, connection: apsw.Connection, job_id: int, owner: str, lease_seconds: float
    ) -> None:
        change = next_change(connection)
        connection.execute(
            "UPDATE ledger SET state = 'processing', owner = ?, lease_until = ?, clock = ?, "
            "attempt = attempt + 1, stage = 'parse', percent = 0, retry_at = NULL, token = ?, "
            "change = ?, updated_at = ? WHERE id = ?",
            (
                owner,
                self._clock.steady() + lease_seconds,
                self._clock.id,
                change,
                change,
                self._clock.wall(),
                job_id,
            ),
        )

    def _lost(self, lease_seconds: float) -> tuple[set[str], set[int]]:
        """Owners that are dead, and jobs of owners that have been silent for too long."""
        rows = self._catalogue.query(
            "SELECT id, owner, token, lease_until, clock FROM ledger WHERE state = 'processing'"
        )
        dead = {name for name in {row[1] for row in rows} if name and self._owners.is_dead(name)}
        held = [row for row in rows if row[1] not in dead]
        return dead, self._silent(held, lease_seconds)

    def _silent(self, held: list[Any], lease_seconds: float) -> set[int]:
        now = self._clock.steady()
        silent: set[int] = set()
        with self._lock:
            watched, self._watched = self._watched, {}
            for job_id, owner, token, lease_until, clock in held:
                if owner is None:
                    silent.add(job_id)  # Nobody's: a row that was edited by hand.
                elif clock == self._clock.id:
                    if lease_until <= now:
                        silent.add(job_id)
                else:
                    beat = (token, lease_until)
                    seen = watched.get(job_id)
                    since = seen[1] if seen is not None and seen[0] == beat else now
                    self._watched[job_id] = (beat, since)
                    if now - since >= lease_seconds:
                        silent.add(job_id)
        return silent

    def _take_back(self, connection: apsw.Connection, dead: set[str], silent: set[int]) -> None:
        """Free what dead or silent owners hold; a job that keeps killing its owner is parked."""
        if not dead and not silent:
            return
        rows = fetch(
            connection,
            "SELECT id, owner, faults, clock, lease_until FROM ledger WHERE state = 'processing' "
            "AND (owner IN (SELECT value FROM json_each(?)) "
            "OR id IN (SELECT value FROM json_each(?)))",
            (json.dumps(list(dead)), json.dumps(list(silent))),
        )
        begun = {owner: self._owners.begun(owner) for _, owner, *_ in rows if owner is not None}
        now = self._clock.steady()
        for job_id, owner, faults, clock, lease_until in rows:
            if owner not in dead and clock == self._clock.id and lease_until > now:
                continue  # It was renewed, or given to another, since this was looked at.
            guilty = job_id in begun.get(owner, ())
            self._free(connection, job_id, faults + 1 if guilty else faults, guilty=guilty)

    def _free(self, connection: apsw.Connection, job_id: int, faults: int, *, guilty: bool) -> None:
        now = self._clock.wall()
        change = next_change(connection)
        if guilty and faults >= self._max_attempts:
            connection.execute(
                "UPDATE ledger SET state = 'failed', owner = NULL, stage = NULL, faults = ?, "
                "error_code = 'poison', error = ?, change = ?, updated_at = ? WHERE id = ?",
                (faults, _POISON, change, now, job_id),
            )
            return
        # The first time may be anything (a deployment, a host out of memory): at once.
        pause = pause_seconds(faults) if guilty and faults > 1 else 0.0
        connection.execute(
            "UPDATE ledger SET state = 'pending', owner = NULL, stage = NULL, percent = 0, "
            "faults = ?, attempt = attempt - ?, not_before = ?, clock = ?, retry_at = ?, "
            "change = ?, updated_at = ? WHERE id = ?",
            (
                faults,
                0 if guilty else 1,
                self._clock.steady() + pause,
                self._clock.id,
                now + pause if pause else None,
                change,
                now,
                job_id,
            ),
        )

    def renew(self, owner: str, job_ids: Sequence[int], lease_seconds: float) -> None:
        """Prolong leases; no change that a follower would want to know."""
        with self._catalogue.write() as connection:
            connection.execute(
                "UPDATE ledger SET lease_until = ?, clock = ? WHERE owner = ? "
                "AND state = 'processing' AND id IN (SELECT value FROM json_each(?))",
                (
                    self._clock.steady() + lease_seconds,
                    self._clock.id,
                    owner,
                    json.dumps(list(job_ids)),
                ),
            )

    def release(self, owner: str) -> None:
        """Give claimed jobs back uncounted."""
        with self._catalogue.write() as connection:
            rows = fetch(
                connection,
                "SELECT id FROM ledger WHERE owner = ? AND state = 'processing'",
                (owner,),
            )
            for (job_id,) in rows:
                connection.execute(
                    "UPDATE ledger SET state = 'pending', owner = NULL, stage = NULL, percent = 0, "
                    "attempt = attempt - 1, not_before = 0, change = ?, updated_at = ? "
                    "WHERE id = ?",
                    (next_change(connection), self._clock.wall(), job_id),
                )
        for (job_id,) in rows:
            self._owners.end(job_id)
