"""Reindexing: the new index is what a fresh one would be; nothing is lost or mixed on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ragdock.adapters.stores.sqlite import SqliteKeeper, SqliteStore, indexes
from ragdock.core.fingerprints import fingerprint_of, same_vectors
from ragdock.errors import ConflictError, NotFoundError, StoreError
from ragdock.ports import Embedder
from ragdock.services.reindex import Outcome, Reindexer, Status
from ragdock.types import Block, BlockKind, Chunk, Job, JobState, PageSpan, ParsedDocument
from support.embedders import HashEmbedder
from support.stores import (
    claimed,
    commit,
    found,
    index,
    memory_directory,
    part_of,
    put,
    stage_parts,
    text_of,
    upload,
)

OLD = HashEmbedder(64)
NEW = HashEmbedder(32)


def fingerprint(embedder: Embedder, chunk_tokens: int = 64) -> str:
    """That of an index made so."""
    return fingerprint_of(embedder.id, embedder.dim, "chunker", chunk_tokens)


@pytest.fixture
def home() -> Iterator[Path]:
    with memory_directory() as path:
        yield path


@pytest.fixture
def store(home: Path) -> Iterator[SqliteStore]:
    with_settings = open_store(home)
    with_settings.create_collection("c", fingerprint(OLD), OLD.dim)
    yield with_settings
    with_settings.close()


def open_store(home: Path, embedder: Embedder | None = None, chunk_tokens: int = 64) -> SqliteStore:
    """A handle, of a process that runs the embedder if one is given."""
    store = SqliteStore(home)
    if embedder is not None:
        store.prefer(fingerprint(embedder, chunk_tokens))
    return store


def ignore(status: Status) -> None:
    pass


def reindex(
    home: Path,
    embedder: Embedder = NEW,
    *,
    chunk_tokens: int = 64,
    force: bool = False,
    progress: object = ignore,
) -> Outcome | None:
    """What the command does, in a store handle of its own."""
    store = SqliteStore(home)
    try:
        wanted = fingerprint(embedder, chunk_tokens)
        build = store.rebuild("c", wanted, embedder.dim, force=force)
        if build is None:
            return None
        with build:
            return Reindexer(embedder, chunk_tokens).run(build, progress)  # type: ignore[arg-type]
    finally:
        store.close()


def dense(store: SqliteStore, query: str, embedder: Embedder = NEW) -> list[str]:
    """Ids of the nearest documents."""
    with store.reader("c") as reader:
        scored = reader.dense(embedder.embed([query])[0], 10).hits
        hits = reader.hits([one.chunk_id for one in scored])
    return [hits[one.chunk_id].document_id for one in scored]


def sound(home: Path) -> bool:
    """Whether verify finds nothing."""
    verdict = SqliteKeeper(home).verify(quick=False, progress=lambda *_: None)
    return verdict.findings == ()


def test_labels_of_pages_survive(home: Path, store: SqliteStore) -> None:
    """The new passages start on pages that are called as before."""
    parsed = ParsedDocument(
        "Alpha words.\n\nBeta words.",
        (Block(0, 12, BlockKind.PARAGRAPH), Block(14, 25, BlockKind.PARAGRAPH)),
        (PageSpan(1, 0, 12, "iv"), PageSpan(2, 12, 25, "1")),
    )
    chunks = [Chunk(0, 0, 25, parsed.text, "", 1, "iv")]
    store.commit_document(claimed(store, "d"), parsed, chunks, OLD.embed(["alpha"]))
    assert reindex(home) is not None
    with store.reader("c") as reader:
        hits = reader.hits(range(20)).values()
    told = sorted((hit.text, hit.page, hit.page_label) for hit in hits)
    assert told == [("Alpha words.", 1, "iv"), ("Beta words.", 2, "1")]


def test_fingerprints_tell_what_can_be_compared() -> None:
    """Vectors are the same with another size of passages, and not with another embedder."""
    assert same_vectors("a/b/384/c+l/200", "a/b/384/c2+l/300")
    assert not same_vectors("a/b/384/c+l/200", "a/b/385/c+l/200")
    assert not same_vectors("a/b/384/c+l/200", "a/c/384/c+l/200")


def test_the_new_index_is_what_a_fresh_one_would_be(home: Path, store: SqliteStore) -> None:
    """Texts, metadata, times and versions stay; passages and vectors are new."""
    for n in range(8):
        put(store, f"d{n}", f"alpha{n} words\n\nbeta{n} words", n=n)
    put(store, "d3", "alpha3 words anew", n=33)
    store.delete_document("c", "d4")
    before = {one.id: one for one in store.documents("c")}
    texts = {name: text_of(store, name) for name in before}
    key, generation = store.state_key("c"), store.collection("c").generation
    outcome = reindex(home)
    assert outcome is not None
    assert (outcome.n_documents, outcome.n_written) == (7, 7)
    after = {one.id: one for one in store.documents("c")}
    kept = ("filename", "sha256", "version", "metadata", "created_at", "updated_at", "title")
    assert after.keys() == before.keys()
    for name, document in after.items():
        assert [getattr(document, k) for k in kept] == [getattr(before[name], k) for k in kept]
        assert text_of(store, name) == texts[name]
    found_now = store.collection("c")
    assert found_now.fingerprint == fingerprint(NEW)
    assert found_now.generation > generation
    assert found_now.reindex_percent is None
    assert store.state_key("c") != key
    assert store.peek_state_key("c") == store.state_key("c")
    assert dense(store, "beta5")[0] == "d5"
    assert found(store, "alpha3", {"n": 33}) == ["d3"]
    assert found(store, "alpha4") == []
    assert sound(home)
    assert reindex(home) is None


def test_documents_in_parts_stay_in_parts(home: Path, store: SqliteStore) -> None:
    """A large document's parts are read and staged one by one."""
    parts = [[f"alpha{p} word{p}x{n}." for n in range(5)] for p in range(4)]
    job = claimed(store, "long")
    store.commit_document(job, *stage_parts(store, job, parts))
    text = text_of(store, "long")
    reindex(home)
    assert text_of(store, "long") == text
    assert dense(store, "word2x3")[0] == "long"
    assert sound(home)


def test_writes_meanwhile_are_in_it(home: Path, store: SqliteStore) -> None:
    """What is added, replaced and deleted during the rounds is followed."""
    for n in range(12):
        put(store, f"d{n:02}", f"alpha{n}")
    moments = iter(range(100))

    def write(status: Status) -> None:
        n = next(moments)
        if n == 0:
            assert store.collection("c").reindex_percent is not None
            put(store, "d00", "replaced00")
            put(store, "d11", "replaced11")
            put(store, "a-new", "added1")
            put(store, "z-new", "added2")
            store.delete_document("c", "d01")
            store.delete_document("c", "d10")
            put(store, "d02", "replaced02")
            store.delete_document("c", "d02")
            put(store, "d02", "again02")

    outcome = reindex(home, OLD, chunk_tokens=32, progress=write)
    assert outcome is not None
    names = {one.id for one in store.documents("c")}
    assert names == {f"d{n:02}" for n in range(12) if n not in (1, 10)} | {"a-new", "z-new"}
    for word, name in (("replaced00", "d00"), ("replaced11", "d11"), ("again02", "d02")):
        assert found(store, word) == [name]
    assert found(store, "alpha0 alpha1 alpha10") == []
    put(store, "d01", "back01")
    assert found(store, "back01") == ["d01"]
    assert sound(home)


def test_a_run_that_was_cut_short_goes_on(home: Path, store: SqliteStore) -> None:
    """What is done is done; a run for other settings begins anew."""
    for n in range(10):
        put(store, f"d{n}", f"alpha{n}")

    class Counting(HashEmbedder):
        def embed(self, texts: object, **options: object) -> object:  # type: ignore[override]
            if self.calls >= 6:
                raise KeyboardInterrupt
            return super().embed(texts, **options)  # type: ignore[arg-type]

    with pytest.raises(KeyboardInterrupt):
        reindex(home, Counting(32))
    assert store.collection("c").reindex_percent == 0
    again = open_store(home)  # A start finds the unfinished file and leaves it.
    again.close()
    outcome = reindex(home)
    assert outcome is not None
    assert outcome.n_written == 4
    with pytest.raises(KeyboardInterrupt):
        reindex(home, Counting(16))
    outcome = reindex(home, HashEmbedder(8))
    assert outcome is not None
    assert outcome.n_written == 10
    assert sound(home)


def test_an_unfinished_run_can_be_removed(home: Path, store: SqliteStore) -> None:
    """Its file goes; while somebody works on it, that is refused."""
    put(store, "d", "alpha")
    build = store.rebuild("c", fingerprint(NEW), NEW.dim)
    assert build is not None
    other = open_store(home)
    with pytest.raises(ConflictError) as refused:
        other.rebuild("c", fingerprint(NEW), NEW.dim)
    assert refused.value.code == "reindexing"
    with pytest.raises(ConflictError):
        other.discard_build("c")
    build.close()
    assert len(list((home / "collections").glob("*.db"))) == 2
    assert other.discard_build("c")
    assert not other.discard_build("c")
    assert len(list((home / "collections").glob("*.db"))) == 1
    other.close()


def test_a_server_of_the_former_embedder_goes_on_reading(home: Path, store: SqliteStore) -> None:
    """It finds what it found, mixes nothing, and refuses writes until it is restarted."""
    old = open_store(home, OLD)
    for n in range(6):
        put(old, f"d{n}", f"alpha{n}\n\nshared")
    key = old.state_key("c")
    reindex(home)
    new = open_store(home, NEW)
    assert dense(old, "alpha3", OLD)[0] == "d3"
    assert dense(new, "alpha3", NEW)[0] == "d3"
    assert old.collection("c").fingerprint == fingerprint(OLD)
    assert [one.fingerprint for one in old.collections()] == [fingerprint(OLD)]
    assert new.collection("c").fingerprint == fingerprint(NEW)
    assert old.state_key("c") == key
    assert old.peek_state_key("c") is None
    assert new.peek_state_key("c") == new.state_key("c") != key
    for write in (
        lambda: old.accept("c", [upload("x", "x")]),
        lambda: old.delete_document("c", "d1"),
    ):
        with pytest.raises(ConflictError, match="restart") as refused:
            write()
        assert refused.value.code == "fingerprint_mismatch"
    # The new server's writes are not for the old one to see, nor to work on.
    new.delete_document("c", "d1")
    new.accept("c", [upload("d2", "replaced2")])
    assert old.claim("old-worker", 10, 60.0) == ()
    (job,) = new.claim("new-worker", 10, 60.0)
    _commit(new, job, NEW)
    assert found(old, "alpha1 alpha2") == ["d1", "d2"]
    assert found(new, "alpha1 alpha2 replaced2") == ["d2"]
    old.close()
    new.close()
    assert sound(home)


def test_a_server_of_another_passage_size_goes_on_with_the_new_index(
    home: Path, store: SqliteStore
) -> None:
    """The same embedder can read it; documents are left to a server with the new settings."""
    old = open_store(home, OLD)
    put(old, "d", "alpha\n\nbeta")
    (waiting,) = old.accept("c", [upload("e", "gamma")])
    reindex(home, OLD, chunk_tokens=32)
    assert old.collection("c").fingerprint == fingerprint(OLD, 32)
    assert dense(old, "beta", OLD) == ["d"]
    assert old.claim("old-worker", 10, 60.0) == ()
    old.delete_document("c", "d")
    new = open_store(home, OLD, 32)
    assert [job.id for job in new.claim("new-worker", 10, 60.0)] == [waiting.id]
    old.close()
    new.close()


def _commit(store: SqliteStore, job: Job, embedder: Embedder) -> Job:
    parsed, chunks, _ = part_of(["replaced2"], 0, last=True)
    return store.commit_document(job, parsed, chunks, embedder.embed(["replaced2"]))


def test_work_under_way_is_not_written_to_either_index(home: Path, store: SqliteStore) -> None:
    """A worker of the former settings that commits after the switch is refused."""
    old = open_store(home, OLD)
    put(old, "d", "alpha")
    old.accept("c", [upload("d", "replaced2")])
    (job,) = old.claim("old-worker", 10, 60.0)
    reindex(home)
    with pytest.raises(StoreError) as refused:
        commit(old, job)
    assert refused.value.code == "reindexed"
    with pytest.raises(StoreError):
        old.stage(job, *part_of(["a"], 0))
    old.release("old-worker")
    new = open_store(home, NEW)
    (job,) = new.claim("new-worker", 10, 60.0)
    assert _commit(new, job, NEW).outcome == "indexed"
    assert dense(new, "replaced2") == ["d"]
    assert found(old, "alpha") == ["d"]
    old.close()
    new.close()


def test_former_files_go_when_nobody_reads_them(
    home: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before a while after the switch, and not while a process lives that runs its embedder."""

    def n_files() -> int:
        return len(list((home / "collections").glob("*.db")))

    old, worker = open_store(home, OLD), open_store(home, NEW)
    put(old, "d", "alpha")
    reindex(home)
    worker.purge(10)
    assert n_files() == 2
    monkeypatch.setattr(indexes, "KEEP_FORMER_SECONDS", 0.0)
    worker.remove_former()
    assert n_files() == 2
    assert found(old, "alpha") == ["d"]
    old.close()
    worker.remove_former()
    assert n_files() == 1
    reindex(home, force=True)  # Whoever can read the new one doesn't need the former one.
    assert dense(worker, "alpha") == ["d"]
    worker.remove_former()
    assert n_files() == 1
    assert dense(worker, "alpha") == ["d"]
    worker.close()
    assert sound(home)


def test_a_dropped_collection_takes_all_its_files(home: Path, store: SqliteStore) -> None:
    """Former and unfinished ones too; a build of it ends with an error."""
    put(store, "d", "alpha")
    reindex(home)
    build = store.rebuild("c", fingerprint(OLD), OLD.dim)
    assert build is not None
    other = open_store(home)
    assert len(list((home / "collections").glob("*.db"))) == 3
    other.drop_collection("c")
    with pytest.raises((NotFoundError, StoreError)):
        Reindexer(OLD, 64).run(build, ignore)
    build.close()
    assert list((home / "collections").glob("*.db")) == []
    other.close()


def test_no_write_is_lost_at_the_switch(home: Path, store: SqliteStore) -> None:
    """Writers that never pause, and index after index: each acknowledged write is found."""
    stop = threading.Event()
    latest: dict[str, str | None] = {}
    errors: list[BaseException] = []

    def write(me: int, mine: SqliteStore) -> None:
        try:
            n = 0
            while not stop.is_set():
                n += 1
                name = f"w{me}-{n % 7}"
                mine.accept("c", [upload(name, f"marker{me}x{n}")])
                for job in mine.claim(f"worker{me}", 10, 60.0):
                    with suppress(NotFoundError):  # The other writer deleted it meanwhile.
                        commit(mine, job)
                latest[name] = f"marker{me}x{n}"
                if n % 5 == 0:
                    mine.delete_document("c", name)
                    latest[name] = None
        except BaseException as exc:  # noqa: BLE001 (whatever it is, the test fails by it)
            errors.append(exc)

    handles = [open_store(home) for _ in range(2)]
    threads = [threading.Thread(target=write, args=pair) for pair in enumerate(handles)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 4
    n_switches = 0
    while time.monotonic() < end or n_switches < 3:
        reindex(home, OLD, force=True)
        n_switches += 1
    stop.set()
    for thread in threads:
        thread.join()
    for handle in handles:
        handle.close()
    assert not errors
    index(store)
    there = {one.id for one in store.documents("c")}
    assert there == {name for name, marker in latest.items() if marker}
    for name, marker in latest.items():
        if marker:
            assert found(store, marker) == [name]
    assert store.queue_depth()[JobState.FAILED] == 0
    assert sound(home)


def test_a_crash_at_the_switch_leaves_one_or_the_other(
    home: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the catalogue isn't committed the old index stays, and the next run finishes."""
    put(store, "d", "alpha")
    put(store, "e", "beta")
    store.delete_document("c", "e")
    cancelled = store.accept("c", [upload("f", "cancelled")])[0]
    store.cancel(cancelled.id)

    def crash(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(indexes.Indexes, "switch", staticmethod(crash))
        with pytest.raises(KeyboardInterrupt):
            reindex(home)
    assert store.collection("c").fingerprint == fingerprint(OLD)
    put(store, "d", "alpha anew")
    outcome = reindex(home)
    assert outcome is not None
    assert outcome.n_written == 1
    assert dense(store, "anew") == ["d"]
    assert sound(home)
