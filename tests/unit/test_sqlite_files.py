"""The embedded store's files: durability settings, migrations, refusals, the bounded pool."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from ragdock.adapters.stores.sqlite import SqliteStore, connections, files, migrations
from ragdock.adapters.stores.sqlite.connections import Database, fetch, require_safe_sqlite
from ragdock.adapters.stores.sqlite.owners import Owners
from ragdock.errors import (
    ConfigurationError,
    InputError,
    IntegrityError,
    NotFoundError,
    StoreError,
    TooLargeError,
)
from support.stores import DIM, found, memory_directory, put, text_of, upload


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


@pytest.mark.parametrize(
    ("version", "safe"),
    [("3.40.1", False), ("3.51.2", False), ("3.51.3", True), ("3.54.1", True), ("4.0.0", True)],
)
def test_a_sqlite_with_the_wal_bug_is_refused(
    monkeypatch: pytest.MonkeyPatch, directory: Path, version: str, safe: bool
) -> None:
    """Below 3.51.3 the store doesn't start, and the message says what to install."""
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: version)
    if safe:
        require_safe_sqlite()
        return
    with pytest.raises(ConfigurationError, match=rf"SQLite {version}.*install apsw"):
        SqliteStore(directory)
    assert list(directory.iterdir()) == []


def test_every_connection_is_wal_and_full(store: SqliteStore, directory: Path) -> None:
    """Writers sync each commit; readers can't write; no file is mapped."""
    put(store, "d", "text")
    paths = [directory / "catalogue.db", *(directory / "collections").glob("*.db")]
    assert len(paths) == 2
    for path, schema in zip(paths, (migrations.CATALOGUE, migrations.COLLECTION), strict=True):
        database = Database(path, schema, create=False)
        with database.write() as writer, database.read() as reader:
            for connection, read_only in ((writer, 0), (reader, 1)):
                pragmas = {
                    name: fetch(connection, f"PRAGMA {name}")[0][0]
                    for name in ("journal_mode", "synchronous", "query_only", "foreign_keys")
                }
                assert pragmas == {
                    "journal_mode": "wal",
                    "synchronous": 2,
                    "query_only": read_only,
                    "foreign_keys": 1,
                }
                assert fetch(connection, "PRAGMA mmap_size")[0][0] == 0
            with pytest.raises(apsw.ReadOnlyError):
                reader.execute("CREATE TABLE x (y)")
        database.close()


def test_migrations_are_applied_once_and_in_order(directory: Path) -> None:
    """A file of an older schema gets what it lacks, and keeps its rows."""
    path = directory / "x.db"

    def first(connection: apsw.Connection) -> None:
        connection.execute("CREATE TABLE a (n)")
        connection.execute("INSERT INTO a VALUES (1)")

    def second(connection: apsw.Connection) -> None:
        connection.execute("ALTER TABLE a ADD COLUMN m DEFAULT 7")

    Database(path, [first]).close()
    for _ in range(2):
        database = Database(path, [first, second])
        assert database.query("SELECT n, m FROM a") == [(1, 7)]
        assert database.query("PRAGMA user_version") == [(2,)]
        database.close()


def test_a_failed_migration_changes_nothing(directory: Path) -> None:
    """A migration that breaks leaves the file at the schema before it."""

    def broken(connection: apsw.Connection) -> None:
        connection.execute("CREATE TABLE a (n)")
        connection.execute("no sql")

    with pytest.raises(StoreError):
        Database(directory / "x.db", [broken])
    database = Database(directory / "x.db", [])
    assert database.query("SELECT count(*) FROM sqlite_schema") == [(0,)]
    database.close()


def test_a_newer_schema_is_refused(store: SqliteStore, directory: Path) -> None:
    """A file of a later release is named, and the message says what to do."""
    store.close()
    connection = apsw.Connection(str(directory / "catalogue.db"))
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(
        ConfigurationError, match=r"catalogue\.db was written by a newer ragdock \(schema 99\)"
    ):
        SqliteStore(directory)


def test_a_directory_that_cannot_be_written_is_explained(directory: Path) -> None:
    """The message names the variable, the user and the remedy."""
    # A file in its place stops even root, under whom containers run tests.
    (directory / "data").write_text("a file")
    with pytest.raises(ConfigurationError, match=r"RAG_DATA_DIR=.*by user \d+.*chown"):
        SqliteStore(directory / "data")


def test_a_damaged_file_is_an_integrity_error(store: SqliteStore, directory: Path) -> None:
    """Garbage in place of a collection's file is named as damage, not as a busy store."""
    put(store, "d", "text")
    store.close()
    (path,) = (directory / "collections").glob("*.db")
    path.write_bytes(b"garbage" * 1000)
    again = SqliteStore(directory)
    with pytest.raises(IntegrityError, match="damaged"):
        again.collection("c")
    again.close()


def test_a_missing_file_is_not_made_anew(store: SqliteStore, directory: Path) -> None:
    """A collection whose file vanished is an error and never an empty collection."""
    store.close()
    (path,) = (directory / "collections").glob("*.db")
    path.unlink()
    again = SqliteStore(directory)
    with pytest.raises(StoreError):
        again.collection("c")
    assert not path.exists()
    again.close()


def test_leftovers_of_a_crash_are_removed(store: SqliteStore, directory: Path) -> None:
    """Files without a row in the catalogue go at the next start; foreign files stay."""
    put(store, "d", "text")
    orphan = directory / "collections" / ("0" * 32 + ".db")
    orphan.write_bytes(b"x")
    (directory / "collections" / ("1" * 32 + ".shared")).mkdir()
    foreign = directory / "collections" / "notes.txt"
    foreign.write_text("mine")
    again = SqliteStore(directory)
    assert not orphan.exists()
    assert foreign.exists()
    assert found(again, "text") == found(store, "text") == ["d"]
    assert len(list((directory / "collections").iterdir())) == 4  # .db, -wal, -shm and the notes
    again.close()


def test_drop_leaves_no_file(store: SqliteStore, directory: Path) -> None:
    """All files of a dropped collection go, while another handle has them open, too."""
    put(store, "d", "text")
    other = SqliteStore(directory)
    assert found(other, "text") == ["d"]
    store.drop_collection("c")
    assert list((directory / "collections").iterdir()) == []
    with pytest.raises(NotFoundError):
        other.collection("c")
    other.collections()
    assert not other._files._entries
    other.close()


def test_a_drop_under_a_running_reader(store: SqliteStore) -> None:
    """A view that is open when its collection is dropped ends in peace, with all its rows."""
    put(store, "d", "text")
    with store.reader("c") as reader:
        store.drop_collection("c")
        assert len(reader.lexical("text", 10)) == 1
        assert reader.collection.n_documents == 1
    assert store.collections() == ()


def test_a_full_disk_is_named(store: SqliteStore, directory: Path) -> None:
    """SQLITE_FULL is `disk_full` with a time to come back; nothing is half written."""
    put(store, "d", "text")
    catalogue = store._catalogue
    pages = catalogue.query("PRAGMA page_count")[0][0]
    with catalogue._lock:
        fetch(catalogue._writer, f"PRAGMA max_page_count = {pages + 2}")
    big = upload("big", "x" * 100_000)
    with pytest.raises(StoreError, match="disk is full") as caught:
        store.accept("c", [upload("small"), big])
    assert caught.value.code == "disk_full"
    assert caught.value.retry_after_seconds >= 5
    assert [job.document_id for job in store.jobs()] == ["d"]
    with catalogue._lock:
        fetch(catalogue._writer, "PRAGMA max_page_count = 1000000")
    assert len(store.accept("c", [upload("small"), big])) == 2


@pytest.mark.parametrize(
    ("foreign", "ours", "code"),
    [
        (apsw.FullError("x"), StoreError, "disk_full"),
        (apsw.IOError("x"), StoreError, "store_unavailable"),
        (apsw.CantOpenError("x"), StoreError, "store_unavailable"),
        (apsw.BusyError("x"), StoreError, "store_unavailable"),
        (apsw.CorruptError("x"), IntegrityError, "integrity"),
        (apsw.TooBigError("x"), TooLargeError, "too_large"),
        (apsw.SQLError("x"), StoreError, "store_unavailable"),
    ],
)
def test_foreign_errors_are_translated(
    foreign: Exception, ours: type[Exception], code: str
) -> None:
    """Every apsw error becomes one of ours, without its text and with its cause."""
    with pytest.raises(ours) as caught, connections.translated():
        raise foreign
    assert caught.value.code == code  # type: ignore[attr-defined]
    assert caught.value.__cause__ is foreign


def test_text_that_utf8_cannot_say_is_an_input_error(store: SqliteStore) -> None:
    """Half a surrogate pair in an id is the caller's fault."""
    with pytest.raises(InputError, match="surrogate"):
        store.document("c", "\ud800")


def test_open_files_are_bounded(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the least recently used file is closed, never one in use."""
    monkeypatch.setattr(files.OpenFiles.__init__, "__defaults__", (3,))
    store = SqliteStore(directory)
    for n in range(8):
        store.create_collection(f"c{n}", "f", DIM)
        put(store, "d", f"text{n}", f"c{n}")
        assert len(store._files._entries) <= 3
    with store.reader("c0") as reader:
        in_use = store._files._entries[store.collection("c0").id]
        for n in range(1, 8):
            assert found(store, f"text{n}", collection=f"c{n}") == ["d"]
        assert store._files._entries[store.collection("c0").id] is in_use
        assert len(reader.lexical("text0", 1)) == 1
    assert len(store.collections()) == 8
    assert len(store._files._entries) <= 3
    store.close()


def test_many_threads_over_few_open_files(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that close and open under load lose nothing and raise nothing."""
    monkeypatch.setattr(files.OpenFiles.__init__, "__defaults__", (2,))
    store = SqliteStore(directory)
    for n in range(5):
        store.create_collection(f"c{n}", "f", DIM)
        put(store, "d", f"text{n}", f"c{n}")
    wrong: list[object] = []

    def work(seed: int) -> None:
        try:
            for step in range(40):
                n = (seed + step) % 5
                if found(store, f"text{n}", collection=f"c{n}", side="dense") != ["d"]:
                    wrong.append(n)
        except BaseException as exc:  # noqa: BLE001
            wrong.append(exc)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    store.close()


def test_the_wal_is_cut_although_readers_overlap(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit the writer waits for a moment without readers and starts the WAL anew."""
    monkeypatch.setattr(connections, "CHECKPOINT_PAGES", 20)
    monkeypatch.setattr(connections, "TRUNCATE_PAGES", 100)
    monkeypatch.setattr(connections, "TRUNCATE_WAIT_MS", 50)
    database = Database(directory / "x.db", [lambda c: c.execute("CREATE TABLE a (b)") and None])
    wal = directory / "x.db-wal"

    def write() -> None:
        with database.write() as connection:
            connection.execute("INSERT INTO a VALUES (zeroblob(20000))")

    with database.read() as reader:
        fetch(reader, "SELECT count(*) FROM a")
        for _ in range(60):
            write()
        assert wal.stat().st_size > 100 * 4096  # The reader holds it; writes go on.
        assert fetch(reader, "SELECT count(*) FROM a") == [(0,)]
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            with database.read() as other:
                fetch(other, "SELECT count(*) FROM a")
                stop.wait(0.004)

    threads = [threading.Thread(target=read, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    sizes = []
    for _ in range(400):
        write()
        sizes.append(wal.stat().st_size)
    stop.set()
    for thread in threads:
        thread.join()
    assert min(sizes[200:]) < 100 * 4096
    assert max(sizes) < 1500 * 4096
    assert database.query("SELECT count(*) FROM a") == [(460,)]
    database.close()


def test_free_space_goes_back_to_the_disk(store: SqliteStore, directory: Path) -> None:
    """After big uploads are indexed the catalogue shrinks again."""
    store.accept("c", [upload(f"d{n}", chr(97 + n % 26) * 1_000_000) for n in range(24)])
    store._catalogue._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    full = (directory / "catalogue.db").stat().st_size
    for document in range(24):
        store.delete_document("c", f"d{document}")
    for n in range(20):
        put(store, "small", f"text {n}")
    store.close()
    assert (directory / "catalogue.db").stat().st_size < full / 4


def test_a_restored_catalogue_numbers_above_its_files(store: SqliteStore, directory: Path) -> None:
    """A catalogue from an older backup doesn't give new writes numbers that are superseded."""
    for n in range(5):
        put(store, "d", f"text {n}")
    store.close()
    connection = apsw.Connection(str(directory / "catalogue.db"))
    connection.execute("DELETE FROM ledger; UPDATE sqlite_sequence SET seq = 1").fetchall()
    connection.close()
    again = SqliteStore(directory)
    assert put(again, "d", "after the restore").outcome == "indexed"
    assert text_of(again, "d") == "after the restore"
    again.close()


def test_the_ledger_forgets_its_oldest_finished_rows(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished rows are kept to a number; open ones stay however old."""
    from ragdock.adapters.stores.sqlite import ledger

    monkeypatch.setattr(ledger, "KEEP_FINISHED", 10)
    monkeypatch.setattr(ledger, "TRIM_BATCH", 5)
    put(store, "d", "text 0")
    (old,) = store.accept("c", [upload("open")])
    for _ in range(40):
        store.accept("c", [upload("d", "text 0")])
    ids = [job.id for job in store.jobs(limit=1000)]
    assert old.id in ids
    assert 10 <= len(ids) <= 17
    assert store.claim("w", 1, 1.0)[0].id == old.id


def test_an_owner_lives_as_long_as_its_process_holds_the_lock(directory: Path) -> None:
    """A held name is alive for others, a released or unknown one is dead, and can be held again."""
    ours, theirs = Owners(directory / "o"), Owners(directory / "o")
    ours.hold("a/b")
    ours.hold("a/b")
    assert not ours.is_dead("a/b")
    assert not theirs.is_dead("a/b")
    assert theirs.is_dead("a_b")
    with pytest.raises(StoreError, match="own name"):
        theirs.hold("a/b")
    ours.close()
    assert theirs.is_dead("a/b")
    theirs.hold("a/b")
    assert not ours.is_dead("a/b")
    theirs.close()


def test_looking_for_the_dead_never_kills_the_living(directory: Path) -> None:
    """Names held while others look for dead ones are held afterwards."""
    stop = threading.Event()
    watcher, looker = Owners(directory / "o"), Owners(directory / "o")

    def watch() -> None:
        while not stop.is_set():
            watcher.is_dead("w")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    dead = 0
    for _ in range(500):
        owner = Owners(directory / "o")
        owner.hold("w")
        dead += looker.is_dead("w")
        owner.close()
    stop.set()
    thread.join()
    assert dead == 0


def test_a_restored_backup_is_another_state(store: SqliteStore, directory: Path) -> None:
    """The same generation of two histories has two state keys, so no cache mixes them up."""
    put(store, "d", "before the backup")
    store.close()
    backup = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    keys = []
    for text in ("one history", "another history"):
        for path, content in backup.items():
            path.write_bytes(content)
        with closing(SqliteStore(directory)) as restored:
            put(restored, "d", text)
            keys.append((restored.collection("c").generation, restored.state_key("c")))
    assert keys[0][0] == keys[1][0]
    assert keys[0][1] != keys[1][1]
