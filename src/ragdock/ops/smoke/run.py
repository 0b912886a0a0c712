"""Runs the smoke test: every step in order, then the cleaning up, whatever happened."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Final

from ragdock.errors import InputError
from ragdock.ops.smoke.checks import Checks
from ragdock.ops.smoke.model import SKIPPABLE, STEPS, Report, Said, Status, Step, StepError
from ragdock.ops.smoke.wire import Deadline, Server, check_url

__all__ = ["smoke"]

OnStep = Callable[[Step], None]

CLEANUP_SHARE: Final = 0.2
LONGEST_CLEANUP_SECONDS: Final = 15.0
_FATAL: Final = frozenset({"connect", "health", "collection", "ingest", "wait"})
"""When one of these fails, what follows has nothing to work on."""


def smoke(
    url: str,
    *,
    key: str | None = None,
    collection: str | None = None,
    timeout_seconds: float = 120.0,
    skip: Collection[str] = (),
    on_step: OnStep | None = None,
) -> Report:
    """Prove that the deployment at `url` works: ingest, search, ask, cite, cache, delete, forget.

    `key` is an API key with the rights read and write (and metrics, for the metrics). Without
    `collection`, one is made and removed again; with it, a document of its own goes into that one.
    Nothing takes longer than `timeout_seconds`, a fifth of which is kept for cleaning up.
    `skip` names steps of `SKIPPABLE`. `on_step` is told of each step as it ends.

    What is broken is in the report, and never raised; `KeyboardInterrupt` ends the steps and not
    the cleaning up. Raises `InputError` for arguments that can't be meant.
    """
    unknown = set(skip) - SKIPPABLE
    if unknown:
        names = ", ".join(sorted(SKIPPABLE))
        raise InputError(f"--skip {min(unknown)!r} is none of {names}.", field="skip")
    cleanup_seconds = min(CLEANUP_SHARE * timeout_seconds, LONGEST_CLEANUP_SECONDS)
    deadline = Deadline(timeout_seconds - cleanup_seconds)
    checks = Checks(Server(check_url(url), key, deadline), _name(), collection)
    run = _Run(checks, frozenset(skip), on_step or (lambda _: None))
    started = time.monotonic()
    interrupted = False
    try:
        run.work()
    except KeyboardInterrupt:
        interrupted = True
    left_behind = run.clean_up(Deadline(cleanup_seconds))
    return Report(
        url=checks.server.url,
        collection=checks.collection,
        steps=tuple(run.steps),
        seconds=time.monotonic() - started,
        left_behind=left_behind,
        interrupted=interrupted or run.interrupted,
    )


def _name() -> str:
    return f"smoke-{secrets.token_hex(6)}"


class _Run:
    def __init__(self, checks: Checks, skip: frozenset[str], on_step: OnStep) -> None:
        self.steps: list[Step] = []
        self.interrupted = False
        self._checks = checks
        self._skip = skip
        self._on_step = on_step

    def work(self) -> None:
        """All steps but the last, or up to the one that nothing can follow."""
        for name in STEPS:
            if name == "cleanup":
                continue
            if name in self._skip:
                self._over(name, Said(f"--skip {name}", Status.SKIP), 0.0)
                continue
            check = getattr(self._checks, f"check_{name}")
            if self._do(name, check) is Status.FAIL and name in _FATAL:
                return

    def clean_up(self, deadline: Deadline) -> tuple[str, ...]:
        """The last step; names what stays behind."""
        checks = self._checks
        if not checks.traces:
            self._over("cleanup", Said("nothing was made", Status.SKIP), 0.0)
            return ()
        checks.server.deadline = deadline
        try:
            if self._do("cleanup", checks.check_cleanup) is not Status.FAIL:
                return ()
        except KeyboardInterrupt:
            self.interrupted = True
            self._over("cleanup", Said("interrupted", Status.FAIL), 0.0)
        return tuple(checks.traces)

    def _do(self, name: str, check: Callable[[], Said]) -> Status:
        started = time.monotonic()
        waited_before = self._checks.server.waited_seconds
        try:
            said = check()
        except StepError as exc:
            said = Said(str(exc), Status.FAIL)
        waited_seconds = self._checks.server.waited_seconds - waited_before
        if waited_seconds >= 1:
            waited = f"waited {waited_seconds:.0f} s as the server asked (429 or 503)"
            said = Said("; ".join(part for part in (said.detail, waited) if part), said.status)
        return self._over(name, said, time.monotonic() - started)

    def _over(self, name: str, said: Said, seconds: float) -> Status:
        step = Step(name, said.status, round(seconds, 4), said.detail)
        self.steps.append(step)
        # A terminal that is gone must not keep us from cleaning up.
        with suppress(OSError):
            self._on_step(step)
        return said.status
