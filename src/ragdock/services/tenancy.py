"""Tenancy: a store in which a caller's other collections don't exist.

The API says who asks by `acting_as`; from there on every access by name or by job goes through
here, whichever route, service or thread it comes from, so a route can't forget to ask. What is
hidden answers what the absent answers, by the same look-up, so that neither words nor time tell.
Workers act as nobody in particular, and see everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from typing import BinaryIO, Final

from ragdock.errors import ForbiddenError, NotFoundError, collection_not_found, job_not_found
from ragdock.ports import Reader, Spool, Store
from ragdock.types import (
    Chunk,
    Collection,
    Document,
    Job,
    JobStage,
    JobState,
    ParsedDocument,
    Principal,
    Upload,
    Vectors,
)

__all__ = ["TenantStore", "acting_as"]

# The names that exist for whoever this is done for; None is all of them.
_visible: ContextVar[frozenset[str] | None] = ContextVar("visible_collections", default=None)
_NOTHING: Final[frozenset[str]] = frozenset()
# No collection can be called so.
_ABSENT: Final = "\x00"


@contextmanager
def acting_as(principal: Principal | None) -> Iterator[None]:
    """In this block, and in what it hands to threads, only the principal's collections exist.

    For None, a caller who has shown nothing, there are none.
    """
    token = _visible.set(_NOTHING if principal is None else principal.collections)
    try:
        yield
    finally:
        _visible.reset(token)


def _sees(name: str) -> bool:
    visible = _visible.get()
    return visible is None or name in visible


class TenantStore:
    """`Store` as the caller may see it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def _own(self, name: str) -> str:
        if _sees(name):
            return name
        with suppress(NotFoundError):
            self._store.state_key(_ABSENT)
        raise collection_not_found(name)

    def close(self) -> None:
        """Release everything."""
        self._store.close()

    def ping(self) -> None:
        """Return when the store can be read and written."""
        self._store.ping()

    # Collections

    def create_collection(self, name: str, fingerprint: str, dim: int) -> Collection:
        """Make an empty collection; `ForbiddenError` for a name that isn't the caller's."""
        if not _sees(name):
            raise ForbiddenError(f"This key is not for a collection named {name!r}.")
        return self._store.create_collection(name, fingerprint, dim)

    def collection(self, name: str) -> Collection:
        """One collection."""
        return self._store.collection(self._own(name))

    def collections(self) -> tuple[Collection, ...]:
        """The caller's collections by name."""
        return tuple(found for found in self._store.collections() if _sees(found.name))

    def drop_collection(self, name: str) -> None:
        """Remove a collection."""
        self._store.drop_collection(self._own(name))

    def state_key(self, name: str) -> str:
        """Another one after every change of the collection."""
        return self._store.state_key(self._own(name))

    def peek_state_key(self, name: str) -> str | None:
        """The state key if it can be told at once."""
        return self._store.peek_state_key(name if _sees(name) else _ABSENT)

    # Ledger

    def accept(self, collection: str, uploads: Sequence[Upload]) -> tuple[Job, ...]:
        """Make the uploads durable."""
        return self._store.accept(self._own(collection), uploads)

    def claim(self, owner: str, limit: int, lease_seconds: float) -> tuple[Job, ...]:
        """Take jobs to work on."""
        return self._store.claim(owner, limit, lease_seconds)

    def renew(self, owner: str, job_ids: Sequence[int], lease_seconds: float) -> None:
        """Prolong leases."""
        self._store.renew(owner, job_ids, lease_seconds)

    def release(self, owner: str) -> None:
        """Give claims back."""
        self._store.release(owner)

    def spool(self) -> Spool:
        """A place to receive a large upload."""
        return self._store.spool()

    def open_content(self, job_id: int) -> BinaryIO:
        """The upload of a job."""
        return self._store.open_content(self._own_job(job_id).id)

    def progress(self, job: Job, stage: JobStage, percent: int) -> None:
        """Note how far a job is."""
        self._store.progress(job, stage, percent)

    def retry(self, job_id: int) -> Job:
        """Make a job pending again."""
        return self._store.retry(self._own_job(job_id).id)

    def cancel(self, job_id: int) -> Job:
        """Give up an unfinished job."""
        return self._store.cancel(self._own_job(job_id).id)

    def expand(self, job: Job, uploads: Iterable[Upload]) -> Job:
        """Accept the files of an archive, in the collection of its job."""
        return self._store.expand(job, uploads)

    def stage(
        self, job: Job, parsed: ParsedDocument, chunks: Sequence[Chunk], vectors: Vectors
    ) -> None:
        """Write a part of a large document."""
        self._store.stage(job, parsed, chunks, vectors)

    def commit_document(
        self, job: Job, parsed: ParsedDocument, chunks: Sequence[Chunk], vectors: Vectors
    ) -> Job:
        """Make a document's new version the searchable one."""
        return self._store.commit_document(job, parsed, chunks, vectors)

    def purge(self, limit: int) -> int:
        """Do away with what no search shows any more."""
        return self._store.purge(limit)

    def fail(
        self,
        job: Job,
        code: str,
        reason: str,
        *,
        retry_after_seconds: float | None,
        counts: bool = True,
    ) -> Job:
        """Record a failure."""
        return self._store.fail(
            job, code, reason, retry_after_seconds=retry_after_seconds, counts=counts
        )

    def job(self, job_id: int) -> Job:
        """One row of the ledger."""
        return self._own_job(job_id)

    def _own_job(self, job_id: int) -> Job:
        job = self._store.job(job_id)
        if not _sees(job.collection):
            raise job_not_found()
        return job

    def jobs(
        self,
        *,
        collection: str | None = None,
        states: Sequence[JobState] = (),
        document_id: str | None = None,
        parent: int | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> tuple[Job, ...]:
        """Rows of the caller's collections, newest first."""
        visible = _visible.get()
        if collection is not None or visible is None:
            return self._store.jobs(
                collection=None if collection is None else self._own(collection),
                states=states,
                document_id=document_id,
                parent=parent,
                before=before,
                limit=limit,
            )
        found: list[Job] = []
        for name in sorted(visible):
            with suppress(NotFoundError):  # A name that the key has, of which nothing was made.
                found += self._store.jobs(
                    collection=name,
                    states=states,
                    document_id=document_id,
                    parent=parent,
                    before=before,
                    limit=limit,
                )
        found.sort(key=lambda job: job.id, reverse=True)
        return tuple(found[:limit])

    def last_change(self) -> int:
        """The number of the ledger's latest change."""
        return self._store.last_change()

    def job_changes(
        self, after: int, *, collections: Sequence[str] | None = None, limit: int = 100
    ) -> tuple[Job, ...]:
        """The caller's jobs that changed since."""
        visible = _visible.get()
        if visible is not None:
            collections = sorted(visible if collections is None else visible & set(collections))
        return self._store.job_changes(after, collections=collections, limit=limit)

    def workers(self) -> tuple[str, ...]:
        """The owners of claims that are alive."""
        return self._store.workers()

    def secret(self, name: str) -> bytes:
        """Random bytes of that name, the same for every process."""
        return self._store.secret(name)

    def unsettled(
        self, collection: str, *, after: str | None = None, limit: int = 100
    ) -> tuple[Job, ...]:
        """Newest rows that are index jobs not done."""
        return self._store.unsettled(self._own(collection), after=after, limit=limit)

    def queue_depth(self) -> dict[JobState, int]:
        """Counts of everybody's rows: for limits, and for those who see everything."""
        return self._store.queue_depth()

    def oldest(self, state: JobState) -> float | None:
        """Everybody's, for those who see everything."""
        return self._store.oldest(state)

    def queue_bytes(self) -> int:
        """Everybody's unfinished uploads, for limits."""
        return self._store.queue_bytes()

    # Documents

    def document(self, collection: str, document_id: str) -> Document:
        """One searchable document."""
        return self._store.document(self._own(collection), document_id)

    def documents(
        self, collection: str, *, after: str | None = None, limit: int = 100
    ) -> tuple[Document, ...]:
        """Searchable documents by id."""
        return self._store.documents(self._own(collection), after=after, limit=limit)

    def document_text(self, collection: str, document_id: str) -> Iterator[str]:
        """The text that offsets point into."""
        return self._store.document_text(self._own(collection), document_id)

    def document_parts(self, collection: str, document_id: str) -> Iterator[ParsedDocument]:
        """The document as it was committed, part by part."""
        return self._store.document_parts(self._own(collection), document_id)

    def delete_document(self, collection: str, document_id: str) -> None:
        """Remove a document."""
        self._store.delete_document(self._own(collection), document_id)

    # Search

    def reader(self, collection: str) -> AbstractContextManager[Reader]:
        """Open a consistent view."""
        return self._store.reader(self._own(collection))
