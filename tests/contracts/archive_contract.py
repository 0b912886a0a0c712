"""What every `Store` must do with archives, whose files are documents that come and go with it."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from contracts.store_contract import OpenStore, _Base
from ragdock.core.keys import member_id
from ragdock.errors import ConflictError, NotFoundError, StoreError
from ragdock.ports import Store
from ragdock.types import Job, JobState, Upload
from support.stores import commit, content, found, put, upload

__all__ = ["ArchivesContract"]


def member(archive: str, path: str, text: str) -> Upload:
    """A file of an archive, as the pipeline hands it over."""
    made = upload(member_id(archive, path), text, archive="a.zip")
    return replace(made, filename=path)


def claimed(store: Store, archive: str, text: str) -> Job:
    """A new version of an archive, in work."""
    store.accept("c", [upload(archive, text)])
    return next(job for job in store.claim("w", 9, 60.0) if job.document_id == archive)


def expanded(store: Store, archive: str, **files: str) -> Job:
    """A new version of an archive, expanded; its files are not indexed yet."""
    job = claimed(store, archive, repr(files))
    return store.expand(job, [member(archive, path, text) for path, text in files.items()])


def work_off(store: Store) -> None:
    """Index all that waits."""
    while jobs := store.claim("w", 9, 60.0):
        for job in jobs:
            commit(store, job)


def ids(store: Store) -> set[str]:
    return {document.id for document in store.documents("c", limit=1000)}


def paths(store: Store) -> set[str]:
    return {document.filename for document in store.documents("c", limit=1000)}


class ArchivesContract(_Base):
    """`expand`, and what it leaves for deletes and later writes."""

    def test_the_files_are_jobs(self, store: Store, open_store: OpenStore) -> None:
        """The archive's job is done, its files' are pending with it as parent; all is durable."""
        job = expanded(store, "a", x="one", y="two")
        assert (job.state, job.outcome, job.error) == (JobState.DONE, "expanded", None)
        other = open_store()
        members = other.jobs(parent=job.id)
        assert {(one.filename, one.parent_id, one.state) for one in members} == {
            ("x", job.id, JobState.PENDING),
            ("y", job.id, JobState.PENDING),
        }
        assert {content(other, one.id) for one in members} == {b"one", b"two"}
        with pytest.raises(NotFoundError):
            store.open_content(job.id)
        work_off(store)
        assert paths(store) == {"x", "y"}
        assert found(store, "two") == [member_id("a", "y")]
        assert ids(store) == {member_id("a", "x"), member_id("a", "y")}

    def test_large_files_are_taken_over(self, store: Store) -> None:
        """A spooled file is its job's from then on; one that nothing became of is the caller's."""
        spool, lost = store.spool(), store.spool()
        spool.write(b"on the disk")
        file = spool.finish()
        job = claimed(store, "a", "v1")
        gone = lost.finish()
        lost.discard()
        bad = replace(member("a", "x", ""), content=gone)
        with pytest.raises(StoreError):
            store.expand(job, [member("a", "y", "y"), bad])
        assert store.jobs(parent=job.id) == ()
        store.expand(job, [replace(member("a", "x", ""), content=file, sha256=file.sha256)])
        spool.discard()
        (made,) = store.jobs(parent=job.id)
        assert content(store, made.id) == b"on the disk"

    def test_what_fails_midway_accepts_nothing(self, store: Store) -> None:
        """All files or none: afterwards the same worker can do it again."""
        put(store, "a", "former plain text")
        job = claimed(store, "a", "v1")

        class Broken:
            def __iter__(self):  # type: ignore[no-untyped-def]
                yield member("a", "x", "one")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            store.expand(job, Broken())
        assert store.jobs(parent=job.id) == ()
        assert found(store, "former") == ["a"]
        assert store.expand(job, [member("a", "x", "one")]).outcome == "expanded"
        assert found(store, "former") == []

    def test_a_new_version_keeps_replaces_and_removes(self, store: Store) -> None:
        """Equal files are unchanged, others are written anew, and those that are gone deleted."""
        expanded(store, "a", stays="stays", changes="before", goes="goes")
        work_off(store)
        kept = store.document("c", member_id("a", "stays"))
        job = expanded(store, "a", stays="stays", changes="after", new="new")
        outcomes = {one.filename: one.outcome for one in store.jobs(parent=job.id)}
        assert outcomes == {"stays": "unchanged", "changes": None, "new": None}
        assert found(store, "goes") == []
        work_off(store)
        assert paths(store) == {"stays", "changes", "new"}
        assert store.document("c", kept.id) == kept
        assert (found(store, "before"), len(found(store, "after"))) == ([], 1)

    def test_files_of_an_earlier_version_that_wait_are_cancelled(self, store: Store) -> None:
        """What is gone before it was indexed never shows, nor does one that failed."""
        expanded(store, "a", goes="goes", fails="fails", stays="stays")
        jobs = {job.filename: job for job in store.claim("w", 9, 60.0)}
        store.fail(jobs["fails"], "damaged", "It is damaged.", retry_after_seconds=None)
        expanded(store, "a", stays="stays")
        assert commit(store, jobs["goes"], "goes").state is JobState.CANCELLED
        assert commit(store, jobs["stays"], "stays").outcome == "indexed"
        work_off(store)
        assert paths(store) == {"stays"}
        assert store.unsettled("c") == ()

    def test_the_same_files_waiting_become_the_new_version_s(self, store: Store) -> None:
        """A file that waits already isn't accepted twice, and names the newest archive's job."""
        expanded(store, "a", x="one")
        job = expanded(store, "a", x="one", y="two")
        assert len(store.jobs(parent=job.id)) == 2
        depth = store.queue_depth()
        assert depth[JobState.PENDING] + depth[JobState.PROCESSING] == 2

    def test_deleting_the_archive_deletes_its_files(self, store: Store) -> None:
        """Searchable, waiting and failed ones go; documents with like ids stay."""
        expanded(store, "a", done="done")
        work_off(store)
        job = expanded(store, "a", done="done", waits="waits")
        expanded(store, "b", done="done")
        put(store, "a~mine", "mine")
        put(store, f"a~{'0' * 16}", "also mine")
        store.delete_document("c", "a")
        assert {one.state for one in store.jobs(parent=job.id)} == {
            JobState.DONE,
            JobState.CANCELLED,
        }
        work_off(store)
        assert ids(store) == {"a~mine", f"a~{'0' * 16}", member_id("b", "done")}
        with pytest.raises(NotFoundError):
            store.delete_document("c", "a")

    def test_a_file_can_be_deleted_alone(self, store: Store) -> None:
        """One file of an archive goes, and is there again after the archive is sent again."""
        expanded(store, "a", x="one", y="two")
        work_off(store)
        store.delete_document("c", member_id("a", "x"))
        assert paths(store) == {"y"}
        expanded(store, "a", x="one", y="two")
        work_off(store)
        assert paths(store) == {"x", "y"}

    def test_a_plain_document_in_place_of_an_archive(self, store: Store) -> None:
        """When the archive's id is written as a document, its files are gone, and the reverse."""
        expanded(store, "a", done="done", waits="waits")
        commit(store, store.claim("w", 1, 60.0)[0])
        put(store, "a", "plain")
        work_off(store)
        assert ids(store) == {"a"}
        expanded(store, "a", x="one")
        assert found(store, "plain") == []
        work_off(store)
        assert ids(store) == {member_id("a", "x")}

    def test_a_late_expansion_is_superseded(self, store: Store) -> None:
        """An older version that comes after a newer one changes nothing."""
        old = claimed(store, "a", "v1")
        old = store.fail(old, "outage", "Later.", retry_after_seconds=0.0, counts=False)
        expanded(store, "a", x="new")

        def again() -> Job:
            while True:
                jobs = {job.document_id: job for job in store.claim("w", 9, 60.0)}
                if "a" in jobs:
                    return jobs["a"]
                time.sleep(0.05)

        late = store.expand(again(), [member("a", "x", "old"), member("a", "y", "old")])
        assert (late.state, late.outcome) == (JobState.DONE, "superseded")
        assert store.jobs(parent=late.id) == ()

    def test_who_lost_the_job_expands_nothing(self, store: Store) -> None:
        """After a delete or a cancellation, and for a worker that was replaced, nothing happens."""
        deleted = claimed(store, "a", "v1")
        store.delete_document("c", "a")
        cancelled = claimed(store, "b", "v1")
        store.cancel(cancelled.id)
        lost = claimed(store, "d", "v1")
        store.release("w")
        assert store.claim("w", 9, 60.0)
        for job, state in (
            (deleted, JobState.CANCELLED),
            (cancelled, JobState.CANCELLED),
            (lost, JobState.PROCESSING),
        ):
            assert store.expand(job, [member(job.document_id, "x", "one")]).state is state
            assert store.jobs(parent=job.id) == ()

    def test_an_expanded_archive_cannot_be_retried_or_cancelled(self, store: Store) -> None:
        """It is done; its files have jobs of their own."""
        job = expanded(store, "a", x="one")
        for act in (store.retry, store.cancel):
            with pytest.raises(ConflictError):
                act(job.id)
