"""What every `Store` must do; a back end's test module subclasses the classes of this one.

A subclass provides the fixture `open_store`: a function that opens one more handle on the same
data, as another process would have it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from ragdock.errors import ConflictError, NotFoundError, StoreError
from ragdock.ports import Store
from ragdock.types import Chunk, Job, JobKind, JobStage, JobState
from support.serving import until
from support.stores import (
    DIM,
    EMBEDDER,
    commit,
    content,
    found,
    index,
    put,
    spooled,
    text_of,
    upload,
)

__all__ = [
    "CollectionsContract",
    "DocumentsContract",
    "LedgerContract",
    "OpenStore",
    "UploadsContract",
]

MAX_ATTEMPTS = 3
"""What `open_store` opens its handles with."""

OpenStore = Callable[[], Store]


class _Base:
    @pytest.fixture
    def open_store(self) -> Iterator[OpenStore]:
        """A function that opens one more handle on the same, at first empty, data."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, open_store: OpenStore) -> Store:
        """A store with one empty collection, `c`."""
        store = open_store()
        store.create_collection("c", "fingerprint", DIM)
        return store


class CollectionsContract(_Base):
    """Collections, their generations, and the life of the store itself."""

    def test_a_collection_is_as_created(self, store: Store) -> None:
        """A new collection is empty and carries its name and fingerprint."""
        before = time.time()
        made = store.create_collection("other", "print", DIM)
        assert made == store.collection("other")
        assert (made.name, made.fingerprint) == ("other", "print")
        assert (made.n_documents, made.n_chunks) == (0, 0)
        assert before - 1 <= made.created_at <= time.time() + 1
        assert made.id != store.collection("c").id

    def test_names_are_unique(self, store: Store) -> None:
        """A second collection of the same name is refused, and the first stays as it was."""
        put(store, "d", "text")
        before = store.collection("c")
        with pytest.raises(ConflictError):
            store.create_collection("c", "other", DIM)
        assert store.collection("c") == before
        assert len(store.collections()) == 1

    def test_collections_are_listed_by_name(self, store: Store) -> None:
        """The list is sorted by name and counts documents and chunks."""
        for name in ("z", "a", "m"):
            store.create_collection(name, "f", DIM)
        put(store, "d", "one\n\ntwo\n\nthree", "m")
        listed = store.collections()
        assert [one.name for one in listed] == ["a", "c", "m", "z"]
        assert [(one.n_documents, one.n_chunks) for one in listed] == [
            (0, 0),
            (0, 0),
            (1, 3),
            (0, 0),
        ]

    def test_collections_do_not_see_each_other(self, store: Store) -> None:
        """The same document id in two collections is two documents."""
        store.create_collection("other", "f", DIM)
        put(store, "d", "apples")
        put(store, "d", "pears", "other")
        assert text_of(store, "d") == "apples"
        assert text_of(store, "d", "other") == "pears"
        assert found(store, "pears") == []
        store.delete_document("other", "d")
        assert found(store, "apples") == ["d"]

    @pytest.mark.parametrize(
        "call",
        [
            lambda s: s.collection("no"),
            lambda s: s.drop_collection("no"),
            lambda s: s.state_key("no"),
            lambda s: s.accept("no", [upload("d")]),
            lambda s: s.jobs(collection="no"),
            lambda s: s.document("no", "d"),
            lambda s: s.documents("no"),
            lambda s: s.document_text("no", "d"),
            lambda s: s.delete_document("no", "d"),
            lambda s: s.reader("no").__enter__(),
        ],
    )
    def test_an_unknown_collection_is_not_found(
        self, store: Store, call: Callable[[Store], object]
    ) -> None:
        """Every method that names a collection raises `NotFoundError` for an unknown one."""
        with pytest.raises(NotFoundError):
            call(store)

    def test_drop_takes_everything(self, store: Store) -> None:
        """With a collection go its documents and its ledger rows, open ones too."""
        done = put(store, "d", "text")
        (pending,) = store.accept("c", [upload("e")])
        store.drop_collection("c")
        assert store.collections() == ()
        assert store.jobs() == ()
        assert store.claim("w", 10, 60.0) == ()
        for job in (done, pending):
            with pytest.raises(NotFoundError):
                store.job(job.id)
        with pytest.raises(NotFoundError):
            content(store, pending.id)

    def test_a_dropped_name_can_be_used_again(self, store: Store) -> None:
        """A collection made anew under the same name is empty and another one."""
        put(store, "d", "text")
        old = store.collection("c")
        store.drop_collection("c")
        new = store.create_collection("c", "f2", DIM)
        assert new.id != old.id
        assert (new.n_documents, new.fingerprint) == (0, "f2")
        assert found(store, "text") == []
        put(store, "d", "other text")
        assert store.collection("c").n_documents == 1

    def test_work_for_a_dropped_collection_is_refused(self, store: Store) -> None:
        """A job claimed before the drop can't write into the collection made anew."""
        store.accept("c", [upload("d")])
        (job,) = store.claim("w", 1, 60.0)
        store.drop_collection("c")
        store.create_collection("c", "f", DIM)
        with pytest.raises(NotFoundError):
            commit(store, job, "text")
        assert store.collection("c").n_documents == 0

    def test_a_drop_elsewhere_is_seen_at_once(self, store: Store, open_store: OpenStore) -> None:
        """Another handle that used the collection answers `NotFoundError`, or the new one."""
        put(store, "d", "text")
        other = open_store()
        assert found(other, "text") == ["d"]
        store.drop_collection("c")
        with pytest.raises(NotFoundError):
            found(other, "text")
        assert other.collections() == ()
        store.create_collection("c", "f", DIM)
        assert found(other, "text") == []
        put(other, "e", "text")
        assert found(store, "text") == ["e"]

    def test_state_key_changes_with_every_change_and_only_then(self, store: Store) -> None:
        """Commits, replacements and deletions change it; uploads, claims and failures don't."""
        keys = [store.state_key("c")]

        def changed() -> bool:
            keys.append(store.state_key("c"))
            return keys[-1] != keys[-2]

        store.accept("c", [upload("d", "one"), upload("e", "two"), upload("f", "three")])
        assert not changed()
        jobs = store.claim("w", 10, 60.0)
        assert not changed()
        commit(store, jobs[0])
        assert changed()
        commit(store, jobs[0], "one")  # Once more: a repeated commit is no change.
        assert not changed()
        store.fail(jobs[1], "empty", "No text.", retry_after_seconds=None)
        assert not changed()
        store.delete_document("c", "f")  # Was never searchable.
        assert not changed()
        commit(store, jobs[2], "three")  # Superseded by its deletion.
        assert not changed()
        store.accept("c", [upload("d", "one")])  # Unchanged.
        assert not changed()
        put(store, "d", "one, new")
        assert changed()
        store.delete_document("c", "d")
        assert changed()
        assert len(set(keys)) == 4
        assert keys[-1].startswith(f"{store.collection('c').id}:")

    def test_state_keys_are_never_reused(self, store: Store) -> None:
        """A collection made anew under the same name has other keys."""
        old = store.state_key("c")
        store.drop_collection("c")
        store.create_collection("c", "f", DIM)
        assert store.state_key("c") != old

    def test_everything_survives_reopening(self, store: Store, open_store: OpenStore) -> None:
        """What one handle wrote another reads: collections, documents, ledger, contents."""
        put(store, "d", "apples and pears", year=2020)
        (pending,) = store.accept("c", [upload("e", "later")])
        expected = (store.collections(), store.documents("c"), store.jobs(), store.state_key("c"))
        store.close()
        again = open_store()
        assert (again.collections(), again.documents("c"), again.jobs(), again.state_key("c")) == (
            expected
        )
        assert content(again, pending.id) == b"later"
        assert found(again, "apples", {"year": 2020}) == ["d"]

    def test_a_closed_store_refuses(self, store: Store) -> None:
        """After `close` every call raises `StoreError`, and closing again is harmless."""
        put(store, "d", "text")
        store.ping()
        store.close()
        store.close()
        for call in (
            store.ping,
            store.collections,
            lambda: store.accept("c", [upload("d")]),
            lambda: found(store, "text"),
            lambda: store.claim("w", 1, 1.0),
        ):
            with pytest.raises(StoreError):
                call()

    def test_closing_during_use_is_clean(self, store: Store) -> None:
        """Threads that search and write while the store closes get answers or `StoreError`."""
        put(store, "d", "some words here")
        unexpected: list[BaseException] = []

        def work(write: bool) -> None:
            try:
                while True:
                    if write:
                        put(store, "e", str(time.perf_counter()))
                    else:
                        assert found(store, "words", side="dense")
            except StoreError:
                pass
            except BaseException as exc:  # noqa: BLE001
                unexpected.append(exc)

        threads = [threading.Thread(target=work, args=(i == 0,)) for i in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        store.close()
        for thread in threads:
            thread.join(10.0)
            assert not thread.is_alive()
        assert unexpected == []

    def test_peeking_tells_the_same_state_or_nothing(
        self, store: Store, open_store: OpenStore
    ) -> None:
        """What a store can tell without waiting equals what it tells with, after every change."""
        other = open_store()
        assert store.peek_state_key("nowhere") is None
        store.create_collection("p", EMBEDDER.id, DIM)
        for text in ("one", "two"):
            put(other, "d", text, collection="p")
            assert store.peek_state_key("p") in (None, store.state_key("p"))
        other.drop_collection("p")
        assert store.peek_state_key("p") is None
        store.create_collection("p", EMBEDDER.id, DIM)
        assert store.peek_state_key("p") in (None, store.state_key("p"))


class LedgerContract(_Base):
    """Uploads, claims, leases, failures: nothing accepted is lost."""

    def test_accept_answers_pending_jobs_in_order(self, store: Store) -> None:
        """Each upload becomes a pending job with ascending ids and the upload's facts."""
        uploads = [upload("b", "two", lang="de"), upload("a", "one")]
        jobs = store.accept("c", uploads)
        assert [job.document_id for job in jobs] == ["b", "a"]
        assert jobs[0].id < jobs[1].id
        for job, one in zip(jobs, uploads, strict=True):
            assert job == store.job(job.id)
            assert (job.kind, job.state, job.attempt) == (JobKind.INDEX, JobState.PENDING, 0)
            assert (job.collection, job.collection_id) == ("c", store.collection("c").id)
            assert (job.filename, job.media_type) == (one.filename, one.media_type)
            assert (job.size_bytes, job.sha256) == (one.size_bytes, one.sha256)
            assert job.metadata == one.metadata
            assert (job.outcome, job.error_code, job.error) == (None, None, None)
            assert content(store, job.id) == one.content
        assert store.accept("c", []) == ()

    def test_accept_is_all_or_none(self, store: Store) -> None:
        """When one upload of a batch can't be stored, none is."""
        broken = upload("half \ud800 pair")
        with pytest.raises(Exception, match="surrogate"):
            store.accept("c", [upload("a"), broken])
        assert store.jobs() == ()
        assert store.claim("w", 10, 60.0) == ()

    def test_any_bytes_survive(self, store: Store) -> None:
        """Contents come back byte for byte, empty and binary ones too."""
        contents = [b"", bytes(range(256)) * 5000, "größe\0".encode()]
        base = upload("x")
        for n, value in enumerate(contents):
            one = type(base)(str(n), "f", "m/t", value, str(n), {})
            (job,) = store.accept("c", [one])
            assert content(store, job.id) == value

    def test_the_same_content_is_unchanged(self, store: Store) -> None:
        """An upload equal to the searchable version is done at once, and nothing is claimed."""
        put(store, "d", "text", a=1)
        (job,) = store.accept("c", [upload("d", "text", a=1)])
        assert (job.state, job.outcome) == (JobState.DONE, "unchanged")
        assert store.claim("w", 10, 60.0) == ()
        with pytest.raises(NotFoundError):
            content(store, job.id)

    @pytest.mark.parametrize("kind", ["content", "metadata", "filename"])
    def test_any_difference_is_a_change(self, store: Store, kind: str) -> None:
        """Other content, metadata or name makes a new version."""
        put(store, "d", "text", a=1)
        new = upload("d", "new" if kind == "content" else "text", a=2 if kind == "metadata" else 1)
        if kind == "filename":
            new = type(new)(new.document_id, "n", new.media_type, new.content, new.sha256, {"a": 1})
        (job,) = store.accept("c", [new])
        assert job.state is JobState.PENDING
        (done,) = index(store)
        assert store.document("c", "d").version == done.id == job.id

    def test_an_upload_equal_to_the_newest_open_one_answers_that(self, store: Store) -> None:
        """Sending the same again while it waits makes no second job."""
        (first,) = store.accept("c", [upload("d", "text")])
        assert store.accept("c", [upload("d", "text")]) == (first,)
        both = store.accept("c", [upload("e", "x"), upload("e", "x")])
        assert both[0] == both[1]
        (job,) = store.claim("w", 1, 60.0)
        assert store.accept("c", [upload("d", "text")]) == (job,)

    def test_back_to_an_earlier_content_is_a_change(self, store: Store) -> None:
        """A, B, A in a row ends as A although A was searchable when it was sent again."""
        put(store, "d", "A")
        store.accept("c", [upload("d", "B"), upload("d", "A")])
        assert [job.outcome for job in index(store)] == ["indexed", "indexed"]
        assert text_of(store, "d") == "A"

    def test_an_upload_after_a_delete_is_a_change(self, store: Store) -> None:
        """Content that was deleted can be uploaded again."""
        put(store, "d", "A")
        store.delete_document("c", "d")
        assert put(store, "d", "A").outcome == "indexed"
        assert found(store, "A") == ["d"]

    def test_claims_are_oldest_first_and_one_a_document(self, store: Store) -> None:
        """A document's second write waits until its first is finished."""
        ids = [
            store.accept("c", [upload(d, f"{n}")])[0].id for n, d in enumerate(["a", "b", "a", "c"])
        ]
        first = store.claim("w", 2, 60.0)
        assert [job.id for job in first] == ids[:2]
        assert all(job.state is JobState.PROCESSING and job.attempt == 1 for job in first)
        assert [job.id for job in store.claim("w2", 10, 60.0)] == [ids[3]]
        assert store.claim("w2", 10, 60.0) == ()
        commit(store, first[0])
        assert [job.id for job in store.claim("w2", 10, 60.0)] == [ids[2]]

    def test_two_claimers_share_the_work(self, store: Store, open_store: OpenStore) -> None:
        """Handles that claim at the same time never get the same job."""
        store.accept("c", [upload(f"d{n}") for n in range(60)])
        handles = [store, open_store(), open_store()]
        claimed: list[int] = []

        def work(handle: Store, owner: str) -> None:
            while jobs := handle.claim(owner, 3, 60.0):
                claimed.extend(job.id for job in jobs)

        threads = [
            threading.Thread(target=work, args=(handle, f"w{n}"))
            for n, handle in enumerate(handles)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(claimed) == len(set(claimed)) == 60

    def test_a_lease_that_runs_out_frees_the_job(self, store: Store) -> None:
        """Another owner gets the job, with a higher attempt, once the lease is over."""
        (job,) = store.accept("c", [upload("d")])
        (slow,) = store.claim("slow", 1, 0.2)
        store.progress(slow, JobStage.PARSE, 0)
        assert store.claim("quick", 1, 60.0) == ()
        time.sleep(0.25)
        (again,) = store.claim("quick", 1, 60.0)
        assert (again.id, again.attempt) == (job.id, 2)

    def test_renewing_keeps_the_job(self, store: Store) -> None:
        """A renewed lease outlives the first one; only its owner can renew it."""
        store.accept("c", [upload("d"), upload("e")])
        mine, other = store.claim("slow", 2, 0.3)
        store.renew("slow", [mine.id], 60.0)
        store.renew("thief", [other.id], 60.0)
        time.sleep(0.35)
        assert [job.id for job in store.claim("quick", 10, 60.0)] == [other.id]

    def test_release_gives_back_at_once_and_uncounted(self, store: Store) -> None:
        """A worker that stops leaves its jobs as if it had never claimed them."""
        store.accept("c", [upload("d"), upload("e"), upload("f")])
        first, _, _ = store.claim("w", 3, 60.0)
        commit(store, first)
        store.release("w")
        store.release("nobody")
        again = store.claim("w2", 3, 60.0)
        assert [(job.document_id, job.attempt) for job in again] == [("e", 1), ("f", 1)]
        assert store.job(first.id).state is JobState.DONE

    def test_a_job_that_kills_its_workers_is_parked(self, store: Store) -> None:
        """After so many leases that ran out the job is failed as poison; its bytes are kept."""
        (job,) = store.accept("c", [upload("d")])
        for attempt in range(1, MAX_ATTEMPTS + 1):
            (claimed,) = until(lambda n=attempt: store.claim(f"w{n}", 1, 0.0))  # type: ignore[misc]
            assert claimed.attempt == attempt
            store.progress(claimed, JobStage.PARSE, 0)
        assert store.claim("w", 1, 60.0) == ()
        parked = store.job(job.id)
        assert (parked.state, parked.error_code) == (JobState.FAILED, "poison")
        assert parked.error
        assert content(store, job.id) == b"some text"

    def test_a_failure_for_good(self, store: Store) -> None:
        """The job carries code and reason, its bytes are kept, the old version stays."""
        put(store, "d", "old words")
        store.accept("c", [upload("d", "new words")])
        (job,) = store.claim("w", 1, 60.0)
        failed = store.fail(job, "empty", "There is no text.", retry_after_seconds=None)
        assert failed == store.job(job.id)
        assert (failed.state, failed.error_code) == (JobState.FAILED, "empty")
        assert failed.error == "There is no text."
        assert store.claim("w", 1, 60.0) == ()
        assert found(store, "old") == ["d"]
        assert content(store, job.id) == b"new words"

    def test_a_failure_with_a_pause_is_retried(self, store: Store) -> None:
        """The job is pending again, not before the pause is over, and keeps its bytes."""
        store.accept("c", [upload("d", "bytes")])
        (job,) = store.claim("w", 1, 60.0)
        paused = store.fail(job, "busy", "Busy.", retry_after_seconds=0.3)
        assert (paused.state, paused.error_code, paused.error) == (
            JobState.PENDING,
            "busy",
            "Busy.",
        )
        assert paused.next_attempt_at is not None
        assert store.claim("w", 1, 60.0) == ()
        (again,) = until(lambda: store.claim("w", 1, 60.0))
        assert time.time() >= paused.next_attempt_at - 0.05
        assert again.attempt == 2
        assert content(store, job.id) == b"bytes"
        done = commit(store, again)
        assert (done.state, done.error_code, done.error) == (JobState.DONE, None, None)

    def test_a_worker_that_lost_its_lease_fails_nobody(self, store: Store) -> None:
        """A late failure of the first worker doesn't touch the second one's attempt."""
        store.accept("c", [upload("d")])
        (late,) = store.claim("slow", 1, 0.0)
        time.sleep(0.01)
        (job,) = store.claim("quick", 1, 60.0)
        store.fail(late, "x", "Late.", retry_after_seconds=None)
        assert store.job(job.id).state is JobState.PROCESSING
        assert commit(store, job).outcome == "indexed"

    def test_a_failure_after_a_delete_stays_cancelled(self, store: Store) -> None:
        """A cancelled job is not failed and not retried."""
        store.accept("c", [upload("d")])
        (job,) = store.claim("w", 1, 60.0)
        store.delete_document("c", "d")
        after = store.fail(job, "x", "Late.", retry_after_seconds=1.0)
        assert after.state is JobState.CANCELLED

    def test_an_outage_never_parks(self, store: Store) -> None:
        """Failures that aren't the document's own are retried for as long as they last."""
        (job,) = store.accept("c", [upload("d")])
        for attempt in range(1, MAX_ATTEMPTS + 1):
            (job,) = until(lambda: store.claim("w", 1, 60.0), 60.0)
            assert job.attempt == attempt
            store.progress(job, JobStage.PARSE, 0)
            job = store.fail(job, "down", "Down.", retry_after_seconds=0.0, counts=False)
            assert (job.state, job.error_code) == (JobState.PENDING, "down")

    def test_failures_that_count_park(self, store: Store) -> None:
        """A document that fails in as many attempts as are allowed is failed, with the reason."""
        (job,) = store.accept("c", [upload("d")])
        states = []
        for _ in range(MAX_ATTEMPTS):
            (claimed,) = until(lambda: store.claim("w", 1, 60.0), 60.0)
            states.append(store.fail(claimed, "odd", "Odd.", retry_after_seconds=0.0).state)
        assert states == [JobState.PENDING] * (MAX_ATTEMPTS - 1) + [JobState.FAILED]
        assert store.job(job.id).error_code == "odd"

    def test_a_cancelled_job_is_never_found(self, store: Store) -> None:
        """What its worker still commits is refused, and what was searchable before stays."""
        put(store, "d", "old words")
        store.accept("c", [upload("d", "new words")])
        (job,) = store.claim("w", 1, 60.0)
        key = store.state_key("c")
        cancelled = store.cancel(job.id)
        assert (cancelled.state, cancelled.outcome, cancelled.worker) == (
            JobState.CANCELLED,
            None,
            None,
        )
        assert store.cancel(job.id) == cancelled
        assert commit(store, job, "new words").state is JobState.CANCELLED
        assert found(store, "new") == []
        assert found(store, "old") == ["d"]
        assert store.state_key("c") == key

    def test_a_pending_job_can_be_cancelled(self, store: Store) -> None:
        """It is never claimed, and doesn't hold up the document's next write."""
        (job,) = store.accept("c", [upload("d", "one")])
        store.cancel(job.id)
        assert store.claim("w", 1, 60.0) == ()
        assert put(store, "d", "two").outcome == "indexed"

    def test_a_finished_job_cannot_be_cancelled(self, store: Store) -> None:
        """Done and failed jobs stay what they are."""
        done = put(store, "d", "text")
        store.accept("c", [upload("e")])
        (job,) = store.claim("w", 1, 60.0)
        store.fail(job, "x", "X.", retry_after_seconds=None)
        for job_id in (done.id, job.id):
            before = store.job(job_id)
            with pytest.raises(ConflictError):
                store.cancel(job_id)
            assert store.job(job_id) == before

    def test_cancellation_or_commit_wins(self, store: Store, open_store: OpenStore) -> None:
        """Raced against each other, a job is cancelled and not found, or done and found."""
        other = open_store()
        outcomes = set()
        for n in range(30):
            word = f"race{n}"
            (job,) = store.accept("c", [upload("d", word)])
            (job,) = store.claim("w", 1, 60.0)
            started = threading.Barrier(2)

            def give_up(job: Job, pause: float, started: threading.Barrier) -> None:
                started.wait()
                time.sleep(pause)
                with suppress(ConflictError):
                    other.cancel(job.id)

            arguments = (job, n % 5 * 0.001, started)
            thread = threading.Thread(target=give_up, args=arguments)
            thread.start()
            started.wait()
            commit(store, job, word)
            thread.join()
            state = store.job(job.id).state
            outcomes.add(state)
            assert found(store, word) == (["d"] if state is JobState.DONE else []), state
        assert outcomes <= {JobState.DONE, JobState.CANCELLED}

    def test_a_retry_starts_anew(self, store: Store) -> None:
        """A failed or cancelled job is pending again, with its bytes and no attempt counted."""
        (job,) = store.accept("c", [upload("d", "words")])
        for give_up in (
            lambda job: store.fail(job, "x", "X.", retry_after_seconds=None),
            lambda job: store.cancel(job.id),
        ):
            (claimed,) = store.claim("w", 1, 60.0)
            assert claimed.attempt == 1
            give_up(claimed)
            again = store.retry(job.id)
            assert (again.state, again.attempt, again.error_code) == (JobState.PENDING, 0, None)
            # Whoever had it before can neither commit nor fail it any more where that would hurt.
            assert store.fail(claimed, "late", "Late.", retry_after_seconds=None) == again
        assert [done.outcome for done in index(store)] == ["indexed"]
        assert found(store, "words") == ["d"]

    def test_a_late_commit_from_before_a_cancel_is_refused_after_the_retry(
        self, store: Store
    ) -> None:
        """Cancelled, retried and cancelled again: the first worker's commit is never found."""
        (job,) = store.accept("c", [upload("d", "words")])
        (first,) = store.claim("slow", 1, 60.0)
        store.cancel(job.id)
        store.retry(job.id)
        (second,) = store.claim("quick", 1, 60.0)
        commit(store, first, "words")
        assert found(store, "words") == []
        store.cancel(job.id)
        for late in (first, second):
            commit(store, late, "words")
        assert found(store, "words") == []
        assert store.job(job.id).state is JobState.CANCELLED

    def test_what_cannot_be_retried(self, store: Store) -> None:
        """Open and done jobs, and those with a later write, are refused."""
        done = put(store, "d", "text")
        (waiting,) = store.accept("c", [upload("e", "one")])
        for job_id in (done.id, waiting.id):
            with pytest.raises(ConflictError):
                store.retry(job_id)
        store.cancel(waiting.id)
        put(store, "e", "two")
        with pytest.raises(ConflictError):
            store.retry(waiting.id)
        (deleted,) = store.accept("c", [upload("f")])
        store.delete_document("c", "f")
        with pytest.raises(ConflictError):
            store.retry(deleted.id)

    def test_progress_is_told(self, store: Store) -> None:
        """Stage and percent of a job in work are seen; what lost workers report isn't."""
        store.accept("c", [upload("d")])
        (job,) = store.claim("w", 1, 60.0)
        assert (job.stage, job.percent, job.worker) == (JobStage.PARSE, 0, "w")
        store.progress(job, JobStage.EMBED, 40)
        now = store.job(job.id)
        assert (now.stage, now.percent) == (JobStage.EMBED, 40)
        store.release("w")
        (again,) = store.claim("w2", 1, 60.0)
        store.progress(job, JobStage.COMMIT, 90)
        assert store.job(job.id) == again
        done = commit(store, again)
        assert (done.stage, done.percent, done.worker) == (None, 100, None)

    def test_changes_are_numbered(self, store: Store, open_store: OpenStore) -> None:
        """A follower sees each changed job once, as it is now, and nothing twice."""
        store.create_collection("other", "f", DIM)
        other = open_store()
        after = other.last_change()
        assert other.job_changes(after) == ()
        a, b = store.accept("c", [upload("a"), upload("b")])
        (o,) = store.accept("other", [upload("o")])
        changes = other.job_changes(after)
        assert changes == (a, b, o)
        assert after < a.change < b.change < o.change == other.last_change()
        assert other.job_changes(after, limit=1) == (a,)
        assert other.job_changes(after, collections=["other"]) == (o,)
        (job,) = store.claim("w", 1, 60.0)
        store.renew("w", [job.id], 60.0)
        assert other.job_changes(o.change) == (job,)
        done = commit(store, job)
        assert other.job_changes(o.change) == (done,)
        store.delete_document("c", "b")
        rows = other.job_changes(o.change)
        assert [(one.document_id, one.kind, one.state) for one in rows] == [
            ("a", JobKind.INDEX, JobState.DONE),
            ("b", JobKind.INDEX, JobState.CANCELLED),
            ("b", JobKind.DELETE, JobState.DONE),
        ]
        assert other.last_change() == rows[-1].change

    def test_what_waits_holds_nobody_up(self, store: Store) -> None:
        """A document's later write goes ahead while the earlier one waits for its next attempt."""
        store.accept("c", [upload("d", "one")])
        (job,) = store.claim("w", 1, 60.0)
        store.fail(job, "down", "Down.", retry_after_seconds=60.0, counts=False)
        assert put(store, "d", "two").outcome == "indexed"
        assert found(store, "two") == ["d"]

    def test_workers_are_known_while_they_live(self, store: Store, open_store: OpenStore) -> None:
        """Who asked for work counts as a worker until its process lets go."""
        other = open_store()
        assert other.workers() == ()
        store.claim("w", 1, 60.0)
        assert other.workers() == store.workers() == ("w",)
        store.close()
        assert other.workers() == ()

    def test_a_secret_is_made_once(self, store: Store, open_store: OpenStore) -> None:
        """Every handle gets the same 32 random bytes of a name."""
        secret = store.secret("a")
        assert len(secret) == 32
        assert open_store().secret("a") == secret
        assert store.secret("b") != secret

    def test_jobs_are_listed_newest_first(self, store: Store) -> None:
        """The listing filters by collection, state and document, and pages downwards."""
        store.create_collection("other", "f", DIM)
        a, b = store.accept("c", [upload("a"), upload("b")])
        (o,) = store.accept("other", [upload("a")])
        claimed = store.claim("w", 1, 60.0)
        assert [job.id for job in claimed] == [a.id]
        commit(store, claimed[0])

        def ids(**arguments: object) -> list[int]:
            return [job.id for job in store.jobs(**arguments)]  # type: ignore[arg-type]

        assert ids() == [o.id, b.id, a.id]
        assert ids(collection="c") == [b.id, a.id]
        assert ids(states=[JobState.PENDING]) == [o.id, b.id]
        assert ids(states=[JobState.DONE, JobState.FAILED]) == [a.id]
        assert ids(document_id="a") == [o.id, a.id]
        assert ids(limit=1) == [o.id]
        assert ids(before=o.id, limit=1) == [b.id]
        assert ids(before=a.id) == []

    def test_unknown_jobs_are_not_found(self, store: Store) -> None:
        """`job` and `content` raise `NotFoundError` for an unknown number."""
        for call in (store.job, store.open_content):
            with pytest.raises(NotFoundError):
                call(12345)

    def test_queue_depth_counts_what_wants_attention(self, store: Store) -> None:
        """Pending, processing and failed rows are counted, finished ones are not."""
        empty = {JobState.PENDING: 0, JobState.PROCESSING: 0, JobState.FAILED: 0}
        assert store.queue_depth() == empty
        store.accept("c", [upload(d) for d in "abcd"])
        a, b, _ = store.claim("w", 3, 60.0)
        commit(store, a)
        store.fail(b, "x", "X.", retry_after_seconds=None)
        assert store.queue_depth() == dict.fromkeys(empty, 1)


class DocumentsContract(_Base):
    """Commits, deletions and what can be read of documents."""

    def test_a_commit_makes_the_document_searchable(self, store: Store) -> None:
        """The document carries the upload's and the parse's facts, and the job is done."""
        before = time.time()
        job = put(store, "d", "first part\n\nsecond part", lang="en", n=3, tags=["x", "y"], ok=True)
        assert (job.state, job.outcome) == (JobState.DONE, "indexed")
        with pytest.raises(NotFoundError):
            content(store, job.id)
        document = store.document("c", "d")
        assert (document.id, document.collection, document.version) == ("d", "c", job.id)
        assert (document.filename, document.media_type) == ("d.md", "text/markdown")
        assert (document.n_characters, document.n_chunks, document.n_pages) == (23, 2, 0)
        assert (document.size_bytes, document.sha256) == (job.size_bytes, job.sha256)
        assert document.metadata == {"lang": "en", "n": 3, "tags": ["x", "y"], "ok": True}
        assert before - 1 <= document.created_at <= document.updated_at <= time.time() + 1
        assert (store.collection("c").n_documents, store.collection("c").n_chunks) == (1, 2)

    def test_a_new_version_replaces_the_old(self, store: Store) -> None:
        """After the commit only the new version is found; the time of creation stays."""
        put(store, "d", "apples\n\npears", old=1)
        first = store.document("c", "d")
        put(store, "d", "plums", new=1)
        second = store.document("c", "d")
        assert second.version > first.version
        assert second.created_at == first.created_at
        assert second.metadata == {"new": 1}
        assert found(store, "apples") == found(store, "pears") == []
        assert found(store, "plums") == ["d"]
        assert found(store, "apples", side="dense") == ["d"]
        assert found(store, "plums", {"old": 1}) == []
        assert found(store, "plums", {"old": 1}, side="dense") == []
        assert text_of(store, "d") == "plums"
        assert (store.collection("c").n_documents, store.collection("c").n_chunks) == (1, 1)

    def test_a_commit_is_idempotent(self, store: Store) -> None:
        """Committing the same job again, as after a crash, changes nothing."""
        store.accept("c", [upload("d", "text")])
        (job,) = store.claim("w", 1, 60.0)
        first = commit(store, job)
        state = (store.collection("c"), store.documents("c"))
        again = commit(store, job, "text")
        assert (again.state, again.outcome) == (first.state, first.outcome)
        assert (store.collection("c"), store.documents("c")) == state

    def test_later_writes_win_in_any_order(self, store: Store) -> None:
        """An older write that is committed after a newer one is superseded."""
        (old,) = store.accept("c", [upload("d", "old")])
        (claimed_old,) = store.claim("w", 1, 0.0)
        (new,) = store.accept("c", [upload("d", "new")])
        assert commit(store, new, "new").outcome == "indexed"
        late = commit(store, claimed_old, "old")
        assert (late.state, late.outcome) == (JobState.DONE, "superseded")
        assert text_of(store, "d") == "new"
        assert found(store, "old") == []
        assert old.id < new.id == store.document("c", "d").version

    def test_a_document_without_chunks_exists(self, store: Store) -> None:
        """Zero chunks are a document that is listed and never found."""
        store.accept("c", [upload("d", "")])
        (job,) = store.claim("w", 1, 60.0)
        assert commit(store, job, "", chunks=[], vectors=EMBEDDER.embed([])).outcome == "indexed"
        assert store.document("c", "d").n_chunks == 0
        assert found(store, "anything", side="dense") == []
        put(store, "d", "now with text")
        assert found(store, "text") == ["d"]

    def test_deleted_is_gone_at_once(self, store: Store) -> None:
        """After the call the document is neither found nor listed, and the ledger says so."""
        put(store, "d", "apples")
        put(store, "e", "pears")
        store.delete_document("c", "d")
        assert found(store, "apples") == []
        assert found(store, "apples", side="dense") == ["e"]
        assert [document.id for document in store.documents("c")] == ["e"]
        for call in (store.document, store.document_text):
            with pytest.raises(NotFoundError):
                call("c", "d")
        newest = store.jobs()[0]
        assert (newest.kind, newest.state, newest.outcome, newest.document_id) == (
            JobKind.DELETE,
            JobState.DONE,
            "deleted",
            "d",
        )
        assert store.collection("c").n_documents == 1

    def test_a_delete_cancels_open_work(self, store: Store) -> None:
        """Waiting and running writes of the document are cancelled, others go on."""
        store.accept("c", [upload("d", "one"), upload("e", "two")])
        (running, _) = store.claim("w", 2, 60.0)
        (waiting,) = store.accept("c", [upload("d", "three")])
        store.delete_document("c", "d")
        for job in (running, waiting):
            assert store.job(job.id).state is JobState.CANCELLED
            with pytest.raises(NotFoundError):
                content(store, job.id)
        assert store.claim("w2", 10, 60.0) == ()

    def test_a_late_commit_does_not_bring_back_what_was_deleted(self, store: Store) -> None:
        """A worker that finishes after the deletion is superseded, again and again."""
        put(store, "d", "apples")
        store.accept("c", [upload("d", "pears")])
        (job,) = store.claim("w", 1, 60.0)
        store.delete_document("c", "d")
        for _ in range(2):
            assert commit(store, job, "pears").state is JobState.CANCELLED
            with pytest.raises(NotFoundError):
                store.document("c", "d")
        assert found(store, "pears", side="dense") == []

    def test_deleting_the_unknown_raises(self, store: Store) -> None:
        """Neither what never was nor what is gone already can be deleted."""
        with pytest.raises(NotFoundError):
            store.delete_document("c", "d")
        put(store, "d", "text")
        store.delete_document("c", "d")
        with pytest.raises(NotFoundError):
            store.delete_document("c", "d")
        assert len(store.jobs()) == 2

    def test_a_failed_upload_can_be_deleted_once(self, store: Store) -> None:
        """A document that only ever failed is known until it is deleted."""
        store.accept("c", [upload("d")])
        (job,) = store.claim("w", 1, 60.0)
        store.fail(job, "x", "X.", retry_after_seconds=None)
        store.delete_document("c", "d")
        with pytest.raises(NotFoundError):
            store.delete_document("c", "d")

    def test_documents_are_paged_by_id(self, store: Store) -> None:
        """Pages follow each other without gap or repetition, in the order of the ids."""
        names = ["b", "a", "ä", "Z", "c c", "10", "9", "日本"]
        for name in names:
            put(store, name, f"text {name}")
        listed = []
        after = None
        while page := store.documents("c", after=after, limit=3):
            listed += [document.id for document in page]
            after = page[-1].id
        assert listed == sorted(names)  # By code point.
        assert len(store.documents("c")) == len(names)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "plain",
            "größer — naïve",
            "日本語のテキスト",
            "emoji 👩‍👩‍👧 🏳️‍🌈",
            "null \0 inside",
            "\ufeffmark",
            "line\r\nends\rof\nall kinds\u2028\x85",
            "\U0010ffff\ufffe\uffff",
            "a\u0301 á ﬁ",
        ],
    )
    def test_any_text_comes_back(self, store: Store, text: str) -> None:
        """Document text, chunk text and context are what was committed, to the code point."""
        store.accept("c", [upload("d", "source")])
        (job,) = store.claim("w", 1, 60.0)
        chunks = [Chunk(0, 0, len(text), text, context=text, page=7, page_label=text)]
        commit(store, job, text, chunks=chunks, vectors=EMBEDDER.embed(["x"]))
        assert text_of(store, "d") == text
        assert store.document("c", "d").n_characters == len(text)
        with store.reader("c") as reader:
            (scored,) = reader.dense(EMBEDDER.embed(["x"])[0], 1).hits
            hit = reader.hits([scored.chunk_id])[scored.chunk_id]
        assert (hit.text, hit.context, hit.page) == (text, text, 7)
        assert hit.page_label == text

    @pytest.mark.parametrize("name", ["a/b", "..", "a b\tc", "'; DROP TABLE x; --", "ä\0b", "%_*"])
    def test_any_id_is_a_document(self, store: Store, name: str) -> None:
        """Document ids are data: quotes, slashes and wildcards mean nothing."""
        put(store, name, "odd name")
        put(store, "other", "odd other")
        assert store.document("c", name).id == name
        assert found(store, "odd", {"document_id": name}) == [name]
        store.delete_document("c", name)
        assert found(store, "odd") == ["other"]


class UploadsContract(_Base):
    """Large uploads: spooled, accepted, read, kept for a retry, gone in the end."""

    def test_a_spooled_upload_is_the_job_s(self, store: Store) -> None:
        """What was written in pieces comes back as a real file, and discarding it does nothing."""
        pieces = [bytes([n]) * 70_000 for n in range(40)]
        spool = store.spool()
        for piece in pieces:
            spool.write(piece)
        whole = b"".join(pieces)
        (job,) = store.accept("c", [spooled("d", spool)])
        spool.discard()
        assert (job.size_bytes, job.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
        with store.open_content(job.id) as file:
            assert os.fstat(file.fileno()).st_size == len(whole)
            assert file.read() == whole

    @pytest.mark.parametrize("size", [0, 10, 3_000_000])
    def test_every_upload_opens_as_a_real_file(self, store: Store, size: int) -> None:
        """A child process can read any upload from its descriptor, from the start."""
        value = bytes(n % 251 for n in range(size % 1000)) or b"x" * size
        (job,) = store.accept("c", [dataclasses.replace(upload("d"), content=value)])
        for _ in range(2):
            with store.open_content(job.id) as file:
                assert file.tell() == 0
                assert os.pread(file.fileno(), 100, 0) == value[:100]
                assert file.read() == value

    def test_a_discarded_spool_cannot_be_accepted(self, store: Store) -> None:
        """A file that is gone makes no job, and discarding twice is harmless."""
        spool = store.spool()
        spool.write(b"bytes")
        one = spooled("d", spool)
        spool.discard()
        spool.discard()
        with pytest.raises(StoreError):
            store.accept("c", [upload("e"), one])
        assert store.jobs() == ()

    def test_a_file_has_one_owner(self, store: Store) -> None:
        """The same spooled file for two documents is refused, and neither job is made."""
        spool = store.spool()
        spool.write(b"bytes")
        one = spooled("d", spool)
        with pytest.raises(StoreError):
            store.accept("c", [one, dataclasses.replace(one, document_id="e")])
        assert store.jobs() == ()
        (job,) = store.accept("c", [one])
        with pytest.raises(StoreError):
            store.accept("c", [dataclasses.replace(one, document_id="e")])
        assert content(store, job.id) == b"bytes"

    def test_an_upload_that_is_known_leaves_its_spool_to_its_owner(self, store: Store) -> None:
        """Where no job takes the file (the same waits already), it stays until it is discarded."""
        first, second = (store.spool() for _ in range(2))
        for spool in (first, second):
            spool.write(b"bytes")
        (job,) = store.accept("c", [spooled("d", first)])
        assert store.accept("c", [spooled("d", second)]) == (job,)
        second.discard()
        first.discard()
        assert content(store, job.id) == b"bytes"

    def test_an_open_upload_outlives_its_job(self, store: Store) -> None:
        """Who reads an upload reads it to the end, even when the job is done meanwhile."""
        spool = store.spool()
        spool.write(b"first\n\nsecond")
        store.accept("c", [spooled("d", spool)])
        (job,) = store.claim("w", 1, 60.0)
        with store.open_content(job.id) as file:
            commit(store, job)
            with pytest.raises(NotFoundError):
                store.open_content(job.id)
            assert file.read() == b"first\n\nsecond"

    def test_a_failed_upload_is_kept_until_a_later_write(self, store: Store) -> None:
        """It can be read for a retry; the next upload or the deletion of its document ends that."""
        for ending in ("upload", "delete"):
            store.accept("c", [upload(ending, "x" * 2_000_000)])
            (job,) = store.claim("w", 1, 60.0)
            store.fail(job, "x", "X.", retry_after_seconds=None)
            assert len(content(store, job.id)) == 2_000_000
            if ending == "upload":
                put(store, ending, "another")
            else:
                store.delete_document("c", ending)
            with pytest.raises(NotFoundError):
                store.open_content(job.id)

    def test_queue_bytes_counts_unfinished_uploads(self, store: Store) -> None:
        """Waiting and running uploads count, whatever they are kept in; others don't."""
        assert store.queue_bytes() == 0
        store.accept("c", [upload("a", "x" * 10), upload("b", "x" * 3_000_000), upload("d", "yy")])
        assert store.queue_bytes() == 3_000_012
        a, b = store.claim("w", 2, 60.0)
        assert store.queue_bytes() == 3_000_012
        commit(store, a)
        store.fail(b, "x", "X.", retry_after_seconds=None)
        assert store.queue_bytes() == 2
