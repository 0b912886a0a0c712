"""The way to the Engine: a real socket that answers well, badly, slowly, or not at all."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ragdock.ops.doctor import engine_api
from ragdock.ops.doctor.engine_api import DEFAULT_HOST, Engine, find_host
from ragdock.ops.doctor.world import WorldError

Answer = Callable[[socket.socket], None]


def reply(body: bytes, kind: str = "application/json", status: str = "200 OK") -> Answer:
    """An HTTP answer of this content."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return lambda link: link.sendall(head.encode() + body)


@contextmanager
def listening(path: Path, answer: Answer) -> Iterator[Engine]:
    """An engine behind a unix socket that gives one answer to everything."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        while True:
            try:
                link, _ = server.accept()
            except OSError:
                return
            with link:
                link.recv(65536)
                with suppress(OSError):
                    answer(link)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield Engine(f"unix://{path}")
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


def kind_of(engine: Engine, path: str = "/version") -> str:
    """The kind of error that the question ends in."""
    with pytest.raises(WorldError) as caught:
        engine.get(path)
    return caught.value.kind


def test_json_comes_as_values(tmp_path: Path) -> None:
    """An answer of JSON is parsed."""
    with listening(tmp_path / "s", reply(b'{"Version": "20.10.24"}')) as engine:
        assert engine.get("/version") == {"Version": "20.10.24"}


def test_events_come_as_a_list(tmp_path: Path) -> None:
    """One JSON document a line is a list, and a line that is none is left out."""
    with listening(tmp_path / "s", reply(b'{"Action":"die"}\nnonsense\n{"Action":"oom"}\n')) as e:
        assert [event["Action"] for event in e.get("/events?since=1&until=2")] == ["die", "oom"]
    with listening(tmp_path / "t", reply(b"")) as engine:
        assert engine.get("/events?since=1&until=2") == []


def test_logs_come_without_their_frames(tmp_path: Path) -> None:
    """The headers between the pieces of a log are taken out; a terminal's log has none."""
    framed = b"\x01\0\0\0\0\0\0\x03one" + b"\x02\0\0\0\0\0\0\x04 two"
    with listening(tmp_path / "s", reply(framed, "application/octet-stream")) as engine:
        assert engine.get("/containers/x/logs?tail=1") == "one two"
    with listening(tmp_path / "t", reply(b"plain", "application/octet-stream")) as engine:
        assert engine.get("/containers/x/logs?tail=1") == "plain"


def test_archives_come_as_one_character_a_byte(tmp_path: Path) -> None:
    """Binary answers keep their length."""
    with listening(tmp_path / "s", reply(bytes(range(256)), "application/x-tar")) as engine:
        assert [ord(c) for c in engine.get("/containers/x/archive?path=/a")] == [*range(256)]


def test_a_refusal_has_its_status_and_text(tmp_path: Path) -> None:
    """What the Engine says no with is told."""
    body = json.dumps({"message": "No such container: x"}).encode()
    with listening(tmp_path / "s", reply(body, status="404 Not Found")) as engine:
        with pytest.raises(WorldError, match="404 No such container: x") as caught:
            engine.get("/containers/x/json")
        assert caught.value.kind == "status"


@pytest.mark.parametrize(
    "answer",
    [
        lambda link: link.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"),
        lambda link: link.close(),
        lambda link: link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"),
    ],
    ids=["another-protocol", "hangs-up", "cut"],
)
def test_nonsense_is_an_error_of_the_world(tmp_path: Path, answer: Answer) -> None:
    """Whatever listens there, the doctor goes on."""
    with listening(tmp_path / "s", answer) as engine:
        assert kind_of(engine) in ("status", "refused")


@pytest.mark.timing
def test_a_slow_answer_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then doesn't keep the doctor beyond its deadline."""
    monkeypatch.setattr(engine_api, "TIMEOUT_SECONDS", 0.5)

    def drip(link: socket.socket) -> None:
        link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(100):
            link.sendall(b" ")
            time.sleep(0.1)

    with listening(tmp_path / "s", drip) as engine:
        started = time.monotonic()
        assert kind_of(engine) == "timeout"
        assert time.monotonic() - started < 5


def test_an_endless_answer_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so much is kept of an answer."""
    monkeypatch.setattr(engine_api, "MAX_TEXT_BYTES", 100_000)
    with listening(tmp_path / "s", reply(b"x" * 1_000_000, "text/plain")) as engine:
        assert len(engine.get("/containers/x/logs?tail=1")) == 100_000


def test_nobody_there_is_told_apart(tmp_path: Path) -> None:
    """No socket, a socket without a listener, and a way that can't be gone."""
    assert kind_of(Engine(f"unix://{tmp_path}/none")) == "absent"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / "dead"))
    assert kind_of(Engine(f"unix://{tmp_path}/dead")) == "refused"
    assert kind_of(Engine("ssh://somebody@host")) == "unsupported"
    assert kind_of(Engine("tcp://127.0.0.1:2376", tls=True)) == "unsupported"
    assert kind_of(Engine("tcp://127.0.0.1:none")) == "absent"


def test_an_engine_by_tcp_is_asked(tmp_path: Path) -> None:
    """DOCKER_HOST=tcp://... goes without TLS."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            link, _ = server.accept()
            with link:
                link.recv(65536)
                reply(b"[]")(link)

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        assert Engine(f"tcp://127.0.0.1:{port}").get("/containers/json") == []
        thread.join(5)


def test_the_engine_is_where_the_client_would_look(tmp_path: Path) -> None:
    """DOCKER_HOST, then the context, then the usual place."""
    assert find_host({"DOCKER_HOST": "tcp://h:1"}) == ("tcp://h:1", "DOCKER_HOST")
    home = {"HOME": str(tmp_path)}
    assert find_host(home)[0] == DEFAULT_HOST
    # docker context create far: the directory is the name's SHA-256.
    digest = hashlib.sha256(b"far").hexdigest()
    config = tmp_path / ".docker"
    meta = config / "contexts" / "meta"
    meta.mkdir(parents=True)
    (config / "config.json").write_text('{"currentContext": "far"}')
    (meta / digest).mkdir()
    endpoint = {"Endpoints": {"docker": {"Host": "tcp://far:2375"}}}
    (meta / digest / "meta.json").write_text(json.dumps(endpoint))
    assert find_host(home) == ("tcp://far:2375", "context far")
    (meta / digest / "meta.json").write_text("{")
    assert find_host(home)[0] == DEFAULT_HOST
