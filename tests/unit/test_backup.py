"""Backups: taken while others write, put back whole, and nothing else is ever put back."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import shutil
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragdock.adapters.stores.sqlite import SqliteKeeper, SqliteStore
from ragdock.errors import ConfigurationError, ConflictError, IntegrityError, NotFoundError
from ragdock.ops.archive import write_archive
from ragdock.ops.backup import backup, restore
from ragdock.ports import Member
from ragdock.types import JobState
from support.stores import DIM, found, index, memory_directory, put, upload


@pytest.fixture
def home() -> Iterator[Path]:
    with memory_directory() as path:
        yield path


@pytest.fixture
def store(home: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(home / "data")
    store.create_collection("c", "f", DIM)
    yield store
    store.close()


def _ignore(what: str, done: int, total: int) -> None:
    pass


def take(home: Path, name: str = "backup.tar") -> Path:
    """A backup of the data directory."""
    backup(SqliteKeeper(home / "data"), home / name, scratch=home, progress=_ignore)
    return home / name


def put_back(file: Path, directory: Path, *, force: bool = False) -> SqliteStore:
    """The store of a backup, opened."""
    with file.open("rb") as source:
        restore(SqliteKeeper(directory), source, force=force, progress=_ignore)
    return SqliteStore(directory)


def faults(directory: Path, *, quick: bool = False) -> list[str]:
    """Names of the findings."""
    verdict = SqliteKeeper(directory).verify(quick=quick, progress=_ignore)
    return [finding.check for finding in verdict.findings]


def test_a_backup_holds_everything(home: Path, store: SqliteStore) -> None:
    """Documents, other collections and unfinished uploads come back; the file is the owner's."""
    put(store, "a", "apples and pears\n\nsecond passage", tag="x")
    store.create_collection("other", "g", DIM)
    put(store, "b", "bananas", collection="other")
    store.accept("c", [upload("waiting", "cherries")])
    file = take(home)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = put_back(file, home / "again")
    assert found(again, "apples") == ["a"]
    assert set(found(again, "pears", {"tag": "x"}, side="dense")) == {"a"}
    assert found(again, "bananas", collection="other") == ["b"]
    index(again)
    assert found(again, "cherries") == ["waiting"]
    again.close()
    assert faults(home / "again") == []


@pytest.mark.parametrize("name", ["b.tar.gz", "b.tgz", "b.tar"])
def test_a_name_decides_on_compression(home: Path, store: SqliteStore, name: str) -> None:
    """`.gz` and `.tgz` are compressed, others are plain tar; restore tells them apart itself."""
    put(store, "a", "apples")
    file = take(home, name)
    assert (file.read_bytes()[:2] == b"\x1f\x8b") == (name != "b.tar")
    with tarfile.open(file) as tar:
        assert tar.getnames()[0] == "ragdock-backup.json"
    again = put_back(file, home / "again")
    assert found(again, "apples") == ["a"]
    again.close()


def test_writes_between_the_files_heal(home: Path, store: SqliteStore) -> None:
    """What is committed, deleted, dropped or made while the files are copied tears nothing."""
    for n in range(6):
        put(store, f"old{n}", f"old words{n}")
    store.create_collection("dropped", "f", DIM)
    put(store, "gone", "gone", collection="dropped")
    acknowledged = store.accept("c", [upload(f"open{n}", f"open words{n}") for n in range(4)])
    keeper = SqliteKeeper(home / "data")
    scratch = home / "scratch"
    scratch.mkdir()
    copy = keeper.copy(scratch)

    def members() -> Iterator[Member]:
        for number, member in enumerate(copy.members()):
            yield member
            if number == 0:  # The catalogue is copied, no collection is.
                index(store)
                put(store, "new", "new words")
                put(store, "old0", "replaced words")
                store.delete_document("c", "old1")
                store.delete_document("c", "open1")
                store.drop_collection("dropped")
                store.create_collection("made", "f", DIM)

    with (home / "b.tar").open("wb") as file:
        write_archive(file, {}, members(), copy.notes, lambda *_: None)
    again = put_back(home / "b.tar", home / "again")
    assert faults(home / "again") == []
    assert [one.name for one in again.collections()] == ["c"]
    index(again)
    assert again.queue_depth()[JobState.PENDING] == again.queue_depth()[JobState.FAILED] == 0
    assert {job.id: again.job(job.id).outcome for job in acknowledged} == {
        acknowledged[0].id: "indexed",
        acknowledged[1].id: "superseded",
        acknowledged[2].id: "indexed",
        acknowledged[3].id: "indexed",
    }
    names = {document.id for document in again.documents("c")}
    assert names == {"new", "old0", "old2", "old3", "old4", "old5", "open0", "open2", "open3"}
    # The ledger goes on above what the collection has seen, though its own copy is older.
    seen = max(document.version for document in store.documents("c"))
    assert put(again, "next", "next words").id > seen
    again.close()
    assert faults(home / "again") == []


def test_a_restored_state_is_a_new_state(home: Path, store: SqliteStore) -> None:
    """No state key of the former history comes back, so no cached answer of it can be served."""
    known = set()
    for n in range(3):
        put(store, f"d{n}", f"words{n}")
        known.add(store.state_key("c"))
    file = take(home)
    for n in range(3, 6):
        put(store, f"d{n}", f"words{n}")
        known.add(store.state_key("c"))
    again = put_back(file, home / "again")
    keys = {again.state_key("c")}
    assert again.peek_state_key("c") in keys
    for n in range(3, 6):
        put(again, f"e{n}", f"other words{n}")
        keys.add(again.state_key("c"))
    again.close()
    assert len(keys) == 4
    assert not keys & known


def test_restore_refuses_what_is_in_use_or_not_empty(home: Path, store: SqliteStore) -> None:
    """A running server's directory is never touched; a filled one only by force, kept aside."""
    put(store, "a", "apples")
    file = take(home)
    put(store, "b", "bananas")
    with pytest.raises(ConflictError) as refused:
        put_back(file, home / "data", force=True)
    assert refused.value.code == "in_use"
    assert found(store, "bananas") == ["b"]
    store.close()
    with pytest.raises(ConflictError) as refused:
        put_back(file, home / "data")
    assert refused.value.code == "not_empty"
    again = put_back(file, home / "data", force=True)
    assert found(again, "apples bananas") == ["a"]
    again.close()
    (aside,) = (home / "data").glob(".replaced-*")
    former = SqliteStore(aside)
    assert found(former, "bananas") == ["b"]
    former.close()


def test_a_restore_that_was_cut_short_is_never_opened(home: Path, store: SqliteStore) -> None:
    """Between moving the old files and the new ones, a crash leaves a mark, not a half store."""
    put(store, "a", "apples")
    file = take(home)
    store.close()
    (home / "data" / ".restoring").touch()
    (home / "data" / "catalogue.db").unlink()
    with pytest.raises(ConfigurationError, match="ragdock restore"):
        SqliteStore(home / "data")
    assert list((home / "data" / "collections").glob("*.db"))
    again = put_back(file, home / "data")
    assert found(again, "apples") == ["a"]
    again.close()


def test_damage_anywhere_is_found(home: Path, store: SqliteStore) -> None:
    """A backup with a flipped bit, or cut at any place, is refused and nothing changes."""
    put(store, "a", "apples\n\nand more")
    whole = take(home).read_bytes()
    moments = random.Random(3)
    places = [0, 100, 512, 600, 5_000, len(whole) // 2]
    places += [moments.randrange(len(whole) - 1_024) for _ in range(40)]
    target = home / "again"
    n_refused = 0
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 0x10
        for data in (bytes(flipped), whole[:place]):
            try:
                with io.BytesIO(data) as source:
                    restore(SqliteKeeper(target), source, force=True, progress=_ignore)
            except IntegrityError:
                n_refused += 1
                assert [path.name for path in target.iterdir()] == [".store.lock"]
            else:
                # Only what tar itself ignores (padding) may differ.
                assert data != whole[:place]
                assert faults(target) == []
                shutil.rmtree(target)
    assert n_refused >= len(places)


def _archive(*entries: tarfile.TarInfo, form: int = 1, data: bytes = b"") -> bytes:
    stream = io.BytesIO()
    files = {}

    def add(info: tarfile.TarInfo, content: bytes) -> None:
        stream.write(info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512))

    def plain(name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        add(info, content)

    plain("ragdock-backup.json", json.dumps({"format": form}).encode())
    for entry in entries:
        entry.size = len(data)
        add(entry, data)
        digest = hashlib.sha256(data).hexdigest()
        files[entry.name] = {"size_bytes": len(data), "sha256": digest}
    plain("manifest.json", json.dumps({"format": form, "files": files, "notes": {}}).encode())
    return stream.getvalue() + bytes(1024)


def _link(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("contents/link")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    "entry",
    [
        tarfile.TarInfo("../escape"),
        tarfile.TarInfo("/etc/escape"),
        tarfile.TarInfo("contents/../../escape"),
        tarfile.TarInfo("collections/x.db"),
        tarfile.TarInfo("contents/.hidden"),
        tarfile.TarInfo("owners/x.lock"),
        _link(tarfile.SYMTYPE),
        _link(tarfile.LNKTYPE),
        _link(tarfile.DIRTYPE),
        _link(tarfile.CHRTYPE),
        _link(tarfile.FIFOTYPE),
        _link(tarfile.XHDTYPE),
        _link(tarfile.GNUTYPE_LONGNAME),
        _link(tarfile.GNUTYPE_SPARSE),
    ],
    ids=lambda info: f"{info.name}-{info.type.decode()}",
)
def test_hostile_archives_are_refused(home: Path, entry: tarfile.TarInfo) -> None:
    """Paths, links, devices and extended headers are refused, and nothing is left behind."""
    with io.BytesIO(_archive(entry, data=b"x")) as source, pytest.raises(IntegrityError):
        restore(SqliteKeeper(home / "again"), source, force=False, progress=_ignore)
    assert [path.name for path in home.rglob("*")] == ["again", ".store.lock"]


def test_foreign_files_and_formats_are_named(home: Path) -> None:
    """What isn't a backup is said not to be one; a newer format names the version."""
    for data in (b"", b"x" * 5_000, gzip.compress(b"x" * 5_000), bytes(10_240)):
        with io.BytesIO(data) as source, pytest.raises(IntegrityError, match="isn't a backup"):
            restore(SqliteKeeper(home / "again"), source, force=False, progress=_ignore)
    with io.BytesIO(_archive(form=2)) as source, pytest.raises(IntegrityError, match="format 2"):
        restore(SqliteKeeper(home / "again"), source, force=False, progress=_ignore)
    twice = _archive(tarfile.TarInfo("catalogue.db"), tarfile.TarInfo("catalogue.db"))
    with io.BytesIO(twice) as source, pytest.raises(IntegrityError, match="belong"):
        restore(SqliteKeeper(home / "again"), source, force=False, progress=_ignore)


def test_a_failed_backup_leaves_nothing(home: Path, store: SqliteStore) -> None:
    """Without a store, or with a missing file, there is an error and no half file."""
    with pytest.raises(NotFoundError):
        backup(SqliteKeeper(home / "no"), home / "b.tar", scratch=home, progress=_ignore)
    put(store, "a", "apples")
    (path,) = (home / "data" / "collections").glob("*.db")
    path.rename(home / "away.db")
    with pytest.raises(Exception, match="store"):
        backup(SqliteKeeper(home / "data"), home / "b.tar", scratch=home, progress=_ignore)
    assert sorted(path.name for path in home.iterdir()) == ["away.db", "data"]
