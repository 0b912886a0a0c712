"""The int8 copy: the shared file and its refusals, compaction, the NumPy fallback, the log."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ragdock.adapters.stores.sqlite import SqliteStore, dense, lexical, segments
from ragdock.adapters.stores.sqlite.lexical import rare_terms
from ragdock.errors import IntegrityError
from ragdock.types import Chunk, ParsedDocument, Vectors
from support.stores import DIM, commit, memory_directory, put, upload

ROWS = 120


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty data directory."""
    with memory_directory() as path:
        yield path


@pytest.fixture
def store(directory: Path) -> Iterator[SqliteStore]:
    """A store with an empty collection `c`."""
    store = SqliteStore(directory)
    store.create_collection("c", "f", DIM)
    yield store
    store.close()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Share and compact from a hundred rows, so that tests needn't write twenty thousand."""
    monkeypatch.setattr(dense.DenseIndex.__init__, "__kwdefaults__", {"share_from_rows": 100})
    monkeypatch.setattr(dense, "COMPACT_FROM_ROWS", 20)
    monkeypatch.setattr(dense, "SHARE_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(dense, "MAX_TAIL_BLOCKS", 3)


def _rows(seed: int, n: int = ROWS) -> Vectors:
    rows = np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _add(store: SqliteStore, name: str, rows: Vectors) -> None:
    store.accept("c", [upload(name, f"{name} {rows[0, 0]}")])
    (job,) = store.claim(f"w{id(store)}", 1, 60.0)
    commit(store, job, chunks=[Chunk(n, 0, 1, "x") for n in range(len(rows))], vectors=rows)


def _best(store: SqliteStore, query: Vectors, limit: int = 15) -> list[float]:
    with store.reader("c") as reader:
        return [one.score for one in reader.dense(query[0], limit).hits]


def _check(store: SqliteStore, parts: dict[str, Vectors]) -> None:
    query = _rows(999, 1)
    exact = np.sort(np.concatenate(list(parts.values())) @ query[0])[::-1][:15]
    assert _best(store, query) == pytest.approx(exact.tolist(), abs=1e-3)


def _file(directory: Path) -> Path:
    (path,) = (directory / "collections").glob("*.shared/vectors.i8")
    return path


def _view(store: SqliteStore) -> dense.View:
    (entry,) = store._files._entries.values()
    assert entry.file is not None
    return entry.file._dense._view


def test_below_the_limit_nothing_is_shared(store: SqliteStore, directory: Path) -> None:
    """Small collections have no file beside the database."""
    _add(store, "a", _rows(1))
    _check(store, {"a": _rows(1)})
    assert list((directory / "collections").glob("*.shared")) == []


@pytest.mark.usefixtures("small")
def test_a_large_collection_is_shared(store: SqliteStore, directory: Path) -> None:
    """Beyond the limit the first search writes the file, and a new process maps it."""
    parts = {"a": _rows(1), "b": _rows(2, 10)}
    _add(store, "a", parts["a"])
    _check(store, {"a": parts["a"]})
    assert _view(store).mapped_at == 1
    written = _file(directory).stat().st_mtime_ns
    _add(store, "b", parts["b"])
    _check(store, parts)
    other = SqliteStore(directory)
    _check(other, parts)
    assert _view(other).mapped_at == 1
    assert _file(directory).stat().st_mtime_ns == written
    other.close()


@pytest.mark.usefixtures("small")
def test_results_are_equal_with_and_without_the_file(store: SqliteStore, directory: Path) -> None:
    """The file changes no score: through additions, replacements and deletions."""
    plain = SqliteStore(directory)
    parts: dict[str, Vectors] = {}
    for step in range(14):
        name = f"d{step % 6}"
        parts[name] = _rows(step, 30 + step)
        _add(store, name, parts[name])
        if step in (7, 11):
            store.delete_document("c", name)
            del parts[name]
        _check(store, parts)
        fresh = SqliteStore(directory)
        _check(fresh, parts)
        fresh.close()
        query = _rows(step + 100, 1)
        with plain.reader("c") as reader:
            unshared = dense.DenseIndex(DIM, directory / "nowhere", share_from_rows=10**9)
            result = unshared.search(
                reader._connection, reader.collection.generation, query[0], 15, None
            )
        assert [one.score for one in result.hits] == _best(store, query)
    plain.close()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _flip(position: int) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[position] ^= 0x40
        path.write_bytes(bytes(data))

    return flip


def _other_dim(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(f'"dim": {DIM}'.encode(), f'"dim": {DIM + 1}'.encode()))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _flip(0),
        _flip(30),
        _flip(-1),
        _flip(-5000),
        _other_dim,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"foreign" * 5000),
        lambda path: path.unlink(),
    ],
)
def test_a_damaged_file_is_ignored_and_written_anew(
    store: SqliteStore, directory: Path, damage: Callable[[Path], None]
) -> None:
    """Whatever happens to the cache file, results stay right and the file becomes whole."""
    parts = {"a": _rows(1)}
    _add(store, "a", parts["a"])
    _check(store, parts)
    whole = _file(directory).read_bytes()
    store.close()
    damage(_file(directory))
    again = SqliteStore(directory)
    _check(again, parts)
    assert _file(directory).read_bytes() == whole
    again.close()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("asked_before", [True, False])
def test_a_file_of_another_history_is_ignored(
    store: SqliteStore, directory: Path, asked_before: bool
) -> None:
    """After a restored backup the same chunk ids mean other rows: the stale file must not count."""
    _add(store, "a", _rows(1))
    store.close()
    (path,) = (directory / "collections").glob("*.db")
    backup = path.read_bytes()
    store = SqliteStore(directory)
    _add(store, "b", _rows(2))
    _check(store, {"a": _rows(1), "b": _rows(2)})
    store.close()
    path.write_bytes(backup)
    again = SqliteStore(directory)
    if asked_before:
        _check(again, {"a": _rows(1)})  # The file's generation lies in the future.
    _add(again, "c", _rows(3))  # Now it is the present one.
    again.close()
    last = SqliteStore(directory)
    _check(last, {"a": _rows(1), "c": _rows(3)})
    last.close()


@pytest.mark.usefixtures("small")
def test_a_file_that_cannot_be_written_is_done_without(store: SqliteStore, directory: Path) -> None:
    """Where the cache's directory can't be made the rows stay in memory."""
    (path,) = (directory / "collections").glob("*.db")
    path.with_suffix(".shared").write_text("in the way")
    parts = {"a": _rows(1), "b": _rows(2)}
    for name, rows in parts.items():
        _add(store, name, rows)
    _check(store, parts)
    assert _view(store).mapped_at == -1


_READER = """
import json, sys
from pathlib import Path
import numpy as np
from ragdock.adapters.stores.sqlite import SqliteStore, dense
dense.DenseIndex.__init__.__kwdefaults__ = {"share_from_rows": 100}
store = SqliteStore(Path(sys.argv[1]))
query = np.array(json.loads(sys.argv[2]), np.float32)
with store.reader("c") as reader:
    scores = [one.score for one in reader.dense(query, 15).hits]
maps = Path("/proc/self/maps").read_text()
print(json.dumps({"scores": scores, "mapped": "vectors.i8" in maps}))
"""


@pytest.mark.usefixtures("small")
def test_two_processes_map_the_same_file(store: SqliteStore, directory: Path) -> None:
    """A second process maps the file that the first one wrote, and scores alike."""
    _add(store, "a", _rows(1))
    query = _rows(5, 1)
    ours = _best(store, query)
    done = subprocess.run(
        [sys.executable, "-c", _READER, str(directory), json.dumps(query[0].tolist())],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    theirs = json.loads(done.stdout)
    assert theirs["mapped"]
    assert theirs["scores"] == pytest.approx(ours, abs=1e-6)
    assert "vectors.i8" in Path("/proc/self/maps").read_text()


@pytest.mark.usefixtures("small")
def test_dead_rows_are_dropped(store: SqliteStore) -> None:
    """Once a third of the rows is dead the copy is compacted, in memory and in the file."""
    parts = {f"d{n}": _rows(n, 40) for n in range(8)}
    for name, rows in parts.items():
        _add(store, name, rows)
    _check(store, parts)
    for name in ("d0", "d1", "d2", "d3", "d4"):
        store.delete_document("c", name)
        del parts[name]
        _check(store, parts)
        assert _view(store).n_dead * 3 <= _view(store).n_rows + 3 * 40
    assert _view(store).n_rows < 320


@pytest.mark.usefixtures("small")
def test_a_slow_reader_survives_compaction(store: SqliteStore) -> None:
    """A view older than a compaction still sees every one of its rows."""
    parts = {f"d{n}": _rows(n, 40) for n in range(8)}
    for name, rows in parts.items():
        _add(store, name, rows)
    query = _rows(7, 1)
    with store.reader("c") as old:
        before = [one.score for one in old.dense(query[0], 15).hits]
        for n in range(8):
            _add(store, f"d{n}", _rows(n + 50, 40))
            _best(store, query)
        assert old.collection.generation < _view(store).floor
        assert [one.score for one in old.dense(query[0], 15).hits] == before


@pytest.mark.usefixtures("small")
def test_a_trimmed_log_means_reading_anew(
    store: SqliteStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that slept through more removals than the log keeps is right all the same."""
    monkeypatch.setattr(segments, "KEEP_REMOVALS", 10)
    sleeper = SqliteStore(directory)
    parts = {"a": _rows(1, 30), "b": _rows(2, 30)}
    for name, rows in parts.items():
        _add(store, name, rows)
    _check(sleeper, parts)
    for n in range(40):
        parts["a"] = _rows(100 + n, 30)
        _add(store, "a", parts["a"])
    with sleeper.reader("c") as reader:
        rows = list(reader._connection.execute("SELECT removals_since FROM state"))
        kept = list(reader._connection.execute("SELECT count(*) FROM removals"))
    assert rows[0][0] > 20
    assert kept[0][0] <= 11
    _check(sleeper, parts)
    _check(store, parts)
    sleeper.close()


@pytest.mark.parametrize("n_rows", [1, 7, 20_000])
def test_numpy_scans_as_simsimd_does(monkeypatch: pytest.MonkeyPatch, n_rows: int) -> None:
    """The fallback's dot products are the same numbers."""
    rows, _ = dense.quantise(_rows(1, n_rows))
    query, _ = dense.quantise(_rows(2, 1))
    assert dense._cdist is not None
    fast = dense.scan(query, rows)
    monkeypatch.setattr(dense, "_cdist", None)
    slow = dense.scan(query, rows)
    exact = rows.astype(np.int64) @ query[0].astype(np.int64)
    assert fast.dtype == slow.dtype == np.float32
    assert np.array_equal(fast, exact)
    assert np.array_equal(slow, exact)


def test_quantising_undoes_itself_within_half_a_step() -> None:
    """int8 times scale is the row within half a scale; a row of zeros stays zero."""
    rows = _rows(3, 50)
    rows[7] = 0.0
    rows8, scales = dense.quantise(rows)
    assert rows8.dtype == np.int8
    assert np.abs(rows8 * scales[:, None] - rows).max() <= scales.max() / 2 + 1e-7
    assert not rows8[7].any()
    assert dense.quantise(rows[:0])[0].shape == (0, DIM)


@pytest.mark.parametrize("vectors", [_rows(1, 2), _rows(1, 1)[:, :-1], _rows(1, 1) * np.nan])
def test_vectors_that_do_not_fit_are_refused(store: SqliteStore, vectors: Vectors) -> None:
    """Another count, another dimension or no numbers: nothing is written."""
    store.accept("c", [upload("d")])
    (job,) = store.claim("w", 1, 60.0)
    with pytest.raises(IntegrityError):
        store.commit_document(job, ParsedDocument("x", ()), [Chunk(0, 0, 1, "x")], vectors)
    assert store.collection("c").generation == 0
    with store.reader("c") as reader, pytest.raises(IntegrityError):
        reader.dense(np.ones(DIM + 1, np.float32), 10)


@pytest.mark.parametrize(
    ("counts", "n_chunks", "limit", "rare"),
    [
        ({"a": 1, "b": 20_000}, 100_000, 1, ["a"]),
        ({"a": 1, "b": 20_000}, 100_000, 10, ["a", "b"]),
        ({"b": 2_000, "a": 900, "c": 200}, 100_000, 10, ["c", "a"]),
        ({"b": 1_900, "a": 900, "c": 200}, 100_000, 10, ["c", "a", "b"]),
        ({"a": 0, "b": 5}, 100_000, 10, ["b"]),
        ({"a": 0}, 100_000, 10, []),
        ({"a": 90_000}, 100_000, 10, ["a"]),
        ({"a": 600, "b": 600}, 21_000, 10, ["a"]),
    ],
)
def test_rare_terms_fill_the_budget(
    counts: dict[str, int], n_chunks: int, limit: int, rare: list[str]
) -> None:
    """The rarest known terms up to max(1000, 3 %), and enough of them for the limit."""
    assert rare_terms(counts, n_chunks, limit) == rare


def test_two_levels_find_what_one_finds(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate drops only what lacks every rare word; scores stay; short answers are filled up."""
    for n in range(40):
        put(store, f"d{n}", f"common word{n} " + ("middling " if n % 3 == 0 else ""))

    def search(query: str, limit: int) -> list[tuple[int, float]]:
        with store.reader("c") as reader:
            return [(one.chunk_id, one.score) for one in reader.lexical(query, limit)]

    plain = {
        (query, limit): search(query, limit)
        for query in ("common middling word7", "common word3", "nothing here", "common")
        for limit in (1, 5, 30, 100)
    }
    monkeypatch.setattr(lexical, "TWO_LEVEL_FROM", 10)
    monkeypatch.setattr(lexical, "VISIT_AT_LEAST", 20)
    for (query, limit), expected in plain.items():
        found = search(query, limit)
        assert [chunk for chunk, _ in found] == [chunk for chunk, _ in expected]
        assert [score for _, score in found] == pytest.approx([score for _, score in expected])
