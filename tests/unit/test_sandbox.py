"""What a parser process can't do once its door is closed, on this kernel and on lesser ones."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ragdock.adapters.parsers import doors
from ragdock.adapters.parsers.dispatch import ParserPool
from ragdock.core.media import HTML, PDF
from support.files import DATA, read

SOURCE = Path(__file__).parents[2] / "src"
ATTEMPTS = """
import ctypes, json, os, socket, subprocess, sys, threading
from ragdock.adapters.parsers import sandbox
secret, weaken = sys.argv[1], sys.argv[2]
if weaken == "no landlock":
    sandbox._landlock = lambda libc: False
if weaken == "no filter":
    sandbox._filter = lambda libc, without_opening: False
held = os.open(secret, os.O_RDONLY)
closed = sandbox.enter(["ragdock.adapters.parsers.pdf_pdfium"])
libc = ctypes.CDLL(None, use_errno=True)

def thread():
    t = threading.Thread(target=int)
    t.start()
    t.join()

def raw(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")

attempts = {
    "socket": lambda: socket.create_connection(("127.0.0.1", 9), 1),
    "unix socket": lambda: socket.socketpair(),
    "io_uring": lambda: raw(425, 1, None),
    "read secret": lambda: open(secret).read(),
    "read passwd": lambda: open("/etc/passwd").read(),
    "read parent": lambda: open(f"/proc/{os.getppid()}/environ").read(),
    "list": lambda: os.listdir(os.path.dirname(secret)),
    "write": lambda: open(secret + ".new", "w"),
    "remove": lambda: os.remove(secret),
    "chmod held": lambda: os.fchmod(held, 0o777),
    "fork": os.fork,
    "run": lambda: subprocess.run([sys.executable, "-c", ""]),
    "memory file": lambda: os.memfd_create("x"),
    "signal": lambda: os.kill(os.getppid(), 0),
    "trace": lambda: raw(101 if os.uname().machine == "x86_64" else 117, 16, os.getppid(), 0, 0),
    "thread": thread,
    "own signal": lambda: os.kill(os.getpid(), 0),
    "read held": lambda: os.read(held, 1),
    "codec": lambda: b"x".decode("cp1251"),
    "parser": lambda: __import__("ragdock.adapters.parsers.pdf_pdfium"),
}
got = {}
for name, attempt in attempts.items():
    try:
        attempt()
        got[name] = True
    except OSError:
        got[name] = False
    if name == "fork" and os.getpid() != threading.main_thread().native_id:
        os._exit(0)
print(json.dumps([sorted(closed), sorted(name for name in got if got[name])]))
"""
HARMLESS = ["codec", "own signal", "parser", "read held", "thread"]


def attempt(tmp_path: Path, weaken: str = "") -> tuple[set[str], list[str]]:
    """(what is closed, what a process could still do), with one of the locks taken away."""
    secret = tmp_path / "secret"
    secret.write_text("s")
    ran = subprocess.run(
        [sys.executable, "-c", ATTEMPTS, str(secret), weaken],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    closed, possible = json.loads(ran.stdout)
    assert secret.read_text() == "s"
    return set(closed), possible


def needs(tmp_path: Path, *names: str, weaken: str = "") -> list[str]:
    """What is still possible; skips where the kernel lacks a lock."""
    closed, possible = attempt(tmp_path, weaken)
    if not closed >= set(names):
        pytest.skip(f"this kernel closes only {sorted(closed)}")
    return possible


def test_nothing_but_reading_is_left(tmp_path: Path) -> None:
    """No network, no file but code, no change of any file, no other process."""
    assert needs(tmp_path, *doors.ALL) == HARMLESS


def test_without_landlock_the_filter_forbids_opening(tmp_path: Path) -> None:
    """A kernel without Landlock leaves no way to open a file either."""
    assert needs(tmp_path, doors.FILES, weaken="no landlock") == HARMLESS


def test_without_the_filter_landlock_keeps_the_files(tmp_path: Path) -> None:
    """A kernel without filters still keeps files from being read or written."""
    closed, possible = attempt(tmp_path, "no filter")
    if doors.FILES not in closed:
        pytest.skip(f"this kernel closes only {sorted(closed)}")
    assert not {"read secret", "read passwd", "list", "write", "remove"} & set(possible)
    assert doors.PROCESSES not in closed
    if doors.NETWORK in closed:
        assert "socket" not in possible


def test_the_pool_tells_what_is_closed() -> None:
    """Documents are parsed behind the closed door, and the pool knows which doors are closed."""
    pool = ParserPool(timeout_seconds=60.0, memory_mb=512)
    assert pool.closed_to_children is None
    assert read(pool, b"<p>Hello", "a.html", HTML).text == "Hello"
    assert len(read(pool, (DATA / "handbook.pdf").read_bytes(), "a.pdf", PDF).pages) == 3
    assert pool.closed_to_children is not None
    if sys.platform == "linux":
        assert pool.closed_to_children & doors.ALL
    pool.close()


def test_an_incomplete_door_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A kernel that can't close everything gets one warning, which names what stays open."""
    pool = ParserPool(timeout_seconds=60.0, memory_mb=512)
    for _ in range(2):
        pool._note_closed(frozenset({doors.FILES}))
    (record,) = caplog.records
    assert record.__dict__["open"] == ["network", "processes"]
    pool.close()


def test_every_parser_works_behind_the_door() -> None:
    """What `modules` names can be imported before, and each sample's bytes need nothing else."""
    pool = ParserPool(timeout_seconds=60.0, memory_mb=512)
    for name, media_type in (("handbook.pdf", PDF), ("page.html", HTML)):
        content = (DATA / name).read_bytes()
        assert b"".join(p.text.encode() for p in pool.parts(io.BytesIO(content), name, media_type))
    pool.close()
