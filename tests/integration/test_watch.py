"""`ragdock ingest --watch` as a process of its own, on a real folder, against a real server."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.serving import ROOT, ServerProcess, until

START = """
import sys
if {polling}:
    sys.modules["watchfiles"] = None
from ragdock.cli.main import main
main(sys.argv[1:])
"""


class Watch:
    """A running `ingest --watch --json`: its events as they come, its remarks in a file."""

    def __init__(self, folder: Path, url: str, *options: str, polling: bool) -> None:
        self.errors = folder.with_name(f"{folder.name}.err")
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-c", START.format(polling=polling), "ingest", folder.name),
                    *("--watch", "--json", "--url", url, *options),
                ],
                cwd=folder.parent,
                env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.events: list[dict[str, Any]] = []

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def poll(self) -> list[dict[str, Any]]:
        """All events so far."""
        while True:
            try:
                self.events.append(json.loads(self._lines.get_nowait()))
            except queue.Empty:
                return self.events

    def saw(self, event: str, path: str, times: int = 1) -> None:
        """Wait for an event about a file."""
        until(
            lambda: (
                sum(
                    item.get("event") == event and item["path"].endswith(path)
                    for item in self.poll()
                )
                >= times
            )
        )

    def said(self, text: str) -> None:
        """Wait for a remark."""
        until(lambda: text in self.errors.read_text())

    def close(self) -> None:
        """End it whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self, how: signal.Signals = signal.SIGINT) -> tuple[int, dict[str, Any]]:
        """Interrupt; exit code and summary."""
        self.process.send_signal(how)
        code = self.process.wait(15)
        until(lambda: self.poll() and "counts" in self.events[-1])
        return code, self.events[-1]["counts"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("watch") / "data") as running:
        yield running


Watching = Callable[..., Watch]


@contextmanager
def watchers(folder: Path, url: str) -> Iterator[Watching]:
    """Starts watchers, and ends those that a failed test leaves."""
    started: list[Watch] = []

    def start(*options: str, polling: bool = True) -> Watch:
        started.append(Watch(folder, url, *options, polling=polling))
        return started[-1]

    try:
        yield start
    finally:
        for watch in started:
            watch.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    docs = tmp_path / "docs"
    (docs / "deep").mkdir(parents=True)
    write(docs / "ferry.md", "The ferry leaves at nine.")
    write(docs / "deep" / "light.md", "The keeper keeps seven goats.")
    # Old enough to be taken at once.
    for file in (docs / "ferry.md", docs / "deep" / "light.md"):
        os.utime(file, (time.time() - 60,) * 2)
    return docs


@pytest.fixture
def collection(server: ServerProcess, request: pytest.FixtureRequest) -> str:
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)[:60].lower().strip("-")
    with server.client() as client:
        assert client.post("/v1/collections", json={"name": name}).status_code == 201
    return name


@pytest.fixture
def watching(server: ServerProcess, folder: Path) -> Iterator[Watching]:
    with watchers(folder, server.url) as start:
        yield start


def write(file: Path, text: str) -> None:
    file.write_text(f"# Note\n\n{text}\n", encoding="utf-8")


def held(server: ServerProcess, collection: str) -> dict[str, str]:
    """The texts of a collection's documents by id."""
    with server.client() as client:
        listed = client.get("/v1/documents", params={"collection": collection}).json()
        return {
            item["id"]: client.get(
                f"/v1/documents/{item['id']}/text", params={"collection": collection}
            ).text
            for item in listed["documents"]
        }


@pytest.mark.parametrize("polling", [True, False], ids=["looking", "told"])
def test_a_folder_is_followed(
    watching: Watching, server: ServerProcess, folder: Path, collection: str, polling: bool
) -> None:
    """What is there, added, changed, renamed and deleted is so on the server soon after."""
    watch = watching("-c", collection, polling=polling)
    watch.saw("indexed", "ferry.md")
    watch.saw("indexed", "light.md")

    write(folder / "new.md", "A new pier was built.")
    watch.saw("indexed", "new.md")
    write(folder / "ferry.md", "The ferry leaves at ten.")
    watch.saw("indexed", "ferry.md", times=2)
    (folder / "deep" / "light.md").rename(folder / "lamp.md")
    watch.saw("deleted", "light.md")
    watch.saw("indexed", "lamp.md")
    (folder / "new.md").unlink()
    watch.saw("deleted", "new.md")
    (folder / "far" / "down").mkdir(parents=True)
    write(folder / "far" / "down" / "note.md", "In a new folder.")
    watch.saw("indexed", "note.md")

    texts = held(server, collection)
    assert set(texts) == {"docs:ferry.md", "docs:lamp.md", "docs:far:down:note.md"}
    assert "at ten" in texts["docs:ferry.md"]
    code, counts = watch.stop()
    assert code == 0, watch.errors.read_text()
    assert counts == {"indexed": 6, "deleted": 2}
    # A renamed file is under one of its names at any time.
    order = [(item["event"], item["path"]) for item in watch.events[:-1]]
    assert order.index(("deleted", "docs/deep/light.md")) < len(order)
    assert "Traceback" not in watch.errors.read_text()


def test_what_the_server_has_is_not_sent_again(
    watching: Watching, server: ServerProcess, folder: Path, collection: str
) -> None:
    """A second watcher sends only what changed while none ran, and deletes what vanished."""
    first = watching("-c", collection)
    first.saw("indexed", "ferry.md")
    first.saw("indexed", "light.md")
    assert first.stop(signal.SIGTERM)[0] == 0
    write(folder / "ferry.md", "Changed meanwhile.")
    write(folder / "more.md", "Added meanwhile.")
    (folder / "deep" / "light.md").unlink()
    with server.client() as client:
        n_jobs = len(client.get("/v1/jobs", params={"collection": collection}).json()["jobs"])
    second = watching("-c", collection)
    second.saw("deleted", "light.md")
    second.saw("indexed", "ferry.md")
    second.saw("indexed", "more.md")
    second.stop()
    third = watching("-c", collection)
    third.said("In step with 2 of 2 files")
    time.sleep(2)
    assert third.stop() == (0, {"unchanged": 2})
    with server.client() as client:
        jobs = client.get("/v1/jobs", params={"collection": collection, "limit": 1000}).json()
    assert len([job for job in jobs["jobs"] if job["kind"] == "index"]) == n_jobs + 2


@pytest.mark.timing
def test_half_written_files_are_not_taken(
    watching: Watching, server: ServerProcess, folder: Path, collection: str
) -> None:
    """A file that grows for a while is sent once, whole, when it has stopped growing."""
    watch = watching("-c", collection)
    watch.saw("indexed", "ferry.md")
    with (folder / "slow.md").open("w", encoding="utf-8") as file:
        for number in range(20):
            file.write(f"Line {number} of a slow writer.\n")
            file.flush()
            time.sleep(0.2)
    watch.saw("indexed", "slow.md")
    assert "Line 19" in held(server, collection)["docs:slow.md"]
    watch.stop()
    assert sum(item.get("path", "").endswith("slow.md") for item in watch.events) == 1


def test_editors_leavings_and_ignored_files_are_left_alone(
    watching: Watching, server: ServerProcess, folder: Path, collection: str
) -> None:
    """Swap, backup and lock files aren't sent; a rename over a file is a change of that file."""
    (folder / ".gitignore").write_text("*.log\n", encoding="utf-8")
    watch = watching("-c", collection)
    watch.saw("indexed", "ferry.md")
    for name in (".ferry.md.swp", "ferry.md~", "#ferry.md#", "~$x.docx", "4913", "a.log", ".x.md"):
        write(folder / name, "Not a document.")
    write(folder / "ferry.md.tmp", "The ferry leaves at noon.")
    (folder / "ferry.md.tmp").replace(folder / "ferry.md")
    watch.saw("indexed", "ferry.md", times=2)
    # What becomes ignored is deleted, as --prune does.
    (folder / ".gitignore").write_text("*.log\nlight.md\n", encoding="utf-8")
    watch.saw("deleted", "light.md")
    assert set(held(server, collection)) == {"docs:ferry.md"}
    assert "noon" in held(server, collection)["docs:ferry.md"]
    watch.stop()


def test_refused_files_are_told_and_left_until_they_change(
    watching: Watching, server: ServerProcess, folder: Path, collection: str
) -> None:
    """A file that can't be read fails once; when it is mended it is indexed; the exit code is 1."""
    (folder / "bad.json").write_bytes(b'{"open": ')
    os.utime(folder / "bad.json", (time.time() - 60,) * 2)
    watch = watching("-c", collection)
    watch.saw("failed", "bad.json")
    watch.saw("indexed", "ferry.md")
    time.sleep(2.5)
    (folder / "bad.json").write_text('{"open": "now"}', encoding="utf-8")
    watch.saw("indexed", "bad.json")
    code, counts = watch.stop()
    assert (code, counts["failed"]) == (1, 1)
    assert "Error: docs/bad.json: " in watch.errors.read_text()


def test_a_folder_that_goes_away_deletes_nothing(
    watching: Watching, server: ServerProcess, folder: Path, collection: str
) -> None:
    """An unmounted disk isn't a folder whose files were deleted; when it is back, it goes on."""
    watch = watching("-c", collection)
    watch.saw("indexed", "ferry.md")
    watch.saw("indexed", "light.md")
    away = folder.with_name("away")
    folder.rename(away)
    folder.mkdir()
    time.sleep(3)
    assert len(held(server, collection)) == 2
    folder.rmdir()
    away.rename(folder)
    (folder / "ferry.md").unlink()
    watch.saw("deleted", "ferry.md")
    watch.stop()
    assert set(held(server, collection)) == {"docs:deep:light.md"}


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_the_server_may_go_away(folder: Path, tmp_path: Path, how: str) -> None:
    """Changes made while the server is down are sent when it is back; nothing is doubled."""
    server = ServerProcess(tmp_path / "data")
    with server, watchers(folder, server.url) as watching:
        watch = watching()
        watch.saw("indexed", "ferry.md")
        watch.saw("indexed", "light.md")
        getattr(server, how)()
        write(folder / "new.md", "Written while the server was down.")
        write(folder / "ferry.md", "Changed while the server was down.")
        (folder / "deep" / "light.md").unlink()
        watch.said("Changes are kept until it answers.")
        server.start()
        watch.said("The server is back.")
        watch.saw("indexed", "new.md")
        watch.saw("indexed", "ferry.md", times=2)
        watch.saw("deleted", "light.md")
        texts = held(server, "default")
        code, _ = watch.stop()
    assert code == 0
    assert set(texts) == {"docs:ferry.md", "docs:new.md"}
    assert "while the server was down" in texts["docs:ferry.md"]


def test_a_server_that_starts_later_is_waited_for(folder: Path, tmp_path: Path) -> None:
    """The watcher may be started first."""
    server = ServerProcess(tmp_path / "data")
    with watchers(folder, server.url) as watching:
        watch = watching()
        watch.said("Changes are kept until it answers.")
        with server:
            watch.saw("indexed", "ferry.md")
            assert watch.stop()[0] == 0


def test_a_missing_collection_ends_the_watch(watching: Watching) -> None:
    """Waiting doesn't make a collection: that is exit 1 with the reason."""
    watch = watching("-c", "nowhere")
    assert watch.process.wait(15) == 1
    watch.said("nowhere")
