"""Sending many documents: several at once, each streamed from disk, each with its own outcome."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from ragdock.cli.client import Api, path
from ragdock.cli.files import LocalFile
from ragdock.errors import InputError, RagdockError
from ragdock.services.threads import DaemonPool

__all__ = [
    "HOPELESS",
    "Content",
    "Outgoing",
    "Record",
    "local",
    "send_all",
    "send_one",
    "stdin",
    "unpacked",
]

Record = dict[str, Any]
"""What the server said of a document, or why it never got there: id, path, status, error ..."""

# Without a server, a collection or the right to write no other document would do better.
HOPELESS: Final = frozenset(
    {"collection_not_found", "connection", "not_ragdock", "timeout", "unauthorized", "forbidden"}
)
_MEMORY_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class Content:
    """A document that is ready to be sent; `file` is closed when it was."""

    document_id: str
    filename: str
    file: IO[bytes]
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A document to send: `load` gets its content when its turn has come."""

    label: str
    load: Callable[[], Content]
    document_id: str | None = None


def local(file: LocalFile) -> Outgoing:
    """A file on this machine."""

    def load() -> Content:
        try:
            opened = file.path.open("rb")
        except OSError as exc:
            raise InputError(f"can't be read: {exc.strerror}", code="unreadable_file") from None
        return Content(file.document_id, file.filename, opened, file.origin)

    return Outgoing(str(file.path), load, file.document_id)


def stdin(filename: str, document_id: str) -> Outgoing:
    """Standard input, kept on disk if it is large: sending may have to begin again."""

    def load() -> Content:
        spooled = tempfile.SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115 (sending closes it)
        while piece := sys.stdin.buffer.read(_MEMORY_BYTES):
            spooled.write(piece)
        return Content(document_id, filename, spooled)

    return Outgoing("-", load, document_id)


def send_one(api: Api, item: Outgoing, collection: str, metadata: Mapping[str, Any]) -> Record:
    """Send a document; raises `RagdockError`."""
    content = item.load()
    with content.file as file:
        merged = {**content.metadata, **metadata}
        accepted: Record = api.put_file(
            path("documents", content.document_id),
            content.filename,
            file,
            params={"collection": collection},
            fields={"metadata": json.dumps(merged, ensure_ascii=False)} if merged else {},
            # The same for every attempt at this document: a retry that was accepted already, and
            # whose answer was lost, gets that answer.
            headers={"Idempotency-Key": uuid.uuid4().hex},
        )["documents"][0]
    return {**accepted, "path": item.label}


def unpacked(api: Api, archive: Record, collection: str) -> Iterator[Record]:
    """A record for each file of an archive that was expanded; raises `RagdockError`."""
    params = {"collection": collection, "parent_id": archive["job_id"], "limit": 1000}
    before: str | None = None
    while True:
        page = api.get(path("jobs"), params | {"before": before})
        for job in page["jobs"]:
            kept = {key: job[key] for key in ("filename", "status", "outcome", "error")}
            yield {
                "id": job["document_id"],
                "job_id": job["id"],
                "path": f"{archive['path']}/{job['filename']}",
                **kept,
            }
        before = page["next"]
        if before is None:
            return


def send_all(
    api: Api,
    items: Sequence[Outgoing],
    collection: str,
    metadata: Mapping[str, Any],
    *,
    concurrency: int,
    is_hopeless: Callable[[RagdockError], bool] = lambda _: False,
) -> Iterator[Record]:
    """Send everything, `concurrency` at once; yields a record for each as it is done.

    What the server refuses is a record with the status `failed`. Raises `RagdockError` when no
    other document would do better (`HOPELESS`, `is_hopeless`). Closing the iterator sends nothing
    more.
    """
    stopped = threading.Event()

    def attempt(item: Outgoing) -> Record | RagdockError | None:
        if stopped.is_set():
            return None
        try:
            return send_one(api, item, collection, metadata)
        except RagdockError as exc:
            if exc.code in HOPELESS or is_hopeless(exc):
                stopped.set()
                return exc
            return _failed(item, exc)

    # The first one alone: what is wrong with all of them is told once.
    yield from _told(attempt(item) for item in items[:1])
    # Daemons: whoever interrupts the command doesn't wait for a server that hangs.
    pool = DaemonPool(concurrency, "send")
    try:
        futures = [pool.submit(partial(attempt, item)) for item in items[1:]]
        yield from _told(future.result() for future in as_completed(futures))
    finally:
        stopped.set()
        pool.close()


def _told(results: Iterator[Record | RagdockError | None]) -> Iterator[Record]:
    for result in results:
        if isinstance(result, RagdockError):
            raise result
        if result is not None:
            yield result


def _failed(item: Outgoing, exc: RagdockError) -> Record:
    return {
        "id": item.document_id,
        "path": item.label,
        "filename": Path(item.label).name,
        "status": "failed",
        "job_id": None,
        "outcome": None,
        "error": {"code": exc.code, "message": str(exc)},
    }
