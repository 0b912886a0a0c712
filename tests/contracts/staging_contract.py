"""What every `Store` must do with documents that come in parts, and with what is left of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from contracts.store_contract import OpenStore, _Base
from ragdock.errors import NotFoundError, StoreError
from ragdock.ports import Store
from ragdock.types import Block, BlockKind, Chunk, Job, JobState, PageSpan, ParsedDocument
from support.stores import (
    EMBEDDER,
    claimed,
    commit,
    found,
    part_of,
    purge_all,
    put,
    stage_parts,
    text_of,
    upload,
)

__all__ = ["PurgeContract", "StagingContract", "TextContract"]

PARTS = [[f"alpha{p} shared word{p}x{n}" for n in range(5)] for p in range(4)]
TEXT = "\n\n".join("\n\n".join(part) for part in PARTS)


def _seen(store: Store, query: str, side: str = "lexical") -> set[str]:
    return set(found(store, query, side=side, limit=1000))


class StagingContract(_Base):
    """Parts are invisible until the last one is committed, and then all are there at once."""

    def test_parts_become_one_document(self, store: Store) -> None:
        """The joined parts are the text; chunks, pages and the first part's title are counted."""
        job = claimed(store, "d")
        start = 0
        for n, word in enumerate(("one", "two", "three")):
            text = f"{word} {word}\n\n"
            # The second page goes on in the third part.
            pages = (PageSpan(min(n, 1) + 1, 0, len(text)),)
            title = "Title" if n == 0 else "Other"
            parsed = ParsedDocument(text, (), pages, title, start)
            chunks = [Chunk(n, start, start + 3, text[:3], page=min(n, 1) + 1)]
            vectors = EMBEDDER.embed([word])
            if n < 2:
                store.stage(job, parsed, chunks, vectors)
            else:
                done = store.commit_document(job, parsed, chunks, vectors)
            start += len(text)
        assert (done.state, done.outcome) == (JobState.DONE, "indexed")
        document = store.document("c", "d")
        assert (document.title, document.n_chunks, document.n_pages) == ("Title", 3, 2)
        assert document.n_characters == start
        assert (store.collection("c").n_documents, store.collection("c").n_chunks) == (1, 3)
        text = text_of(store, "d")
        with store.reader("c") as reader:
            scored = reader.dense(EMBEDDER.embed(["two"])[0], 10).hits
            hits = reader.hits([one.chunk_id for one in scored])
        assert len(hits) == 3
        assert all(text[hit.start : hit.end] == hit.text for hit in hits.values())

    def test_nothing_staged_is_seen(self, store: Store, open_store: OpenStore) -> None:
        """Searches of both kinds, counts, listings and the state key know only the old version."""
        put(store, "d", "old words\n\nshared old")
        put(store, "e", "shared other")
        other = open_store()
        assert _seen(other, "shared", "dense") == {"d", "e"}
        before = (store.state_key("c"), store.collection("c"), store.documents("c"))
        job = claimed(store, "d")
        last = stage_parts(store, job, PARTS)
        for handle in (store, other, open_store()):
            assert (handle.state_key("c"), handle.collection("c"), handle.documents("c")) == before
            assert _seen(handle, "alpha1") == set()
            assert len(found(handle, "shared", limit=1000)) == 2
            assert found(handle, "shared", {"document_id": "d"}) == ["d"]
            assert len(found(handle, "shared", side="dense", limit=1000)) == 3
            assert text_of(handle, "d") == "old words\n\nshared old"
        store.commit_document(job, *last)
        for handle in (store, other, open_store()):
            assert handle.state_key("c") != before[0]
            assert handle.collection("c").generation == before[1].generation + 1
            assert _seen(handle, "old") == set()
            assert found(handle, "alpha1") == ["d"] * 5
            assert len(found(handle, "shared", limit=1000)) == 21
            assert len(found(handle, "shared", side="dense", limit=1000)) == 21
            assert len(found(handle, "shared", {"document_id": "d"}, limit=1000)) == 20
            dense = found(handle, "shared", {"document_id": "d"}, side="dense", limit=1000)
            assert len(dense) == 20
            assert text_of(handle, "d") == TEXT

    def test_hidden_words_do_not_shorten_an_answer(self, store: Store) -> None:
        """A search fills its limit although hidden chunks match better."""
        for n in range(5):
            put(store, f"d{n}", f"zebra and {'much ' * n}else")
        job = claimed(store, "big")
        stage_parts(store, job, [["zebra zebra"] * 50, ["zebra"] * 50])
        assert set(found(store, "zebra", limit=5)) == {f"d{n}" for n in range(5)}
        assert set(found(store, "zebra", side="dense", limit=5)) == {f"d{n}" for n in range(5)}

    def test_what_was_written_between_parts_is_not_disturbed(
        self, store: Store, open_store: OpenStore
    ) -> None:
        """Documents committed while another one's parts arrive, before and after, are all found."""
        other = open_store()
        job = claimed(store, "big")
        start, kinds = 0, []
        for n, part in enumerate(PARTS):
            args = part_of(part, start, last=n == 3)
            start += len(args[0].text)
            if n == 3:
                store.commit_document(job, *args)
            else:
                store.stage(job, *args)
            put(other, f"small{n}", f"shared small{n}")
            kinds.append(len(found(other, "shared", side="dense", limit=1000)))
            assert len(found(store, "shared", side="dense", limit=1000)) == kinds[-1]
        assert kinds == [1, 2, 3, 24]
        for n in range(4):
            assert found(other, f"small{n}", side="dense", limit=1) == [f"small{n}"]
            assert found(store, f"word{n}x3", side="dense", limit=1) == ["big"]
        store.delete_document("c", "big")
        for handle in (store, other, open_store()):
            assert len(found(handle, "shared", side="dense", limit=1000)) == 4
            assert len(found(handle, "shared", limit=1000)) == 4

    def test_a_view_stays_as_it_was(self, store: Store) -> None:
        """A reader that was open before the commit sees the old version, also after the purge."""
        put(store, "d", "shared old\n\nshared older")
        job = claimed(store, "d")
        last = stage_parts(store, job, PARTS)
        vector = EMBEDDER.embed(["shared"])[0]
        with store.reader("c") as reader:
            store.commit_document(job, *last)
            assert len(found(store, "shared", side="dense", limit=1000)) == 20
            purge_all(store)
            put(store, "e", "shared new")
            for _ in range(2):
                assert len(reader.lexical("shared", 1000)) == 2
                dense = reader.dense(vector, 1000).hits
                assert len(dense) == 2
                texts = {hit.text for hit in reader.hits([one.chunk_id for one in dense]).values()}
                assert texts == {"shared old", "shared older"}
                assert len(found(store, "shared", side="dense", limit=1000)) == 21

    def test_a_first_part_begins_anew(self, store: Store) -> None:
        """An attempt that was cut off leaves nothing in the document that the next one makes."""
        job = claimed(store, "d")
        stage_parts(store, job, [["torn one"], ["torn two"], ["torn three"]])
        last = stage_parts(store, job, PARTS)
        assert store.commit_document(job, *last).outcome == "indexed"
        assert text_of(store, "d") == TEXT
        assert store.document("c", "d").n_chunks == 20
        purge_all(store)
        assert _seen(store, "torn") == set()
        assert text_of(store, "d") == TEXT

    def test_a_whole_document_after_parts_is_the_whole_document(self, store: Store) -> None:
        """Parts of an earlier attempt aren't part of a document that is committed in one go."""
        job = claimed(store, "d")
        stage_parts(store, job, PARTS)
        commit(store, job, "whole text")
        assert text_of(store, "d") == "whole text"
        assert store.document("c", "d").n_chunks == 1
        assert _seen(store, "shared") == set()

    @pytest.mark.parametrize("kind", ["gap", "repeated", "unknown"])
    def test_parts_must_follow_each_other(self, store: Store, kind: str) -> None:
        """A part that doesn't continue what is staged is refused, and nothing comes of it."""
        job = claimed(store, "d")
        if kind != "unknown":
            store.stage(job, *part_of(["first"], 0))
        start = {"gap": 8, "repeated": 3, "unknown": 7}[kind]
        for call in (store.stage, store.commit_document):
            with pytest.raises(StoreError):
                call(job, *part_of(["second"], start))  # type: ignore[operator]
        assert store.documents("c") == ()
        assert _seen(store, "second") == set()

    def test_attempts_do_not_mix(self, store: Store) -> None:
        """A worker that lost the job can't add to what its successor stages, nor commit that."""
        store.accept("c", [upload("d")])
        (late,) = store.claim("slow", 1, 0.0)
        store.stage(late, *part_of(["of the slow one"], 0))
        (job,) = _claim_again(store)
        store.stage(job, *part_of(["of the quick one"], 0))
        for call in (store.stage, store.commit_document):
            for start in (len("of the slow one\n\n"), len("of the quick one\n\n")):
                with pytest.raises(StoreError):
                    call(late, *part_of(["late"], start))  # type: ignore[operator]
        last = part_of(["in the end"], len("of the quick one\n\n"), last=True)
        assert store.commit_document(job, *last).outcome == "indexed"
        assert text_of(store, "d") == "of the quick one\n\nin the end"

    def test_staging_for_a_superseded_job_leads_nowhere(self, store: Store) -> None:
        """When a later write is in, parts are accepted for nothing and the commit says so."""
        store.accept("c", [upload("d", "old")])
        (late,) = store.claim("slow", 1, 0.0)
        store.stage(late, *part_of(["late one"], 0))
        (new,) = store.accept("c", [upload("d", "new")])
        commit(store, new, "new")
        store.stage(late, *part_of(["late two"], 10))
        done = store.commit_document(late, *part_of(["late three"], 20))
        assert (done.state, done.outcome) == (JobState.DONE, "superseded")
        purge_all(store)
        assert text_of(store, "d") == "new"
        assert _seen(store, "late") == set()

    def test_a_deletion_ends_staging(self, store: Store) -> None:
        """What was being staged of a deleted document never shows."""
        put(store, "d", "old")
        job = claimed(store, "d")
        last = stage_parts(store, job, PARTS)
        store.delete_document("c", "d")
        assert store.commit_document(job, *last).state is JobState.CANCELLED
        with pytest.raises(NotFoundError):
            store.document("c", "d")
        purge_all(store)
        assert _seen(store, "shared", "dense") == set()

    def test_a_repeated_commit_changes_nothing(self, store: Store) -> None:
        """Committing the last part again, as after a crash between, is the same document."""
        job = claimed(store, "d")
        last = stage_parts(store, job, PARTS)
        store.commit_document(job, *last)
        state = (store.collection("c"), store.documents("c"))
        again = store.commit_document(job, *last)
        assert (again.state, again.outcome) == (JobState.DONE, "indexed")
        for handle in range(2):
            if handle:
                last = stage_parts(store, job, PARTS)
                store.commit_document(job, *last)
            assert (store.collection("c"), store.documents("c")) == state
        assert text_of(store, "d") == TEXT

    @pytest.mark.parametrize("staged", [True, False])
    def test_many_chunks_at_once(self, store: Store, staged: bool) -> None:
        """A part or a document of thousands of chunks is all there or not at all."""
        put(store, "d", "before")
        job = claimed(store, "d")
        paragraphs = [f"p{n}" for n in range(1500)]
        seen: set[int] = set()
        stop = threading.Event()

        def watch() -> None:
            while not stop.is_set():
                with store.reader("c") as reader:
                    n = reader.collection.n_chunks
                    dense = reader.dense(EMBEDDER.embed(["p1"])[0], 5000).hits
                    assert len(dense) == n
                    seen.add(n)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            if staged:
                store.stage(job, *part_of(paragraphs[:700], 0))
                start = sum(len(p) + 2 for p in paragraphs[:700])
                store.commit_document(job, *part_of(paragraphs[700:], start, last=True))
            else:
                store.commit_document(job, *part_of(paragraphs, 0, last=True))
        finally:
            stop.set()
            thread.join()
        assert seen <= {1, 1500}
        assert store.document("c", "d").n_chunks == 1500
        assert text_of(store, "d") == "\n\n".join(paragraphs)
        assert found(store, "p1499") == ["d"]
        assert len(found(store, "p7", side="dense", limit=2000)) == 1500


class PurgeContract(_Base):
    """What is hidden goes for good, a little at a time, and nothing else goes."""

    def test_purge_keeps_to_its_limit_and_comes_to_an_end(self, store: Store) -> None:
        """Each call takes at most `limit`, and 0 means that nothing is left."""
        big = [f"big word{n}" for n in range(1200)]
        job = claimed(store, "d")
        store.commit_document(job, *part_of(big, 0, last=True))
        put(store, "e", "big other")
        store.delete_document("c", "d")
        assert found(store, "big", limit=2000) == ["e"]
        steps = []
        while n := store.purge(100):
            steps.append(n)
            assert found(store, "big", limit=2000) == ["e"]
            assert found(store, "big", side="dense", limit=2000) == ["e"]
        assert len(steps) >= 12
        assert max(steps) <= 100
        assert sum(steps) >= 1200
        assert store.purge(100) == 0
        assert (store.collection("c").n_documents, store.collection("c").n_chunks) == (1, 1)

    def test_purging_is_no_change(self, store: Store) -> None:
        """The state key stays, so cached answers stay."""
        job = claimed(store, "d")
        store.commit_document(job, *part_of(["big"] * 1200, 0, last=True))
        store.delete_document("c", "d")
        before = store.state_key("c")
        purge_all(store)
        assert store.state_key("c") == before

    def test_scores_after_a_purge_are_those_of_a_fresh_collection(self, store: Store) -> None:
        """What was replaced leaves no trace in the ranking once it is purged."""
        job = claimed(store, "d")
        store.commit_document(job, *part_of(["zebra stripes"] * 900, 0, last=True))
        stage_parts(store, claimed(store, "torn"), [["zebra crossing"] * 300, ["zebra"]])
        store.delete_document("c", "torn")
        put(store, "d", "a zebra on the plain")
        put(store, "e", "plain words")
        purge_all(store)
        store.create_collection("fresh", "f", store.collection("c").n_chunks and EMBEDDER.dim)
        put(store, "d", "a zebra on the plain", "fresh")
        put(store, "e", "plain words", "fresh")
        scores = []
        for name in ("c", "fresh"):
            with store.reader(name) as reader:
                scores.append([one.score for one in reader.lexical("zebra plain", 10)])
        assert scores[0] == pytest.approx(scores[1], rel=1e-6)

    def test_drafts_of_living_jobs_are_not_purged(
        self, store: Store, open_store: OpenStore
    ) -> None:
        """Purging between two parts, by any process, takes nothing from the document."""
        job = claimed(store, "d")
        start = 0
        for n, part in enumerate(PARTS):
            args = part_of(part, start, last=n == 3)
            start += len(args[0].text)
            purge_all(store)
            purge_all(open_store())
            (store.commit_document if n == 3 else store.stage)(job, *args)  # type: ignore[operator]
        assert text_of(store, "d") == TEXT
        assert len(found(store, "shared", side="dense", limit=1000)) == 20

    def test_drafts_of_failed_jobs_are_purged(self, store: Store, open_store: OpenStore) -> None:
        """What a failed job had staged goes, whoever purges, and a later attempt starts anew."""
        job = claimed(store, "d")
        last = stage_parts(store, job, PARTS)
        store.fail(job, "x", "X.", retry_after_seconds=None)
        assert purge_all(open_store()) >= 15
        with pytest.raises(StoreError):
            store.commit_document(job, *last)

    def test_purge_by_several_at_once(self, store: Store, open_store: OpenStore) -> None:
        """Handles that purge at the same time take each chunk out once, and raise nothing."""
        for name in ("a", "b", "c"):
            job = claimed(store, name)
            store.commit_document(job, *part_of([f"text {name}"] * 700, 0, last=True))
        handles = [store, open_store(), open_store()]
        store.delete_document("c", "a")
        store.delete_document("c", "b")
        totals: list[int] = []
        threads = [
            threading.Thread(target=lambda h=handle: totals.append(purge_all(h, 50)))  # type: ignore[misc]
            for handle in handles
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(totals) == 3
        assert 1400 <= sum(totals) <= 1410
        assert len(found(store, "text", limit=5000)) == 700


class TextContract(_Base):
    """Texts come in pieces, and documents in the parts that they were committed in."""

    def test_text_comes_in_bounded_pieces(self, store: Store) -> None:
        """A text of many megabytes is never in memory whole; joined, it is the text."""
        text = "größe und 日本語 " * 400_000
        job = claimed(store, "d")
        store.stage(job, ParsedDocument(text, ()), [Chunk(0, 0, 5, text[:5])], _one())
        last = ParsedDocument("the end", (), start=len(text))
        store.commit_document(job, last, [], EMBEDDER.embed([]))
        pieces = list(store.document_text("c", "d"))
        assert len(pieces) > 5
        assert max(map(len, pieces)) <= 4 * 2**20
        assert "".join(pieces) == text + "the end"

    def test_parts_come_back_with_their_structure(self, store: Store) -> None:
        """Blocks, pages, titles and starts are those that were committed."""
        first = ParsedDocument(
            "Head\n\nBody",
            (
                Block(0, 4, BlockKind.HEADING, 2, "Head – größer"),
                Block(6, 10, BlockKind.PARAGRAPH),
            ),
            (PageSpan(1, 0, 5, "ï"), PageSpan(2, 5, 10)),
            "Title",
        )
        second = ParsedDocument("\n\nx | y", (Block(2, 7, BlockKind.TABLE, 0, "a | b"),), start=10)
        job = claimed(store, "d")
        store.stage(job, first, [Chunk(0, 0, 4, "Head")], _one())
        store.commit_document(job, second, [Chunk(1, 12, 17, "x | y")], _one())
        assert list(store.document_parts("c", "d")) == [first, second]
        whole = ParsedDocument("Head", (Block(0, 4, BlockKind.CODE, 0, "Head"),), (), "T")
        store.commit_document(claimed(store, "e"), whole, [Chunk(0, 0, 4, "Head")], _one())
        assert list(store.document_parts("c", "e")) == [whole]

    def test_an_unknown_document_is_told_at_once(self, store: Store) -> None:
        """The call raises, not the first step of the iterator."""
        for call in (store.document_text, store.document_parts):
            for name in ("c", "nowhere"):
                with pytest.raises(NotFoundError):
                    call(name, "unknown")  # type: ignore[operator]

    def test_reading_a_text_that_goes_away_is_an_error(self, store: Store) -> None:
        """A document replaced while it is read ends in `NotFoundError`, never in a mixed text."""
        job = claimed(store, "d")
        last = stage_parts(store, job, PARTS)
        store.commit_document(job, *last)
        reading = store.document_text("c", "d")
        assert next(reading).startswith("alpha0")
        put(store, "d", "new")
        purge_all(store)
        with pytest.raises(NotFoundError):
            list(reading)
        assert text_of(store, "d") == "new"


def _one() -> object:
    return EMBEDDER.embed(["x"])


def _claim_again(store: Store) -> Sequence[Job]:
    import time

    time.sleep(0.05)
    return store.claim("quick", 1, 60.0)
