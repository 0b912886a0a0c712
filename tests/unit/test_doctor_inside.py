"""What the doctor sees from inside: its place, the kernel's files, the store, the settings."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import apsw
import pytest

from ragdock.adapters.stores.sqlite import SqliteStore
from ragdock.adapters.stores.sqlite.keys import SqliteKeys
from ragdock.adapters.stores.sqlite.survey import files_of, survey
from ragdock.errors import NotFoundError
from ragdock.ops.doctor import own
from ragdock.ops.doctor.live import LiveWorld
from ragdock.ops.doctor.model import Scope, Status
from ragdock.ops.doctor.place import is_inside, servers_over
from ragdock.ops.doctor.reading import Listener, cpu, listeners, may_write, memory, mount_of, pids
from ragdock.ops.doctor.recorded import RecordedWorld, Recorder
from ragdock.ops.doctor.redact import Redactor
from ragdock.ops.doctor.registry import all_checks
from ragdock.ops.doctor.report import examine
from ragdock.ops.doctor.world import FileStat, WorldError
from ragdock.services.keys import Keys
from ragdock.types import Right
from support.redis_server import RedisServer
from support.stores import DIM, put, upload

MARKER = {"kind": "file", "uid": 0, "gid": 0, "mode": 0o755, "size_bytes": 0, "modified_at": 0.0}
DISK = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
LAYERS = "83 59 0:39 / / rw,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b,workdir=/c\n"


def world(**answers: Any) -> RecordedWorld:
    """A world that knows these answers and nothing else."""
    return RecordedWorld(answers)


def server(pid: int, *arguments: str, cgroup: str = "0::/user.slice\n") -> dict[str, str]:
    """The files of /proc of a Python program."""
    return {
        f"/proc/{pid}/stat": f"{pid} (python) S 1 {pid} {pid} 0",
        f"/proc/{pid}/cmdline": "\0".join(["python", *arguments, ""]),
        f"/proc/{pid}/cgroup": cgroup,
    }


def test_a_machine_made_from_an_image_is_no_container() -> None:
    """Docker's marker file on a disk says nothing; on layers it does, as does the cgroup's path."""
    marked = {"/.dockerenv": MARKER}
    assert not is_inside(world(stat=marked, read={"/proc/self/mountinfo": DISK}))
    assert is_inside(world(stat=marked, read={"/proc/self/mountinfo": LAYERS}))
    assert not is_inside(world(read={"/proc/self/mountinfo": LAYERS}))
    assert is_inside(world(read={"/proc/self/cgroup": "8:pids:/docker/8b9b4a4c\n"}))
    assert is_inside(world(environ={"KUBERNETES_SERVICE_HOST": "10.96.0.1"}))


def test_only_servers_that_have_the_data_open_are_ours() -> None:
    """Another ragdock on the machine serves another directory."""
    answers: dict[str, Any] = {
        "read": server(9, "-m", "ragdock", "serve") | server(11, "-m", "ragdock", "worker"),
        "entries": {"/proc": ["9", "11"], "/proc/9/fd": ["3", "4"], "/proc/11/fd": ["3"]},
        "link": {
            "/proc/9/fd/3": "socket:[12]",
            "/proc/9/fd/4": "/srv/data/catalogue.db",
            "/proc/11/fd/3": "/srv/data2/catalogue.db",
        },
    }
    assert [one.pid for one in servers_over(world(**answers), "/srv/data")] == [9]


def test_a_server_on_another_port_raises_no_alarm() -> None:
    """`make serve PORT=8001`, then the doctor in another shell, which knows nothing of the 8001."""
    answers: dict[str, Any] = {
        "read": server(9, "-m", "ragdock", "serve")
        | {"/proc/net/tcp": "  sl\n  0: 0100007F:1F41 00000000:0000 0A 0 0 0 0 0 12 1\n"},
        "entries": {"/proc": ["9"], "/proc/9/fd": ["3", "4"]},
        "link": {"/proc/9/fd/3": "socket:[12]", "/proc/9/fd/4": "/srv/data/catalogue.db"},
        "ragdock": {
            "settings": {"port": 8000, "data_dir": "/srv/data"},
            "health": {"!": ["refused", "127.0.0.1:8000: nothing listens there"]},
            "health 8001": {"status": 200, "seconds": 0.01, "body": {"status": "ok"}},
        },
    }
    checks = [check for check in all_checks() if check.id == "G12"]
    (finding,) = examine(checks, world(**answers), frozenset({Scope.BOTH})).results[0].findings
    assert (finding.status, finding.summary) == (
        Status.OK,
        "the server on port 8001 is healthy",
    )


def test_page_cache_is_no_memory_in_use() -> None:
    """The kernel takes it back when somebody wants it; tmpfs it can't take back."""
    root = "/sys/fs/cgroup"
    two = {
        f"{root}/memory.events": "oom 1\noom_kill 1\n",
        f"{root}/memory.max": "1000\n",
        f"{root}/memory.current": "1000\n",
        f"{root}/memory.stat": "anon 200\nfile 800\nshmem 50\n",
    }
    one = {
        f"{root}/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        f"{root}/memory/memory.limit_in_bytes": "1000\n",
        f"{root}/memory/memory.usage_in_bytes": "1000\n",
        f"{root}/memory/memory.stat": "cache 1\ntotal_cache 800\ntotal_shmem 50\n",
    }
    for files in (one, two):
        found = memory(world(read=files))
        assert (found.limit_bytes, found.used_bytes, found.held_bytes) == (1000, 1000, 250)
        assert found.n_killed == 1
    one[f"{root}/memory/memory.limit_in_bytes"] = "9223372036854771712\n"
    two[f"{root}/memory.max"] = "max\n"
    for files in (one, two):
        assert memory(world(read=files)).limit_bytes is None


def test_both_versions_of_cgroups_tell_the_same_limits() -> None:
    """Processors and processes, with and without a limit."""
    root = "/sys/fs/cgroup"
    one = {
        f"{root}/cpu/cpu.cfs_quota_us": "50000\n",
        f"{root}/cpu/cpu.cfs_period_us": "100000\n",
        f"{root}/cpu/cpu.stat": "nr_periods 10\nnr_throttled 4\nthrottled_time 99\n",
        f"{root}/pids/pids.current": "9\n",
        f"{root}/pids/pids.max": "max\n",
    }
    two = {
        f"{root}/cpu.max": "50000 100000\n",
        f"{root}/cpu.stat": "usage_usec 5\nnr_periods 10\nnr_throttled 4\n",
        f"{root}/pids.current": "9\n",
        f"{root}/pids.max": "max\n",
    }
    for files in (one, two):
        found = cpu(world(read=files))
        assert (found.quota, found.n_periods, found.n_throttled) == (0.5, 10, 4)
        assert pids(world(read=files)) == (9, None, 0)
    one[f"{root}/cpu/cpu.cfs_quota_us"] = "-1\n"
    two[f"{root}/cpu.max"] = "max 100000\n"
    for files in (one, two):
        assert cpu(world(read=files)).quota is None


def test_listening_sockets_are_read_as_the_kernel_writes_them() -> None:
    """Addresses are words in the machine's order; connections that don't listen are left out."""
    head = "  sl  local_address rem_address   st tx_queue rx_queue\n"
    four = "   0: 0100007F:1F40 00000000:0000 0A 0\n   1: 0100007F:1F40 0200007F:9999 01 0\n"
    six = "   0: 00000000000000000000000000000000:0050 0:0 0A 0\n"
    six += "   1: 00000000000000000000000001000000:0051 0:0 0A 0\n"
    found = listeners(world(read={"/proc/net/tcp": head + four, "/proc/net/tcp6": head + six}))
    assert found == [Listener("127.0.0.1", 8000), Listener("::", 80), Listener("::1", 81)]
    assert [one.loopback for one in found] == [True, False, True]
    assert found[1].everywhere


def test_the_listeners_of_this_machine_are_found() -> None:
    """A real socket appears as it was bound."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        assert Listener("127.0.0.1", one.getsockname()[1]) in listeners(LiveWorld())


def test_the_last_mount_at_the_deepest_place_counts() -> None:
    """`/data` isn't `/database`, and spaces in names are written as octal."""
    table = DISK + "1 2 3:4 / /data rw - nfs4 a:/b rw\n5 2 3:5 / /data ro - tmpfs tmpfs rw\n"
    table += "6 2 3:6 / /my\\040disk rw - xfs /dev/b rw\n"
    known = world(read={"/proc/self/mountinfo": table})
    assert mount_of(known, "/data/x")[:2] == ("/data", "tmpfs")
    assert "ro" in mount_of(known, "/data")[2]
    assert mount_of(known, "/database")[1] == "ext4"
    assert mount_of(known, "/my disk/a")[1] == "xfs"


@pytest.mark.parametrize(
    ("owner", "mode", "uid", "able"),
    [
        ((1000, 1000), 0o755, 1000, True),
        ((0, 0), 0o755, 1000, False),
        ((0, 1000), 0o775, 1000, True),
        ((1000, 1000), 0o555, 1000, False),
        ((0, 0), 0o777, 1000, True),
        ((1000, 1000), 0o700, 0, True),
    ],
)
def test_mode_bits_say_who_may_write(
    owner: tuple[int, int], mode: int, uid: int, able: bool
) -> None:
    """The first of owner, group and others that fits decides."""
    found = FileStat("dir", *owner, mode, 0, 0.0)
    assert may_write(found, uid, frozenset({uid})) is able


# The store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "data")
    opened.create_collection("c", "f", DIM)
    yield opened
    opened.close()


def digests(directory: Path) -> dict[str, str]:
    """Every file's content."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file() and not path.name.endswith("-shm")
    }


def test_the_ledger_is_told_as_it_is(store: SqliteStore, tmp_path: Path) -> None:
    """What waits, since when, what failed and why, what is in work, and what is searchable."""
    put(store, "d1", "text of the first")
    store.accept("c", [upload("bad"), upload("again"), upload("open")])
    for job in store.claim("w", 3, 60.0):
        if job.document_id == "bad":
            store.fail(job, "encrypted", "It is.", retry_after_seconds=None)
        elif job.document_id == "again":
            store.fail(job, "embedder_unavailable", "Away.", retry_after_seconds=60, counts=False)
    store.release("w")
    store.accept("c", [upload("new")])
    before = time.time()
    found = survey(tmp_path / "data", seconds=5)
    assert found["failed_codes"] == {"encrypted": 1}
    assert [row[:2] for row in found["retrying"]] == [["embedder_unavailable", 1]]
    assert found["pending"] + found["processing"] == 3
    assert found["due"] == found["pending"] - 1
    assert before - 60 < found["oldest_due_at"] <= before
    assert found["collections"] == [
        {"name": "c", "fingerprint": "f", "dim": DIM, "documents": 1},
    ]
    assert found["queue_bytes"] > 0
    assert found["schema"] == found["known_schema"]


def test_a_key_for_the_metrics_alone_is_none_that_lets_in(tmp_path: Path) -> None:
    """The survey counts the keys that open documents, or more than the metrics."""
    SqliteStore(tmp_path / "data").close()
    keys = SqliteKeys(tmp_path / "data")
    made = Keys(keys)
    made.create("prometheus", rights=[Right.METRICS])
    made.create("until", rights=[Right.METRICS], expires_at=2e9)
    found = survey(tmp_path / "data", seconds=5)
    assert (found["keys"], found["keys_for_ever"], found["keys_expire_at"]) == (0, 0, [])
    made.create("both", rights=[Right.METRICS, Right.READ])
    made.create("reader", rights=[Right.READ], expires_at=2e9)
    found = survey(tmp_path / "data", seconds=5)
    assert (found["keys"], found["keys_for_ever"], found["keys_expire_at"]) == (2, 1, [2e9])
    keys.close()


@pytest.mark.timing
def test_looking_changes_nothing_and_waits_for_no_writer(
    store: SqliteStore, tmp_path: Path
) -> None:
    """While a transaction holds the write lock, answers come at once and no byte changes."""
    put(store, "d1", "some text")
    directory = tmp_path / "data"
    before = digests(directory)
    with store._catalogue.write() as connection:
        connection.execute("SELECT 1").fetchall()
        started = time.monotonic()
        assert survey(directory, seconds=5)["collections"][0]["documents"] == 1
        assert {one["result"] for one in files_of(directory, seconds=5)} == {"ok"}
        assert time.monotonic() - started < 2
    assert digests(directory) == before


def test_a_damaged_file_is_named_and_a_large_one_left_unread(
    store: SqliteStore, tmp_path: Path
) -> None:
    """Damage is `damaged` with SQLite's words; what there is no time for is `unread`."""
    for n in range(40):
        put(store, f"d{n}", f"words {n} " * 200)
    store.close()
    directory = tmp_path / "data"
    (path,) = (directory / "collections").glob("*.db")
    assert {one["result"] for one in files_of(directory, seconds=0)} == {"unread"}
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 40_000)
    found = {one["file"]: one for one in files_of(directory, seconds=5)}
    assert found["catalogue.db"]["result"] == "ok"
    assert found[f"collections/{path.name}"]["result"] == "damaged"
    assert found[f"collections/{path.name}"]["said"]


def test_a_store_that_was_written_by_a_newer_release_is_told_by_its_schema(
    store: SqliteStore, tmp_path: Path
) -> None:
    """Nothing is read from tables that may have changed."""
    store.close()
    connection = apsw.Connection(str(tmp_path / "data" / "catalogue.db"))
    connection.execute("PRAGMA user_version = 99").fetchall()
    connection.close()
    found = survey(tmp_path / "data", seconds=5)
    assert found["schema"] == 99
    assert "pending" not in found


def test_where_there_is_no_store_nothing_is_made(tmp_path: Path) -> None:
    """The doctor looks at an empty directory and leaves it empty."""
    with pytest.raises(NotFoundError):
        survey(tmp_path, seconds=1)
    assert files_of(tmp_path, seconds=1) == []
    assert list(tmp_path.iterdir()) == []


# What is asked live


def test_settings_are_told_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret is whether it is set, also in a URL."""
    monkeypatch.setenv("RAG_ADMIN_KEY", "k" * 40)
    monkeypatch.setenv("RAG_LLM_BASE_URL", "http://me:hunter22@llm:8080/v1")
    monkeypatch.setenv("RAG_LLM_MODEL", "m")
    found = LiveWorld().ragdock("settings")
    assert found["admin_key"] is True
    assert found["redis_password"] is False
    text = json.dumps(found)
    assert "kkkk" not in text
    assert "hunter22" not in text
    assert "RAG_ADMIN_KEY_FILE" in found["variables"]


def test_wrong_settings_are_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the variable and not a secret's value."""
    monkeypatch.setenv("RAG_TOP_K", "zero")
    monkeypatch.setenv("RAG_ADMIN_KEY", "tooshort")
    with pytest.raises(WorldError, match="RAG_TOP_K='zero'") as caught:
        own.ask("settings")
    assert caught.value.kind == "status"
    assert "tooshort" not in caught.value.detail


class _Sick(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"status": "unavailable", "key": self.headers["Authorization"]}).encode()
        self.send_response(503)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_health_is_asked_with_a_static_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server tells details to who has one, the metrics' first; 503 is an answer."""
    web = ThreadingHTTPServer(("127.0.0.1", 0), _Sick)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    monkeypatch.setenv("PORT", str(web.server_port))
    monkeypatch.setenv("RAG_ADMIN_KEY", "k" * 40)
    found = own.ask("health")
    assert own.ask(f"health {web.server_port}")["body"] == found["body"]
    monkeypatch.setenv("RAG_METRICS_KEY", "m" * 40)
    assert own.ask("health")["body"]["key"] == "Bearer " + "m" * 40
    web.shutdown()
    web.server_close()
    assert found["status"] == 503
    assert found["body"] == {"status": "unavailable", "key": "Bearer " + "k" * 40}
    with pytest.raises(WorldError) as caught:
        own.ask("health")
    assert caught.value.kind == "refused"


@pytest.mark.timing
def test_a_name_server_that_is_away_costs_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver itself would wait five for each server and domain."""
    over = threading.Event()

    def asked(*_: object, **__: object) -> list[Any]:
        over.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", asked)
    started = time.monotonic()
    with pytest.raises(WorldError, match="no address in 2 s"):
        LiveWorld().resolve("redis")
    over.set()
    assert time.monotonic() - started < 4


def test_what_redis_counts_is_no_secret() -> None:
    """INFO keeps its numbers, whatever they are called; a password in it goes."""
    text = "evicted_keys:7\r\nkeyspace_hits:9\r\ndb0:keys=3,expires=1\r\nmasterauth:hunter22\r\n"
    told = Redactor().answer(text)
    assert told.startswith("evicted_keys:7\r\nkeyspace_hits:9\r\ndb0:keys=3,expires=1\r\n")
    assert Redactor().answer({"Env": ["REDIS_PASSWORD=hunter22"]}) == {
        "Env": ["REDIS_PASSWORD=<redacted 8>"]
    }


ABOUT_THIS_MACHINE = {"D18i", "G05", "G06", "G08"}
"""What these find depends on the machine that runs the tests."""


def alarms(scopes: frozenset[Scope]) -> dict[str, list[str]]:
    """What the checks of these scopes find here, live."""
    checks = [one for one in all_checks() if one.id not in ABOUT_THIS_MACHINE]
    report = examine(checks, Recorder(LiveWorld()), scopes)
    return {
        result.check.id: [finding.summary for finding in result.findings]
        for result in report.results
        if result.status in (Status.FAIL, Status.WARN)
    }


def test_a_directory_that_no_server_has_seen_raises_no_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first start there is nothing to complain about."""
    monkeypatch.setenv("RAG_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PORT", "1")
    assert alarms(frozenset({Scope.BOTH})) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_redis_that_is_a_cache_raises_no_alarm_and_a_full_one_does(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real Redis as the compose file starts it; then one that may evict nothing."""
    assert store.ping() is None
    monkeypatch.setenv("RAG_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("REDIS_HOST", "127.0.0.1")
    sound = ("--maxmemory", "192mb", "--maxmemory-policy", "allkeys-lru")
    with RedisServer(tmp_path, *sound) as redis:
        monkeypatch.setenv("REDIS_PORT", str(redis.port))
        assert alarms(frozenset({Scope.BOTH})) == {}
    with RedisServer(tmp_path, "--maxmemory", "500kb", "--maxmemory-policy", "noeviction") as redis:
        monkeypatch.setenv("REDIS_PORT", str(redis.port))
        assert set(alarms(frozenset({Scope.BOTH}))) == {"R2"}
    assert set(alarms(frozenset({Scope.BOTH}))) == {"R7"}
