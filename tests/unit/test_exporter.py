"""`ragdock exporter`: containers as metrics, from an Engine that answers, lies or is away."""

from __future__ import annotations

import inspect
import json
import re
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ragdock.errors import ConfigurationError, UnavailableError
from ragdock.ops.exporter import containers, engine
from ragdock.ops.exporter.engine import Engine
from ragdock.ops.exporter.events import EventCounter
from ragdock.ops.exporter.exporter import Exporter
from ragdock.ops.exporter.exposition import FAMILIES, Sample, exposition

WEB = "a" * 64
JOB = "b" * 64
WHO = ("shop-web-1", "web", "shop")
LABELS = 'container="shop-web-1",service="web",project="shop"'
# As an Engine 20.10 answers, cut to what is read.
INSPECTION: dict[str, Any] = {
    "Id": WEB,
    "Name": "/shop-web-1",
    "RestartCount": 3,
    "State": {
        "Status": "running",
        "Running": True,
        "OOMKilled": False,
        "ExitCode": 0,
        "StartedAt": "2026-11-22T21:59:24.602963315Z",
        "FinishedAt": "0001-01-01T00:00:00Z",
        "Health": {"Status": "unhealthy"},
    },
    "HostConfig": {
        "Memory": 67108864,
        "NanoCpus": 500000000,
        "CpuQuota": 0,
        "CpuPeriod": 0,
        "PidsLimit": 256,
    },
    "Config": {
        "Labels": {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}
    },
}
ENDED: dict[str, Any] = {
    "Id": JOB,
    "Name": "/job",
    "RestartCount": 0,
    "State": {
        "Status": "exited",
        "Running": False,
        "OOMKilled": True,
        "ExitCode": 137,
        "StartedAt": "2026-11-22T21:59:24Z",
        "FinishedAt": "2026-11-22T21:59:25Z",
    },
    "HostConfig": {"Memory": 0, "NanoCpus": 0, "PidsLimit": None},
    "Config": {"Labels": None},
}
STATS_V1: dict[str, Any] = {
    "memory_stats": {
        "usage": 3420160,
        "stats": {"inactive_file": 4096, "total_inactive_file": 20160},
        "limit": 67108864,
    },
    "cpu_stats": {
        "cpu_usage": {"total_usage": 36674702},
        "throttling_data": {"periods": 5, "throttled_periods": 2, "throttled_time": 250000000},
    },
    "pids_stats": {"current": 7},
    "networks": {
        "eth0": {"rx_bytes": 486, "tx_bytes": 10},
        "eth1": {"rx_bytes": 14, "tx_bytes": 5},
    },
}
STATS_V2: dict[str, Any] = {
    "memory_stats": {"usage": 3420160, "stats": {"inactive_file": 420160}},
    "cpu_stats": {"cpu_usage": {"total_usage": 1000000000}},
    "pids_stats": {},
}


class FakeEngine:
    """An HTTP server on a socket's file that answers as it is told."""

    def __init__(self, path: Path) -> None:
        self.address = f"unix://{path}"
        self.answers: dict[str, Any] = {
            "/version": {"ApiVersion": "1.41"},
            "/containers/json": [{"Id": WEB}, {"Id": JOB}],
            f"/containers/{WEB}/json": INSPECTION,
            f"/containers/{WEB}/stats": STATS_V1,
            f"/containers/{JOB}/json": ENDED,
        }
        self.asked: list[str] = []
        self.events: list[Any] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                path = self.path.partition("?")[0]
                if path == "/events":
                    lines = [json.dumps(event) for event in outer.events]
                    self._send(200, "".join(f"{line}\n" for line in lines).encode())
                    time.sleep(0.05)
                elif path in outer.answers:
                    answer = outer.answers[path]
                    raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                    self._send(200, raw)
                else:
                    self._send(404, b'{"message": "No such container"}')

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def address_string(self) -> str:
                return "local"

            def log_message(self, *_: object) -> None:
                """Nothing."""

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that went away."""

        self.server = Server(str(path), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeEngine]:
    """A running one."""
    found = FakeEngine(tmp_path / "docker.sock")
    yield found
    found.server.shutdown()
    found.server.server_close()


@contextmanager
def told(address: str, **options: Any) -> Iterator[Callable[[], dict[str, float]]]:
    """An exporter's series, each time anew."""
    with Exporter(Engine(address, timeout_seconds=2), **options) as exporter:

        def read() -> dict[str, float]:
            exporter._last = (-9.0, b"")
            lines = exporter.metrics().decode().splitlines()
            pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
            return {series: float(value) for series, value in pairs}

        yield read


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for it, at most 5 seconds."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_container_is_told_with_its_limits(fake: FakeEngine) -> None:
    """Restarts, health, memory without file cache, CPU, throttling and limits, under its names."""
    with told(fake.address, everything=True) as read:
        found = read()
    expected = {
        "restarts_total": 3,
        "start_time_seconds": 1795384764.602963,
        "memory_working_set_bytes": 3400000,
        "memory_limit_bytes": 67108864,
        "cpu_seconds_total": 0.036674702,
        "cpu_limit_cores": 0.5,
        "cpu_periods_total": 5,
        "cpu_throttled_periods_total": 2,
        "cpu_throttled_seconds_total": 0.25,
        "pids": 7,
        "pids_limit": 256,
        "network_receive_bytes_total": 500,
        "network_transmit_bytes_total": 15,
        "oom_killed": 0,
    }
    for name, value in expected.items():
        assert found[f"rag_container_{name}{{{LABELS}}}"] == pytest.approx(value), name
    assert found[f'rag_container_health{{{LABELS},status="unhealthy"}}'] == 1
    assert found[f'rag_container_health{{{LABELS},status="healthy"}}'] == 0
    assert found[f'rag_container_state{{{LABELS},state="running"}}'] == 1
    assert f"rag_container_last_exit_code{{{LABELS}}}" not in found
    assert found["rag_engine_up"] == 1


def test_an_ended_container_has_no_use_of_anything(fake: FakeEngine) -> None:
    """It has an exit code and an OOM kill; no memory, no limits where none are set, no health."""
    with told(fake.address, everything=True) as read:
        found = read()
    who = 'container="job",service="",project=""'
    assert found[f"rag_container_last_exit_code{{{who}}}"] == 137
    assert found[f"rag_container_oom_killed{{{who}}}"] == 1
    assert found[f'rag_container_health{{{who},status="none"}}'] == 1
    assert found[f'rag_container_state{{{who},state="exited"}}'] == 1
    absent = ("memory_working_set_bytes", "memory_limit_bytes", "cpu_limit_cores", "pids_limit")
    assert not [name for name in absent if f"rag_container_{name}{{{who}}}" in found]


def test_memory_is_the_working_set_under_both_cgroup_versions() -> None:
    """Inactive file cache is taken off, by the name that the version gives it."""
    for stats in (STATS_V1, STATS_V2):
        values = {each.family: each.value for each in containers.of_stats(stats, WHO)}
        inactive = 20160 if stats is STATS_V1 else 420160
        assert values["memory"] == 3420160 - inactive


def test_odd_answers_are_no_error() -> None:
    """Missing and misshapen fields are left out."""
    assert list(containers.of_stats({}, WHO)) == []
    assert list(containers.of_stats({"memory_stats": None, "cpu_stats": 3}, WHO)) == []
    values = {each.family for each in containers.of_inspection({"State": {"StartedAt": "soon"}})}
    assert "started" not in values
    quota = {"HostConfig": {"CpuQuota": 150000, "CpuPeriod": 100000}}
    (cores,) = [s.value for s in containers.of_inspection(quota) if s.family == "cpu_limit"]
    assert cores == 1.5


def test_an_engine_that_is_away_is_told_and_comes_back(tmp_path: Path) -> None:
    """`rag_engine_up` is 0 and all else absent, never an exception; and 1 again afterwards."""
    path = tmp_path / "docker.sock"
    with told(f"unix://{path}", everything=True) as read:
        assert read() == {"rag_engine_up": 0.0}
        fake = FakeEngine(path)
        assert read()["rag_engine_up"] == 1
        fake.answers["/containers/json"] = b"<html>a proxy</html>"
        assert read() == {"rag_engine_up": 0.0}
        fake.server.shutdown()
        fake.server.server_close()
        assert read() == {"rag_engine_up": 0.0}


def test_a_container_that_goes_meanwhile_is_left_out(fake: FakeEngine) -> None:
    """What was removed after it was listed doesn't spoil the scrape."""
    del fake.answers[f"/containers/{JOB}/json"], fake.answers[f"/containers/{WEB}/stats"]
    with told(fake.address, everything=True) as read:
        found = read()
    assert found[f"rag_container_restarts_total{{{LABELS}}}"] == 3
    assert not [series for series in found if "memory_working" in series or '"job"' in series]


def test_it_tells_its_own_project(fake: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container it asks for its own project's containers only, outside for all of them."""
    monkeypatch.setattr("socket.gethostname", lambda: WEB[:12])
    fake.answers[f"/containers/{WEB[:12]}/json"] = INSPECTION
    with told(fake.address) as read:
        read()
    assert any("com.docker.compose.project%3Dshop" in path for path in fake.asked)
    fake.asked.clear()
    monkeypatch.setattr("socket.gethostname", lambda: "laptop")
    with told(fake.address) as read:
        read()
    listed = [path for path in fake.asked if path.startswith("/containers/json")]
    assert listed == ["/containers/json?all=1"]


def test_one_off_containers_are_left_out(fake: FakeEngine) -> None:
    """What `docker-compose run` leaves behind is no service that is down."""
    labels = {"com.docker.compose.oneoff": "True"}
    fake.answers["/containers/json"] = [{"Id": WEB, "Labels": {}}, {"Id": JOB, "Labels": labels}]
    with told(fake.address, everything=True) as read:
        found = read()
    assert any('"shop-web-1"' in series for series in found)
    assert not any('"job"' in series for series in found)


def event(action: str, nano: int, container_id: str = WEB) -> dict[str, Any]:
    """One of the Engine's."""
    return {"Action": action, "Actor": {"ID": container_id}, "timeNano": nano}


def test_events_are_counted_once(fake: FakeEngine) -> None:
    """Each event counts once, though the Engine repeats it when the stream is resumed."""
    start = time.time_ns() + 10**9
    fake.events = [
        event("start", start),
        event("oom", start + 1),
        event("die", start + 2),
        event("health_status: unhealthy", start + 3),
        event("health_status: healthy", start + 4),
        event("exec_start: x", start + 5),
        {"Action": "die"},
        [],
    ]
    counter = EventCounter(Engine(fake.address))
    counter.start()
    eventually(lambda: len([path for path in fake.asked if path.startswith("/events")]) > 3)
    counter.stop()
    assert counter.of(WEB) == {"start": 1, "die": 1, "oom": 1, "unhealthy": 1}
    assert counter.of(JOB) == {"start": 0, "die": 0, "oom": 0, "unhealthy": 0}
    resumed = re.findall(r"since=(\d+)\.(\d{9})", fake.asked[-1])
    assert resumed == [(str((start + 6) // 10**9), f"{(start + 5 + 1) % 10**9:09d}")]


def test_counters_of_events_begin_at_zero(fake: FakeEngine) -> None:
    """A series is there before the first event, so that `increase` sees the first one."""
    with told(fake.address, everything=True) as read:
        found = read()
    assert found[f'rag_container_events_total{{{LABELS},event="oom"}}'] == 0


def test_the_engine_is_only_read() -> None:
    """No request but GET exists in the module that speaks to the Engine."""
    source = inspect.getsource(engine)
    assert re.findall(r"\.request\(\s*(\S+?),", source) == ['"GET"']
    assert not re.findall(r'"(?:POST|PUT|DELETE|PATCH|HEAD)"', source)


@pytest.mark.parametrize("address", ["", "docker.sock", "https://host:2376", "unix://", "tcp://"])
def test_addresses_that_name_no_engine_are_refused(address: str) -> None:
    """The message names the option and what it may be."""
    with pytest.raises(ConfigurationError, match="--engine"):
        Engine(address)


def test_a_proxy_over_tcp_will_do() -> None:
    """Nothing listens there, which is another failure than a wrong address."""
    with pytest.raises(UnavailableError):
        Engine("http://127.0.0.1:9", timeout_seconds=1).get("/version")


def test_labels_are_escaped() -> None:
    """Quotes, backslashes and line ends in a name break no line."""
    text = exposition([Sample("pids", 1.0, ('a"b\\c\nd', "", ""))]).decode()
    assert r'container="a\"b\\c\nd",service=""' in text
    assert text.count("\n") == 3


def test_every_family_is_named_alike() -> None:
    """Counters end in _total, and no other metric does."""
    for kind, name, text, _ in FAMILIES.values():
        assert name.startswith(("rag_engine_", "rag_container_"))
        assert name.endswith("_total") == (kind == "counter")
        assert text.endswith(".")
