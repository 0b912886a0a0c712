"""The pool: what runs where, and that no document hurts the server."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ragdock.adapters.parsers import wire
from ragdock.adapters.parsers.dispatch import ParserPool
from ragdock.adapters.parsers.parts import PART_CHARACTERS
from ragdock.adapters.parsers.process import ChildProcess
from ragdock.core.media import (
    CSV,
    DOCX,
    HTML,
    JSON,
    MARKDOWN,
    PDF,
    PLAIN_TEXT,
    ZIP,
    detect_media_type,
)
from ragdock.errors import DocumentError, UnavailableError
from ragdock.ports import Parser
from ragdock.types import Block, BlockKind, Bounds, PageSpan, ParsedDocument
from support.files import (
    CRASHING_LABELS,
    DATA,
    LABELS,
    docx_parts,
    pdf_bytes,
    read,
    zip_bytes,
)

# Lexbor compares each new name of an element with all before it: this takes minutes, and releases
# nothing.
SLOW_PAGE = "".join(f"<x{n}></x{n}>" for n in range(300_000)).encode()
PAGE = b"<title>T</title><p>Hello"
BOUNDS = Bounds(max_files=10, max_bytes=60 * 2**20)


@pytest.fixture
def pool() -> Iterator[ParserPool]:
    """A pool with generous limits."""
    pool = ParserPool(timeout_seconds=60.0, memory_mb=512)
    parser: Parser = pool  # The type checker agrees that a pool is a parser.
    assert parser is pool
    yield pool
    pool.close()


def code_of(pool: ParserPool, content: bytes, media_type: str, name: str = "x") -> str:
    with pytest.raises(DocumentError) as caught:
        read(pool, content, name, media_type)
    message = str(caught.value)
    assert message[0].isupper()
    assert message.endswith(".")
    return caught.value.code


def children(pool: ParserPool) -> list[int]:
    return [child.pid for child in (*pool._idle, *pool._busy)]


def kill_when_busy(pool: ParserPool, number: int) -> threading.Thread:
    """Send a signal to the pool's child as soon as it works on something."""

    def wait_and_kill() -> None:
        while not pool._busy:
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(next(iter(pool._busy)).pid, number)

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    return thread


def gone(pid: int, within_seconds: float = 10.0) -> bool:
    """Whether the process ends (or is but a zombie) in time."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        try:
            if "State:\tZ" in Path(f"/proc/{pid}/status").read_text(encoding="ascii"):
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


# What runs where


@pytest.mark.parametrize(
    ("name", "title", "n_pages"),
    [
        ("handbook.pdf", "Marlow Ridge Observatory Handbook", 3),
        ("report.docx", "Osprey Bay Ferry: Annual Report 2024", 0),
        ("page.html", "Sourdough at Altitude", 0),
        ("guide.md", "Field Guide to the Quillon Router", 0),
        ("notes.txt", "", 0),
        ("catalogue.csv", "", 0),
        ("stations.json", "", 0),
        ("events.jsonl", "", 0),
        ("thermostat.py", "thermostat.py", 0),
    ],
)
def test_all_formats(pool: ParserPool, name: str, title: str, n_pages: int) -> None:
    """Every sample goes through the pool, in process or in a child, with the same invariants."""
    content = (DATA / name).read_bytes()
    media_type = detect_media_type(name, None, content[:2048])
    assert media_type is not None
    parsed = read(pool, content, name, media_type)
    assert (parsed.title, len(parsed.pages)) == (title, n_pages)
    last = 0
    for block in parsed.blocks:
        assert last <= block.start < block.end
        assert not parsed.text[last : block.start].strip()
        last = block.end
    assert not parsed.text[last:].strip()


def test_text_needs_no_child(pool: ParserPool) -> None:
    """Small text is parsed in process; large text is not."""
    read(pool, b"Hello.", "a.txt", PLAIN_TEXT)
    assert children(pool) == []
    parsed = read(pool, b"Hello. " * 200_000, "a.txt", PLAIN_TEXT)
    assert len(parsed.text) == 1_400_000
    assert len(children(pool)) == 1


def test_children_are_kept(pool: ParserPool) -> None:
    """The next document goes to the same child."""
    assert read(pool, PAGE, "a.html", HTML).title == "T"
    before = children(pool)
    assert read(pool, PAGE, "b.html", HTML).text == "Hello"
    assert children(pool) == before
    assert len(before) == 1


def test_children_work_in_parallel() -> None:
    """Two threads use two children, and never more than `processes` exist."""
    pool = ParserPool(timeout_seconds=60.0, memory_mb=512, processes=2)
    page = b"<p>word " * 2000
    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(lambda n: read(pool, page, f"{n}.html", HTML), range(12)))
    assert {len(parsed.blocks) for parsed in results} == {2000}
    assert 1 <= len(children(pool)) <= 2
    pool.close()


def test_import_is_cheap() -> None:
    """Importing the pool loads none of the libraries that parse, nor NumPy."""
    code = (
        "import sys; import ragdock.adapters.parsers.dispatch; "
        "print([m for m in ('pypdfium2', 'selectolax', 'numpy', 'ctypes') if m in sys.modules])"
    )
    path = str(Path(__file__).parents[2] / "src")
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]"


def test_child_inherits_nothing(pool: ParserPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child has no secret of its parent's environment, and needs no HOME."""
    monkeypatch.setenv("RAG_LLM_API_KEY", "canary-secret")
    monkeypatch.delenv("HOME", raising=False)
    read(pool, PAGE, "a.html", HTML)
    (pid,) = children(pool)
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"canary" not in environment
    assert b"HOME" not in environment


# Files that can't become text


@pytest.mark.parametrize(
    ("content", "media_type", "code"),
    [
        (b"", PLAIN_TEXT, "empty"),
        (b" \n\t", HTML, "empty"),
        (b"x", "image/png", "unsupported"),
        (b"a\0b", PLAIN_TEXT, "binary"),
        (b"\xfd\xfe words \x81\x8d" * 9, MARKDOWN, "wrong_encoding"),
        (b"{", JSON, "damaged"),
        (b"\xef\xbb\xbf \n", PLAIN_TEXT, "no_text"),
        (b"x" * 2**20, PLAIN_TEXT, "no_text"),
        (b"QUJD" * 2**19, CSV, "no_text"),
        (b"<p>" + b"x" * 2**20, HTML, "no_text"),
        ((DATA / "encrypted.pdf").read_bytes(), PDF, "encrypted"),
        ((DATA / "scan.pdf").read_bytes(), PDF, "scanned"),
        (pdf_bytes("", ""), PDF, "no_text"),
        ((DATA / "handbook.pdf").read_bytes()[:1500], PDF, "truncated"),
        ((DATA / "report.docx").read_bytes()[:9000], DOCX, "truncated"),
        (zip_bytes({**docx_parts(""), "word/document.xml": b" " * 2**25}), DOCX, "bomb"),
        (b"<div>" * 100_000, HTML, "too_complex"),
        (b"[" * 2_000_000, JSON, "too_complex"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_codes(pool: ParserPool, content: bytes, media_type: str, code: str) -> None:
    """Each way in which a file can fail has its code and a sentence with the remedy."""
    assert code_of(pool, content, media_type) == code


def test_an_overlong_word_among_words_is_no_failure(pool: ParserPool) -> None:
    """A megabyte of one word beside real text leaves the text."""
    parsed = read(pool, b"Words. " + b"x" * 500_000, "a.txt", PLAIN_TEXT)
    assert parsed.text.startswith("Words.")


# Children that hang, crash or grow


@pytest.mark.timing
def test_hanging_child_is_killed() -> None:
    """A document that takes too long fails with `timeout`, its child is gone, the next works."""
    pool = ParserPool(timeout_seconds=1.0, memory_mb=512)
    begin = time.monotonic()
    with pytest.raises(DocumentError, match="longer than 1 s") as caught:
        read(pool, SLOW_PAGE, "slow.html", HTML)
    assert caught.value.code == "timeout"
    assert time.monotonic() - begin < 8.0
    assert children(pool) == []
    pool = ParserPool(timeout_seconds=60.0, memory_mb=512)
    assert read(pool, PAGE, "a.html", HTML).text == "Hello"
    pool.close()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGSEGV, "damaged"), (signal.SIGKILL, "memory")]
)
def test_crashing_child(pool: ParserPool, number: int, code: str) -> None:
    """A crash is the document's failure (a kill by the kernel means memory), and nothing else's."""
    killer = kill_when_busy(pool, number)
    assert code_of(pool, SLOW_PAGE, HTML) == code
    killer.join()
    assert children(pool) == []
    assert read(pool, PAGE, "a.html", HTML).text == "Hello"


@pytest.mark.parametrize("name", CRASHING_LABELS)
def test_labels_that_crash_the_parser_cost_labels_only(
    pool: ParserPool, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """The document is read without the names of its pages, and the next one with them."""
    good = pdf_bytes("One.", "Two.", "Three.", catalogue=LABELS)
    bad = pdf_bytes("One.", "Two.", "Three.", catalogue=CRASHING_LABELS[name])
    for content, found in ((good, "i ii 1"), (bad, "  "), (bad, "  "), (good, "i ii 1")):
        parsed = read(pool, content, "x.pdf", PDF)
        assert parsed.text == "One.\n\nTwo.\n\nThree."
        assert " ".join(page.label for page in parsed.pages) == found
    told = [record.message for record in caplog.records]
    assert told == ["a parser process crashed; the document is tried without page labels"] * 2


def test_memory_is_limited() -> None:
    """A document that needs more memory than allowed fails with `memory`, at once."""
    pool = ParserPool(timeout_seconds=60.0, memory_mb=128)
    assert code_of(pool, b"[" + b"1," * 12_000_000 + b"1]", JSON) == "memory"
    assert read(pool, PAGE, "a.html", HTML).text == "Hello"
    pool.close()


def test_memory_is_independent_of_a_texts_size() -> None:
    """A text larger than a child's memory comes in parts, from the same child."""
    pool = ParserPool(timeout_seconds=60.0, memory_mb=128)
    parts = pool.parts(io.BytesIO(b"word " * 30_000_000), "x", PLAIN_TEXT)
    lengths = [len(part.text) for part in parts]
    assert sum(lengths) == 150_000_000
    assert max(lengths) <= PART_CHARACTERS
    assert len(children(pool)) == 1
    pool.close()


def test_dead_idle_child_is_replaced(pool: ParserPool) -> None:
    """A child that died while idle costs nothing."""
    read(pool, PAGE, "a.html", HTML)
    (pid,) = children(pool)
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    assert read(pool, PAGE, "b.html", HTML).text == "Hello"
    assert children(pool) != [pid]


def test_child_that_dies_as_it_is_taken_is_replaced(
    pool: ParserPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child whose death shows only when it is asked costs its next document nothing."""
    read(pool, PAGE, "a.html", HTML)
    (pid,) = children(pool)
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    # A process of several threads can be dead already and not yet be reported so.
    monkeypatch.setattr(ChildProcess, "is_alive", lambda _: True)
    assert read(pool, PAGE, "b.html", HTML).text == "Hello"


def test_busy_pool_says_so() -> None:
    """When no child becomes free in time, the caller is told to come back."""
    pool = ParserPool(timeout_seconds=1.0, memory_mb=512, processes=1)
    pool._places.acquire()
    with pytest.raises(UnavailableError, match="busy"):
        read(pool, PAGE, "a.html", HTML)
    pool._places.release()
    pool.close()


def test_close_ends_all_children(pool: ParserPool) -> None:
    """Closing ends idle and busy children; whoever waits is told that the server stops."""
    read(pool, PAGE, "a.html", HTML)
    pids = children(pool)
    closer = threading.Timer(0.5, pool.close)
    closer.start()
    with pytest.raises(UnavailableError, match="stopping"):
        read(pool, SLOW_PAGE, "slow.html", HTML)
    closer.join()
    assert all(gone(pid) for pid in pids)
    with pytest.raises(UnavailableError, match="stopping"):
        read(pool, PAGE, "a.html", HTML)


def test_children_die_with_their_parent() -> None:
    """A parent that is killed takes its children along, even one that is at work."""
    code = (
        "import sys, threading, time\n"
        "from ragdock.adapters.parsers.dispatch import ParserPool\n"
        "from support.files import read\n"
        "pool = ParserPool(60.0, 512)\n"
        "page = ''.join(f'<x{n}></x{n}>' for n in range(300_000)).encode()\n"
        "job = (pool, page, 'x', 'text/html')\n"
        "threading.Thread(target=read, args=job, daemon=True).start()\n"
        "while not pool._busy: time.sleep(0.01)\n"
        "time.sleep(0.7)\n"
        "print(next(iter(pool._busy)).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{root / 'src'}:{root / 'tests'}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert not gone(child, 0.1)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(child, 5.0)


# The wire


def test_documents_survive_the_wire() -> None:
    """What a child sends is what the parent gets, whatever characters are in it."""
    parsed = ParsedDocument(
        "Ä😀\n\nb",
        (Block(0, 2, BlockKind.HEADING, 1, "Ä😀"), Block(4, 5, BlockKind.RECORD, 0, "a, b")),
        (PageSpan(1, 0, 2, "ïv"), PageSpan(2, 2, 5)),
        "Títle",
        1_000_000,
        0.25,
    )
    head, body = wire.encode_part(parsed)
    assert wire.decode_part(json.loads(head), body) == parsed


def test_an_archive_is_unpacked_in_a_child(pool: ParserPool) -> None:
    """Files come with their paths in pieces; one that nobody reads is passed over."""
    files = {"a.txt": b"one", "big/b.txt": bytes(range(256)) * 4000, "empty": b"", "c.txt": b"two"}
    content = zip_bytes(dict(files))
    seen = {
        path: b"".join(pieces)
        for path, pieces in pool.members(io.BytesIO(content), "a.zip", ZIP, BOUNDS)
    }
    assert seen == files
    unread = [path for path, _ in pool.members(io.BytesIO(content), "a.zip", ZIP, BOUNDS)]
    assert unread == list(files)


def test_an_archive_left_in_the_middle_costs_its_child_only(pool: ParserPool) -> None:
    """Whoever stops reading an archive leaves a pool that goes on."""
    content = zip_bytes({f"{n}.txt": bytes(range(256)) * 8000 for n in range(9)})
    for _ in range(5):
        members = pool.members(io.BytesIO(content), "a.zip", ZIP, BOUNDS)
        path, pieces = next(members)
        assert (path, len(next(pieces))) == ("0.txt", 2**18)
        members.close()
    assert read(pool, b"<p>Hello", "x.html", HTML).text == "Hello"


def test_what_is_no_archive_is_not_unpacked(pool: ParserPool) -> None:
    """A document isn't an archive, and an archive no document."""
    with pytest.raises(DocumentError) as caught:
        next(pool.members(io.BytesIO(b"x"), "x.txt", PLAIN_TEXT, BOUNDS))
    assert caught.value.code == "unsupported"
    with pytest.raises(DocumentError) as caught:
        next(pool.parts(io.BytesIO(zip_bytes({"a": b"x"})), "x.zip", ZIP))
    assert caught.value.code == "unsupported"
