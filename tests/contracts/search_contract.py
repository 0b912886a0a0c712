"""What searching a `Store` means: filters, BM25, exact cosines, consistent views."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from contracts.store_contract import OpenStore, _Base
from ragdock.core.filters import parse_filter
from ragdock.errors import StoreError
from ragdock.ports import Store
from ragdock.types import Chunk, Vectors
from support.stores import DIM, EMBEDDER, commit, found, index, put, upload

__all__ = ["FiltersContract", "SearchContract"]


def _unit(rng: np.random.Generator, n: int) -> Vectors:
    rows = rng.standard_normal((n, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _put_vectors(store: Store, document_id: str, vectors: Vectors, **metadata: object) -> None:
    text = f"{document_id} {vectors[0, 0] if len(vectors) else 0}"
    (job,) = store.accept("c", [upload(document_id, text, **metadata)])
    (job,) = store.claim("w", 1, 60.0)
    chunks = [Chunk(n, 0, 1, f"{document_id} {n}") for n in range(len(vectors))]
    commit(store, job, chunks=chunks, vectors=vectors)


class SearchContract(_Base):
    """Lexical and dense results, and the view that they belong to."""

    def test_an_empty_collection_finds_nothing(self, store: Store) -> None:
        """Both sides answer nothing, with a baseline of zero."""
        with store.reader("c") as reader:
            assert reader.lexical("word", 10) == ()
            result = reader.dense(EMBEDDER.embed(["word"])[0], 10)
            assert (result.hits, result.baseline) == ((), 0.0)
            assert reader.hits([1, 2]) == {}

    def test_hits_carry_the_passage(self, store: Store) -> None:
        """A hit has its document's facts and its chunk's, no scores; unknown ids are left out."""
        store.accept("c", [upload("d", "one two three", k=["v"])])
        (job,) = store.claim("w", 1, 60.0)
        commit(store, job, chunks=[Chunk(0, 4, 7, "two", "Title", 3, "iii")])
        with store.reader("c") as reader:
            (scored,) = reader.lexical("two", 10)
            hits = reader.hits([scored.chunk_id, scored.chunk_id + 1000])
        (hit,) = hits.values()
        assert (hit.chunk_id, hit.document_id, hit.filename) == (scored.chunk_id, "d", "d.md")
        assert (hit.start, hit.end, hit.text, hit.context, hit.page) == (4, 7, "two", "Title", 3)
        assert hit.page_label == "iii"
        assert hit.metadata == {"k": ["v"]}
        assert (hit.lexical, hit.dense, hit.fused) == (None, None, 0.0)

    def test_lexical_ranks_by_bm25(self, store: Store) -> None:
        """Rare words outweigh common ones, more is better, shorter is better; best first."""
        for n in range(20):
            put(store, f"common{n}", f"the report number{n} is about budgets")
        put(store, "rare", "the report names a zebra among many other animals of the plains")
        put(store, "short", "zebra report")
        put(store, "twice", "zebra zebra report")
        ids = found(store, "zebra report", limit=30)
        assert ids[:3] in (["twice", "short", "rare"], ["short", "twice", "rare"])
        assert len(ids) == 23
        with store.reader("c") as reader:
            scores = [one.score for one in reader.lexical("zebra report", 30)]
        assert scores == sorted(scores, reverse=True)
        assert all(score > 0 for score in scores[:3])
        assert found(store, "zebra report", limit=2) == ids[:2]

    def test_ranking_does_not_remember_replaced_texts(
        self, store: Store, open_store: OpenStore
    ) -> None:
        """After many replacements and deletions the scores are those of a fresh collection."""
        rng = np.random.default_rng(5)
        words = [f"word{n}" for n in range(40)]
        weights = 1 / np.arange(1, 41)
        weights /= weights.sum()
        texts: dict[str, str] = {}
        for n in range(120):
            name = f"d{n % 30}"
            texts[name] = " ".join(rng.choice(words, rng.integers(3, 30), p=weights))
            put(store, name, texts[name])
        for name in ("d3", "d7"):
            store.delete_document("c", name)
            del texts[name]
        store.create_collection("fresh", "f", DIM)
        for name in store.documents("c"):
            put(store, name.id, texts[name.id], "fresh")

        def scores(collection: str, query: str) -> dict[str, float]:
            with store.reader(collection) as reader:
                scored = reader.lexical(query, 100)
                hits = reader.hits([one.chunk_id for one in scored])
            return {hits[one.chunk_id].document_id: one.score for one in scored}

        for query in ("word3 word20", "word35", "word1 word2 word39"):
            assert scores("c", query) == pytest.approx(scores("fresh", query), rel=1e-6)

    def test_context_counts(self, store: Store) -> None:
        """Words of the context find the chunk as words of its text do."""
        store.accept("c", [upload("d", "body text")])
        (job,) = store.claim("w", 1, 60.0)
        commit(store, job, chunks=[Chunk(0, 0, 9, "body text", "Quarterly Heading")])
        assert found(store, "heading") == ["d"]
        assert found(store, "body heading") == ["d"]

    @pytest.mark.parametrize(
        ("text", "query"),
        [
            ("Running quickly", "runs quick"),
            ("Straße und Café", "cafe"),
            ("東京都の人口は多い", "人口"),
            ("서울의 인구", "인구"),
            ("ประเทศไทย", "ไทย"),
            ("हिन्दी भाषा में", "हिन्दी"),
            ("Владивосток город", "владивосток"),
            ("ﬁne ｆｕｌｌ width", "full fine"),
            ("C3PO and R2D2", "r2d2"),
        ],
    )
    def test_words_of_any_script_are_found(self, store: Store, text: str, query: str) -> None:
        """Case, common word forms, compatibility forms and unspaced scripts match."""
        put(store, "other", "something else entirely")
        put(store, "d", text)
        assert found(store, query) == ["d"]

    def test_part_of_a_word_is_no_match(self, store: Store) -> None:
        """Hindi words are words: a query for one consonant of it finds nothing."""
        put(store, "d", "हिन्दी भाषा")
        assert found(store, "ह") == []

    @pytest.mark.parametrize(
        "query",
        [
            'say "hello" AND',
            "hello AND NOT world",
            "hello*",
            "NEAR(hello world)",
            "text: hello",
            "^hello",
            "hello\0world",
            "{hello}",
            "-hello",
            "hello 👩‍👩‍👧",
            "(hello",
            "hello'",
            "hello; DROP TABLE words",
            "%hello_",
            "hello \\",
        ],
    )
    def test_odd_queries_are_just_words(self, store: Store, query: str) -> None:
        """Operators of query languages are text: the word is found, nothing raises."""
        put(store, "d", "hello there")
        put(store, "e", "goodbye")
        assert found(store, query) == ["d"]

    @pytest.mark.parametrize("query", ["", " ", "?!", "\0", "👩", "***", '"', "unknownword"])
    def test_queries_without_known_words_find_nothing(self, store: Store, query: str) -> None:
        """No term, no hit, no error."""
        put(store, "d", "hello there")
        assert found(store, query) == []

    def test_very_long_queries_are_bounded(self, store: Store) -> None:
        """A query of thousands of words answers."""
        put(store, "d", "hello there")
        assert found(store, "hello " + " ".join(f"w{n}" for n in range(5000))) == ["d"]

    def test_dense_is_exact(self, store: Store) -> None:
        """Ids and cosines equal a brute-force scan, through replacements and deletions."""
        rng = np.random.default_rng(11)
        rows: dict[str, Vectors] = {}

        def check() -> None:
            names = [(name, n) for name, part in rows.items() for n in range(len(part))]
            matrix = np.concatenate(list(rows.values()))
            for query in _unit(rng, 5):
                cosines = matrix @ query
                with store.reader("c") as reader:
                    result = reader.dense(query, 20)
                    hits = reader.hits([one.chunk_id for one in result.hits])
                best = np.argsort(-cosines)[:20]
                got = [one.score for one in result.hits]
                assert got == pytest.approx(cosines[best].tolist(), abs=1e-3)
                assert got == sorted(got, reverse=True)
                exact = dict(zip((f"{name} {n}" for name, n in names), cosines, strict=True))
                for one in result.hits:
                    assert one.score == pytest.approx(exact[hits[one.chunk_id].text], abs=1e-3)
                top = np.sort(cosines)[::-1][:1000]
                assert result.baseline == pytest.approx(float(top.mean()), abs=5e-3)

        for n in range(12):
            rows[f"d{n}"] = _unit(rng, 150)
            _put_vectors(store, f"d{n}", rows[f"d{n}"])
        check()
        for name in ("d1", "d5"):
            rows[name] = _unit(rng, 70)
            _put_vectors(store, name, rows[name])
            check()
        for name in ("d0", "d5", "d11"):
            store.delete_document("c", name)
            del rows[name]
            check()
        rows["d12"] = _unit(rng, 1)
        _put_vectors(store, "d12", rows["d12"])
        check()

    @pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
    def test_dense_is_exact_under_a_filter(self, store: Store, share: float) -> None:
        """A filter narrows before ranking: the best of what passes, in full number."""
        rng = np.random.default_rng(3)
        kept = []
        for n in range(100):
            vectors = _unit(rng, 8)
            passes = n < 100 * share
            _put_vectors(store, f"d{n}", vectors, keep=passes)
            if passes:
                kept.append(vectors)
        matrix = np.concatenate(kept)
        query = _unit(rng, 1)[0]
        with store.reader("c") as reader:
            result = reader.dense(query, 10, parse_filter({"keep": True}))
        best = np.sort(matrix @ query)[::-1]
        assert [one.score for one in result.hits] == pytest.approx(best[:10].tolist(), abs=1e-3)
        assert result.baseline == pytest.approx(float(best[:1000].mean()), abs=5e-3)

    @pytest.mark.parametrize("asked_before", [True, False])
    def test_a_reader_stays_at_its_generation(
        self, store: Store, open_store: OpenStore, asked_before: bool
    ) -> None:
        """What is written after the view was opened doesn't show, on any side, and nothing lacks.

        Another reader of the same handle is at the newest state meanwhile, and later changes of
        the handle's own memory don't reach back.
        """
        writer = open_store()
        for n in range(3):
            put(store, f"d{n}", f"common apples{n}")
        before = {f"d{n}": f"common apples{n}" for n in range(3)}
        vector = EMBEDDER.embed(["common apples1"])[0]
        with store.reader("c") as old:
            generation = old.collection.generation
            if asked_before:
                assert len(old.dense(vector, 10).hits) == 3
            for n in range(3):
                put(writer, f"d{n}", f"common pears{n}")
            put(writer, "d9", "common apples9")
            writer.delete_document("c", "d0")
            assert sorted(found(store, "common", side="dense")) == ["d1", "d2", "d9"]
            for scored in (old.dense(vector, 10).hits, old.lexical("common", 10)):
                hits = old.hits([one.chunk_id for one in scored])
                assert {hit.document_id: hit.text for hit in hits.values()} == before
                assert len(scored) == 3
            assert old.collection.generation == generation
            assert old.collection.n_documents == 3
        with store.reader("c") as new:
            assert new.collection.generation == generation + 5

    def test_readers_see_whole_documents_while_writes_go_on(
        self, store: Store, open_store: OpenStore
    ) -> None:
        """Every view holds each document once, with all chunks of one version."""
        put(store, "d", _version(0))
        put(store, "e", _version(0))
        stop = threading.Event()
        writer = open_store()
        wrong: list[object] = []

        def read() -> None:
            vector = EMBEDDER.embed(["part"])[0]
            try:
                while not stop.is_set():
                    with store.reader("c") as reader:
                        for scored in (reader.lexical("part", 50), reader.dense(vector, 50).hits):
                            hits = reader.hits([one.chunk_id for one in scored]).values()
                            kinds = {(h.document_id, h.text.split()[1]) for h in hits}
                            if len(hits) != 10 or len(kinds) != 2 or len(scored) != 10:
                                wrong.append(sorted(h.text for h in hits))
            except BaseException as exc:  # noqa: BLE001
                wrong.append(exc)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for n in range(1, 25):
            put(writer, "de"[n % 2], _version(n))
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_a_write_is_seen_by_the_next_query_of_every_handle(
        self, store: Store, open_store: OpenStore
    ) -> None:
        """There is no delay and no refresh: not for new texts, not for deletions."""
        other = open_store()
        for n in range(10):
            put(store, "d", f"marker{n}")
            for side in ("lexical", "dense"):
                assert found(other, f"marker{n}", side=side) == ["d"]
            assert found(other, f"marker{n - 1}") == []
            store.delete_document("c", "d")
            assert found(other, f"marker{n}") == found(other, f"marker{n}", side="dense") == []

    def test_a_reader_ends_with_its_block(self, store: Store) -> None:
        """A view kept beyond its `with` block refuses."""
        put(store, "d", "text")
        with store.reader("c") as reader:
            pass
        with pytest.raises(StoreError):
            reader.lexical("text", 10)

    def test_an_error_in_the_block_comes_through(self, store: Store) -> None:
        """The caller's own exception is not changed, and the store works on."""
        put(store, "d", "text")
        with pytest.raises(ZeroDivisionError), store.reader("c"):
            _ = 1 / 0
        assert found(store, "text") == ["d"]


def _version(n: int) -> str:
    return "\n\n".join(f"part v{n} piece{k}" for k in range(5))


_DOCUMENTS: dict[str, dict[str, object]] = {
    "int": {"v": 3},
    "float": {"v": 3.5},
    "true": {"v": True},
    "one": {"v": 1},
    "text": {"v": "3"},
    "list": {"v": ["a", "b"]},
    "big": {"v": 2**70},
    "neg": {"v": -1, "w": "x"},
    "none": {},
}


class FiltersContract(_Base):
    """Every operator, on both sides; types are kept apart."""

    @pytest.fixture
    def store(self, open_store: OpenStore) -> Store:
        """A collection whose documents differ in the metadata field `v`."""
        store = open_store()
        store.create_collection("c", "f", DIM)
        store.accept("c", [upload(name, "word", **m) for name, m in _DOCUMENTS.items()])
        index(store)
        return store

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            (None, "int float true one text list big neg none"),
            ({"v": 3}, "int"),
            ({"v": 3.0}, "int"),
            ({"v": 3.5}, "float"),
            ({"v": "3"}, "text"),
            ({"v": True}, "true"),
            ({"v": False}, ""),
            ({"v": 1}, "one"),
            ({"v": 1.0}, "one"),
            ({"v": "a"}, "list"),
            ({"v": ["a", 3, True]}, "list int true"),
            ({"v": ["1", "zz"]}, ""),
            ({"v": {"in": [1, 3.5]}}, "one float"),
            ({"v": 2**70}, "big"),
            ({"v": {"ne": 3}}, "float true one text list big neg none"),
            ({"v": {"ne": "b"}}, "int float true one text big neg none"),
            ({"v": {"ne": True}}, "int float one text list big neg none"),
            ({"v": {"gt": 1}}, "int float big"),
            ({"v": {"gte": 1}}, "one int float big"),
            ({"v": {"lt": 1}}, "neg"),
            ({"v": {"lte": 1}}, "neg one"),
            ({"v": {"gt": 1, "lt": 3.5}}, "int"),
            ({"v": {"gte": "a"}}, "list"),
            ({"v": {"lt": "a"}}, "text"),
            ({"v": {"exists": True}}, "int float true one text list big neg"),
            ({"v": {"exists": False}}, "none"),
            ({"v": -1, "w": "x"}, "neg"),
            ({"v": -1, "w": "y"}, ""),
            ({"unknown": 1}, ""),
            ({"unknown": {"ne": 1}}, "int float true one text list big neg none"),
            ({"document_id": "int"}, "int"),
            ({"document_id": ["int", "one", 3]}, "int one"),
            ({"document_id": {"ne": "int"}}, "float true one text list big neg none"),
            ({"document_id": {"gt": "neg", "lt": "p"}}, "none one"),
            ({"filename": "int.md"}, "int"),
            ({"filename": 3}, ""),
            ({"filename": {"ne": 3}}, "int float true one text list big neg none"),
            ({"filename": {"exists": True}}, "int float true one text list big neg none"),
            ({"filename": {"exists": False}}, ""),
            ({"media_type": "text/markdown", "v": 3}, "int"),
            ({"media_type": "text/plain"}, ""),
            ({"v": "'; DROP TABLE fields; --"}, ""),
            ({"v\0'": "x"}, ""),
        ],
    )
    def test_filters(self, store: Store, filters: dict[str, object] | None, expected: str) -> None:
        """Both sides let through just the documents that the filter means."""
        for side in ("lexical", "dense"):
            assert sorted(found(store, "word", filters, side=side)) == sorted(expected.split())

    def test_filters_one_after_the_other_do_not_mix(self, store: Store) -> None:
        """true, 1 and 1.0 are equal in some languages; a cache must not take one for another."""
        for _ in range(2):
            for value, expected in ((True, "true"), (1, "one"), (1.0, "one"), ("1", "")):
                for side in ("dense", "lexical"):
                    assert found(store, "word", {"v": value}, side=side) == expected.split()

    def test_filters_follow_changes(self, store: Store) -> None:
        """A document whose metadata changed passes by its new metadata only."""
        assert found(store, "word", {"v": 3}, side="dense") == ["int"]
        put(store, "int", "word", v=4)
        for side in ("dense", "lexical"):
            assert found(store, "word", {"v": 3}, side=side) == []
            assert found(store, "word", {"v": 4}, side=side) == ["int"]

    @pytest.mark.parametrize(
        "value", ["ä\0b", "\U0001f469", " ", "NULL", 0.1, 1e300, 5e-324, 2**53]
    )
    def test_values_are_compared_exactly(self, store: Store, value: str | float) -> None:
        """Odd strings and extreme numbers equal themselves, alone and in a list."""
        put(store, "odd", "word", v=value)
        for filters in ({"v": value}, {"v": [value, "other"]}):
            assert found(store, "word", filters) == ["odd"]

    def test_a_long_list_of_values(self, store: Store) -> None:
        """A thousand alternatives are no problem."""
        filters = {"v": {"in": [f"x{n}" for n in range(999)] + ["3"]}}
        assert found(store, "word", filters) == ["text"]
