"""`ingest --watch`: keeps a collection in step with folders, until it is told to stop.

The truth is a look at the folders: what a file is (`State`) against what was sent of it. A change
counts when it has been the same for a while, so that half-written files aren't taken. Where
`watchfiles` is installed the system tells of changes at once; else they are found by looking every
second. The server may go away: everything is compared anew when it is back.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NoReturn

from ragdock.cli.client import Api, path
from ragdock.cli.files import Discovery, LocalFile, Skipped, Source, reason_to_skip
from ragdock.cli.output import emit, emit_json, note
from ragdock.cli.sending import Record, local, send_all
from ragdock.cli.syncing import Remote, gone, remove
from ragdock.errors import InputError, RagdockError, UnavailableError

__all__ = ["Watcher"]

SETTLE_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 1.0
# With `watchfiles` looking is only for what the system failed to tell (network file systems).
TOLD_LOOK_SECONDS: Final = 30.0
AWAY_SECONDS: Final = (1.0, 30.0)
_JOBS_A_LOOK: Final = 64
_UNFINISHED: Final = frozenset({"pending", "processing"})

State = tuple[int, int, int]
"""Modification time in ns, size in bytes, inode: another one means other content."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What was done about a file as it was: its document, or None where there is none."""

    state: State
    document_id: str | None


class Watcher:
    """Follows folders; `run` returns when it is interrupted (Ctrl-C, SIGTERM)."""

    def __init__(
        self,
        folders: Sequence[Path],
        discovery: Discovery,
        collection: str,
        metadata: Mapping[str, Any],
        *,
        concurrency: int,
        json_output: bool,
    ) -> None:
        self._sources = [Source.of(folder, discovery.source_name) for folder in folders]
        self._disks = {source: _identity(source.folder) for source in self._sources}
        self._discovery = discovery
        self._collection = collection
        self._metadata = metadata
        self._concurrency = concurrency
        self._json = json_output
        self._known: dict[Path, _Known] = {}
        self._owners: dict[Path, Source] = {}
        self._observed: dict[Path, tuple[State | None, float]] = {}
        self._jobs: dict[str, Record] = {}
        self._counts: Counter[str] = Counter()
        self._in_step = False
        self._pause_seconds = 0.0

    def run(self, api: Api) -> int:
        """Follow the folders; the number of documents that failed. Raises `RagdockError`."""
        with _told_of_changes([source.folder for source in self._sources]) as waker:
            try:
                with _ended_by_sigterm():
                    while True:
                        waker.wait(self._look(api))
            except KeyboardInterrupt:
                pass
        self._summary()
        return self._counts["failed"]

    def _look(self, api: Api) -> float | None:
        """Do what there is to do; how long to wait at most, or None while nothing is going on."""
        try:
            if not self._in_step:
                self._compare(api)
            self._change(api)
            self._follow(api)
        except RagdockError as exc:
            return self._away(exc)
        if self._pause_seconds:
            note("The server is back.")
            self._pause_seconds = 0.0
        # What is being indexed or hasn't settled yet is looked at again soon.
        return SETTLE_SECONDS / 2 if self._jobs or self._observed else None

    # Looking

    def _snapshot(self) -> tuple[dict[Path, State], list[Skipped]]:
        """Every file that may be sent, as it is now, and what couldn't be looked at."""
        found: dict[Path, State] = {}
        skipped: list[Skipped] = []
        for source in self._sources:
            if _identity(source.folder) != self._disks[source]:
                # An unmounted disk isn't a folder whose files were deleted.
                skipped.append(Skipped(source.folder, "unreadable"))
                continue
            for file in self._discovery.walk(source.folder, skipped):
                state = _state(file)
                if state is not None:
                    found[file] = state
                    self._owners.setdefault(file, source)
        return found, skipped

    def _settled(self, snapshot: Mapping[Path, State], now: float) -> list[Path]:
        """Paths whose state is another one than the known one, and has been so for a while."""
        settled, observed = [], {}
        for file in {**self._known, **snapshot}:
            state = snapshot.get(file)
            known = self._known.get(file)
            if state == (known.state if known else None):
                continue
            before, since = self._observed.get(file, (None, now))
            since = since if file in self._observed and before == state else now
            observed[file] = (state, since)
            if now - since >= SETTLE_SECONDS:
                settled.append(file)
        self._observed = observed
        return settled

    # Acting

    def _compare(self, api: Api) -> None:
        """Find out what the server has; what it has not is sent by the changes that follow."""
        remote = Remote.of(api, self._collection)
        snapshot, skipped = self._snapshot()
        self._known = {}
        files: dict[str, LocalFile] = {}
        old = time.time() - SETTLE_SECONDS
        for file, state in snapshot.items():
            if reason_to_skip(file) is not None:
                self._known[file] = _Known(state, None)
                continue
            found = self._local(file)
            other = files.setdefault(found.document_id, found)
            if other is not found:
                raise InputError(
                    f"{other.path} and {file} would get the same id, {found.document_id!r}; name "
                    "a folder that holds both with --root."
                )
            if remote.has(found, self._metadata):
                self._known[file] = _Known(state, found.document_id)
                self._counts["unchanged"] += 1
            elif state[0] < old * 1e9:
                # Nobody has written to it for a while.
                self._observed[file] = (state, time.monotonic() - SETTLE_SECONDS)
        try:
            vanished = gone(remote, self._sources, files.values(), skipped)
        except InputError as exc:
            note(f"Warning: {exc}")
            vanished = []
        for key in vanished:
            self._delete(api, key, key)
        self._in_step = True
        note(f"In step with {len(self._known)} of {len(snapshot)} files; Ctrl-C ends.")

    def _change(self, api: Api) -> None:
        snapshot, skipped = self._snapshot()
        settled = self._settled(snapshot, time.monotonic())
        blind = [item.path for item in skipped if item.reason == "unreadable"]
        sends, vanished = [], []
        for file in settled:
            if file not in snapshot:
                if not any(folder == file or folder in file.parents for folder in blind):
                    vanished.append(file)
            elif reason_to_skip(file) is not None:
                vanished.append(file)
            else:
                sends.append(self._local(file))
        # First what is new: a renamed file is found under one of its names at any time.
        self._send(api, sends, snapshot)
        for file in vanished:
            known = self._known.get(file)
            if known is not None and known.document_id is not None:
                self._delete(api, known.document_id, str(file))
            if file in snapshot:
                self._known[file] = _Known(snapshot[file], None)
            else:
                self._known.pop(file, None)
            self._observed.pop(file, None)

    def _local(self, file: Path) -> LocalFile:
        source = self._owners[file]
        return self._discovery.local_file(file, source.folder, source)

    def _send(self, api: Api, files: Sequence[LocalFile], snapshot: Mapping[Path, State]) -> None:
        by_label = {str(file.path): file for file in files}
        records = send_all(
            api,
            [local(file) for file in files],
            self._collection,
            self._metadata,
            concurrency=self._concurrency,
            # A busy server gets the document later, and is no reason to give it up.
            is_hopeless=lambda exc: isinstance(exc, UnavailableError),
        )
        for record in records:
            file = by_label[record["path"]]
            failed = record["status"] == "failed"
            if not failed or _state(file.path) is not None:
                self._known[file.path] = _Known(
                    snapshot[file.path], None if failed else file.document_id
                )
                self._tell(record)
            self._observed.pop(file.path, None)

    def _tell(self, record: Record) -> None:
        if record["status"] in _UNFINISHED:
            self._jobs[str(record["job_id"])] = record
            return
        outcome = record.get("outcome") or record["status"]
        self._counts[outcome] += 1
        if record["status"] == "failed":
            reason = (record.get("error") or {}).get("message", "failed")
            note(f"Error: {record['path']}: {reason}")
        self._event(outcome, record["id"], record["path"])

    def _delete(self, api: Api, document_id: str, label: str) -> None:
        if remove(api, document_id, self._collection):
            self._counts["deleted"] += 1
            self._event("deleted", document_id, label)

    def _follow(self, api: Api) -> None:
        """Look what became of what was sent."""
        for job_id, record in list(self._jobs.items())[:_JOBS_A_LOOK]:
            try:
                job = api.get(path("jobs", job_id))
            except RagdockError as exc:
                if isinstance(exc, UnavailableError) or exc.code == "not_ragdock":
                    raise
                del self._jobs[job_id]
                self._in_step = False  # The server doesn't know its own job: it is another one.
                return
            if job["status"] not in _UNFINISHED:
                del self._jobs[job_id]
                self._tell({**record, **{key: job[key] for key in ("status", "outcome", "error")}})

    # Telling

    def _away(self, exc: RagdockError) -> float:
        """How long to wait for the server; raises what waiting doesn't cure."""
        is_away = isinstance(exc, UnavailableError) or exc.code == "not_ragdock"
        if not is_away and not exc.code.startswith(("http_5", "internal")):
            raise exc
        if not self._pause_seconds:
            note(f"{exc}\nChanges are kept until it answers.")
        if not isinstance(exc, UnavailableError) or exc.code in ("connection", "timeout"):
            self._in_step = False
        first, longest = AWAY_SECONDS
        self._pause_seconds = min(max(first, self._pause_seconds * 2), longest)
        return max(self._pause_seconds, getattr(exc, "retry_after_seconds", 0.0))

    def _event(self, what: str, document_id: str, label: str) -> None:
        if self._json:
            emit_json({"event": what, "id": document_id, "path": label})
        else:
            emit(f"{what}\t{label}")
        sys.stdout.flush()

    def _summary(self) -> None:
        if self._jobs:
            self._counts["pending"] = len(self._jobs)
        if self._json:
            emit_json({"collection": self._collection, "counts": dict(self._counts)})
            return
        counts = ", ".join(f"{number} {what}" for what, number in self._counts.most_common())
        emit(f"Stopped watching for {self._collection!r}: {counts or 'nothing happened'}")


class _Waker:
    """Waits, and not longer than until something changes where the system tells."""

    def __init__(self, idle_seconds: float) -> None:
        self.changed = threading.Event()
        self._idle_seconds = idle_seconds

    def wait(self, seconds: float | None) -> None:
        if seconds is None:
            self.changed.wait(self._idle_seconds)
        else:
            time.sleep(seconds)
        self.changed.clear()


@contextmanager
def _told_of_changes(folders: Sequence[Path]) -> Iterator[_Waker]:
    if find_spec("watchfiles") is None:
        yield _Waker(LOOK_SECONDS)
        return
    import watchfiles

    waker, stop = _Waker(TOLD_LOOK_SECONDS), threading.Event()

    def listen() -> None:
        for _ in watchfiles.watch(
            *folders,
            watch_filter=None,
            stop_event=stop,
            rust_timeout=500,
            raise_interrupt=False,
            ignore_permission_denied=True,
        ):
            waker.changed.set()

    threading.Thread(target=listen, name="watch", daemon=True).start()
    try:
        yield waker
    finally:
        stop.set()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM, with which services are stopped, ends like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _state(file: Path) -> State | None:
    """What tells one content of a file from another; None when it isn't there."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _identity(folder: Path) -> tuple[int, int] | None:
    """Which directory of which disk a path leads to."""
    try:
        status = os.stat(folder)  # noqa: PTH116 (follows links, as the walk does)
    except OSError:
        return None
    return status.st_dev, status.st_ino
