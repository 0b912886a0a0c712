"""The live world against this machine, and what is recorded of it."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest

from ragdock.errors import InputError
from ragdock.ops.doctor import live
from ragdock.ops.doctor.live import LiveWorld
from ragdock.ops.doctor.recorded import RecordedWorld, Recorder, read_recording, write_recording
from ragdock.ops.doctor.world import WorldError

SECRET = "hunter2-Zq8vY4"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LiveWorld:
    """This machine, from a folder of its own, without an Engine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setenv("RAG_ADMIN_KEY", SECRET)
    return LiveWorld("some-project")


def kind(call: object, *arguments: object) -> str:
    """The kind of error that a question ends in."""
    with pytest.raises(WorldError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.kind


def test_the_environment_tells_folder_and_project(world: LiveWorld, tmp_path: Path) -> None:
    """The checks learn both as compose would, and no secret."""
    environ = world.environ()
    assert environ["PWD"] == str(tmp_path)
    assert environ["COMPOSE_PROJECT_NAME"] == "some-project"
    assert environ["RAG_ADMIN_KEY"] == f"<redacted {len(SECRET)}>"


def test_files_are_read_bounded_and_masked(world: LiveWorld, tmp_path: Path) -> None:
    """256 KiB of a file; secrets of `.env` are masked there and afterwards everywhere."""
    (tmp_path / "large").write_bytes(b"x" * 1_000_000)
    assert len(world.read(f"{tmp_path}/large")) == 256 << 10
    (tmp_path / ".env").write_text("REDIS_PASSWORD='correct horse'\nRAG_TOP_K=5\n")
    assert "horse" not in world.read(f"{tmp_path}/.env")
    assert "RAG_TOP_K=5" in world.read(f"{tmp_path}/.env")
    assert kind(world.read, f"{tmp_path}/none") == "absent"
    assert kind(world.read, str(tmp_path)) == "absent"
    assert kind(world.read, "/run/secrets/redis_password") == "denied"


@pytest.mark.timing
def test_a_pipe_without_a_writer_keeps_nobody_waiting(world: LiveWorld, tmp_path: Path) -> None:
    """Reading it ends at once."""
    os.mkfifo(tmp_path / "pipe")
    started = time.monotonic()
    assert world.read(f"{tmp_path}/pipe") == ""
    assert time.monotonic() - started < 2


def test_paths_are_described(world: LiveWorld, tmp_path: Path) -> None:
    """Kind, mode, size, entries, links, space, and whether one may write."""
    (tmp_path / "file").write_text("abc")
    (tmp_path / "file").chmod(0o640)
    (tmp_path / "link").symlink_to("file")
    found = world.stat(f"{tmp_path}/file")
    assert (found.kind, found.mode, found.size_bytes) == ("file", 0o640, 3)
    assert world.stat(str(tmp_path)).kind == "dir"
    assert world.entries(str(tmp_path)) == ["file", "link"]
    assert world.link(f"{tmp_path}/link") == "file"
    assert world.space(str(tmp_path)).size_bytes > 0
    assert world.writable(str(tmp_path))
    assert kind(world.writable, f"{tmp_path}/none") == "absent"
    assert world.entries(str(tmp_path)) == ["file", "link"]


def test_ports_are_tried(world: LiveWorld) -> None:
    """A port with a listener is taken and can be reached; afterwards it is free."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert world.listens("127.0.0.1", port)
        assert world.connect("127.0.0.1", port) < 3
    assert not world.listens("127.0.0.1", port)
    assert kind(world.connect, "127.0.0.1", port) == "refused"


def test_names_are_resolved(world: LiveWorld) -> None:
    """A name without an address is told apart from an error."""
    assert "127.0.0.1" in world.resolve("localhost")[0]
    assert kind(world.resolve, "no-such-host.invalid") in ("unresolved", "unresolvable")
    assert kind(world.resolve, "x" * 300) == "unresolved"


def test_commands_say_or_fail(world: LiveWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed, masked; a failure with its text; a missing or slow program."""
    assert world.output("echo", "a b") == "a b\n"
    assert SECRET not in world.output("echo", f"it is {SECRET}")
    with pytest.raises(WorldError, match="No such file") as caught:
        world.output("ls", "/no/such/directory")
    assert caught.value.kind == "status"
    assert kind(world.output, "no-such-program-anywhere") == "absent"
    monkeypatch.setattr(live, "COMMAND_SECONDS", 0.2)
    assert kind(world.output, "sleep", "5") == "timeout"


def test_redis_is_asked_only_to_read(world: LiveWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that changes something isn't sent; without a setting there is no Redis."""
    monkeypatch.delenv("RAG_ADMIN_KEY")
    assert kind(world.redis, "PING") == "absent"
    monkeypatch.setenv("REDIS_HOST", "127.0.0.1")
    monkeypatch.setenv("REDIS_PORT", "1")
    other = LiveWorld()
    assert kind(other.redis, "PING") == "refused"
    assert kind(other.redis, "FLUSHALL") == "unsupported"
    assert kind(other.redis, "CONFIG", "SET", "maxmemory", "1") == "unsupported"


def test_a_recording_answers_as_the_world_did(world: LiveWorld, tmp_path: Path) -> None:
    """Answers and errors of every method come back from the file, asked once."""
    (tmp_path / "file").write_text("abc")
    recorder = Recorder(world)

    def ask(of: Recorder | RecordedWorld) -> list[object]:
        answers: list[object] = [of.now(), of.identity(), dict(of.environ())]
        questions = (
            lambda: of.engine("/version"),
            lambda: of.read(f"{tmp_path}/file"),
            lambda: of.entries(str(tmp_path)),
            lambda: of.link(f"{tmp_path}/file"),
            lambda: of.stat(f"{tmp_path}/file"),
            lambda: of.space(str(tmp_path)).size_bytes,
            lambda: of.writable(str(tmp_path)),
            lambda: of.redis("PING"),
            lambda: of.resolve("localhost"),
            lambda: of.connect("127.0.0.1", 1),
            lambda: of.listens("127.0.0.1", 1),
            lambda: of.output("echo", "x"),
        )
        for question in questions:
            try:
                answers.append(question())
            except WorldError as exc:
                answers.append((exc.kind, exc.detail))
        return answers

    seen = ask(recorder)
    (tmp_path / "file").write_text("changed")
    assert ask(recorder) == seen
    write_recording(recorder.recording(), tmp_path / "recording.json")
    assert ask(RecordedWorld(recorder.recording())) == seen
    assert SECRET not in (tmp_path / "recording.json").read_text()
    replayed = read_recording(tmp_path / "recording.json")
    assert replayed.read(f"{tmp_path}/file") == "abc"


def test_a_file_that_is_no_recording_is_refused(tmp_path: Path) -> None:
    """The reason is told; nothing crashes."""
    for content in ("", "[]", "{}", '{"format": "else"}'):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(InputError, match=r"x\.json"):
            read_recording(tmp_path / "x.json")
    with pytest.raises(InputError):
        write_recording({}, tmp_path / "no" / "such" / "directory")


def test_a_recording_names_no_open_files(world: LiveWorld, tmp_path: Path) -> None:
    """Of the links that are looked through for a port's owner only sockets are kept."""
    with (tmp_path / "diary.txt").open("w") as diary, socket.socket() as link:
        recorder = Recorder(world)
        for stream in (diary, link):
            recorder.link(f"/proc/{os.getpid()}/fd/{stream.fileno()}")
        kept = recorder.recording()["link"]
    assert len(kept) == 1
    assert "diary" not in json.dumps(kept)
    assert "socket:[" in json.dumps(kept)
